"""Enumerates the states of a game that play can reach.

States are numbered breadth first, so the first state of a game is state 0. The
lookup of a state's number runs on the device.
"""

from collections.abc import Callable
import itertools
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors
from tunix_ttt import requirements
from tunix_ttt import streams
from tunix_ttt.games import game as game_lib

# Number of states that one call of the compiled program expands.
_CHUNK = 1024
# Bytes of arrays and of Python objects besides the states themselves.
_BYTES_PER_EDGE, _OVERHEAD = 24, 200
_NUM_KEYS = 64


@struct.dataclass
class StateGraph:
  """The N states that play can reach, and the steps between them.

  Attributes:
    states: The states, a pytree of arrays [N, ...].
    to_act: Seat to act, `CHANCE` or `OVER` in each state, int32 [N].
    children: State after each action, -1 if it is illegal, int32 [N, A].
    outcomes: State after each outcome of chance, -1 if it has probability 0 or
      the state is no chance node, int32 [N, C].
    probabilities: Probability of each outcome, 0 for -1, float32 [N, C].
    returns: Return of each seat, 0 before the end, float32 [N, num_seats].
    levels: Number of the first state of each level and N, int32 [L + 1]; the
      states of level l are l steps away from state 0.
    fingerprints: Hashes of the states in ascending order, uint32 [2, N].
    order: State of each column of `fingerprints`, int32 [N].
    salt: Salt of the hashes, uint32 [].
    num_candidates: Largest number of states whose first hashes are equal.
  """

  states: Any
  to_act: jax.Array
  children: jax.Array
  outcomes: jax.Array
  probabilities: jax.Array
  returns: jax.Array
  levels: jax.Array
  fingerprints: jax.Array
  order: jax.Array
  salt: jax.Array
  num_candidates: int = struct.field(pytree_node=False)

  def index(self, state: Any) -> jax.Array:
    """Returns the number of a state: int32 [].

    No two states of the graph share a fingerprint. Other states give -1, but
    for a chance of about N / 2^64 that their fingerprint is in the graph.
    """
    wanted = _fingerprint(state, self.salt)
    first = jnp.searchsorted(self.fingerprints[0], wanted[0])
    near = first + jnp.arange(self.num_candidates)
    near = jnp.minimum(near, len(self.order) - 1)
    is_equal = (self.fingerprints[:, near] == wanted[:, None]).all(axis=0)
    number = self.order[near[jnp.argmax(is_equal)]]
    return jnp.where(is_equal.any(), number, -1)


def enumerate_states(
  game: game_lib.Game[Any], *, max_states: int = 10**6
) -> StateGraph:
  """Lists all states that actions and chance can reach from the first.

  Raises:
    errors.UserError: if the first state depends on the key, if there are more
      than `max_states` states, or if memory cannot hold so many.
  """
  name = type(game).__name__
  first = first_state(game)
  record, structure = _record(first), jax.tree.structure(first)
  num_actions = game.num_actions
  num_outcomes = jax.eval_shape(game.chance, _row(first)).shape[0]
  width = num_actions + num_outcomes + game.num_seats
  requirements.check_fits(
    max_states * (3 * record.itemsize + _BYTES_PER_EDGE * width + _OVERHEAD)
    + 2 * _CHUNK * width * record.itemsize,
    f"enumerating up to {max_states:,} states of {name}",
    "max_states",
  )
  expand = _expander(game, num_outcomes)
  frontier = _pack(first, record)[:1]
  numbers = {frontier[0]: 0}
  nodes, targets, levels = [], [], [0]
  while frontier:
    levels.append(len(numbers))
    for start in range(0, len(frontier), _CHUNK):
      rows = frontier[start : start + _CHUNK]
      padding = rows[:1] * (_CHUNK - len(rows))
      states = _unpack(rows + padding, record, structure)
      is_played, node, after = jax.tree.map(np.asarray, expand(states))
      # The padding repeats a state; skipping its steps saves time.
      is_played = is_played & (np.arange(_CHUNK) < len(rows))[:, None]
      target = np.full(is_played.shape, -1, np.int32)
      played = jax.tree.map(lambda leaf, mask=is_played: leaf[mask], after)
      target[is_played] = [
        numbers.setdefault(row, len(numbers)) for row in _pack(played, record)
      ]
      targets.append(target[: len(rows)])
      nodes.append(_Node(*(field[: len(rows)] for field in node)))
      if len(numbers) > max_states:
        raise errors.UserError(
          f"{name} has more than {max_states:,} states, too many for an exact"
          " solution; raise max_states, choose a smaller game or judge by"
          " sampling"
        )
    # A dict keeps its order: the new states are its last.
    new = itertools.islice(reversed(numbers), len(numbers) - levels[-1])
    frontier = [*new][::-1]

  target = np.concatenate(targets)
  node = _Node(*map(np.concatenate, zip(*nodes, strict=True)))
  if ((node.to_act != game_lib.OVER) & (target < 0).all(axis=1)).any():
    raise errors.UserError(
      f"{name} has a state that is not over but has no legal action and no"
      " outcome of chance; let to_act return OVER"
    )
  states = _unpack([*numbers], record, structure)
  return StateGraph(
    states=jax.tree.map(jnp.asarray, states),
    children=jnp.asarray(target[:, :num_actions]),
    outcomes=jnp.asarray(target[:, num_actions:]),
    levels=jnp.asarray(levels, jnp.int32),
    **{name: jnp.asarray(field) for name, field in node._asdict().items()},
    **_lookup(states),
  )


