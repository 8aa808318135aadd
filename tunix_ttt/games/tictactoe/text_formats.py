"""Text formats of the game: how a conversation about boards is tokenised.

A conversation is a chunk of tokens that begins it, then answers of the model
and chunks that follow them in turn. A chunk ends where the model is to speak,
and tokens never reach across its edges: what was sampled is what is kept.
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
  """The interface between a rollout and a text format."""

  def grammar(self) -> grammar.Automaton:
    """Returns the grammar of answers."""
    ...

  def observation(self, board: int, last_move: int | None) -> str:
    """Describes a board to the player whose turn it is."""
    ...

  def render_answer(self, cell: int, thought: str | None) -> str:
    """Writes an answer that plays `cell`.

    The thought is left out where there is none or the format asks for none.
    """
    ...

  def prompt(self, text: str) -> chat.Text:
    """Returns what begins a conversation with an observation, as data."""
    ...

  def completion(self, answer: str) -> chat.Text:
    """Returns an answer as data, of the kind that `prompt` is of."""
    ...

  def end_ids(self, tokenizer: chat.ChatTokenizer) -> list[int]:
    """Returns the tokens that end an answer; the first is what is taught."""
    ...

  def begin(self, text: str, tokenizer: chat.ChatTokenizer) -> list[int]:
    """Returns the chunk that begins a conversation with an observation."""
    ...

  def follow(
    self, text: str, tokenizer: chat.ChatTokenizer, *, retry: bool = False
  ) -> list[int]:
    """Returns the chunk that follows an answer and shows an observation.

    With `retry` it first ends the answer, which could not be read, and says so.
    """
    ...

  def answer(
    self, cell: int | None, thought: str, tokenizer: chat.ChatTokenizer
  ) -> list[int]:
    """Returns an answer that plays `cell`, with the token that ends it.

    None stands for an answer that could not be read; it has no end. The thought
    is left out where the format asks for none.
    """
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridFormat:
  """The grid, in the turns of a chat.

  Attributes:
    thoughts: whether answers begin with a thought.
  """

  thoughts: bool = True

  def grammar(self) -> grammar.Automaton:
    """Returns the grammar of `<think>…</think><move>B2</move>`."""
    return grammar.grid_grammar(thoughts=self.thoughts)

  def observation(self, board: int, last_move: int | None) -> str:
    """Draws a board as `prompts.render_observation` does."""
    agent = int(rules.side_to_move()[board])
    return prompts.render_observation(board, agent, last_move)

  def render_answer(self, cell: int, thought: str | None) -> str:
    """Writes an answer as `prompts.render_answer` does."""
    return prompts.render_answer(cell, thought if self.thoughts else None)

  def prompt(self, text: str) -> list[chat.Message]:
    """Returns the system prompt and the observation as messages."""
    system = prompts.system_prompt(thoughts=self.thoughts)
    return [chat.message("system", system), chat.message("user", text)]

  def completion(self, answer: str) -> list[chat.Message]:
    """Returns an answer as a message."""
    return [chat.message("assistant", answer)]

  def end_ids(self, tokenizer: chat.ChatTokenizer) -> list[int]:
    """Returns the ends of the model's turn."""
    return [*tokenizer.end_ids]

  def begin(self, text: str, tokenizer: chat.ChatTokenizer) -> list[int]:
    """Returns the system prompt, the observation and the model's header."""
    return chat.encode_chat(self.prompt(text), tokenizer).ids

  def follow(
    self, text: str, tokenizer: chat.ChatTokenizer, *, retry: bool = False
  ) -> list[int]:
    """Returns the user's next turn, after the end of the model's."""
    if not retry:
      return chat.encode_follow(text, tokenizer)
    end = tokenizer.template.end_of_turn_id
    return [end, *chat.encode_follow(_RETRY + text, tokenizer)]

  def answer(
    self, cell: int | None, thought: str, tokenizer: chat.ChatTokenizer
  ) -> list[int]:
    """Returns an answer and the end of the model's turn."""
    if cell is None:
      return tokenizer.encode(thought)
    text = self.render_answer(cell, thought)
    return [*tokenizer.encode(text), tokenizer.template.end_of_turn_id]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenBoardFormat:
  """ThinkTacToe's boards of special tokens, as plain text.

  Attributes:
    thoughts: whether answers begin with a thought; its prompts then name the
      player in another way.
  """

  thoughts: bool = True

  def grammar(self) -> grammar.Automaton:
    """Returns the grammar of `<|move|><|1-1|><|end|>`."""
    return grammar.token_board_grammar(thoughts=self.thoughts)

  def observation(self, board: int, last_move: int | None) -> str:
    """Writes a board cell by cell; the last move is no part of it."""
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
    """Writes an answer in ThinkTacToe's tokens."""
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
    """Returns the end of a text."""
    return [tokenizer.eos_id()]

  def begin(self, text: str, tokenizer: chat.ChatTokenizer) -> list[int]:
    """Returns the observation after the token that begins a text."""
    return [*chat.begin_text(tokenizer), *tokenizer.encode(text)]

  def follow(
    self, text: str, tokenizer: chat.ChatTokenizer, *, retry: bool = False
  ) -> list[int]:
    """Returns the observation on a new line; there are no words for `retry`."""
    end = [tokenizer.eos_id()] if retry else []
    return end + tokenizer.encode("\n" + text)

  def answer(
    self, cell: int | None, thought: str, tokenizer: chat.ChatTokenizer
  ) -> list[int]:
    """Returns an answer and the end of the text."""
    if cell is None:
      return tokenizer.encode(thought)
    text = self.render_answer(cell, thought)
    return [*tokenizer.encode(text), tokenizer.eos_id()]


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
