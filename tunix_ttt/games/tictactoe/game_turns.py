"""Rows of training data from the turns of a game."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tunix_ttt import errors
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import chat
from tunix_ttt.text import spellings

Row = dict[str, Any]


class Turn(NamedTuple):
  """A turn of a player.

  Attributes:
    board: Board before the move.
    last_move: Last cell that the opponent took, None before its first move.
    cell: Cell that the player took.
    thought: Explanation of the move, None for none.
    answer: Verbatim answer; None to render one from `cell` and `thought`.
  """

  board: int
  last_move: int | None
  cell: int
  thought: str | None = None
  answer: str | None = None


def check_context(context: str, text_format: text_formats.TextFormat) -> None:
  """Raises a UserError if a text format cannot hold conversations."""
  if context != "board" and isinstance(text_format.prompt(""), str):
    raise errors.UserError(
      f"a conversation (context {context}) of token boards cannot be written as"
      " text rows; use the context board, or the format grid"
    )


def of_game(
  turns: Sequence[Turn], text_format: text_formats.TextFormat, context: str
) -> Iterator[Row]:
  """Yields the rows of a game from a player's turns in order.

  The context is `board` for one row per turn with its board only, `full` for one
  conversation whose answers are all trained on, or `truncated` for one row per
  turn with the conversation so far, its thoughts replaced.
  """
  messages: list[chat.Message] = []
  for turn in turns:
    observation = text_format.observation(turn.board, turn.last_move)
    prompt = text_format.prompt(observation)
    answer = turn.answer
    if answer is None:
      answer = text_format.render_answer(turn.cell, turn.thought)
    completion = text_format.completion(answer)
    if isinstance(prompt, str) or isinstance(completion, str):
      yield {"prompt": prompt, "completion": completion}
      continue
    if context == "board":
      yield {"messages": [*prompt, *completion]}
      continue
    # The first prompt has the system message, too.
    messages += prompt[-1:] if messages else prompt
    if context == "full":
      messages += completion
      continue
    yield {"prompt": list(messages), "completion": completion}
    truncated = text_format.render_answer(turn.cell, spellings.TRUNCATED)
    messages.append(chat.message("assistant", truncated))
  if context == "full" and messages:
    yield {"messages": messages}
