"""Text formats: render boards and answers and tokenize conversations.

A conversation is a first chunk of tokens, then answers of the model and further
chunks by turns. Each chunk ends where the model starts to generate. Chunks and
answers are tokenized separately, so sampled tokens are never re-tokenized.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import re
from typing import NamedTuple, Protocol

from tunix_ttt import custom
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.text import chat
from tunix_ttt.text import spellings

MARK_NAMES = {rules.X: "X", rules.O: "O"}
COORDINATES = tuple(row + column for row in "ABC" for column in "123")
ROW_SEPARATOR = "\n----+----+----\n"

# Parts of an observation that every board shares.
LAST_MOVE, BOARD = "Opponent played ", "Board:\n"
MOVES, MOVE_SEPARATOR = "\nAvailable moves: ", ", "
TO_MOVE = {
  mark: f"\nYou are {name}. Your move?" for mark, name in MARK_NAMES.items()
}

_RULES = (
  "You are playing tic-tac-toe. Rows are A, B, C from the top, columns 1, 2, 3"
  " from the left. A free cell shows its coordinate. Three of your marks in a"
  " row, column or diagonal win."
)

_ANSWER = re.compile(
  r"\s*(?:<think>(?P<thought>(?:(?!</think>).)*)</think>\s*)?"
  r"<move>(?P<row>[A-Ca-c])(?P<column>[1-3])</move>\s*",
  re.DOTALL | re.ASCII,
)


class Answer(NamedTuple):
  """A parsed answer: its thought, if any, and the cell of its move."""

  thought: str | None
  cell: int


def coordinate(cell: int) -> str:
  """Returns the name of a cell, from A1 (0) to C3 (8)."""
  return COORDINATES[cell]


def cell_from_coordinate(text: str) -> int:
  """Returns the cell of an upper- or lower-case coordinate.

  Raises:
    ValueError: if `text` is not a coordinate.
  """
  try:
    return COORDINATES.index(text.upper())
  except ValueError:
    raise ValueError(f"{text!r} is no coordinate from A1 to C3") from None


def system_prompt(*, thoughts: bool = True) -> str:
  """Returns the instructions, which ask for a thought if `thoughts` is set."""
  return _RULES + spellings.ask("B2", thoughts=thoughts)


def render_row(row: int, marks: Sequence[int]) -> str:
  """Renders row 0, 1 or 2 of a board with these three marks."""
  drawn = [
    f" {MARK_NAMES[mark]}  " if mark else f"[{COORDINATES[3 * row + column]}]"
    for column, mark in enumerate(marks)
  ]
  return "|".join(drawn).rstrip()


def render_grid(board: int) -> str:
  """Renders a board; a free cell shows its coordinate in brackets."""
  rows = rules.cells()[board].reshape(3, 3).tolist()
  return ROW_SEPARATOR.join(render_row(i, row) for i, row in enumerate(rows))


def render_observation(
  board: int, agent: int, last_move: int | None = None
) -> str:
  """Renders the last move, the grid, the free cells and the agent's mark.

  `last_move` is the opponent's last move; None before its first move.
  """
  free = rules.mask_to_cells(int(rules.legal_masks()[board]))
  return "".join(
    (
      "" if last_move is None else f"{LAST_MOVE}{coordinate(last_move)}.\n",
      BOARD,
      render_grid(board),
      MOVES,
      MOVE_SEPARATOR.join(map(coordinate, free)),
      TO_MOVE[agent],
    )
  )


def render_answer(cell: int, thought: str | None = None) -> str:
  """Returns the answer that plays `cell`, with `thought` before it if not None."""
  return spellings.render_answer(coordinate(cell), thought)


def parse_answer(text: str, *, thoughts: bool = True) -> Answer | None:
  """Parses an answer strictly; returns None if it does not match the format.

  The format is one thought (only if `thoughts` is set), optional whitespace and
  one move. The cell may be taken.
  """
  match = _ANSWER.fullmatch(text)
  if match is None or (match["thought"] is None) is thoughts:
    return None
  cell = cell_from_coordinate(match["row"] + match["column"])
  return Answer(match["thought"], cell)


def winning_cells(board: int, mark: int) -> list[int]:
  """Lists the free cells that complete a line of `mark`, in ascending order."""
  marks = rules.cells()[board]
  return [
    cell
    for cell in rules.mask_to_cells(int(rules.legal_masks()[board]))
    if any(
      cell in line and all(marks[c] == mark for c in line if c != cell)
      for line in rules.LINES
    )
  ]


@functools.cache
def explain_move(board: int, cell: int) -> str:
  """Explains a legal move of the side to move.

  The sentence names a win, a block, a fork, or else the minimax value of the
  move. For an optimal move it is a true reason; see `thought_claims`.
  """
  mark = int(rules.side_to_move()[board])
  other = rules.X + rules.O - mark
  wins, threats = winning_cells(board, mark), winning_cells(board, other)
  after = int(rules.successors()[board, cell])
  if cell in wins:
    return f"I complete a line at {coordinate(cell)} and win."
  if cell in threats:
    return f"I block {coordinate(cell)}."
  if len(winning_cells(after, mark)) > 1:
    return "I make two threats at once."
  value = int(solver.solve().move_values[board, cell])
  if value == solver.WIN:
    return "I force a win."
  if value == solver.DRAW:
    return "I keep the draw."
  return "I am losing, so I hold out."


@functools.cache
def name_tactic(board: int, cell: int) -> str:
  """Names the tactic and the cell of a move (Newell and Simon, 1972).

  Returns the first tactic that applies: win, block, fork, block a fork, center,
  opposite corner, corner, edge. The sentence is always true and does not say
  whether the move is good. On a taken cell it names the location only.
  """
  mark = int(rules.side_to_move()[board])
  other = rules.X + rules.O - mark
  name = coordinate(cell)
  is_free = bool(rules.legal_masks()[board] >> cell & 1)
  if is_free and cell in winning_cells(board, mark):
    return f"I complete a line at {name} and win."
  if is_free and cell in winning_cells(board, other):
    return f"I block {name}."
  if is_free and _num_threats(board, cell, mark) > 1:
    return f"I make two threats at once at {name}."
  if is_free and _num_threats(board, cell, other) > 1:
    return f"I take {name}, where a fork threatens."
  if cell == rules.CENTER:
    return f"I take the centre, {name}."
  if cell in rules.CORNERS:
    opposite = int(rules.cells()[board, rules.NUM_CELLS - 1 - cell])
    if is_free and opposite == other:
      return f"I take {name}, the corner opposite to theirs."
    return f"I take the corner {name}."
  return f"I take the edge {name}."


def _num_threats(board: int, cell: int, mark: int) -> int:
  """Returns the number of winning cells of `mark` after it takes `cell`."""
  return len(winning_cells(int(rules.place(board, cell, mark)), mark))


# Functions that explain a move, by name.
STYLES: dict[str, Callable[[int, int], str | None]] = {
  "template": explain_move,
  "tactics": name_tactic,
  "none": lambda board, cell: None,
}


class TextFormat(Protocol):
  """Interface between a rollout and a text format."""

  def grammar(self) -> spellings.Automaton:
    """Returns the grammar of answers, whose actions are cells."""
    ...

  def observation(self, board: int, last_move: int | None) -> str:
    """Renders a board for the side to move."""
    ...

  def render_answer(self, cell: int, thought: str | None) -> str:
    """Renders an answer that plays `cell`.

    The answer has no thought if `thought` is None or the format has no
    thoughts.
    """
    ...

  def prompt(self, text: str) -> chat.Text:
    """Returns an observation as the prompt of a data row."""
    ...

  def completion(self, answer: str) -> chat.Text:
    """Returns an answer as the completion of a data row, of `prompt`'s type."""
    ...

  def end_ids(self, tokenizer: chat.ChatTokenizer) -> list[int]:
    """Returns the ids that end an answer; models are trained on the first."""
    ...

  def begin(self, text: str, tokenizer: chat.ChatTokenizer) -> list[int]:
    """Returns the first chunk of a conversation, with an observation."""
    ...

  def follow(
    self, text: str, tokenizer: chat.ChatTokenizer, *, retry: bool = False
  ) -> list[int]:
    """Returns the chunk with the next observation, after an answer.

    With `retry` the chunk first ends and rejects the unreadable answer.
    """
    ...

  def answer(
    self, cell: int | None, thought: str, tokenizer: chat.ChatTokenizer
  ) -> list[int]:
    """Returns the ids of an answer that plays `cell`, with its end token.

    If `cell` is None, the answer is unreadable: `thought` without an end token.
    """
    if cell is None:
      return tokenizer.encode(thought)
    text = self.render_answer(cell, thought)
    return [*tokenizer.encode(text), self.end_ids(tokenizer)[0]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridFormat(TextFormat):
  """Grids as chat messages.

  Attributes:
    thoughts: Whether answers start with a thought.
  """

  thoughts: bool = True

  def grammar(self) -> spellings.Automaton:
    """Returns the grammar of `parse_answer`."""
    return spellings.build(
      [(name, name.lower()) for name in COORDINATES],
      opening="<move>",
      closing="</move>",
      thought_tags=("<think>", "</think>") if self.thoughts else None,
    )

  def observation(self, board: int, last_move: int | None) -> str:
    """Renders a board with `render_observation`."""
    agent = int(rules.side_to_move()[board])
    return render_observation(board, agent, last_move)

  def render_answer(self, cell: int, thought: str | None) -> str:
    """Renders an answer with `render_answer`."""
    return render_answer(cell, thought if self.thoughts else None)

  def prompt(self, text: str) -> list[chat.Message]:
    """Returns the system prompt and the observation as messages."""
    system = system_prompt(thoughts=self.thoughts)
    return [chat.message("system", system), chat.message("user", text)]

  def completion(self, answer: str) -> list[chat.Message]:
    """Returns an answer as a message."""
    return [chat.message("assistant", answer)]

  def end_ids(self, tokenizer: chat.ChatTokenizer) -> list[int]:
    """Returns the tokenizer's ids for the end of a turn."""
    return [*tokenizer.end_ids]

  def begin(self, text: str, tokenizer: chat.ChatTokenizer) -> list[int]:
    """Returns the system prompt, the observation and the assistant header."""
    return chat.encode_chat(self.prompt(text), tokenizer).ids

  def follow(
    self, text: str, tokenizer: chat.ChatTokenizer, *, retry: bool = False
  ) -> list[int]:
    """Returns the next user turn and the assistant header."""
    if not retry:
      return chat.encode_follow(text, tokenizer)
    end = tokenizer.template.end_of_turn_id
    return [end, *chat.encode_follow(spellings.REJECTION + text, tokenizer)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenBoardFormat(TextFormat):
  """ThinkTacToe's boards of special tokens, as plain text.

  Attributes:
    thoughts: Whether answers start with a thought. Prompts for thoughts name
      the player differently.
  """

  thoughts: bool = True

  def grammar(self) -> spellings.Automaton:
    """Returns the grammar of `<|move|><|1-1|><|end|>`."""
    tags = "<player_think>", "</player_think>"
    return spellings.build(
      [(f"<|{row}-{column}|>",) for row in range(3) for column in range(3)],
      opening="<|move|>",
      closing="<|end|>",
      thought_tags=tags if self.thoughts else None,
    )

  def observation(self, board: int, last_move: int | None) -> str:
    """Renders a board cell by cell, without the last move."""
    del last_move
    names = {rules.EMPTY: "blank", **MARK_NAMES}
    cells = rules.cells()[board].tolist()
    rows = (
      " ".join(f"<|{r}-{c}|><|{names[cells[3 * r + c]]}|>" for c in range(3))
      for r in range(3)
    )
    player = MARK_NAMES[int(rules.side_to_move()[board])]
    side = (
      f"<|player|>{player}\n"
      if self.thoughts
      else f"<|turn|>bot\n<|symbol|>{player}\n"
    )
    return "\n".join(("<|board_start|>", *rows, "<|board_end|>", side))

  def render_answer(self, cell: int, thought: str | None) -> str:
    """Renders an answer in ThinkTacToe's tokens."""
    row, column = divmod(cell, 3)
    move = f"<|move|><|{row}-{column}|><|end|>"
    if thought is None or not self.thoughts:
      return move
    return f"<player_think>{thought}</player_think>\n{move}"

  def prompt(self, text: str) -> str:
    """Returns the observation."""
    return text

  def completion(self, answer: str) -> str:
    """Returns the answer."""
    return answer

  def end_ids(self, tokenizer: chat.ChatTokenizer) -> list[int]:
    """Returns the end-of-text id."""
    return [tokenizer.eos_id()]

  def begin(self, text: str, tokenizer: chat.ChatTokenizer) -> list[int]:
    """Returns the beginning-of-text id, if any, and the observation."""
    return [*chat.begin_text(tokenizer), *tokenizer.encode(text)]

  def follow(
    self, text: str, tokenizer: chat.ChatTokenizer, *, retry: bool = False
  ) -> list[int]:
    """Returns the observation on a new line; `retry` adds the end of the text."""
    end = [tokenizer.eos_id()] if retry else []
    return end + tokenizer.encode("\n" + text)


_FORMATS = {"grid": GridFormat, "token_board": TokenBoardFormat}


def named(name: str, *, thoughts: bool) -> TextFormat:
  """Returns the format `grid` or `token_board`, or a custom one.

  The name `package.module:function` is a function (or class) that takes
  `thoughts`, whether answers have a thought, and returns a `TextFormat`.
  """
  make = _FORMATS.get(name) or custom.resolve(name, "play.format")
  return make(thoughts=thoughts)
