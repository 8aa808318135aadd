"""Answer grammars of many actions as tables over token classes.

An automaton over the bytes of answers (`spellings`) is compiled for a
tokenizer. Tokens that behave alike in every state share a class, so a large
vocabulary or many actions stay a small table, and a token costs two lookups on
the device.

The spellings that can follow a state have contiguous ranks. Sums over the legal
spellings by rank tell which tokens lead to a legal action.
"""

from collections.abc import Collection, Sequence

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors
from tunix_ttt.text import spellings

DEAD, START, ENDED = spellings.DEAD, spellings.START, spellings.ENDED
# Number of tokens to an end that cannot be reached.
NEVER = 1 << 30


class AnswerTable(struct.PyTreeNode):
  """A grammar of A actions with N spellings for a tokenizer's V tokens.

  Attributes:
    token_class: Class of each token, uint [V].
    next_state: Next state by state and class, uint [S, C]; `DEAD` if no tokens
      can complete the answer, `ENDED` after the token that ends the turn.
    offset: Increase of the rank by state and class, uint [S, C].
    num_spellings: Number of spellings that can follow a state, int32 [S].
    tokens_left: Minimum number of tokens to the end of the turn, int32 [S].
    tokens_needed: Number of tokens that suffice to end the turn with any one of
      the spellings that can follow a state, int32 [S]; `NEVER` if tokens cannot
      complete all of them.
    actions: Action of each rank, int32 [N].
    names: Action that a token alone spells, -1 for other tokens, int [V].
  """

  token_class: jax.Array
  next_state: jax.Array
  offset: jax.Array
  num_spellings: jax.Array
  tokens_left: jax.Array
  tokens_needed: jax.Array
  actions: jax.Array
  names: jax.Array


