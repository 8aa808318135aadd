"""Tests the compiled sampler against an uncached token-by-token loop."""

import dataclasses
import itertools
import math
import operator
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tests import players
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.models import model_policy as policy_lib
from tunix_ttt.models.families import specs
from tunix_ttt.rollout import sampler as sampler_lib
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.text import answers as answers_lib
from tunix_ttt.text import tokenizers

Ending = trajectory_lib.Ending
ENV = env_lib.TicTacToe()
GAMES = 3


@pytest.fixture(scope="module")
def tables(tokenizer):
  """Tables whose prefix is read once, however short it is."""
  built = tables_lib.build(players.GAME, tokenizer)
  return built.replace(prefix=built.observations.prefix)


def test_a_long_prefix_is_read_once(tokenizer, source):
  short = tables_lib.build(players.GAME, tokenizer)
  # No token spells the rules.
  plain = tokenizers.train_tokenizer(source.texts(100), 512)
  long = tables_lib.build(players.GAME, plain)
  assert short.prefix == () != short.observations.prefix
  begin = long.observations.begin
  length = len(long.prefix)
  assert 32 <= length < begin.lengths.min()
  assert (np.asarray(begin.ids)[:, :length] == np.array(long.prefix)).all()
  assert len(np.unique(begin.ids[:, length])) > 1


# Windows are shorter than an observation, so that they matter everywhere.
MODELS = {
  "qwen2.5": {},
  "qwen3": {"num_kv_heads": 2},
  "gemma": {},
  "gemma2": {"num_kv_heads": 2, "sliding_window": 40},
  "gemma3": {"num_layers": 6, "sliding_window": 40},
}


def make_model(family, tokenizer):
  spec = conftest.small_spec(family, tokenizer.vocab_size, **MODELS[family])
  return spec, specs.initialize(spec, 0)


@pytest.fixture(scope="module", params=conftest.slow_but(("gemma2",), MODELS))
def any_model(request, tokenizer):
  return make_model(request.param, tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer):
  return make_model("qwen2.5", tokenizer)


# Turns until a game of `starts` is over.
TURNS = 3


def starts(num_games=GAMES, seed=0):
  """Returns games with three or four cells taken.

  Short games have few turns to compile, which dominates the time of a test.
  """
  opponent_seed = jax.random.bits(jax.random.key(seed), (num_games,))
  marks = env_lib.starting_marks("mixed", num_games)
  boards = np.flatnonzero(rules.reachable() & (rules.num_marks() == 3))
  boards = np.random.default_rng(seed).choice(boards, num_games)
  return jax.vmap(ENV.init)(opponent_seed, marks, jnp.asarray(boards))


def token_keys(num_games=GAMES, seed=1):
  return jax.random.split(jax.random.key(seed), num_games)


def play_config(**settings):
  defaults = {"max_turns": TURNS, "temperature": 1.0}
  return config_lib.PlayConfig(**defaults | settings)


def make(model, tables, rows_at_once=None, **settings):
  spec, module = model
  policy = policy_lib.ModelPolicy(module, spec)
  sampler = sampler_lib.Sampler(
    policy,
    ENV,
    tables,
    play_config(**settings),
    rows_at_once=rows_at_once,
  )
  return lambda keys, states: sampler(policy.params, keys, states), sampler


def chunk(chunks, row):
  return chunks.ids[row, : chunks.lengths[row]].tolist()


