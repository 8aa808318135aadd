"""Distributions of moves against the sampler's log-probabilities and answers."""

import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from tests import conftest
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.evaluate import decisions as decisions_lib
from tunix_ttt.evaluate import exact_play
from tunix_ttt.evaluate import move_probabilities
from tunix_ttt.games import definition
from tunix_ttt.games import players
from tunix_ttt.games import view as view_lib
from tunix_ttt.games.kuhn_poker import kuhn_game
from tunix_ttt.games.kuhn_poker import kuhn_text
from tunix_ttt.models import checkpoints
from tunix_ttt.models import model_policy
from tunix_ttt.models.families import specs
from tunix_ttt.rollout import sampler as sampler_lib
from tunix_ttt.rollout import sampling as sampling_lib
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.rollout import trajectory
from tunix_ttt.text import answers as answers_lib
from tunix_ttt.text import slots
from tunix_ttt.text import spellings

Ending = trajectory.Ending
GAME = kuhn_game.KuhnPoker()
TEMPERATURE = 1.3


class ShortText(kuhn_text.KuhnPokerText):
  rules = "Kuhn poker."


def definition_of(text, **settings):
  return definition.Definition(
    name="test", game=GAME, text=text, low=-2, **settings
  )


class OneSpelling(ShortText):
  actions = (("check",), ("bet",))


@pytest.fixture(scope="module")
def play():
  return exact_play.ExactPlay(
    definition.Definition(name="test", game=GAME, text=ShortText(), low=-2)
  )


@pytest.fixture(scope="module")
def tables(tokenizer):
  game = definition.Definition(name="test", game=GAME, text=ShortText(), low=-2)
  return tables_lib.build(game, tokenizer)


@pytest.fixture(scope="module")
def begin(tables):
  return tables.observations.conversation.begin


@pytest.fixture(scope="module")
def shows(play):
  return np.concatenate([decisions.shows for decisions in play.decisions])


@pytest.fixture(scope="module")
def model(tokenizer, begin, shows):
  """A model that has begun to learn answers with random spellings."""
  spec = conftest.small_spec("qwen2.5", tokenizer.vocab_size)
  module = specs.initialize(spec, 0)
  names = [name for action in ShortText.actions for name in action]
  answers = [
    [*tokenizer.encode(spellings.render_answer(name)), tokenizer.end_ids[0]]
    for name in names
  ]
  prompts, lengths = jax.device_get(
    jax.vmap(slots.compose, (None, 0))(begin, shows)
  )
  rng = np.random.default_rng(0)
  tokens = np.zeros((36, prompts.shape[1] + max(map(len, answers))), np.int32)
  targets = np.zeros(tokens.shape, bool)
  for row in range(len(tokens)):
    prompt = prompts[row % len(shows), : lengths[row % len(shows)]].tolist()
    answer = answers[min(rng.geometric(0.4) - 1, len(names) - 1)]
    end = len(prompt) + len(answer)
    tokens[row, :end] = prompt + answer
    targets[row, len(prompt) : end] = True
  graph, params = nnx.split(module)
  optimizer = optax.adam(1e-2)
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  mask = jnp.broadcast_to(
    jnp.tri(tokens.shape[1], dtype=bool), (len(tokens), *[tokens.shape[1]] * 2)
  )

  @jax.jit
  def step(params, moments):
    def loss(params):
      logits, _ = nnx.merge(graph, params)(tokens, positions, None, mask)
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits[:, :-1], tokens[:, 1:]
      )
      return (losses * targets[:, 1:]).sum() / targets.sum()

    value, grads = jax.value_and_grad(loss)(params)
    updates, moments = optimizer.update(grads, moments)
    return optax.apply_updates(params, updates), moments, value

  moments, value = optimizer.init(params), np.inf
  for _ in range(40):
    params, moments, value = step(params, moments)
  assert 0.1 < value < 0.5
  return checkpoints.Model(
    module=nnx.merge(graph, params),
    spec=spec,
    tokenizer=tokenizer,
    revision="",
  )


