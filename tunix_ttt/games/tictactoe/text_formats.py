"""Text formats: render boards and answers and tokenize conversations.

A conversation is a first chunk of tokens, then answers of the model and further
chunks by turns. Each chunk ends where the model starts to generate. Chunks and
answers are tokenized separately, so sampled tokens are never re-tokenized.
"""

import dataclasses
from typing import Protocol

from tunix_ttt import custom
from tunix_ttt.games.tictactoe import prompts
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.text import chat
from tunix_ttt.text import grammar

TRUNCATED = "[TRUNCATED]"
_RETRY = "That is not an answer of the required format.\n"


class TextFormat(Protocol):
  """Interface between a rollout and a text format."""

  def grammar(self) -> grammar.Automaton:
    """Returns the grammar of answers."""
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

  def grammar(self) -> grammar.Automaton:
    """Returns the grammar of `<think>…</think><move>B2</move>`."""
    return grammar.grid_grammar(thoughts=self.thoughts)

  def observation(self, board: int, last_move: int | None) -> str:
    """Renders a board with `prompts.render_observation`."""
    agent = int(rules.side_to_move()[board])
    return prompts.render_observation(board, agent, last_move)

  def render_answer(self, cell: int, thought: str | None) -> str:
    """Renders an answer with `prompts.render_answer`."""
    return prompts.render_answer(cell, thought if self.thoughts else None)

  def prompt(self, text: str) -> list[chat.Message]:
    """Returns the system prompt and the observation as messages."""
    system = prompts.system_prompt(thoughts=self.thoughts)
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
    return [end, *chat.encode_follow(_RETRY + text, tokenizer)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenBoardFormat(TextFormat):
  """ThinkTacToe's boards of special tokens, as plain text.

  Attributes:
    thoughts: Whether answers start with a thought. Prompts for thoughts name
      the player differently.
  """

  thoughts: bool = True

  def grammar(self) -> grammar.Automaton:
    """Returns the grammar of `<|move|><|1-1|><|end|>`."""
    return grammar.token_board_grammar(thoughts=self.thoughts)

  def observation(self, board: int, last_move: int | None) -> str:
    """Renders a board cell by cell, without the last move."""
    del last_move
    names = {rules.EMPTY: "blank", **prompts.MARK_NAMES}
    cells = rules.cells()[board].tolist()
    rows = (
      " ".join(f"<|{r}-{c}|><|{names[cells[3 * r + c]]}|>" for c in range(3))
      for r in range(3)
    )
    player = prompts.MARK_NAMES[int(rules.side_to_move()[board])]
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

  Args:
    name: Name of the format, or `package.module:function` for a function (or
      class) that takes `thoughts` and returns a `TextFormat`.
    thoughts: Whether answers have a thought.

  Raises:
    errors.UserError: if there is no such function.
  """
  make = _FORMATS.get(name) or custom.resolve(name, "play.format")
  return make(thoughts=thoughts)
