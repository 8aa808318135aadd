"""Composes the tokens of observations on the device from the slots of a game.

An observation is the concatenation of slots, each of which shows one of its
texts or none (`game.GameText`). Every text of a slot is tokenized once; an
observation is gathered from the tokens of the texts that are shown.

The tokens equal those of the whole text. Where a tokenizer merges text of two
neighboring slots, the slots are joined into one group with the product of their
texts.
"""

from collections.abc import Sequence
import functools
import itertools

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors
from tunix_ttt.games import game
from tunix_ttt.text import chat
from tunix_ttt.text import slot_groups


class Chunk(struct.PyTreeNode):
  """A tokenized text with K slots in G groups.

  Each text of a group is a row of tokens; R rows have T tokens together.

  Attributes:
    ids: Tokens of the rows, one row after another, int32 [T].
    starts: Index in `ids` of each row's first token, int32 [R].
    lengths: Number of tokens of each row, int32 [R].
    first_rows: Row of each group whose slots all show nothing, int32 [G].
    strides: Distance between the rows of consecutive texts of a slot, int32
      [G, K]; 0 for the slots of other groups.
    max_length: Maximum number of tokens L.
    pad_id: Padding id.
  """

  ids: jax.Array
  starts: jax.Array
  lengths: jax.Array
  first_rows: jax.Array
  strides: jax.Array
  max_length: int = struct.field(pytree_node=False)
  pad_id: int = struct.field(pytree_node=False)

  @property
  def prefix(self) -> tuple[int, ...]:
    """Tokens before the first that depends on the texts shown."""
    # The first group is the parts before the slots; a text without slots keeps its
    # last token.
    length = min(int(self.lengths[0]), self.max_length - 1)
    return tuple(np.asarray(self.ids[:length]).tolist())


class Conversation(struct.PyTreeNode):
  """The chunks of a conversation, each with an observation.

  Attributes:
    begin: First chunk, with the system prompt.
    follow: Chunk after an answer.
    retry: Chunk after an unreadable answer; its first token ends the answer.
  """

  begin: Chunk
  follow: Chunk
  retry: Chunk


