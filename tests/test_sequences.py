"""Training sequences are what was read and said, with its log-probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tests import test_sampler
from tunix_ttt.language import formats
from tunix_ttt.models import specs
from tunix_ttt.rollout import sampling as sampling_lib
from tunix_ttt.rollout import sequences as sequences_lib
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.train import losses


@pytest.fixture(scope="module")
def tables(tokenizer):
  return tables_lib.build(formats.GridFormat(), tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer):
  spec = conftest.small_spec("qwen2.5", tokenizer.vocab_size)
  return spec, specs.initialize(spec, 0)


@pytest.mark.parametrize(
  ("context", "settings"),
  [
    ("full", {}),
    ("truncated", {}),
    ("board", {}),
    ("full", {"on_parse_error": "retry", "max_turns": 3}),
    ("truncated", {"on_parse_error": "retry", "max_turns": 3}),
  ],
)
def test_a_trainers_log_probabilities_are_the_samplers(
  model, tables, context, settings
):
  temperature = 0.7
  retry = "on_parse_error" in settings
  sampling = sampling_lib.Sampling(
    temperature=temperature, constrained=not retry
  )
  play, _ = test_sampler.make(
    model,
    tables,
    context=context,
    max_new_tokens=30 if retry else 12,
    sampling=sampling,
    **settings,
  )
  games = play(test_sampler.token_keys(), test_sampler.starts())
  batch = sequences_lib.sequences(games, tables, context)

  # As a trainer computes them, from the whole sequence at once.
  inputs = losses.model_inputs(
    {
      "input_tokens": batch.tokens,
      "input_mask": batch.mask,
      "loss_mask": batch.action_mask,
      "denominator": jnp.float32(1),
    }
  )
  logits, _ = model[1](
    batch.tokens, inputs["positions"], None, inputs["attention_mask"]
  )
  log_probs = jax.nn.log_softmax(logits[:, :-1] / temperature)
  found = jnp.take_along_axis(log_probs, batch.tokens[:, 1:, None], -1)[..., 0]
  acted = np.asarray(batch.action_mask[:, 1:])
  np.testing.assert_allclose(
    np.asarray(found)[acted],
    np.asarray(batch.log_probs[:, 1:])[acted],
    atol=1e-4,
  )
  # Every token that was sampled is there, once, in order.
  np.testing.assert_array_equal(
    np.asarray(batch.tokens)[np.asarray(batch.action_mask)],
    np.asarray(games.actions)[np.asarray(games.action_mask)],
  )
  # Without gaps, and nothing where there is no token.
  mask = np.asarray(batch.mask)
  assert (mask[:, :-1] >= mask[:, 1:]).all()
  assert not np.asarray(batch.tokens)[~mask].any()
  assert not np.asarray(batch.action_mask)[~mask].any()


def test_full_sequences_are_the_conversation(model, tables):
  sampling = sampling_lib.Sampling(temperature=0.0, constrained=True)
  settings = {"context": "full", "max_new_tokens": 12, "sampling": sampling}
  play, _ = test_sampler.make(model, tables, **settings)
  games = play(test_sampler.token_keys(), test_sampler.starts())
  batch = sequences_lib.sequences(games, tables, "full")
  known = tables.observations
  for n in range(test_sampler.GAMES):
    expected = []
    for t in np.flatnonzero(games.turn_mask[n]):
      row = known.rows[games.boards[n, t], games.last_moves[n, t] + 1]
      chunks = known.begin if t == 0 else known.follow
      expected += test_sampler.chunk(chunks, row)
      expected += games.actions[n, t][games.action_mask[n, t]].tolist()
    assert batch.tokens[n][batch.mask[n]].tolist() == expected
