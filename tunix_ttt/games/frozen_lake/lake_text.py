"""The text of Frozen Lake."""

import jax
import jax.numpy as jnp

from tunix_ttt.games.frozen_lake import lake_game


class FrozenLakeText:
  """The moves left and the map, in which P is the player."""

  rules = (
    "You are crossing a frozen lake. On the map P is you, S the start, F ice, H"
    " a hole and G the goal. Reach G before your moves run out and do not fall"
    " into a hole. The ice is slippery: a move goes where you intend, or to the"
    " left or right of that, with equal probability. Answer with exactly one"
    " move such as <move>down</move>."
  )
  seats = ("player",)
  actions = (("left",), ("down",), ("right",), ("up",))

  def __init__(self, *, max_moves: int = 100):
    """Takes the same `max_moves` as `lake_game.FrozenLake`."""
    self.segments = (
      tuple(f"Moves left: {n}." for n in range(max_moves + 1)),
      *map(_row_texts, lake_game.MAP),
      ("\nYour move?",),
    )

  def show(self, state: lake_game.State, seat: jax.Array) -> jax.Array:
    """Returns the text that each slot shows, -1 for none: int32 [6]."""
    del seat
    row, column = jnp.divmod(state.cell.astype(jnp.int32), len(lake_game.MAP))
    is_row = jnp.arange(len(lake_game.MAP)) == row
    rows = jnp.where(is_row, column + 1, 0)
    is_turn = lake_game.FrozenLake().to_act(state) == 0
    question = jnp.where(is_turn, 0, -1)
    moves_left = state.moves_left.astype(jnp.int32)
    return jnp.concatenate([moves_left[None], rows, question[None]])


def _row_texts(row: str) -> tuple[str, ...]:
  """Returns a row without the player and with the player in each column."""
  players = (row[:n] + "P" + row[n + 1 :] for n in range(len(row)))
  return tuple(f"\n{text}" for text in (row, *players))