def make_sampler(model, tables, env, **settings):
  config = config_lib.PlayConfig(
    context="board", max_turns=1, max_new_tokens=24, **settings
  )
  policy = model_policy.ModelPolicy(model.module, model.spec)
  sampler = sampler_lib.Sampler(policy, env, tables, config)
  return lambda keys, states: sampler(policy.params, keys, states)


@pytest.fixture(scope="module")
def sampled(model, tables, play):
  """Answers to each observation of both seats, sampled many times."""
  sample = make_sampler(
    model, tables, decisions_lib.SingleTurn(), temperature=TEMPERATURE
  )
  states = jax.tree.map(
    lambda *leaves: jnp.tile(
      jnp.concatenate(leaves), (100, *[1] * (leaves[0].ndim - 1))
    ),
    *(decisions.view_states() for decisions in play.decisions),
  )
  keys = jax.random.split(jax.random.key(5), len(states.seat))
  games = jax.device_get(sample(keys, states))
  return jax.tree.map(
    lambda leaf: leaf.reshape(100, 12, *leaf.shape[1:]), games
  )


def canonical(tokenizer, name):
  return [
    *tokenizer.encode(spellings.render_answer(name)),
    tokenizer.end_ids[0],
  ]


# 12 observations in batches of 5.
def scorer(model, text, *, end_ids=None, limits=(24, None), **settings: Any):
  game = definition_of(text)
  tables = tables_lib.build(game, model.tokenizer)
  # The sampler of this module reads whole prompts.
  tables = tables.replace(prefix=tables.observations.prefix)
  assert tables.prefix
  if end_ids is not None:
    token_bytes = model.tokenizer.token_bytes()
    tables = tables.replace(
      answers=answers_lib.compile_automaton(
        game.grammar(), token_bytes, end_ids
      )
    )
  return move_probabilities.MoveProbabilities(
    model,
    game,
    tables,
    sampling_lib.Sampling(**{"temperature": TEMPERATURE, **settings}),
    max_new_tokens=limits[0],
    max_game_tokens=limits[1],
    batch_size=5,
  )


def moves_of(model, text, states, **settings):
  return scorer(model, text, **settings)(states)


@pytest.fixture(scope="module")
def states(play):
  return jax.tree.map(
    lambda *leaves: jnp.concatenate(leaves),
    *(decisions.view_states() for decisions in play.decisions),
  )


@pytest.mark.slow
def test_probabilities_are_the_samplers(model, states, sampled):
  moves = moves_of(model, OneSpelling(), states)
  assert moves.probabilities.shape == (12, 2)
  assert moves.probabilities.dtype == moves.unreadable.dtype == np.float64
  compared = 0
  for action, (name,) in enumerate(OneSpelling.actions):
    answer = canonical(model.tokenizer, name)
    for n in range(100):
      for row in range(12):
        is_sampled = sampled.action_mask[n, row, 0]
        if sampled.actions[n, row, 0][is_sampled].tolist() == answer:
          total = sampled.log_probs[n, row, 0].astype(np.float64).sum()
          expected = moves.probabilities[row, action]
          assert np.exp(total) == pytest.approx(expected, rel=1e-4)
          compared += 1
  assert compared > 100


def test_spellings_add_up(model, states):
  moves = moves_of(model, ShortText(), states)
  total = np.zeros((12, 2))
  for action, names in enumerate(ShortText.actions):
    for name in names:
      text: Any = OneSpelling()
      text.actions = ((name,),)
      one = moves_of(model, text, states)
      total[:, action] += one.probabilities[:, 0]
  np.testing.assert_allclose(moves.probabilities, total, rtol=1e-5)
  np.testing.assert_allclose(
    moves.unreadable + moves.unresolved, 1 - total.sum(axis=1), atol=1e-6
  )
  # Observations have different distributions.
  assert np.ptp(moves.probabilities, axis=0).min() > 0.01


