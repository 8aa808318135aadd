"""Turns of games as rows of training data, in either text format."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tunix_ttt import errors
from tunix_ttt.data import row_formats
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import chat
from tunix_ttt.text import tokenizers

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


_TURN_NAMES = {"user": "user", "assistant": "model"}


def rows(sample: row_formats.Sample, data_format: str) -> Iterator[Row]:
  """Yields a sample as rows of a format, a key of `FORMATS`.

  Raises:
    ValueError: saying why it cannot be.
  """
  found = FORMATS[data_format](sample)
  yield from found if isinstance(found, list) else [found]


def _messages(sample: row_formats.Sample) -> Row:
  return {"messages": _all_trained(sample)}


def _prompt_completion(sample: row_formats.Sample) -> list[Row]:
  if isinstance(sample, row_formats.PlainText):
    return [{"prompt": sample.prompt, "completion": sample.completion}]
  found = _conversation(sample)
  return [
    {"prompt": found.messages[:i], "completion": [turn]}
    for i, turn in enumerate(found.messages)
    if turn["role"] == "assistant" and i >= found.supervised_from
  ]


def _preference(sample: row_formats.Sample) -> Row:
  if not isinstance(sample, row_formats.Preference):
    raise ValueError("it has one answer, and a preference pair has two")
  return sample._asdict()


def _text(sample: row_formats.Sample) -> Row:
  if not isinstance(sample, row_formats.PlainText):
    raise ValueError("it is no plain text")
  if sample.prompt:
    raise ValueError("it has a prompt, and all of a text is trained on")
  return {"text": sample.completion}


def _tunix_sft(sample: row_formats.Sample) -> Row:
  text, before = "", ""
  for turn in _all_trained(sample):
    content = turn["content"]
    if tokenizers.START_OF_TURN in content or tokenizers.END_OF_TURN in content:
      raise ValueError("a message has Gemma's control tokens in its text")
    if turn["role"] == "system":
      before = f"{content}\n\n"
      continue
    text += (
      f"{tokenizers.START_OF_TURN}{_TURN_NAMES[turn['role']]}\n"
      f"{before}{content}{tokenizers.END_OF_TURN}\n"
    )
    before = ""
  return {"prompts": text}


def _prompt(sample: row_formats.Sample) -> Row:
  if not isinstance(sample, row_formats.Prompt):
    raise ValueError("it has an answer, which a prompt has no place for")
  return {"prompt": sample.prompt}


def _episodes(sample: row_formats.Sample) -> Row:
  del sample
  raise ValueError("episode records are read, not written")


def _conversation(sample: row_formats.Sample) -> row_formats.Conversation:
  if isinstance(sample, row_formats.Conversation):
    return sample
  reasons = {
    row_formats.PlainText: "it is plain text, without turns",
    row_formats.Preference: "it is a preference pair",
    row_formats.Prompt: "it is a prompt without an answer",
  }
  raise ValueError(reasons[type(sample)])


def _all_trained(sample: row_formats.Sample) -> list[chat.Message]:
  """Returns the messages of a conversation, if each answer is trained on."""
  found = _conversation(sample)
  before = found.messages[: found.supervised_from]
  if any(turn["role"] == "assistant" for turn in before):
    raise ValueError(
      "it has answers that are read and not trained on, which only"
      " prompt_completion tells apart"
    )
  return found.messages


FORMATS: dict[str, Callable[[row_formats.Sample], Row | list[Row]]] = {
  "messages": _messages,
  "prompt_completion": _prompt_completion,
  "preference": _preference,
  "text": _text,
  "tunix_sft": _tunix_sft,
  "prompt": _prompt,
  "episodes": _episodes,
}