class _Node(NamedTuple):
  """Fields of `StateGraph` for the states of a chunk."""

  to_act: Any
  probabilities: Any
  returns: Any


def _expander(
  game: game_lib.Game[Any], num_outcomes: int
) -> Callable[[Any], tuple[Any, _Node, Any]]:
  """Returns a compiled function that takes `_CHUNK` states.

  It returns which of the A actions and C outcomes can happen, bool [_CHUNK, A +
  C], the nodes, and the states after all of them, a pytree of arrays [_CHUNK, A
  + C, ...].
  """
  plies = [*range(game.num_actions), *range(num_outcomes)]

  def expand(state: Any) -> tuple[Any, _Node, Any]:
    to_act = game.to_act(state).astype(jnp.int32)
    legal = game.legal(state) & (to_act >= 0)
    is_chance = to_act == game_lib.CHANCE
    probabilities = jnp.where(is_chance, game.chance(state), 0)
    after = jax.vmap(game.step, (None, 0))(state, jnp.int32(plies))
    return (
      jnp.concatenate([legal, probabilities > 0]),
      _Node(to_act, probabilities, game.returns(state)),
      after,
    )

  return jax.jit(jax.vmap(expand))


def num_distinct(rows: Any) -> int:
  """Returns the number of distinct rows of a pytree of arrays [N, ...]."""
  return len({*_pack(rows, _record(rows))})


def first_state(game: game_lib.Game[Any]) -> Any:
  """Returns copies of the first state, made from different keys.

  Raises:
    errors.UserError: if the first state depends on the key.
  """
  keys = streams.keys(
    0, streams.Stream.FIRST_STATES, last=jnp.arange(_NUM_KEYS)
  )
  first = jax.jit(jax.vmap(game.init))(keys)
  if (
    any(
      jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
      for leaf in jax.tree.leaves(first)
    )
    or num_distinct(first) > 1
  ):
    raise errors.UserError(
      f"the first state of {type(game).__name__} depends on the key, which hides"
      " chance from exact solvers; write chance as nodes (Game.chance) or judge"
      " by sampling"
    )
  return first


def _row(states: Any) -> Any:
  """Returns the first row of a pytree of arrays [N, ...]."""
  return jax.tree.map(lambda leaf: leaf[0], states)


def _record(rows: Any) -> np.dtype:
  """Returns the NumPy type of a row of a pytree of arrays [N, ...]."""
  return np.dtype(
    [
      (f"leaf {n}", leaf.dtype, leaf.shape[1:])
      for n, leaf in enumerate(jax.tree.leaves(rows))
    ]
  )


def _pack(rows: Any, record: np.dtype) -> list[bytes]:
  """Returns the bytes of each row of a pytree of arrays [N, ...]."""
  leaves = jax.tree.leaves(rows)
  packed = np.empty(len(leaves[0]), record)
  for name, leaf in zip(record.names or (), leaves, strict=True):
    packed[name] = leaf
  return packed.view(np.dtype((np.void, record.itemsize))).tolist()


def _unpack(rows: list[bytes], record: np.dtype, structure: Any) -> Any:
  """Returns the pytree of arrays [N, ...] whose rows have these bytes."""
  packed = np.frombuffer(b"".join(rows), record)
  return structure.unflatten([packed[name] for name in record.names or ()])


def _lookup(states: Any) -> dict[str, Any]:
  """Returns the fields of a `StateGraph` that `StateGraph.index` needs."""
  salt = 0
  while True:
    fingerprints = np.asarray(_fingerprints(states, jnp.uint32(salt))).T
    order = np.lexsort(fingerprints[::-1])
    ordered = fingerprints[:, order]
    if not (ordered[:, 1:] == ordered[:, :-1]).all(axis=0).any():
      break
    salt += 1
  _, counts = np.unique(ordered[0], return_counts=True)
  return {
    "fingerprints": jnp.asarray(ordered),
    "order": jnp.asarray(order, jnp.int32),
    "salt": jnp.uint32(salt),
    "num_candidates": int(counts.max()),
  }


@jax.jit
def _fingerprints(states: Any, salt: jax.Array) -> jax.Array:
  return jax.lax.map(
    lambda state: _fingerprint(state, salt), states, batch_size=_CHUNK
  )


def _fingerprint(state: Any, salt: jax.Array) -> jax.Array:
  """Returns two hashes of the bytes of a state: uint32 [2]."""
  words = jnp.concatenate(
    [_bytes(leaf).ravel() for leaf in jax.tree.leaves(state)]
  ).astype(jnp.uint32)
  positions = jnp.arange(2 * len(words), dtype=jnp.uint32)
  offsets = _mix(_mix(positions.reshape(2, -1)) + salt)
  return _mix(_mix(words + offsets).sum(axis=1, dtype=jnp.uint32))


def _bytes(leaf: Any) -> jax.Array:
  leaf = jnp.asarray(leaf)
  if leaf.dtype == jnp.bool_:
    return leaf.astype(jnp.uint8)
  return jax.lax.bitcast_convert_type(leaf, jnp.uint8)


def _mix(words: jax.Array) -> jax.Array:
  """The finalizer of MurmurHash3, a bijection of uint32."""
  words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
  words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
  return words ^ (words >> 16)
