"""Positions of the game drawn at random, and what the solver says of them."""

from collections.abc import Iterator, Mapping
import functools
import hashlib
import re
from typing import Any, NamedTuple

import numpy as np

from tunix_ttt.data import row_formats
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.games.tictactoe import thoughts as thoughts_lib

Row = dict[str, Any]

REJECTED = ("worse", "illegal", "format")
# Where so many rows in a row are known already, there are hardly any others.
_PATIENCE = 50_000
_TAG = re.compile(r"<[^>]*>")


class Shown(NamedTuple):
  """A position as a player meets it: the board and the opponent's last move."""

  board: int
  last_move: int | None


def draw_last_move(rng: np.random.Generator, board: int) -> int | None:
  """Draws one of the opponent's cells, None where it has none."""
  marks = rules.cells()[board]
  theirs = (marks != rules.EMPTY) & (marks != rules.side_to_move()[board])
  cells = np.flatnonzero(theirs)
  return int(rng.choice(cells)) if len(cells) else None


def endless(rng: np.random.Generator, choice: np.ndarray) -> Iterator[Shown]:
  """Yields these boards without end, each once before any comes again."""
  while True:
    for board in rng.permutation(choice).tolist():
      yield Shown(board, draw_last_move(rng, board))


def different(rows: Iterator[Row | None], count: int) -> Iterator[Row]:
  """Yields the first rows that differ, fewer where no more are found.

  Args:
    rows: without end; None where there is no row.
    count: how many to find.
  """
  seen: set[bytes] = set()
  repeated = 0
  while len(seen) < count and repeated < _PATIENCE:
    row = next(rows)
    repeated += 1
    if row is None:
      continue
    known = len(seen)
    seen.add(hashlib.blake2b(repr(row).encode(), digest_size=16).digest())
    if len(seen) > known:
      repeated = 0
      yield row


def labels(board: int, *, every: bool) -> tuple[int, ...]:
  """Returns the solver's preferred move, or every optimal one."""
  if every:
    return solver.optimal_cells(board)
  return (int(solver.solve().preferred[board]),)


def prompt_row(shown: Shown, text_format: text_formats.TextFormat) -> Row:
  """Returns a prompt with its board and the optimal moves, for GRPO."""
  text = text_format.observation(*shown)
  optimal = solver.optimal_cells(shown.board)
  return {
    "prompt": text_format.prompt(text),
    "board": board_text.to_text(shown.board),
    "optimal": [prompts.coordinate(cell) for cell in optimal],
  }


def pairs(
  rng: np.random.Generator,
  text_format: text_formats.TextFormat,
  style: str,
  weights: Mapping[str, float],
) -> Iterator[Row]:
  """Yields preference pairs without end.

  Args:
    rng: draws everything.
    text_format: what the text looks like.
    style: how moves are explained, a key of `thoughts.STYLES`.
    weights: how often each of `REJECTED` is drawn.
  """
  drawn = {kind: endless(rng, _boards(kind)) for kind in weights}
  share = np.array([*weights.values()], float)
  while True:
    kind = str(rng.choice([*weights], p=share / share.sum()))
    shown = next(drawn[kind])
    chosen = int(rng.choice(solver.optimal_cells(shown.board)))
    thought = thoughts_lib.STYLES[style](shown.board, chosen)
    answer = text_format.render_answer(chosen, thought)
    cells = rejected_cells(shown.board, kind) or (chosen,)
    cell = int(rng.choice(cells))
    other = _other_thought(shown.board, cell, style, answer)
    rejected = text_format.render_answer(cell, other)
    if kind == "format":
      spoilt = _spoil(rejected)
      rejected = spoilt[int(rng.integers(len(spoilt)))]
    yield pair_row(shown, text_format, answer, rejected, kind)


def pair_row(
  shown: Shown,
  text_format: text_formats.TextFormat,
  chosen: str,
  rejected: str,
  kind: str,
) -> Row:
  """Returns a preference pair of answers; `kind` is one of `REJECTED`."""
  return {
    "prompt": text_format.prompt(text_format.observation(*shown)),
    "chosen": text_format.completion(chosen),
    "rejected": text_format.completion(rejected),
    "board": board_text.to_text(shown.board),
    "rejected_is": kind,
  }


