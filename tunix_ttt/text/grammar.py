"""Answer grammars, as automata over bytes and as tables over tokens.

An answer format is a deterministic automaton over bytes. Compiled for a
tokenizer it is one array `[state, token]`, so that following a sampled answer
costs one lookup a token, on the device, however the tokenizer splits a tag. The
same array tells which tokens may come next, for constrained decoding.

An answer is over at the token that ends a turn, which is no text: it is the only
way on from a whole answer, besides whitespace.
"""

from collections.abc import Collection, Sequence
import dataclasses

import numpy as np

from tunix_ttt import errors
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules

DEAD, START = 0, 1
WHITESPACE = b" \t\n\r\f\v"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Automaton:
  """A deterministic automaton over bytes; states are 0 (`DEAD`) to S - 1.

  Attributes:
    transitions: uint8 [S, 256], the state after a byte.
    moves: int8 [S], the cell of the answer that ends in a state, -1 where no
      answer ends.
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
    next_state: uint8 [S, V], the state after a token. It is `DEAD` where no
      sequence of tokens can complete the answer any more. States after those of
      the automaton stand for turns that have ended with an answer.
    moves: int8 [S], the cell of the answer that a turn ended with, -1 in states
      where it has not ended.
    tokens_left: int32 [S], the fewest tokens that end the turn with an answer;
      0 where it has ended, and meaningless for `DEAD`.
  """

  next_state: np.ndarray
  moves: np.ndarray
  tokens_left: np.ndarray


class _Builder:
  """Grows an automaton state by state."""

  def __init__(self):
    self._rows: list[np.ndarray] = []
    self._moves: dict[int, int] = {}
    assert (self.state(), self.state()) == (DEAD, START)

  def state(self) -> int:
    """Adds a state from which every byte is an error."""
    self._rows.append(np.full(256, DEAD, np.uint8))
    return len(self._rows) - 1

  def skip(self, state: int, some: bytes) -> None:
    """Lets any number of these bytes pass in a state."""
    self._rows[state][list(some)] = state

  def literal(self, state: int, text: str) -> int:
    """Reads `text` from a state on; returns the state after it."""
    for byte in text.encode():
      if self._rows[state][byte] == DEAD:
        self._rows[state][byte] = self.state()
      state = int(self._rows[state][byte])
    return state

  def link(self, state: int, byte: str, target: int) -> None:
    """Leads from a state to another that exists."""
    self._rows[state][ord(byte)] = target

  def until(self, state: int, delimiter: str) -> int:
    """Reads any bytes up to the first `delimiter`, as Knuth-Morris-Pratt."""
    text = delimiter.encode()
    matched = [state, *(self.state() for _ in text)]
    for length in range(len(text)):
      for byte in range(256):
        read = text[:length] + bytes([byte])
        kept = max(k for k in range(length + 2) if read.endswith(text[:k]))
        self._rows[matched[length]][byte] = matched[kept]
    return matched[-1]

  def accept(self, state: int, cell: int) -> None:
    """Makes a state the end of an answer that plays `cell`."""
    self._moves[state] = cell
    self.skip(state, WHITESPACE)

  def build(self) -> Automaton:
    """Returns the automaton."""
    moves = np.full(len(self._rows), -1, np.int8)
    for state, cell in self._moves.items():
      moves[state] = cell
    return Automaton(transitions=np.stack(self._rows), moves=moves)


def _thought(builder: _Builder, opening: str, closing: str) -> int:
  state = builder.literal(START, opening)
  state = builder.until(state, closing)
  builder.skip(state, WHITESPACE)
  return state


def grid_grammar(*, thoughts: bool = True) -> Automaton:
  """Returns the grammar that `prompts.parse_answer` reads.

  Args:
    thoughts: whether a thought is asked for before the move, or forbidden.
  """
  builder = _Builder()
  builder.skip(START, WHITESPACE)
  state = _thought(builder, "<think>", "</think>") if thoughts else START
  opened = builder.literal(state, "<move>")
  for cell, (row, column) in enumerate(prompts.COORDINATES):
    after_row = builder.literal(opened, row)
    builder.link(opened, row.lower(), after_row)
    builder.accept(builder.literal(after_row, f"{column}</move>"), cell)
  return builder.build()


def token_board_grammar(*, thoughts: bool = True) -> Automaton:
  """Returns the grammar of ThinkTacToe's answers.

  Such as `<player_think> … </player_think>`, white space, then
  `<|move|><|1-1|><|end|>`.

  Args:
    thoughts: whether a thought is asked for before the move, or forbidden.
  """
  builder = _Builder()
  builder.skip(START, WHITESPACE)
  state = START
  if thoughts:
    state = _thought(builder, "<player_think>", "</player_think>")
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
  """Compiles an automaton for a tokenizer.

  Args:
    automaton: Automaton of the text of answers.
    token_bytes: what each of V tokens stands for in text; None for one that
      stands for nothing, such as padding, which no answer contains.
    end_ids: the tokens that end a turn.

  Raises:
    errors.UserError: if some move cannot be spelled with these tokens.
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
  # A state that tokens cannot lead out of is as good as dead.
  next_state[(tokens_left < 0)[next_state]] = DEAD
  return TokenTable(next_state=next_state, moves=moves, tokens_left=tokens_left)


def _tokens_left(next_state: np.ndarray, moves: np.ndarray) -> np.ndarray:
  """Returns the fewest tokens to the end of a turn, -1 where there is none.

  Raises:
    errors.UserError: if some move cannot be reached from the start.
  """
  num_states = len(next_state)
  reaches = np.zeros((num_states, num_states), bool)
  for state, row in enumerate(next_state):
    reaches[state, row] = True
  reaches[:, DEAD] = False
  found, frontier = {START}, {START}
  while frontier:
    new = set(np.flatnonzero(reaches[list(frontier)].any(axis=0)).tolist())
    frontier = new - found
    found |= new
  missing = set(range(rules.NUM_CELLS)) - {int(moves[s]) for s in found}
  if missing:
    names = ", ".join(prompts.coordinate(cell) for cell in sorted(missing))
    raise errors.UserError(
      "the tokenizer cannot spell the answer format: there are no tokens for"
      f" an answer that plays {names}"
    )
  left = np.where(moves >= 0, 0, -1).astype(np.int32)
  for steps in range(1, num_states):
    arrives = reaches[:, left == steps - 1].any(axis=1)
    left[arrives & (left < 0)] = steps
  return left
