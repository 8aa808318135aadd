"""Tic-tac-toe: rules, exact solution, opponents and text formats."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tunix_ttt.games import definition

TITLE = "tic-tac-toe"
# Imports are lazy: parts of a game are used without JAX.


def define(
  *, thoughts: bool = True, format: str = "grid"
) -> "definition.Definition":
  """Returns the game; `format` is a text format, see `text_formats.named`."""
  from tunix_ttt.games import board_page
  from tunix_ttt.games.tictactoe import board_reader
  from tunix_ttt.games.tictactoe import board_records
  from tunix_ttt.games.tictactoe import judged_boards
  from tunix_ttt.games.tictactoe import lines
  from tunix_ttt.games.tictactoe import text_formats
  from tunix_ttt.games.tictactoe import thought_claims
  from tunix_ttt.games.tictactoe import tictactoe_definition
  from tunix_ttt.games.tictactoe import tictactoe_game
  from tunix_ttt.games.tictactoe import tictactoe_text

  text_format = text_formats.named(format, thoughts=thoughts)
  return tictactoe_definition.TicTacToeDefinition(
    name="tictactoe",
    game=tictactoe_game.TicTacToe(),
    text=tictactoe_text.TicTacToeText(thoughts=thoughts),
    thoughts=thoughts,
    thought_truth=thought_claims.is_true if thoughts else None,
    text_format=text_format,
    reader=board_reader.BoardReader(text_format),
    lines=lines,
    board=board_page.BoardPage(
      package=__name__,
      record=board_records.Game,
      openings=board_records.Openings,
      values=judged_boards.page_values,
      table=judged_boards.policy_table,
      replay=judged_boards.replay,
    ),
  )