def _boards(kind: str) -> np.ndarray:
  """Returns the boards on which there is a rejected answer of a kind."""
  positions = rules.positions()
  legal = rules.legal_masks()[positions]
  if kind == "worse":
    return positions[solver.solve().optimal[positions] != legal]
  if kind == "illegal":
    return positions[legal != rules.ALL_CELLS]
  return positions


def rejected_cells(board: int, kind: str) -> tuple[int, ...]:
  """Returns the moves to reject: strictly worse ones, or cells that are taken.

  None are for the kind `format`, which rejects no move but how it is written.
  """
  legal = int(rules.legal_masks()[board])
  masks = {
    "worse": legal & ~int(solver.solve().optimal[board]),
    "illegal": rules.ALL_CELLS & ~legal,
    "format": 0,
  }
  return rules.mask_to_cells(masks[kind])


def _other_thought(
  board: int, cell: int, style: str, answer: str
) -> str | None:
  """Returns a thought on a move that another answer does not have.

  Args:
    board: on which the move is.
    cell: the move, legal or not.
    style: a key of `thoughts.STYLES`, kept to if possible.
    answer: the other.
  """
  if style == "none":
    return None
  explained = [thoughts_lib.name_tactic(board, cell)]
  if rules.legal_masks()[board] >> cell & 1:
    explained.insert(0, thoughts_lib.STYLES[style](board, cell) or "")
  explained.append(f"I play {prompts.coordinate(cell)}.")
  return next(thought for thought in explained if thought not in answer)


def _spoil(answer: str) -> list[str]:
  """Returns ways to write an answer that are not of the format."""
  last = answer.rindex("<")
  return [
    answer[:last],
    f"{answer}\nThat is my move.",
    answer + answer[answer.rfind("\n") + 1 :],
    _TAG.sub("", answer).strip() or answer[:last],
  ]


_LAST_MOVE = re.compile(re.escape(prompts.LAST_MOVE) + r"([A-C][1-3])")


class Start(NamedTuple):
  """A row's position.

  Attributes:
    sample: the row.
    shown: the position.
  """

  sample: row_formats.Sample
  shown: Shown


def parse(row: dict[str, Any], data_format: str) -> list[Start]:
  """Finds the positions on which a row asks for a move.

  That is the last board of the prompt; what is answered does not matter.

  Args:
    row: the row's fields.
    data_format: see `formats.parse_row`.

  Raises:
    ValueError: if there is no prompt or no board, or no move can be made on it.
  """
  samples = row_formats.parse_row(row, data_format)
  return [Start(sample, _position(_asked(sample))) for sample in samples]


def _asked(sample: row_formats.Sample) -> str:
  """Returns the last thing that is said before the answer."""
  if isinstance(sample, row_formats.Conversation):
    prompt = sample.messages
  else:
    prompt = sample.prompt
  if isinstance(prompt, str):
    return prompt
  asked = [turn["content"] for turn in prompt if turn["role"] == "user"]
  return asked[-1] if asked else ""


def _position(text: str) -> Shown:
  found = board_text.find(text)
  if not found:
    raise ValueError("there is no board in the prompt")
  board, player = found[-1].board, found[-1].player
  shown = board_text.to_text(board)
  if board not in _playable():
    raise ValueError(
      f"no move can be made on the board {shown}: it is won or full, or no game"
      " comes to it"
    )
  mover = int(rules.side_to_move()[board])
  if player not in (None, mover):
    raise ValueError(
      f"on the board {shown} it is the turn of {prompts.MARK_NAMES[mover]}, and"
      f" the prompt says {prompts.MARK_NAMES[player]}"
    )
  return Shown(board, _last_move(text[: found[-1].start], board))


@functools.cache
def _playable() -> frozenset[int]:
  return frozenset(rules.positions().tolist())


def _last_move(text: str, board: int) -> int | None:
  """Returns the opponent's last move: as it is said, or its first cell."""
  marks = rules.cells()[board]
  theirs = (marks != rules.EMPTY) & (marks != rules.side_to_move()[board])
  said = _LAST_MOVE.findall(text)
  if not said:
    return int(theirs.argmax()) if theirs.any() else None
  cell = prompts.cell_from_coordinate(said[-1])
  if not theirs[cell]:
    raise ValueError(
      f"the opponent has not taken {said[-1]} on the board"
      f" {board_text.to_text(board)}"
    )
  return cell
