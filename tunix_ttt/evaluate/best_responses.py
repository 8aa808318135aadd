"""Best responses to policies, and how far policies are from an equilibrium."""

from collections.abc import Sequence

import numpy as np

from tunix_ttt import errors
from tunix_ttt.evaluate import decisions as decisions_lib
from tunix_ttt.evaluate import exact_play


class BestResponses(exact_play.ExactPlay):
  """Exact results of policies, and the best that each seat can do about them."""

  def best_response(
    self, seat: int, policies: Sequence[decisions_lib.SeatPolicy]
  ) -> tuple[np.ndarray, float]:
    """Returns the moves of a seat that gain most, and their expected return.

    The moves are int [N], those of the seat in each state, -1 elsewhere. States
    with the same observation have the same move. It is exact if observations
    tell what the seat has seen and done before. An answer of another seat that is
    no legal move pays the greatest return. The policy of the seat itself is
    ignored.

    Raises:
      errors.UserError: if observations do not tell the turn of the game.
    """
    if not self.tells_turns(seat):
      raise errors.UserError(
        f"{self._name} shows seat {seat} the same at different turns, for which"
        " no best response is computed; show the turn"
      )
    weights, missing = self._weights_of(policies)
    numbers, is_own = self.decisions[seat].numbers, self._to_act == seat
    weights[is_own] = np.concatenate([self._legal, self._chance > 0], axis=1)[
      is_own
    ]
    # Probability that the others and chance play to each state.
    reach = self._reach(weights, self._levels)
    total = np.bincount(
      numbers[is_own], reach[is_own], len(self.decisions[seat])
    )
    # Observations that the others never lead to count their states alike.
    reach = np.where(total[np.maximum(numbers, 0)] > 0, reach, 1)
    values = self._returns[:, seat] + np.where(is_own, 0, missing * self._high)
    moves = np.full(len(values), -1)
    for rows in reversed(self._levels):
      after = values[self._targets[rows]]
      expected = values[rows] + (weights[rows] * after).sum(axis=1)
      mine = is_own[rows]
      legal = self._legal[rows[mine]]
      gains = np.zeros((len(self.decisions[seat]), legal.shape[1]))
      worth = after[mine, : legal.shape[1]] * reach[rows[mine], None]
      np.add.at(gains, numbers[rows[mine]], worth)
      gains = np.where(legal, gains[numbers[rows[mine]]], -np.inf)
      moves[rows[mine]] = chosen = gains.argmax(axis=1)
      expected[mine] = np.take_along_axis(after[mine], chosen[:, None], 1)[:, 0]
      values[rows] = expected
    return moves, float(values[0])

  def tells_turns(self, seat: int) -> bool:
    """Returns whether a seat's equal observations are at equal turns."""
    numbers = self.decisions[seat].numbers
    turns = [np.unique(numbers[rows]) for rows in self._levels]
    seen = np.concatenate([each[each >= 0] for each in turns])
    return len(np.unique(seen)) == len(seen)

  def nash_conv(self, policies: Sequence[decisions_lib.SeatPolicy]) -> float:
    """Returns the sum over the seats of what a best response gains.

    It is 0 for an equilibrium (Lanctot et al., 2017). The probabilities of the
    legal moves are divided by their total, as answers that are no legal move
    are not part of the game.
    """
    policies = [self._legal_only(n, each) for n, each in enumerate(policies)]
    reach = self._reach(self._weights_of(policies)[0], self._levels)
    values = reach @ self._returns
    seats = range(len(self.decisions))
    best = [self.best_response(seat, policies)[1] for seat in seats]
    return float(sum(best) - values.sum())

  def _legal_only(
    self, seat: int, policy: decisions_lib.SeatPolicy
  ) -> decisions_lib.SeatPolicy:
    turns = np.flatnonzero(self._to_act == seat)
    legal = np.zeros(policy.moves.shape, bool)
    legal[self.decisions[seat].numbers[turns]] = self._legal[turns]
    moves = np.where(legal, policy.moves, 0)
    moves = np.where(moves.sum(axis=1, keepdims=True) > 0, moves, legal)
    moves = moves / moves.sum(axis=1, keepdims=True)
    return decisions_lib.SeatPolicy(moves, np.zeros_like(policy.ends))

  def _weights_of(
    self, policies: Sequence[decisions_lib.SeatPolicy]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probability of each step, and of none, if all seats follow.

    They are float64 [N, W] and [N]; the latter is 0 where no seat is to act.
    """
    moves, is_seat = np.zeros(self._legal.shape), self._to_act >= 0
    for listed, policy in zip(self.decisions, policies, strict=True):
      turns = np.flatnonzero(listed.numbers >= 0)
      moves[turns] = policy.moves[listed.numbers[turns]]
    moves = np.where(self._legal, moves, 0)
    missing = np.where(is_seat, 1 - moves.sum(axis=1), 0)
    return np.concatenate([moves, self._chance], axis=1), missing
