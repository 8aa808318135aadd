"""Answer grammars as automata over bytes and as tables over tokens.

An answer format is a deterministic automaton over bytes. For a tokenizer it is
compiled to an array `[state, token]`, so each sampled token costs one lookup on
the device. The array also lists the valid next tokens for constrained decoding.

An answer ends with an end-of-turn token, which has no text. A complete answer
may be followed by whitespace and this token only.
"""

from collections.abc import Collection, Sequence
import dataclasses

import numpy as np

from tunix_ttt import errors
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats

DEAD, START = 0, 1
WHITESPACE = b" \t\n\r\f\v"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Automaton:
  """A deterministic automaton over bytes; states are 0 (`DEAD`) to S - 1.

  Attributes:
    transitions: Next state by state and byte, uint8 [S, 256].
    moves: Cell of the answer that is complete in a state, else -1, int8 [S].
  """

  transitions: np.ndarray
  moves: np.ndarray

  def read(self, text: bytes, state: int = START) -> int:
    """Returns the state after `text`."""
    for byte in text:
      state = int(self.transitions[state, byte])
    return state


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TokenTable:
  """An automaton compiled for a tokenizer's V tokens.

  Attributes:
    next_state: Next state by state and token, uint8 [S, V]; `DEAD` if no tokens
      can complete the answer. The last states stand for ended turns.
    moves: Cell of the answer in the states of ended turns, else -1, int8 [S].
    tokens_left: Minimum number of tokens to the end of the turn, int32 [S];
      arbitrary for `DEAD`.
  """

  next_state: np.ndarray
  moves: np.ndarray
  tokens_left: np.ndarray


class _Builder:
  """Builds an automaton state by state."""

  def __init__(self):
    self.rows: list[np.ndarray] = []
    self._moves: dict[int, int] = {}
    assert (self.state(), self.state()) == (DEAD, START)
    self.skip(START, WHITESPACE)

  def state(self) -> int:
    """Adds a state whose bytes all lead to `DEAD`."""
    self.rows.append(np.full(256, DEAD, np.uint8))
    return len(self.rows) - 1

  def thought(self, opening: str, closing: str) -> int:
    """Reads a thought and whitespace; returns the state after them."""
    state = self.until(self.literal(START, opening), closing)
    self.skip(state, WHITESPACE)
    return state

  def skip(self, state: int, skipped: bytes) -> None:
    """Allows any number of the bytes `skipped` in a state."""
    self.rows[state][list(skipped)] = state

  def literal(self, state: int, text: str) -> int:
    """Adds the path of `text` from a state; returns its last state."""
    for byte in text.encode():
      if self.rows[state][byte] == DEAD:
        self.rows[state][byte] = self.state()
      state = int(self.rows[state][byte])
    return state

  def until(self, state: int, delimiter: str) -> int:
    """Reads bytes up to the first `delimiter` (Knuth-Morris-Pratt)."""
    text = delimiter.encode()
    matched = [state, *(self.state() for _ in text)]
    for length in range(len(text)):
      for byte in range(256):
        read = text[:length] + bytes([byte])
        length_after = max(
          k for k in range(length + 2) if read.endswith(text[:k])
        )
        self.rows[matched[length]][byte] = matched[length_after]
    return matched[-1]

  def accept(self, state: int, cell: int) -> None:
    """Marks a state as the end of an answer that plays `cell`."""
    self._moves[state] = cell
    self.skip(state, WHITESPACE)

  def build(self) -> Automaton:
    """Returns the automaton."""
    moves = np.full(len(self.rows), -1, np.int8)
    moves[[*self._moves]] = [*self._moves.values()]
    return Automaton(transitions=np.stack(self.rows), moves=moves)


