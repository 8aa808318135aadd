"""Rows of training data of tic-tac-toe."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunix_ttt import config as config_lib
from tunix_ttt.games import game_rows
from tunix_ttt.games import row_kinds
from tunix_ttt.games.tictactoe import board_kinds
from tunix_ttt.games.tictactoe import expert_games
from tunix_ttt.games.tictactoe import game_turns
from tunix_ttt.games.tictactoe import text_formats


class BoardRows(game_rows.GameRows):
  """Conversations and plain text about boards, in every context."""

  @property
  def kinds(self) -> Mapping[str, type[row_kinds.Kind]]:
    """Kinds of generated rows by name."""
    return board_kinds.KINDS

  def for_sft(
    self, settings: config_lib.GamesConfig, seed: int
  ) -> Iterator[dict[str, Any]]:
    """Yields conversations of the solver's games, as grids."""
    grid = text_formats.GridFormat(thoughts=self.game.thoughts)
    return expert_games.rows(settings, grid, seed)

  def check_context(self, context: str) -> None:
    """Raises a UserError if the text format cannot hold conversations."""
    game_turns.check_context(context, self.game.text_format)

  def of_model(
    self,
    turns: Sequence[game_rows.ModelTurn],
    ending: str,
    value: float,
    context: str,
  ) -> Iterator[dict[str, Any]]:
    """Yields the rows of `game_turns.of_game`, with the mark and the outcome."""
    del value
    played = [
      game_turns.Turn(
        board=int(state.board),
        last_move=None if state.last_move < 0 else int(state.last_move),
        cell=cell,
        answer=answer,
      )
      for state, cell, answer in turns
    ]
    for row in game_turns.of_game(played, self.game.text_format, context):
      agent = text_formats.MARK_NAMES[int(turns[0].state.agent)]
      yield {**row, "agent": agent, "outcome": ending}
