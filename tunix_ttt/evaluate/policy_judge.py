"""Judges a model as it is sampled, from its distribution of answers."""

from collections.abc import Iterator
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.evaluate import decisions as decisions_lib
from tunix_ttt.evaluate import model_player
from tunix_ttt.evaluate import move_probabilities
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.evaluate import state_judge
from tunix_ttt.games import catalog
from tunix_ttt.models import checkpoints
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import sampling as sampling_lib

# Number of answers to an observation of every game, if they have thoughts.
NUM_ANSWERS = 32
# Decisions of which all are computed in training.
_MAX_COMPUTED = 2000
# Decisions with more probability in other tokens than the tokenizer's are sampled.
_MAX_UNRESOLVED = 1e-3


class PolicyJudge:
  """Judges the policy that a model is at the temperature of play.

  The distribution of moves at a decision is computed, or is the frequencies of
  sampled answers. The number of answers is proportional to the probability that
  a game comes to the decision, and 0 if no opponent can bring it about. Their
  expectation does not depend on it, so neither do expected results.

  Attributes:
    game: Game of the model.
    player: Sampler of single answers, whose `params` are judged.
  """

  def __init__(
    self,
    model: model_player.Model,
    config: config_lib.SFTConfig,
    *,
    in_training: bool = False,
  ):
    """Lists the states of the game; compiles on the first call.

    Args:
      model: Model to judge.
      config: Settings.
      in_training: Whether to sample answers where many would be computed, unless
        `play.num_answers` is 0.

    Raises:
      errors.UserError: If the game cannot be judged by states, the config asks
        unreadable answers again, or the limits leave no room for an answer.
    """
    play = config.play
    if play.on_parse_error != "end":
      raise errors.UserError(
        f"play.on_parse_error: {play.on_parse_error}: exact results are of"
        " single answers; set it to end"
      )
    self.game = catalog.of(config)
    self._exact = state_judge.exact_play_of(config)
    env = decisions_lib.SingleTurn(self.game.environment())
    single = dataclasses.replace(play, max_turns=1)
    self.player = model_player.of(model, config, env, single)
    self._play, self._seed, self._score = play, config.seed, None
    self._num_answers = play.num_answers or NUM_ANSWERS
    is_computed = play.num_answers == 0
    if not isinstance(model, checkpoints.Model):
      if is_computed:
        raise errors.UserError(
          "play.num_answers: 0, but a service does not tell the probabilities of"
          " all moves; set a number of answers to sample, or null"
        )
    elif play.num_answers is None:
      total = sum(map(len, self._exact.decisions))
      is_computed = not (in_training and total > _MAX_COMPUTED)
      is_computed &= self.game.grammar().texts() is not None
    if is_computed and isinstance(model, checkpoints.Model):
      self._score = move_probabilities.MoveProbabilities(
        model,
        self.game,
        sampler.make_tables(config, model.tokenizer),
        sampling_lib.Sampling.of(play),
        max_new_tokens=play.max_new_tokens,
        max_game_tokens=play.max_game_tokens,
      )

  def __call__(
    self, *, in_training: bool = False
  ) -> Iterator[tuple[str, rates_lib.Stochastic]]:
    """Yields the name and the results of each seat."""
    for seat, name in enumerate(self.game.seats):
      policy, unresolved, num_answers = self._policy(
        seat, in_training=in_training
      )
      verdict = self._exact.judge(seat, policy, num_answers)
      result = rates_lib.of_policy(
        self.game,
        verdict,
        temperature=self._play.temperature,
        unresolved=unresolved,
        num_answers=self._num_answers if num_answers.any() else 0,
      )
      yield name, result

  def _policy(
    self, seat: int, *, in_training: bool
  ) -> tuple[decisions_lib.SeatPolicy, float, np.ndarray]:
    """Returns the policy of a seat.

    Also returns the greatest unresolved probability of a decision, and the number
    of sampled answers to each, int [D].
    """
    listed = self._exact.decisions[seat]
    states = self.game.agent_states(listed.states, seat)
    size, num_actions = len(listed), self.game.game.num_actions
    num_answers = np.zeros(size, int)
    policy = decisions_lib.sampled(
      np.zeros((size, num_actions)), np.zeros(size)
    )
    # An answer with a thought has no computed probability.
    unresolved = np.ones(size)
    if self._score is not None:
      moves = self._score(states, self.player.params)
      unresolved = moves.unresolved
      policy = decisions_lib.sampled(
        moves.probabilities,
        moves.unreadable + unresolved,
        moves.truncated,
      )
    is_open = unresolved > _MAX_UNRESOLVED
    # No step leads on from an open decision.
    policy.moves[is_open], policy.ends[is_open] = 0, 0
    while (reach := is_open * self._exact.reach(seat, policy)).any():
      rows = np.flatnonzero(reach)
      counts = np.ceil(self._num_answers * reach[rows]).astype(int)
      answers = self._sample(
        seat, states, rows, counts, in_training=in_training
      )
      policy.moves[rows], policy.ends[rows] = answers.moves, answers.ends
      num_answers[rows], is_open[rows] = counts, False
    resolved = unresolved[unresolved <= _MAX_UNRESOLVED]
    return policy, float(resolved.max(initial=0)), num_answers

  def _sample(
    self,
    seat: int,
    states: Any,
    rows: np.ndarray,
    counts: np.ndarray,
    *,
    in_training: bool,
  ) -> decisions_lib.SeatPolicy:
    """Returns the frequencies of answers, `counts` int [K] to decisions int [K]."""
    total, size = counts.sum(), len(self._exact.decisions[seat])
    # Each answer's decision, and its number among the answers to it.
    owners, firsts = np.repeat(rows, counts), np.cumsum(counts) - counts
    order = np.arange(total) - np.repeat(firsts, counts)

    def draw(numbers: jax.Array) -> tuple[jax.Array, Any]:
      # Repeated answers fill the last batch.
      batch = np.asarray(numbers) % total
      decisions = owners[batch]
      # An answer depends on its decision and its number alone.
      last = jnp.asarray(order[batch] * size + decisions)
      # Answers in training choose a checkpoint; later ones are unbiased.
      stream = streams.Stream.JUDGED_TOKENS
      keys = streams.keys(self._seed, stream, in_training, seat, last=last)
      return keys, jax.tree.map(lambda leaf: leaf[decisions], states)

    answers = model_player.play_batches(
      self.player,
      draw,
      total,
      self._play.batch_size,
      name=self.game.seats[seat],
      leave=not in_training,
    )
    one = decisions_lib.of_answers(answers, self.game.game.num_actions)
    return decisions_lib.SeatPolicy(
      *(
        np.add.reduceat(each, firsts) / counts[:, None]
        for each in (one.moves, one.ends)
      )
    )
