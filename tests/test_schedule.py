"""Tests that games do not depend on the number of active games."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import players
from tunix_ttt import config as config_lib
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.rollout import sampler as sampler_lib
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.rollout import trajectory as trajectory_lib

Ending = trajectory_lib.Ending
ENV = env_lib.TicTacToe()


class TablePolicy:
  """A policy whose logits are a table row of the last token."""

  def init_cache(self, batch_size, num_slots):
    return jnp.zeros((batch_size, num_slots))

  def grow_cache(self, cache, num_slots):
    return self.init_cache(len(cache), num_slots)

  def __call__(
    self, params, tokens, positions, cache, end, attention_mask, read
  ):
    last = jnp.take_along_axis(tokens, read[:, None], axis=1)[:, 0]
    return params[last], cache


@pytest.fixture(scope="module")
def tables(tokenizer):
  return tables_lib.build(players.GAME, tokenizer)


@pytest.fixture(scope="module")
def logits(tables, tokenizer):
  """Returns logits that make most answers readable, with all moves."""
  size = tokenizer.vocab_size
  logits = np.random.default_rng(0).normal(size=(size, size))
  begin, text_format = tables.observations.begin, text_formats.GridFormat()
  last_of_prompt = int(begin.ids[0, begin.lengths[0] - 1])
  for cell in range(rules.NUM_CELLS):
    answer = tokenizer.encode(text_format.render_answer(cell, ""))
    path = [last_of_prompt, *answer, int(tables.end_ids[0])]
    logits[path[:-1], path[1:]] = 9
  return jnp.asarray(logits, jnp.float32)


def play(tables, logits, batch_size, rows_at_once, **settings):
  keys = jax.random.split(jax.random.key(1), batch_size)
  opponent_seed = jax.random.bits(jax.random.key(0), (batch_size,))
  states = jax.vmap(ENV.init)(
    opponent_seed, env_lib.starting_marks("mixed", batch_size)
  )
  sampler = sampler_lib.Sampler(
    TablePolicy(),
    ENV,
    tables,
    config_lib.PlayConfig(temperature=1, max_new_tokens=8, **settings),
    rows_at_once=rows_at_once,
  )
  return jax.device_get(sampler(logits, keys, states))


def check_widths(tables, logits, batch_size, widths, **settings):
  expected, *found = (
    play(tables, logits, batch_size, rows_at_once=width, **settings)
    for width in (batch_size, *widths)
  )
  for games in found:
    jax.tree.map(np.testing.assert_array_equal, games, expected)
  return expected


@pytest.mark.parametrize(
  ("max_turns", "on_parse_error"),
  [
    (1, "end"),
    (3, "retry"),
    pytest.param(1, "retry", marks=pytest.mark.slow),
    pytest.param(2, "end", marks=pytest.mark.slow),
  ],
)
def test_games_do_not_depend_on_those_beside_them(
  tables, logits, max_turns, on_parse_error
):
  games = check_widths(
    tables,
    logits,
    5,
    (1, 2),
    max_turns=max_turns,
    on_parse_error=on_parse_error,
  )
  # Some games run out of tokens or turns and must not continue.
  assert np.isin(games.ending, (Ending.LENGTH, Ending.UNFINISHED)).any()
  moved = games.moves[:, 0] >= 0
  expected = moved & (max_turns == 1) & (games.ending > Ending.PARSE_ERROR)
  np.testing.assert_array_equal(games.ending == Ending.UNFINISHED, expected)


@pytest.mark.slow
def test_games_do_not_depend_on_the_default_width(tables, logits):
  games = check_widths(
    tables, logits, 48, (None,), max_turns=1, constrained=True
  )
  assert (games.ending == Ending.UNFINISHED).sum() > 32
