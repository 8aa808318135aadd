"""Connect Four for language models: a move is the letter of a column.

Each column is one word, its cells from the bottom, as in `Board: a:XO.... b:......`
and so on up to `g:...... Your move?`. Prompts are short, since a tokenizer that
is trained on observations has a token for each word.
"""

from collections.abc import Sequence
import dataclasses
import itertools

import jax
import jax.numpy as jnp

from tunix_ttt.games.pgx_boards import grid_text
from tunix_ttt.games.pgx_boards import pgx_games
from tunix_ttt.text import spellings

_ROWS, _COLUMNS = 6, 7
_RULES = (
  "You are playing Connect Four. The board lists the cells of columns a to g, each"
  " from the bottom: X is your disc, O the opponent's. A disc falls to the lowest"
  " free cell of its column. Four of your discs in a row, column or diagonal win."
)
# Discs of one column from the bottom, in the order of `_number`.
_COLUMN_TEXTS = tuple(
  "".join(discs).ljust(_ROWS, ".")
  for height in range(_ROWS + 1)
  for discs in itertools.product("XO", repeat=height)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectFourText:
  """The text of `PgxGame("connect_four")`.

  Attributes:
    game: Rules of the game.
    rules: System prompt, with the format of moves.
    actions: Spellings of each action.
    seats: Name of each seat.
    segments: Texts of each slot.
  """

  game: pgx_games.PgxGame
  rules: str
  actions: Sequence[Sequence[str]]
  segments: Sequence[Sequence[str]]
  seats: Sequence[str] = ("first", "second")

  def show(self, state: pgx_games.State, seat: jax.Array) -> jax.Array:
    """Returns the text of each slot, -1 for none: int32 [K].

    The discs of `seat` are X. Only the seat to act is asked for a move.
    """
    marks = self.game.marks(state).reshape(_ROWS, _COLUMNS)[::-1]
    is_disc, is_other = marks > 0, (marks > 0) & (marks != seat + 1)
    height = is_disc.sum(axis=0)
    # The discs are a binary number, its highest digit at the bottom.
    place = height - 1 - jnp.arange(_ROWS)[:, None]
    bits = (is_other << jnp.maximum(place, 0)).sum(axis=0)
    is_turn = self.game.to_act(state) == seat
    return jnp.concatenate(
      [
        jnp.zeros(1, jnp.int32),
        ((1 << height) - 1 + bits).astype(jnp.int32),
        jnp.where(is_turn, 0, -1)[None],
      ]
    )


def connect_four_text(
  game: pgx_games.PgxGame, *, thoughts: bool = True
) -> ConnectFourText:
  """Returns the text of `PgxGame("connect_four")`.

  Args:
    game: Rules of the game.
    thoughts: Whether the rules ask for a thought before each move.
  """
  columns = grid_text.column_names(_COLUMNS)
  return ConnectFourText(
    game=game,
    rules=_RULES + spellings.ask("d", thoughts=thoughts),
    actions=tuple((column, column.upper()) for column in columns),
    segments=(
      ("Board:",),
      *(tuple(f" {c}:{text}" for text in _COLUMN_TEXTS) for c in columns),
      (" Your move?",),
    ),
  )