class Reference:
  """Plays one game token by token without a cache."""

  # Padded length, which so compiles once.
  length = 320

  def __init__(self, model, tables, config):
    module: Any = model[1]
    positions = jnp.arange(self.length)[None]
    mask = jnp.tri(self.length, dtype=bool)[None]
    self.forward = jax.jit(
      lambda tokens: module(tokens, positions, None, mask)[0]
    )
    # On the host, as NumPy arrays.
    self.tables, self.config = jax.device_get(tables), config

  def logits(self, ids):
    tokens = np.zeros((1, self.length), np.int32)
    tokens[0, : len(ids)] = ids
    logits = self.forward(jnp.asarray(tokens))
    return logits[0, len(ids) - 1].astype(jnp.float32)

  def play(self, key, state):
    text, turns, ending = [], [], Ending.ONGOING
    past = rules.NUM_CELLS
    for number in range(self.config.max_turns):
      if ending != Ending.ONGOING:
        break
      row = self.tables.observations.rows[
        int(state.board), int(state.last_move) + 1
      ]
      if self.config.context == "board" or number == 0:
        text = chunk(self.tables.observations.begin, row)
      else:
        retry = self.config.on_parse_error == "retry" and past == 9
        text += chunk(
          self.tables.observations.retry
          if retry
          else self.tables.observations.follow,
          row,
        )
      answer, log_probs, mass, (at, rank) = self.answer(
        jax.random.fold_in(key, number), text, ENV.legal(state)
      )
      cell = conftest.action_after(self.tables.answers, at, rank)
      if cell >= 0:
        state = ENV.step(state, cell)
        ending, past = Ending(int(state.outcome)), cell
      else:
        past = rules.NUM_CELLS
        if at != answers_lib.DEAD:
          ending = Ending.LENGTH
        elif self.config.on_parse_error == "end":
          ending = Ending.PARSE_ERROR
      turns.append((answer, log_probs, mass, cell))
      kept = chunk(self.tables.observations.answers, past)
      text = text + (kept if self.config.context == "truncated" else answer)
    if ending == Ending.ONGOING:
      ending = Ending.LENGTH
    return turns, ending, int(state.board)

  def answer(self, key, text, legal):
    legal = np.asarray(legal)
    sampling, room = self.config, self.config.max_new_tokens
    table, ends = self.tables.answers, (answers_lib.DEAD, answers_lib.ENDED)
    answer, log_probs, mass, at = [], [], [], (answers_lib.START, 0)
    while len(answer) < room and at[0] not in ends:
      logits = self.logits(text + answer)
      if sampling.temperature:
        logits = logits / sampling.temperature
      allowed = jnp.ones(logits.shape, bool)
      if sampling.constrained:
        after = table.next_state[at[0]]
        is_legal, left = True, table.tokens_left
        if sampling.constrained == "legal":
          # Ranks of the spellings that can follow each class of tokens.
          first = at[1] + table.offset[at[0]].astype(int)
          ranks = zip(first, first + table.num_spellings[after], strict=True)
          moves = [table.actions[low:high] for low, high in ranks]
          is_legal = np.array([legal[actions].any() for actions in moves])
          left = table.tokens_needed
        fits = is_legal & (left[after] <= room - len(answer) - 1)
        allowed = fits[table.token_class]
      masked = jnp.where(allowed, logits, -jnp.inf)
      if sampling.temperature:
        token_key = jax.random.fold_in(key, len(answer))
        total = jnp.cumsum(jax.nn.softmax(masked))
        drawn = jax.random.uniform(token_key) * total[-1]
        token = int(jnp.searchsorted(total, drawn, side="right"))
      else:
        token = int(masked.argmax())
      answer.append(token)
      log_probs.append(float(jax.nn.log_softmax(logits)[token]))
      mass.append(float(jax.nn.softmax(logits)[allowed].sum()))
      at = conftest.read_tokens(table, [token], at)
    return answer, log_probs, mass, at


def references(model, tables, settings, keys, states):
  reference = Reference(model, tables, play_config(**settings))
  return [
    reference.play(key, jax.tree.map(operator.itemgetter(n), states))
    for n, key in enumerate(keys)
  ]


def check_equal(played, references):
  for n, (turns, ending, board) in enumerate(references):
    assert played.ending[n] == ending
    assert played.state.board[n] == board
    assert played.turn_mask[n].sum() == len(turns)
    for t, (answer, log_probs, mass, cell) in enumerate(turns):
      mask = np.asarray(played.action_mask[n, t])
      assert np.asarray(played.actions[n, t])[mask].tolist() == answer
      assert not mask[len(answer) :].any()
      assert played.moves[n, t] == cell
      np.testing.assert_allclose(
        np.asarray(played.log_probs[n, t])[mask], log_probs, atol=2e-5
      )
      if played.sampled_mass is None:
        assert mass == pytest.approx([1.0] * len(mass), abs=1e-5)
        continue
      np.testing.assert_allclose(
        np.asarray(played.sampled_mass[n, t])[mask], mass, atol=2e-5
      )