def compose(chunk: Chunk, show: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the tokens of a chunk, int32 [L], and their number, int32 [].

  The tokens are padded at the end. `show` int32 [K] has the text that each slot
  shows, -1 for none, as `GameText.show` returns it.
  """
  rows = chunk.first_rows + (chunk.strides * (show + 1)).sum(axis=-1)
  ends = jnp.cumsum(chunk.lengths[rows])
  starts = ends - chunk.lengths[rows]
  # Distance from a token in the result to its source in `ids`: it changes at
  # the start of a group only.
  distances = chunk.starts[rows] - starts
  changes = jnp.zeros(chunk.max_length, jnp.int32)
  changes = changes.at[starts].add(
    jnp.diff(distances, prepend=0), mode="drop", indices_are_sorted=True
  )
  positions = jnp.arange(chunk.max_length)
  source = positions + jnp.cumsum(changes)
  tokens = chunk.ids.at[source].get(mode="clip")
  return jnp.where(positions < ends[-1], tokens, chunk.pad_id), ends[-1]


def build_conversation(
  text: game.GameText,
  tokenizer: chat.ChatTokenizer,
  shows: np.ndarray,
  *,
  rejection: str,
  exhaustive: bool = False,
) -> Conversation:
  """Builds the chunks of a conversation with the tokenizer's chat template.

  Args:
    text: Text of the game; its rules are the system prompt.
    tokenizer: Tokenizer with a chat template.
    shows: Values of `text.show`, as in `build`.
    rejection: Text before the observation after an unreadable answer.
    exhaustive: Whether `shows` has all values, as in `build`.

  Raises:
    errors.UserError: as `build` does, or if the template removes whitespace
      around an observation.
  """
  template = tokenizer.template
  if template.is_trimmed:
    _check_trimmed(text.segments, shows)
  befores = (
    chat.system_parts(text.rules, template),
    template.follow,
    (template.end_of_turn_id, *template.follow, rejection),
  )
  around = [(before, template.answer) for before in befores]
  chunks = build(text.segments, tokenizer, shows, around, exhaustive=exhaustive)
  return Conversation(*chunks)


def _check_trimmed(
  segments: Sequence[Sequence[str]], shows: np.ndarray
) -> None:
  for show in np.unique(shows, axis=0).tolist():
    slots = zip(segments, show, strict=True)
    text = "".join(texts[int(n)] for texts, n in slots if n >= 0)
    if text != text.strip():
      raise errors.UserError(
        "the chat template removes whitespace around messages, but the"
        f" observation {text[:40]!r} starts or ends with whitespace; remove it"
        " from the texts of the game's slots"
      )


def build(
  segments: Sequence[Sequence[str]],
  tokenizer: chat.ChatTokenizer,
  shows: np.ndarray,
  around: Sequence[tuple[chat.Parts, chat.Parts]],
  *,
  exhaustive: bool = False,
) -> list[Chunk]:
  """Builds chunks of K slots between fixed parts.

  The tokens of every observation in `shows` are compared with those of its
  whole text. Without `exhaustive`, so are those of pairs of texts that can be
  neighbors, unless two slots have more than `slot_groups.MAX_PAIRS` pairs.

  Args:
    segments: Texts of each slot.
    tokenizer: Tokenizer of the text.
    shows: Text that each slot shows in S observations, -1 for none, int
      [S, K]. A slot that can show nothing does so in one of them.
    around: Parts before the first slot and parts after the last, by chunk.
    exhaustive: Whether no other observations occur. The maximum length is then
      that of these observations; otherwise it is that of any texts.

  Raises:
    errors.UserError: if the tokenizer merges slots whose product has more than
      `slot_groups.MAX_TEXTS` texts.
  """
  shows = np.unique(shows, axis=0)

  @functools.cache
  def pieces(prefix: str, suffix: str) -> list[slot_groups.Piece]:
    groups = slot_groups.Groups(
      [(prefix,), *(("", *texts) for texts in segments), (suffix,)],
      tokenizer.encode,
    )
    choices = np.pad(shows + 1, ((0, 0), (1, 1)))
    if not exhaustive:
      groups.join_pairs((choices == 0).any(axis=0))
    # Most joins turn up in a sample, so few passes over all are needed.
    for sample in (choices[:: len(choices) // 256 + 1], choices):
      while groups.join_observations(sample):
        pass
    return groups.tokenize()

  def chunk(before: chat.Parts, after: chat.Parts) -> Chunk:
    (head, prefix), (tail, suffix) = _split(before), _split(after[::-1])
    fixed = np.zeros(len(segments), np.int32)
    first, last = (
      slot_groups.Piece([chat.encode_parts(parts, tokenizer)], fixed)
      for parts in (head, tail[::-1])
    )
    between = pieces("".join(prefix), "".join(suffix[::-1]))
    return _tabulate(
      [first, *between, last],
      pad_id=tokenizer.pad_id(),
      shows=shows if exhaustive else None,
    )

  return [chunk(*parts) for parts in around]


def _split(parts: chat.Parts) -> tuple[chat.Parts, tuple[str, ...]]:
  """Returns the parts up to the last control token, and the text after it."""
  text: list[str] = []
  for part in reversed(parts):
    if isinstance(part, int):
      break
    text.insert(0, part)
  return parts[: len(parts) - len(text)], tuple(text)


def _tabulate(
  pieces: Sequence[slot_groups.Piece], *, pad_id: int, shows: np.ndarray | None
) -> Chunk:
  """Returns a chunk; `shows` has all observations, if they are known."""
  merged = [pieces[0]]
  for piece in pieces[1:]:
    # Neighboring groups that have one text each are one.
    if len(piece.rows) == len(merged[-1].rows) == 1:
      row = merged[-1].rows[0] + piece.rows[0]
      merged[-1] = slot_groups.Piece([row], piece.strides)
    else:
      merged.append(piece)
  rows = [row for piece in merged for row in piece.rows]
  lengths = np.array([len(row) for row in rows], np.int32)
  sizes = np.array([len(piece.rows) for piece in merged], np.int32)
  first_rows = np.cumsum(sizes, dtype=np.int32) - sizes
  strides = np.stack([piece.strides for piece in merged])
  if shows is None:
    max_length = np.maximum.reduceat(lengths, first_rows).sum()
  else:
    max_length = lengths[first_rows + (shows + 1) @ strides.T].sum(axis=1).max()
  return Chunk(
    ids=jnp.array([*itertools.chain(*rows)], jnp.int32),
    starts=jnp.asarray(np.cumsum(lengths, dtype=np.int32) - lengths),
    lengths=jnp.asarray(lengths),
    first_rows=jnp.asarray(first_rows),
    strides=jnp.asarray(strides),
    max_length=int(max_length),
    pad_id=pad_id,
  )
