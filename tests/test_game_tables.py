"""Tests that the sampler plays any game as a loop over whole texts does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tests import test_sampler
from tunix_ttt.games import catalog
from tunix_ttt.games import game_observations
from tunix_ttt.models import model_policy
from tunix_ttt.rollout import sampler as sampler_lib
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.text import answers as answers_lib
from tunix_ttt.text import chat
from tunix_ttt.text import spellings

Ending = trajectory_lib.Ending
model = test_sampler.model
GAMES = 5


MADE = {
  "kuhn_poker": {},
  "frozen_lake": {"max_moves": 7},
  "connect_four": {"thoughts": True},
}


@pytest.fixture(scope="module", params=MADE)
def played(request, tokenizer):
  """Returns a game's view, text and tables."""
  if request.param == "connect_four":
    pytest.importorskip("pgx")
  game = catalog.load(request.param, **MADE[request.param])
  return game.environment(), game.text, tables_lib.build(game, tokenizer)


class Reference(test_sampler.Reference):
  """Plays one game token by token on whole texts, without a cache."""

  length = 1024

  def __init__(self, model, played, config, tokenizer):
    self.view, self.text, tables = played
    super().__init__(model, tables, config)
    self.tokenizer = tokenizer

  def observation(self, state):
    show = self.text.show(state.game, state.seat).tolist()
    slots = zip(self.text.segments, show, strict=True)
    return "".join(texts[n] for texts, n in slots if n >= 0)

  def prompt(self, past, state, is_retry):
    text = self.observation(state)
    if past is None:
      rules = chat.message("system", self.text.rules)
      messages = [rules, chat.message("user", text)]
      return chat.encode_chat(messages, self.tokenizer).ids
    if is_retry:
      end = self.tokenizer.template.end_of_turn_id
      text = spellings.REJECTION + text
      return [*past, end, *chat.encode_follow(text, self.tokenizer)]
    return past + chat.encode_follow(text, self.tokenizer)

  def play(self, key, state):
    turns, past, is_retry = [], None, False
    ending = Ending(int(self.view.outcome(state)))
    for number in range(self.config.max_turns):
      if ending != Ending.ONGOING:
        break
      if self.config.context == "board":
        past = None
      prompt = self.prompt(past, state, is_retry)
      answer, log_probs, _, at = self.answer(
        jax.random.fold_in(key, number), prompt, self.view.legal(state)
      )
      action = conftest.action_after(self.tables.answers, *at)
      turns.append((state, answer, log_probs, action))
      if action >= 0:
        state = self.view.step(state, action)
        ending = Ending(int(self.view.outcome(state)))
      elif at[0] != answers_lib.DEAD:
        ending = Ending.LENGTH
      elif self.config.on_parse_error == "end":
        ending = Ending.PARSE_ERROR
      past, is_retry = prompt + answer, action < 0
    return turns, state, ending


@pytest.mark.parametrize(
  "played", conftest.slow_but(["kuhn_poker"], MADE), indirect=True
)
@pytest.mark.parametrize(
  "settings",
  [
    {"context": "full", "constrained": True},
    *(
      pytest.param(settings, marks=pytest.mark.slow)
      for settings in (
        {"context": "board", "constrained": True},
        {"context": "board", "constrained": "legal"},
        {"context": "full", "on_parse_error": "retry"},
      )
    ),
  ],
  ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_games_are_the_references(played, model, tokenizer, settings):
  view, _, tables = played
  config = test_sampler.play_config(
    max_new_tokens=24, max_turns=2, temperature=0.9, **settings
  )
  policy = model_policy.ModelPolicy(model[1], model[0])
  sampler = sampler_lib.Sampler(policy, view, tables, config, rows_at_once=2)
  keys = jax.random.split(jax.random.key(3), GAMES)
  seats = jnp.arange(GAMES) % view.game.num_seats
  states = jax.jit(jax.vmap(view.init))(
    jax.random.split(jax.random.key(4), GAMES), seats
  )
  games = jax.device_get(sampler(policy.params, keys, states))
  reference = Reference(model, played, config, tokenizer)
  num_actions = 0
  for n in range(GAMES):
    state = jax.tree.map(lambda leaf, n=n: leaf[n], states)
    turns, state, ending = reference.play(keys[n], state)
    assert games.turn_mask[n].sum() == len(turns)
    for t, (before, answer, log_probs, action) in enumerate(turns):
      at = jax.tree.map(lambda leaf, n=n, t=t: leaf[n, t], games.states)
      check_equal(at, before)
      mask = games.action_mask[n, t]
      assert games.actions[n, t][mask].tolist() == answer
      np.testing.assert_allclose(
        games.log_probs[n, t][mask], log_probs, atol=1e-4
      )
      assert games.moves[n, t] == action
      num_actions += action >= 0
    check_equal(jax.tree.map(lambda leaf, n=n: leaf[n], games.state), state)
    limit = Ending.LENGTH
    assert games.ending[n] == (limit if ending == Ending.ONGOING else ending)
  assert num_actions or not settings.get("constrained")


def check_equal(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_observations_are_those_of_a_seat_to_act(played):
  view, text, _ = played
  shows = game_observations.sample_shows(view.game, text, 65)
  assert shows.shape[1] == len(text.segments) and len(shows) > 5
  sizes = np.array([len(texts) for texts in text.segments])
  assert (shows >= -1).all() and (shows < sizes).all()
  assert len(np.unique(shows, axis=0)) == len(shows)