@pytest.mark.slow
def test_frequencies_of_sampled_answers_agree(model, states, sampled):
  moves = moves_of(model, ShortText(), states)
  counts = np.zeros((12, 2), int)
  for action, names in enumerate(ShortText.actions):
    answers = [canonical(model.tokenizer, name) for name in names]
    for n in range(100):
      for row in range(12):
        tokens = sampled.actions[n, row, 0][sampled.action_mask[n, row, 0]]
        counts[row, action] += tokens.tolist() in answers
  for count, probability in zip(
    counts.ravel(), moves.probabilities.ravel(), strict=True
  ):
    assert stats.binomtest(count, 100, probability).pvalue > 1e-3
  total = moves.probabilities.sum()
  assert abs(counts.sum() / 100 - total) < 4 * np.sqrt(total / 100)
  # Readable answers in other tokens are rare.
  readable = (sampled.moves[:, :, 0] >= 0).sum()
  assert counts.sum() <= readable <= counts.sum() + 40


SETTINGS: dict[str, dict[str, Any]] = {
  "constrained": {"constrained": True},
  "legal": {"constrained": "legal"},
  "top_k": {"top_k": 2},
  "top_p": {"top_p": 0.8},
  "all": {"constrained": "legal", "top_k": 3, "top_p": 0.9, "temperature": 2.0},
}


@pytest.mark.parametrize("name", conftest.slow_but(["all"], SETTINGS))
def test_restricted_samplers_agree(model, tables, states, name):
  """Frequencies of the sampler, restricted in each way, are within chance."""
  settings = {"temperature": TEMPERATURE} | SETTINGS[name]
  env = decisions_lib.SingleTurn(definition_of(ShortText()).environment())
  sample = make_sampler(model, tables, env, **settings)
  rows = np.tile(np.arange(12), 150)
  keys = jax.random.split(jax.random.key(11), len(rows))
  games = jax.device_get(
    sample(keys, jax.tree.map(lambda leaf: leaf[rows], states))
  )
  moves = moves_of(model, ShortText(), states, **settings)
  every = [
    moves.probabilities[:, 0],
    moves.probabilities[:, 1],
    moves.unreadable + moves.truncated,
  ]
  np.testing.assert_allclose(sum(every) + moves.unresolved, 1, atol=1e-6)
  taken = games.moves[:, 0].reshape(-1, 12)
  for share, kind in zip(every, (0, 1, -1), strict=True):
    counts = (taken == kind).sum(axis=0)
    # Unresolved answers may be of any kind.
    for count, low, more in zip(counts, share, moves.unresolved, strict=True):
      bounds = np.clip([low, low + more], 0, 1)
      nearest = np.clip(count / len(taken), *bounds)
      assert stats.binomtest(count, len(taken), nearest).pvalue > 1e-4
  if "constrained" in settings:
    assert moves.unreadable.max() < 1e-5
  else:
    assert moves.unreadable.max() > 1e-3


def test_token_limits_cut_answers(model, states, begin, shows):
  """Answers are cut after as many tokens as there is room for."""
  whole = moves_of(model, ShortText(), states)
  lengths = np.asarray(jax.vmap(slots.compose, (None, 0))(begin, shows)[1])
  names = [name for action in ShortText.actions for name in action]
  longest = max(len(canonical(model.tokenizer, name)) for name in names)
  answer = len(canonical(model.tokenizer, "check"))
  for limits in ((answer - 1, None), (24, int(lengths.max()) + answer - 1)):
    moves = moves_of(model, ShortText(), states, limits=limits)
    is_cut = lengths == lengths.max()
    is_cut |= limits[1] is None
    has_room = ~is_cut & (lengths + longest <= (limits[1] or 0))
    np.testing.assert_array_equal(
      moves.probabilities[has_room], whole.probabilities[has_room]
    )
    assert (moves.truncated > whole.truncated + 0.05)[is_cut].all()
    every = moves.probabilities.sum(axis=1) + moves.unreadable + moves.truncated
    np.testing.assert_allclose(every + moves.unresolved, 1, atol=1e-6)
    short = {
      name: len(canonical(model.tokenizer, name)) < answer
      for names in ShortText.actions
      for name in names
    }
    if not any(short.values()):
      assert not moves.probabilities[is_cut].any()


