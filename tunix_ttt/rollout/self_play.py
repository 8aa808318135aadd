"""Games of a model against itself: a conversation for each seat.

In the context `board` turns are independent, and a game needs one row of the batch.
In the other contexts it has a row, and a part of the policy's memory, for each seat;
`in_turn` runs the row whose seat is to act.

`Replies` plays a model against its past self, which has other parameters.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, Protocol

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt import streams
from tunix_ttt.rollout import trajectory as trajectory_lib

Ending = trajectory_lib.Ending
Trajectory = trajectory_lib.Trajectory
NUM_SEATS = 2
_BY_RULES = (Ending.WIN, Ending.DRAW, Ending.LOSS)
_FAULTS = (Ending.ILLEGAL, Ending.PARSE_ERROR, Ending.LENGTH)


class MirrorEnvironment(Protocol):
  """An environment of both seats, such as `games.view.MirrorView`."""

  def outcome(self, state: Any) -> jax.Array:
    """Returns the `game.Outcome` for the seat of the state, int8 []."""
    ...

  def seat(self, state: Any) -> jax.Array:
    """Returns the seat to act, or the one that acted last: int32 []."""
    ...

  def seen_by(self, state: Any, seat: jax.Array) -> Any:
    """Returns a finished game as a seat's, for `outcome`."""
    ...


def for_both_seats(tree: Any) -> Any:
  """Returns arrays [B, ...] twice, as rows of seat 0 and of seat 1: [2B, ...]."""
  return jax.tree.map(lambda leaf: jnp.concatenate([leaf] * NUM_SEATS), tree)