def grid_grammar(*, thoughts: bool = True) -> Automaton:
  """Returns the grammar of `text_formats.parse_answer`."""
  builder = _Builder()
  state = builder.thought("<think>", "</think>") if thoughts else START
  opened = builder.literal(state, "<move>")
  for cell, (row, column) in enumerate(text_formats.COORDINATES):
    after_row = builder.literal(opened, row)
    builder.rows[opened][ord(row.lower())] = after_row
    builder.accept(builder.literal(after_row, f"{column}</move>"), cell)
  return builder.build()


def token_board_grammar(*, thoughts: bool = True) -> Automaton:
  """Returns the grammar of ThinkTacToe's answers.

  An answer is `<|move|><|1-1|><|end|>`. With `thoughts` it starts with
  `<player_think>...</player_think>` and whitespace.
  """
  builder = _Builder()
  state = START
  if thoughts:
    state = builder.thought("<player_think>", "</player_think>")
  for cell in range(rules.NUM_CELLS):
    row, column = divmod(cell, 3)
    end = builder.literal(state, f"<|move|><|{row}-{column}|><|end|>")
    builder.accept(end, cell)
  return builder.build()


def compile_table(
  automaton: Automaton,
  token_bytes: Sequence[bytes | None],
  end_ids: Collection[int],
) -> TokenTable:
  """Compiles an automaton for a tokenizer with V tokens.

  Args:
    automaton: Automaton of the text of answers.
    token_bytes: Bytes of each token; None for tokens that no answer contains.
    end_ids: Ids that end a turn.

  Raises:
    errors.UserError: if the tokens cannot spell every move.
  """
  whole = np.flatnonzero(automaton.moves >= 0)
  num_texts, vocab_size = len(automaton.transitions), len(token_bytes)
  ended = np.arange(num_texts, num_texts + len(whole), dtype=np.uint8)
  lengths = np.array([len(text or b"") for text in token_bytes])
  spelled = np.zeros((vocab_size, max(lengths, default=0)), np.uint8)
  for token, text in enumerate(token_bytes):
    spelled[token, : lengths[token]] = list(text or b"")
  next_state = np.repeat(
    np.arange(num_texts, dtype=np.uint8)[:, None], vocab_size, axis=1
  )
  next_state[:, lengths == 0] = DEAD
  for i in range(spelled.shape[1]):
    tokens = np.flatnonzero(lengths > i)
    next_state[:, tokens] = automaton.transitions[
      next_state[:, tokens], spelled[tokens, i]
    ]
  for token in end_ids:
    next_state[:, token] = DEAD
    next_state[whole, token] = ended
  after = np.full((len(ended), vocab_size), DEAD, np.uint8)
  next_state = np.concatenate([next_state, after])
  moves = np.full(len(next_state), -1, np.int8)
  moves[ended] = automaton.moves[whole]
  tokens_left = _tokens_left(next_state, moves)
  # States from which no tokens reach an end are dead.
  next_state[(tokens_left < 0)[next_state]] = DEAD
  return TokenTable(next_state=next_state, moves=moves, tokens_left=tokens_left)


def _tokens_left(next_state: np.ndarray, moves: np.ndarray) -> np.ndarray:
  """Returns the minimum number of tokens to the end of a turn, -1 for none."""
  num_states = len(next_state)
  reaches = np.zeros((num_states, num_states), bool)
  for state, row in enumerate(next_state):
    reaches[state, row] = True
  reaches[:, DEAD] = False
  reached, frontier = {START}, {START}
  while frontier:
    new = set(np.flatnonzero(reaches[list(frontier)].any(axis=0)).tolist())
    frontier = new - reached
    reached |= new
  missing = set(range(rules.NUM_CELLS)) - {int(moves[s]) for s in reached}
  if missing:
    names = ", ".join(text_formats.coordinate(cell) for cell in sorted(missing))
    raise errors.UserError(
      "the tokenizer cannot spell the answer format: no tokens spell an answer"
      f" that plays {names}"
    )
  left = np.where(moves >= 0, 0, -1).astype(np.int32)
  for steps in range(1, num_states):
    is_next = reaches[:, left == steps - 1].any(axis=1)
    left[is_next & (left < 0)] = steps
  return left
