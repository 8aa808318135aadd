"""Recurring texts of boards and answers, one token each."""

import itertools

from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats

_ROWS = tuple(
  text_formats.render_row(row, marks)
  + (text_formats.ROW_SEPARATOR if row < 2 else "")
  for row in range(3)
  for marks in itertools.product((rules.EMPTY, rules.X, rules.O), repeat=3)
)

# A board then costs fewer than 20 tokens.
_GRID_SYMBOLS = (
  *(
    f"user\n{text_formats.system_prompt(thoughts=thoughts)}\n\n"
    for thoughts in (True, False)
  ),
  text_formats.BOARD,
  *(
    f"{text_formats.LAST_MOVE}{c}.\n{text_formats.BOARD}"
    for c in text_formats.COORDINATES
  ),
  *_ROWS,
  text_formats.MOVES,
  *text_formats.COORDINATES,
  *(text_formats.MOVE_SEPARATOR + c for c in text_formats.COORDINATES),
  *text_formats.TO_MOVE.values(),
  "<think>",
  "</think>",
  "</think>\n<move>",
  "<move>",
  "</move>",
)
_TOKEN_BOARD_SYMBOLS = (
  *(f"<|{row}-{column}|>" for row in range(3) for column in range(3)),
  *(f"<|{name}|>" for name in ("X", "O", "blank", "board_start", "board_end")),
  *(f"<|{name}|>" for name in ("player", "turn", "symbol", "move", "end")),
  "<player_think>",
  "</player_think>",
)
# Full rows A and B have the same text, so remove duplicates.
SYMBOLS = tuple(dict.fromkeys(_GRID_SYMBOLS + _TOKEN_BOARD_SYMBOLS))