def in_turn(
  play: Callable[..., tuple[Any, Any, Any]], env: MirrorEnvironment
) -> Callable[..., tuple[Any, Any, Any]]:
  """Returns the function of one turn for rows of `for_both_seats`.

  Rows of the seat to act are played; their game's other row gets the state and
  the ending, and keeps its memory and its last answer.

  Args:
    play: Function of one turn, see `schedule.conversation_turns`.
    env: Environment of the games.
  """

  def turn(
    memory: Any, keys: jax.Array, games: Any, active: jax.Array, **options: Any
  ) -> tuple[Any, Any, Any]:
    size = len(active) // NUM_SEATS
    seats = jax.vmap(env.seat)(games.state)
    active = active & (seats == jnp.arange(len(active)) // size)
    before, (memory, after, record) = (
      memory,
      play(memory, keys, games, active, **options),
    )
    is_other = jnp.roll(active, size)

    def share(leaf: jax.Array) -> jax.Array:
      mask = is_other.reshape(-1, *(1,) * (leaf.ndim - 1))
      return jnp.where(mask, jnp.roll(leaf, size, axis=0), leaf)

    shared = (after.state, after.ending, after.tried)
    state, ending, tried = jax.tree.map(share, shared)
    return (
      _with_pending(memory, before, active),
      dataclasses.replace(after, state=state, ending=ending, tried=tried),
      record,
    )

  return turn


def _with_pending(after: Any, before: Any, active: jax.Array) -> Any:
  """Returns a memory in which rows that wait keep their last token."""
  return dataclasses.replace(
    after,
    pending=jnp.where(active, after.pending, before.pending),
    is_pending=jnp.where(active, after.is_pending, before.is_pending),
  )


def joined(records: dict[str, Any]) -> dict[str, Any]:
  """Returns the turns of games, [B, T, ...], from those of their rows."""
  mask = records["turn_mask"]
  size = len(mask) // NUM_SEATS

  def join(leaf: jax.Array) -> jax.Array:
    first = mask[:size].reshape(size, -1, *(1,) * (leaf.ndim - 2))
    return jnp.where(first, leaf[:size], leaf[size:])

  return jax.tree.map(join, records)


def by_seat(
  env: MirrorEnvironment, games: Trajectory, num_generations: int
) -> Trajectory:
  """Returns B games of two seats as the 2B games of one seat each.

  A seat's game has the turns of that seat, moved to the front, and ends for it:
  the winner's `WIN` is the other's `LOSS`. An answer that is no legal move ends
  the game for its seat, and is a `WIN` of the other one.

  Args:
    env: Environment of the games.
    games: Games in groups of `num_generations`.
    num_generations: Number of games in a group.

  Returns:
    Games in groups of as many games of one seat; each group of `games` becomes
    one of seat 0 and one of seat 1.
  """
  seats = jax.vmap(jax.vmap(env.seat))(games.states)
  last = jnp.maximum(games.turn_mask.sum(axis=1) - 1, 0)[:, None]
  last_seat, last_move = (
    jnp.take_along_axis(turns, last, axis=1)[:, 0]
    for turns in (seats, games.moves)
  )
  ending = games.ending
  is_fault = (ending == Ending.ILLEGAL) | (ending == Ending.PARSE_ERROR)
  is_fault |= (ending == Ending.LENGTH) & (last_move < 0)
  by_rules = jnp.isin(ending, jnp.array(_BY_RULES, jnp.int8))

  def of_seat(seat: jax.Array) -> Trajectory:
    mask = games.turn_mask & (seats == seat)
    state = jax.vmap(env.seen_by, (0, None))(games.state, seat)
    ended = jnp.where(by_rules, jax.vmap(env.outcome)(state), ending)
    is_given_up = is_fault & (last_seat != seat)
    return Trajectory(
      ending=jnp.where(is_given_up, jnp.int8(Ending.WIN), ended),
      state=state,
      **_turns_to_front(games, mask),
    )

  both = [of_seat(jnp.int32(seat)) for seat in range(NUM_SEATS)]

  def interleave(*leaves: jax.Array) -> jax.Array:
    groups = [
      leaf.reshape(-1, num_generations, *leaf.shape[1:]) for leaf in leaves
    ]
    stacked = jnp.stack(groups, axis=1)
    return stacked.reshape(-1, *leaves[0].shape[1:])

  return jax.tree.map(interleave, *both)


@struct.dataclass
class PastSelf:
  """Parameters that play the other seat of B games.

  Attributes:
    params: Parameters of the policy, earlier than those in training.
    agents: Seat of the parameters in training, int32 [B].
    is_greedy: Whether to take the most likely tokens.
  """

  params: Any
  agents: jax.Array
  is_greedy: bool = struct.field(pytree_node=False, default=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replies:
  """Turns of a model, each with a reply of its past self.

  Memories are pairs, of the model and of its past self, each with its last answer.
  Games have `agents`, see `PastSelf`. A past self whose answer is no legal move has
  lost; one that is to act twice in a row does so in the model's next turn, which
  the model misses.

  Attributes:
    play: Function of one turn of the model, see `schedule.conversation_turns`.
    reply: The same with the parameters of the past self.
    env: Environment of the games.
    has_memory: Whether turns depend on the earlier ones of their conversation.
  """

  play: Callable[..., tuple[Any, Any, Any]]
  reply: Callable[..., tuple[Any, Any, Any]]
  env: MirrorEnvironment
  has_memory: bool

  def open(self, memory: Any, keys: jax.Array, games: Any) -> tuple[Any, Any]:
    """Plays the past self's first turn in the games that it begins."""
    ours, other = memory
    every = jnp.ones(len(keys), bool)
    other, games = self._answer(other, keys, games, every, is_first_turn=True)
    return (ours, other), games

  def turn(
    self,
    memory: Any,
    keys: jax.Array,
    games: Any,
    active: jax.Array,
    *,
    is_first_turn: bool,
  ) -> tuple[Any, Any, Any]:
    """Plays the model's turn of active games, bool [B], and the replies."""
    ours, other = memory
    ours, games, record = _with_last_answer(
      self.play,
      ours,
      keys,
      games,
      active & self._is_models(games),
      is_first_turn=is_first_turn,
    )
    # A past self may have had its first turn already, or not yet.
    is_first = not self.has_memory
    other, games = self._answer(
      other, keys, games, active, is_first_turn=is_first
    )
    return (ours, other), games, record

  def _is_models(self, games: Any) -> jax.Array:
    return jax.vmap(self.env.seat)(games.state) == games.agents

  def _answer(
    self,
    memory: Any,
    keys: jax.Array,
    games: Any,
    active: jax.Array,
    *,
    is_first_turn: bool,
  ) -> tuple[Any, Any]:
    keys = jax.vmap(streams.fold_in, (0, None))(
      keys, streams.Stream.PAST_ANSWERS
    )
    active &= (games.ending == Ending.ONGOING) & ~self._is_models(games)
    memory, games, record = _with_last_answer(
      self.reply, memory, keys, games, active, is_first_turn=is_first_turn
    )
    is_fault = record["turn_mask"] & jnp.isin(
      games.ending, jnp.array(_FAULTS, jnp.int8)
    )
    ending = jnp.where(is_fault, jnp.int8(Ending.WIN), games.ending)
    return memory, dataclasses.replace(games, ending=ending)


def _with_last_answer(
  play: Callable[..., tuple[Any, Any, Any]],
  memory: tuple[Any, jax.Array],
  keys: jax.Array,
  games: Any,
  active: jax.Array,
  **options: Any,
) -> tuple[Any, Any, Any]:
  """Plays a turn of one seat, whose last answer is not the game's."""
  before, last_answer = memory
  games = dataclasses.replace(games, last_answer=last_answer)
  after, games, record = play(before, keys, games, active, **options)
  memory = _with_pending(after, before, active), games.last_answer
  return memory, games, record


def of_agents(
  env: MirrorEnvironment, games: Trajectory, agents: jax.Array
) -> Trajectory:
  """Returns games of `Replies` with the endings and states of the seats [B]."""
  state = jax.vmap(env.seen_by)(games.state, agents)
  outcome, by_rules = (
    jax.vmap(env.outcome)(state),
    jnp.array(_BY_RULES, jnp.int8),
  )
  # A win by a fault of the other seat is not one in the state.
  is_over = jnp.isin(games.ending, by_rules) & jnp.isin(outcome, by_rules)
  return Trajectory(
    ending=jnp.where(is_over, outcome, games.ending),
    state=state,
    **_turns_to_front(games, games.turn_mask),
  )


def _turns_to_front(games: Trajectory, mask: jax.Array) -> dict[str, Any]:
  """Returns the fields of the turns in a mask, bool [B, T], the others empty."""
  order = jnp.argsort(~mask, axis=1, stable=True)
  is_kept = jnp.take_along_axis(mask, order, axis=1)

  def move(leaf: jax.Array) -> jax.Array:
    extra = (1,) * (leaf.ndim - 2)
    moved = jnp.take_along_axis(
      leaf, order.reshape(*order.shape, *extra), axis=1
    )
    kept = is_kept.reshape(*is_kept.shape, *extra)
    return jnp.where(kept, moved, jnp.zeros_like(moved))

  names = (
    "states",
    "retried",
    "actions",
    "action_mask",
    "log_probs",
    "sampled_mass",
    "tried",
  )
  fields = {name: jax.tree.map(move, getattr(games, name)) for name in names}
  moves = jnp.where(is_kept, move(games.moves), -1)
  return {**fields, "turn_mask": is_kept, "moves": moves}
