"""Tests that training sequences match the tokens that a model processed."""

from typing import Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tests import players
from tests import test_sampler
from tunix_ttt.algorithms import losses
from tunix_ttt.models.families import specs
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.rollout import trajectory as sequences_lib


@pytest.fixture(scope="module")
def tables(tokenizer):
  return tables_lib.build(players.GAME, tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer):
  spec = conftest.small_spec("qwen2.5", tokenizer.vocab_size)
  return spec, specs.initialize(spec, 0)


@pytest.mark.parametrize(
  ("context", "settings"),
  [
    ("board", {}),
    *(
      pytest.param(context, settings, marks=pytest.mark.slow)
      for context in ("full", "truncated")
      for settings in ({}, {"on_parse_error": "retry", "max_turns": 3})
    ),
  ],
)
def test_a_trainers_log_probabilities_are_the_samplers(
  model, tables, context, settings
):
  temperature = 0.7
  retry = "on_parse_error" in settings
  sampling = {"temperature": temperature, "constrained": not retry}
  play, _ = test_sampler.make(
    model,
    tables,
    context=context,
    max_new_tokens=30 if retry else 12,
    **sampling,
    **settings,
  )
  games = play(test_sampler.token_keys(), test_sampler.starts())
  batch = sequences_lib.sequences(games, tables, context)
  check_log_probs(model, batch, temperature)
  # Every sampled token occurs once, in order.
  np.testing.assert_array_equal(
    np.asarray(batch.tokens)[np.asarray(batch.action_mask)],
    np.asarray(games.actions)[np.asarray(games.action_mask)],
  )
  # The sequences have no gaps, and padding is zero.
  mask = np.asarray(batch.mask)
  assert (mask[:, :-1] >= mask[:, 1:]).all()
  assert not np.asarray(batch.tokens)[~mask].any()
  assert not np.asarray(batch.action_mask)[~mask].any()


def check_log_probs(model, batch, temperature):
  """Compares log-probabilities with those of a full forward pass."""
  inputs = losses.model_inputs(
    {
      "input_tokens": batch.tokens,
      "input_mask": batch.mask,
      "places": conftest.places(batch.action_mask),
      "denominator": jnp.float32(1),
    }
  )
  logits = nnx.jit(
    lambda module, tokens, positions, mask: module(
      tokens, positions, None, mask
    )[0]
  )(model[1], batch.tokens, inputs["positions"], inputs["attention_mask"])
  log_probs = jax.nn.log_softmax(logits[:, :-1] / temperature)
  found = jnp.take_along_axis(log_probs, batch.tokens[:, 1:, None], -1)[..., 0]
  acted = np.asarray(batch.action_mask[:, 1:])
  np.testing.assert_allclose(
    np.asarray(found)[acted],
    np.asarray(batch.log_probs[:, 1:])[acted],
    atol=1e-4,
  )


def likely(model, tables, tokens):
  """Returns the model with a bias toward these tokens."""
  spec: specs.ModelSpec = model[0]
  bent = model[1]
  row = tables.observations.rows[0, 0]
  prompt = jnp.asarray(test_sampler.chunk(tables.observations.begin, row))[None]
  size = prompt.shape[1]
  for _ in range(4):
    cast(Any, bent)(
      prompt,
      jnp.arange(size)[None],
      None,
      jnp.tril(jnp.ones((1, size, size), bool)),
      output_hidden_states=True,
    )
    sown: Any = nnx.pop(bent, nnx.Intermediate)
    hidden = sown["all_hidden_states"].get_value()[-1][0, -1]
    values = specs.parameters(bent)
    towards = 6 * hidden / (hidden @ hidden)
    table = values["embedder.input_embedding"]
    values["embedder.input_embedding"] = table.at[tokens].set(towards)
    bent = specs.with_parameters(bent, values)
  return spec, bent


@pytest.mark.slow
@pytest.mark.parametrize("context", ["full", "board"])
def test_control_tokens_in_the_middle_of_an_answer(
  model, tables, tokenizer, context
):
  control = np.array([tokenizer.pad_id(), tokenizer.end_of_turn_id])
  bent = likely(model, tables, control)
  play, _ = test_sampler.make(
    bent,
    tables,
    context=context,
    max_new_tokens=30,
    max_turns=3,
    on_parse_error="retry",
  )
  states = test_sampler.starts(32)
  games = play(test_sampler.token_keys(32), states)
  said = np.asarray(games.actions)[np.asarray(games.action_mask)]
  assert {*control.tolist()} <= {*said.tolist()}
  # Control tokens are sampled and kept like any token, and end the answer.
  lengths = np.asarray(games.action_mask).sum(axis=-1)
  for n, t in zip(*np.nonzero(games.turn_mask), strict=True):
    ids = np.asarray(games.actions[n, t])[: lengths[n, t]]
    assert not np.isin(ids[:-1], control).any()
    if np.isin(ids[-1], control):
      assert games.moves[n, t] == -1
  batch = sequences_lib.sequences(games, tables, context)
  check_log_probs(bent, batch, 1.0)
  found = np.asarray(batch.tokens)[np.asarray(batch.action_mask)]
  np.testing.assert_array_equal(found, said)
  # Each turn has one end token.
  ends = np.asarray(batch.tokens) == tokenizer.end_of_turn_id
  assert not (ends[:, :-1] & ends[:, 1:]).any()


def test_full_sequences_are_the_conversation(model, tables):
  sampling = {"temperature": 0.0, "constrained": True}
  settings = {"context": "full", "max_new_tokens": 12, **sampling}
  play, _ = test_sampler.make(model, tables, **settings)
  games = play(test_sampler.token_keys(), test_sampler.starts())
  batch = sequences_lib.sequences(games, tables, "full")
  known = tables.observations
  for n in range(test_sampler.GAMES):
    expected = []
    for t in np.flatnonzero(games.turn_mask[n]):
      row = known.rows[
        games.states.board[n, t], games.states.last_move[n, t] + 1
      ]
      chunks = known.begin if t == 0 else known.follow
      expected += test_sampler.chunk(chunks, row)
      expected += games.actions[n, t][games.action_mask[n, t]].tolist()
    assert batch.tokens[n][batch.mask[n]].tolist() == expected