@pytest.mark.parametrize(
  ("context", "temperature"),
  [
    ("full", 0.8),
    *(
      pytest.param(context, temperature, marks=pytest.mark.slow)
      for context in ("full", "truncated", "board")
      for temperature in (0.0, 0.8)
      if (context, temperature) != ("full", 0.8)
    ),
  ],
)
def test_equal_to_the_reference(any_model, tables, context, temperature):
  check_reference(any_model, tables, context, temperature)


@pytest.mark.parametrize(
  "context", conftest.slow_but(["truncated"], ["full", "truncated", "board"])
)
def test_greedy_games_are_the_references(model, tables, context):
  check_reference(model, tables, context, 0.0)


def test_legal_games_are_the_references(model, tables):
  check_reference(model, tables, "full", 0.8, "legal")


def check_reference(
  any_model, tables, context, temperature, constrained: Any = True
):
  sampling = {"temperature": temperature, "constrained": constrained}
  settings = {
    "context": context,
    "max_new_tokens": 12,
    **sampling,
  }
  play, sampler = make(any_model, tables, **settings)
  # Enough games for the greedy cell to be free in some of them.
  count = 8
  keys, states = token_keys(count), starts(count)
  played = jax.device_get(play(keys, states))
  check_equal(played, references(any_model, tables, settings, keys, states))
  # Constrained answers are complete, so every game reaches its end.
  assert played.turn_mask.sum() > count
  assert (played.ending != Ending.PARSE_ERROR).all()
  assert (played.ending != Ending.LENGTH).all()
  if constrained == "legal":
    assert (played.ending != Ending.ILLEGAL).all()
  assert sampler.num_traces == 1


@pytest.mark.parametrize(
  "context", conftest.slow_but(["full"], ["full", "truncated"])
)
def test_unreadable_answers_are_answered(model, tables, context):
  # The answers of an untrained model are unreadable.
  settings = {
    "context": context,
    "max_new_tokens": 30,
    "on_parse_error": "retry",
  }
  play, _ = make(model, tables, **settings)
  keys, states = token_keys(), starts()
  played = jax.device_get(play(keys, states))
  check_equal(played, references(model, tables, settings, keys, states))
  assert played.retried[:, 1:].any() and not played.retried[:, 0].any()


def test_an_unreadable_answer_ends_the_game(model, tables):
  play, _ = make(model, tables, max_new_tokens=30)
  played = jax.device_get(play(token_keys(), starts()))
  assert (played.ending == Ending.PARSE_ERROR).any()
  assert played.turn_mask.sum(axis=1).max() == 1
  # The last token is the one that makes the answer unreadable.
  tokens = played.actions[0, 0][played.action_mask[0, 0]].tolist()
  for count in (len(tokens) - 1, len(tokens)):
    state, _ = conftest.read_tokens(tables.answers, tokens[:count])
    assert (state == answers_lib.DEAD) == (count == len(tokens))


def test_a_game_does_not_depend_on_its_batch(model, tables):
  sampling = {"temperature": 1.3, "constrained": True}
  play, sampler = make(model, tables, max_new_tokens=14, **sampling)
  whole = play(token_keys(), starts())
  order = jnp.array([2, 0])
  part = play(
    token_keys()[order], jax.tree.map(lambda leaf: leaf[order], starts())
  )
  assert sampler.num_traces == 2
  exact = {"log_probs": None, "sampled_mass": None}
  jax.tree.map(
    lambda leaf, found: np.testing.assert_array_equal(leaf[order], found),
    dataclasses.replace(whole, **exact),
    dataclasses.replace(part, **exact),
  )
  np.testing.assert_allclose(whole.log_probs[order], part.log_probs, atol=1e-5)


# See test_schedule.py.
@pytest.mark.slow
def test_a_game_does_not_depend_on_those_beside_it(model, tables):
  sampling = {"temperature": 1.3, "constrained": True}
  settings = {"max_new_tokens": 14, **sampling}
  several, one = (
    make(model, tables, rows_at_once=n, **settings)[0](token_keys(), starts())
    for n in (2, 1)
  )
  np.testing.assert_array_equal(several.actions, one.actions)
  np.testing.assert_array_equal(several.states.board, one.states.board)
  assert len(set(several.turn_mask.sum(axis=1).tolist())) > 1