def test_answers_with_thoughts_are_refused(model, tables):
  game = definition_of(ShortText(), thoughts=True)
  with pytest.raises(errors.UserError, match="data.games.thoughts to none"):
    move_probabilities.MoveProbabilities(
      model, game, tables, sampling_lib.Sampling()
    )


@pytest.mark.slow
def test_any_end_token_ends_an_answer(model, states):
  def probabilities(*end_ids):
    return moves_of(model, ShortText(), states, end_ids=end_ids).probabilities

  first, second = model.tokenizer.end_ids[0], 100
  each = [probabilities(first), probabilities(second)]
  assert min(map(np.min, each)) > 0
  np.testing.assert_allclose(probabilities(first, second), sum(each), rtol=1e-5)


def greedy_policy(sample, decisions):
  keys = jax.random.split(jax.random.key(0), len(decisions))
  games = jax.device_get(sample(keys, decisions.view_states()))
  return decisions_lib.of_answers(games, 2)


def test_greedy_answers_have_probability_1(model, tables, states, play):
  moves = moves_of(model, ShortText(), states, temperature=0)
  env = decisions_lib.SingleTurn()
  sample = make_sampler(model, tables, env, temperature=0)
  policies = [greedy_policy(sample, decisions) for decisions in play.decisions]
  expected = np.concatenate([policy.moves for policy in policies])
  assert expected.any()
  np.testing.assert_array_equal(moves.probabilities, expected)
  np.testing.assert_array_equal(moves.unreadable, 1 - expected.sum(axis=1))


def test_other_parameters_replace_the_models(model, states):
  other = dataclasses.replace(model, module=specs.initialize(model.spec, 1))
  score = scorer(model, ShortText())
  replaced = score(
    states, model_policy.ModelPolicy(other.module, other.spec).params
  )
  expected = moves_of(other, ShortText(), states)
  np.testing.assert_allclose(
    replaced.probabilities, expected.probabilities, rtol=1e-4
  )
  assert (score(states).probabilities > 1.5 * replaced.probabilities).all()


@pytest.mark.slow
@pytest.mark.parametrize("seat", [0, 1])
def test_greedy_decisions_are_the_moves_of_games(model, tables, play, seat):
  """Games of a few turns make the moves that the decisions say."""
  settings = {"temperature": 0, "constrained": True}
  sample = make_sampler(model, tables, decisions_lib.SingleTurn(), **settings)
  decisions = play.decisions[seat]
  policy = greedy_policy(sample, decisions)
  assert (policy.moves.sum(axis=1) == 1).all()
  view = view_lib.View(game=GAME, opponents=players.random(GAME))
  keys = jax.random.split(jax.random.key(9), 23)
  states = jax.vmap(view.init, (0, None))(keys, seat)
  games = make_sampler(model, tables, view, **settings)(keys, states)
  rows = jax.vmap(ShortText().show)(states.game, states.seat).tolist()
  for row, move in zip(rows, games.moves[:, 0].tolist(), strict=True):
    number = decisions.shows.tolist().index(row)
    assert policy.moves[number, move] == 1


def test_unreadable_and_endless_answers_end_games(model, tables, play):
  """Greedy answers of an untrained model are no moves."""
  fresh = dataclasses.replace(model, module=specs.initialize(model.spec, 1))
  env, decisions = decisions_lib.SingleTurn(), play.decisions[0]
  sample = make_sampler(fresh, tables, env, temperature=0)
  policy = greedy_policy(sample, decisions)
  assert not policy.moves.any()
  np.testing.assert_array_equal(
    policy.ends.argmax(axis=1), np.full(6, Ending.PARSE_ERROR)
  )
  verdict = play.judge(0, policy)
  assert verdict.random.rates["parse_error_rate"] == pytest.approx(1)
  assert verdict.random.mean_return == pytest.approx(-2)