def advance(
  table: AnswerTable, state: jax.Array, rank: jax.Array, token: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the states and ranks after tokens; all are int32 [...].

  An answer starts in the state `START` with rank 0.
  """
  index = state, table.token_class[token]
  after = table.next_state[index].astype(jnp.int32)
  return after, rank + table.offset[index].astype(jnp.int32)


def action(table: AnswerTable, state: jax.Array, rank: jax.Array) -> jax.Array:
  """Returns the actions of ended answers, -1 for others: int32 [...]."""
  return jnp.where(state == ENDED, table.actions[rank], -1)


def count_legal(table: AnswerTable, legal: jax.Array) -> jax.Array:
  """Returns the numbers of legal spellings below each rank: int32 [..., N + 1].

  `legal` bool [..., A] has the legal actions.
  """
  counts = jnp.cumsum(legal[..., table.actions], axis=-1, dtype=jnp.int32)
  return jnp.pad(counts, [(0, 0)] * (counts.ndim - 1) + [(1, 0)])


def allowed(
  table: AnswerTable,
  state: jax.Array,
  rank: jax.Array,
  legal_counts: jax.Array | None = None,
  *,
  room: jax.Array | int = NEVER,
) -> jax.Array:
  """Returns the mask of the tokens that can be completed, bool [..., V].

  With `legal_counts`, they can be completed with a legal action. If an action
  is legal and an answer starts with `tokens_needed[START]` tokens of room, a
  token is allowed until the turn has ended.

  Args:
    table: Grammar of the answers.
    state: States, int32 [...].
    rank: Ranks, int32 [...].
    legal_counts: Result of `count_legal`, int32 [..., N + 1]; None to allow
      all actions.
    room: Number of tokens left in the turn, int32 [...] or an int.
  """
  after = table.next_state[state]
  left = table.tokens_left if legal_counts is None else table.tokens_needed
  fits = left[after] < jnp.asarray(room)[..., None]
  if legal_counts is not None:
    # The spellings after a token have the ranks from `low` to below `high`.
    low = rank[..., None] + table.offset[state].astype(jnp.int32)
    high = low + table.num_spellings[after]
    below_high, below_low = (
      jnp.take_along_axis(legal_counts, ranks, axis=-1) for ranks in (high, low)
    )
    fits &= below_high > below_low
  return jnp.take(fits, table.token_class, axis=-1)


def try_action(
  table: AnswerTable,
  state: jax.Array,
  rank: jax.Array,
  logits: jax.Array,
  tried: jax.Array,
  *,
  room: jax.Array | int = NEVER,
) -> jax.Array:
  """Returns the logits of answers that try an action, float [B, V].

  Only tokens that can be completed with the action remain. Tokens that alone name
  an action give their probability to those that name this one, so that a thought
  is of the action, too.

  Args:
    table: Grammar of the answers.
    state: States, int32 [B].
    rank: Ranks, int32 [B].
    logits: Logits of the model, float [B, V].
    tried: Action of each row's answer, -1 to keep its logits, int32 [B].
    room: Number of tokens left in the turn, int32 [B] or an int.
  """
  action = tried[:, None]
  counts = jnp.cumsum(action == table.actions, axis=1, dtype=jnp.int32)
  counts = jnp.pad(counts, [(0, 0), (1, 0)])
  fits = allowed(table, state, rank, counts, room=room)

  def total(mask: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(logits, axis=1, where=mask, keepdims=True)

  is_name, is_own = table.names[None] >= 0, (table.names == action) & fits
  moved = total(is_name) + (logits - total(is_own))
  named = jnp.where(is_own, moved, jnp.where(is_name, -jnp.inf, logits))
  # A tokenizer may have no token that names the action.
  named = jnp.where(is_own.any(axis=1, keepdims=True), named, logits)
  return jnp.where(action < 0, logits, jnp.where(fits, named, -jnp.inf))


def compile_answers(
  actions: Sequence[Sequence[str]],
  token_bytes: Sequence[bytes | None],
  end_ids: Collection[int],
  *,
  opening: str = "<move>",
  closing: str = "</move>",
  thoughts: bool = True,
  thought_tags: tuple[str, str] = ("<think>", "</think>"),
) -> AnswerTable:
  """Compiles the grammar of answers for a tokenizer with V tokens.

  An answer is a thought between tags (only if `thoughts` is set), then
  `opening`, a spelling of an action and `closing`. Whitespace may precede and
  follow an answer and its thought. A token in `end_ids` ends it.

  Args:
    actions: Spellings of each action.
    token_bytes: Bytes of each token; None for tokens that no answer contains.
    end_ids: Ids that end a turn.
    opening: Text before a spelling.
    closing: Text after a spelling.
    thoughts: Whether a thought precedes an action.
    thought_tags: Text before and after a thought.

  Raises:
    errors.UserError: if an action has no spelling, if spellings cannot be told
      apart, or if the tokens cannot spell an action.
  """
  automaton = spellings.build(
    actions,
    opening=opening,
    closing=closing,
    thought_tags=thought_tags if thoughts else None,
  )
  return compile_automaton(automaton, token_bytes, end_ids)


def compile_automaton(
  automaton: spellings.Automaton,
  token_bytes: Sequence[bytes | None],
  end_ids: Collection[int],
) -> AnswerTable:
  """Compiles the grammar of answers; see `compile_answers`."""
  token_class, columns = _classify(automaton, token_bytes, end_ids)
  # States from which no tokens reach an end are dead.
  tokens_left = _tokens_left(columns[0])
  columns *= tokens_left[columns[0]] < NEVER
  columns, merged = np.unique(columns, axis=2, return_inverse=True)
  token_class = merged.reshape(-1)[token_class]
  next_state, offset = columns
  tokens_needed = _tokens_needed(next_state, offset, automaton)
  return AnswerTable(
    token_class=_narrow(token_class),
    next_state=_narrow(next_state),
    offset=_narrow(offset),
    num_spellings=jnp.asarray(automaton.num_spellings),
    tokens_left=jnp.asarray(tokens_left, jnp.int32),
    tokens_needed=jnp.asarray(tokens_needed, jnp.int32),
    actions=jnp.asarray(automaton.actions),
    names=_names(automaton, token_bytes),
  )


def _names(
  automaton: spellings.Automaton, token_bytes: Sequence[bytes | None]
) -> jax.Array:
  """Returns the action that each token alone spells, -1 for other tokens."""
  actions = {
    spelling.encode(): int(action)
    for spelling, action in zip(
      automaton.spellings, automaton.actions, strict=True
    )
  }
  names = [actions.get((text or b"").strip(), -1) for text in token_bytes]
  # Negative, so that the type has a sign.
  smallest = np.min_scalar_type(-1 - max(*names, 0))
  return jnp.asarray(np.array(names, smallest))


def _narrow(array: np.ndarray) -> jax.Array:
  return jnp.asarray(array.astype(np.min_scalar_type(array.max())))


def _classify(
  automaton: spellings.Automaton,
  token_bytes: Sequence[bytes | None],
  end_ids: Collection[int],
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the class of each token, and the states and offsets of classes.

  They are int64 [V] and int32 [2, S, C]. Byte strings that lead from each state
  to the same state with the same offset share a class, so a token costs a
  dictionary lookup for each of its bytes.
  """
  num_states = len(automaton.num_spellings)
  dead = np.zeros((2, num_states), np.int32)
  unread = np.stack([np.arange(num_states, dtype=np.int32), dead[1]])
  ended = dead.copy()
  ended[0, spellings.WHOLE] = ENDED
  columns = [dead, ended, unread]
  classes = {column.tobytes(): i for i, column in enumerate(columns)}
  after: dict[tuple[int, int], int] = {}

  def read(start: int, byte: int) -> int:
    state, offset = columns[start]
    column = np.stack(
      [automaton.next_state[byte, state], automaton.offset[byte, state]]
    )
    column[1] += offset
    column[1, column[0] == DEAD] = 0
    index = classes.setdefault(column.tobytes(), len(columns))
    if index == len(columns):
      columns.append(column)
    return index

  result = np.zeros(len(token_bytes), np.int64)
  for token, text in enumerate(token_bytes):
    # The class of a token without text is that of `dead`.
    current = 2 if text else 0
    for byte in text or b"":
      key = current, byte
      if key not in after:
        after[key] = read(current, byte)
      current = after[key]
    result[token] = current
  result[list(end_ids)] = 1
  used, result = np.unique(result, return_inverse=True)
  return result, np.stack([columns[i] for i in used], axis=-1)


def _tokens_left(next_state: np.ndarray) -> np.ndarray:
  """Returns the minimum number of tokens from each state to `ENDED`."""
  left = np.full(len(next_state), NEVER)
  left[ENDED] = 0
  while True:
    fewer = np.minimum(left, left[next_state].min(axis=1) + 1)
    if (fewer == left).all():
      return left
    left = fewer


def _tokens_needed(
  next_state: np.ndarray, offset: np.ndarray, automaton: spellings.Automaton
) -> np.ndarray:
  """Returns the number of tokens that suffice to end with any one spelling.

  From a state with the spelling w to come, a token may be chosen for w, but the
  tokens after it have to suffice for every spelling that can then follow:
  needed(state) = 1 + max over w of min over tokens of needed(next state).

  Raises:
    errors.UserError: if no number of tokens suffices.
  """
  sizes = automaton.num_spellings
  # Next states and offsets of each state, without repetitions.
  edges = [
    np.unique(np.stack(pair)[:, pair[0] != DEAD], axis=1)
    for pair in zip(next_state, offset, strict=True)
  ]
  needed = np.full(len(next_state), NEVER)
  needed[ENDED] = 0
  is_changed = True
  while is_changed:
    is_changed = False
    for state, (after, first) in enumerate(edges):
      fewest = np.full(max(sizes[state], 1), NEVER)
      for i in np.argsort(-needed[after]):
        fewest[first[i] : first[i] + sizes[after[i]]] = needed[after[i]]
      if fewest.max() + 1 < needed[state]:
        needed[state], is_changed = fewest.max() + 1, True
  if needed[START] == NEVER:
    names = [
      spelling
      for rank, spelling in enumerate(automaton.spellings)
      if not _is_spelled(rank, edges, sizes)
    ] or automaton.spellings
    more = f" and {len(names) - 9} others" if len(names) > 9 else ""
    raise errors.UserError(
      "the tokenizer cannot spell the answer format: no tokens spell an answer"
      f" that plays {', '.join(names[:9])}{more}"
    )
  return needed


def _is_spelled(
  rank: int, edges: Sequence[np.ndarray], sizes: np.ndarray
) -> bool:
  """Returns whether tokens lead to the end of the spelling of a rank."""
  reached, frontier = {START: 0}, [START]
  while frontier:
    state = frontier.pop()
    after, first = edges[state]
    first = reached[state] + first
    is_open = (first <= rank) & (rank < first + sizes[after])
    new = dict(
      zip(after[is_open].tolist(), first[is_open].tolist(), strict=True)
    )
    frontier += new.keys() - reached.keys()
    reached |= new
  return ENDED in reached