@pytest.mark.parametrize(
  "context", conftest.slow_but(["board"], ["full", "truncated", "board"])
)
def test_a_group_is_one_prompt(model, tables, context):
  size, max_turns = 4, 1 if context == "board" else 3
  states = jax.tree.map(lambda leaf: leaf.repeat(size, 0), starts(3))
  keys = token_keys(3 * size)
  config = play_config(
    context=context,
    max_turns=max_turns,
    max_new_tokens=12,
    temperature=1.2,
    constrained=True,
  )
  policy = policy_lib.ModelPolicy(model[1], model[0])
  alone, shared = (
    jax.device_get(
      sampler_lib.Sampler(policy, ENV, tables, config, group_size=n)(
        policy.params, keys, states
      )
    )
    for n in (1, size)
  )
  for name in ("actions", "moves", "ending", "turn_mask"):
    np.testing.assert_array_equal(getattr(alone, name), getattr(shared, name))
  np.testing.assert_allclose(alone.log_probs, shared.log_probs, atol=1e-5)
  # Games of a group are not the same game.
  assert len({game.tobytes() for game in shared.actions}) > 6


@pytest.mark.slow
def test_a_group_shares_its_start_and_the_opponent_seed(model, tables):
  groups, size = 4, 6
  sampling = {"temperature": 1.5, "constrained": True}
  play, _ = make(model, tables, context="full", max_new_tokens=12, **sampling)
  states = jax.tree.map(lambda leaf: leaf.repeat(size, 0), starts(groups))
  games = jax.device_get(play(token_keys(groups * size), states))
  replies = {}
  for n in range(groups * size):
    group = n // size
    assert games.states.board[n, 0] == games.states.board[group * size, 0]
    turns = np.flatnonzero(games.turn_mask[n])
    for t, after in itertools.pairwise(turns):
      asked = group, games.states.board[n, t], games.moves[n, t]
      replies.setdefault(asked, set()).add(games.states.last_move[n, after])
  assert all(len(found) == 1 for found in replies.values())
  # The games of a group differ in their tokens and moves.
  assert len({game.tobytes() for game in games.actions}) > groups * size // 2
  assert len(replies) > groups


def test_limits_of_a_turn_and_of_a_game(model, tables):
  # The constraint ends a thought early enough for the move.
  longest = int(tables.observations.begin.lengths.max())
  sampling = {"temperature": 0.0, "constrained": True}
  play, _ = make(
    model,
    tables,
    context="full",
    max_new_tokens=12,
    max_game_tokens=longest + 20,
    **sampling,
  )
  played = jax.device_get(play(token_keys(), starts()))
  assert (played.ending == Ending.LENGTH).all()
  used = tables.observations.begin.lengths[
    tables.observations.rows[
      played.states.board[:, 0], played.states.last_move[:, 0] + 1
    ]
  ] + played.action_mask.sum(axis=(1, 2))
  assert (used <= longest + 20).all()


def test_limits_that_leave_no_room(model, tables):
  with pytest.raises(errors.UserError, match="max_new_tokens: 3 is too few"):
    make(model, tables, max_new_tokens=3)
  with pytest.raises(errors.UserError, match="max_game_tokens: 13 is too few"):
    make(model, tables, max_new_tokens=12, max_game_tokens=13)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["full", "board"])
def test_memory_is_linear_and_holds_no_logits_of_whole_chunks(
  model, tables, context
):
  sizes = {}
  for count in (32, 256):
    play, _ = make(model, tables, count, context=context, max_turns=2)
    lowered = jax.jit(play).lower(token_keys(count), starts(count))
    program: Any = lowered.compile()
    sizes[count] = program.memory_analysis().temp_size_in_bytes
    vocab_size = model[0].vocab_size
    shapes = re.findall(rf"f32\[([\d,]+),{vocab_size}\]", program.as_text())
    rows = {math.prod(map(int, shape.split(","))) for shape in shapes}
    # Logits of one token a game, and the embedding turned on its side.
    assert count in rows and rows <= {count, model[0].embed_dim}
  assert 7 < sizes[256] / sizes[32] < 8 * 1.05
