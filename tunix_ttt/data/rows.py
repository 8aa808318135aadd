"""Turns of games as rows of training data, in either text format."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tunix_ttt import errors
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import chat

Row = dict[str, Any]


class Turn(NamedTuple):
  """A player's turn.

  Attributes:
    board: what it was shown.
    last_move: the cell the opponent had taken last, None for none.
    cell: the cell it took.
    thought: why, None where it did not say.
    answer: what it said to the letter; None where `cell` and `thought` tell.
  """

  board: int
  last_move: int | None
  cell: int
  thought: str | None = None
  answer: str | None = None


def of_answer(prompt: chat.Text, completion: chat.Text) -> Row:
  """Returns the row of one answer: `messages`, or `prompt`/`completion` text."""
  if isinstance(prompt, str):
    return {"prompt": prompt, "completion": completion}
  return {"messages": [*prompt, *completion]}


def check_context(context: str, text_format: str) -> None:
  """Raises a UserError where a format has no rows of a context."""
  if context != "board" and text_format == "token_board":
    raise errors.UserError(
      f"a conversation (context {context}) of token boards cannot be written as"
      " rows of text, which have one answer; use the context board, or the"
      " format grid"
    )


def of_game(
  turns: Sequence[Turn], text_format: text_formats.TextFormat, context: str
) -> Iterator[Row]:
  """Yields the rows of a game.

  Args:
    turns: the player's, in order.
    text_format: what the text looks like.
    context: `board` for a row of each turn, the board alone; `full` for one row,
      a conversation all of whose answers are trained on; `truncated` for a row
      of each turn, the conversation so far with thoughts replaced.
  """
  said: list[chat.Message] = []
  for turn in turns:
    text = text_format.observation(turn.board, turn.last_move)
    prompt = text_format.prompt(text)
    answer = turn.answer
    if answer is None:
      answer = text_format.render_answer(turn.cell, turn.thought)
    completion = text_format.completion(answer)
    if context == "board":
      yield of_answer(prompt, completion)
      continue
    assert not isinstance(prompt, str) and not isinstance(completion, str)
    said += prompt if not said else prompt[-1:]
    if context == "full":
      said += completion
      continue
    yield {"prompt": list(said), "completion": completion}
    kept = text_format.render_answer(turn.cell, text_formats.TRUNCATED)
    said += [chat.message("assistant", kept)]
  if context == "full" and said:
    yield {"messages": said}
