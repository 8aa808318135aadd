"""Players of a game by the names that configs use."""

from typing import TYPE_CHECKING, Any

from tunix_ttt import custom
from tunix_ttt import errors
from tunix_ttt.games import mcts
from tunix_ttt.games import players

if TYPE_CHECKING:
  from tunix_ttt.games import definition


def player(game: "definition.Definition", name: str, key: str) -> Any:
  """Returns the opponent that a config names under `key`.

  Names are as in `config.PlayConfig.opponent`.

  Raises:
    errors.UserError: if there is no such opponent for this game.
  """
  kind, _, setting = name.partition(":")
  if name == "random":
    return players.random(game.game)
  if name == "optimal":
    return game.optimal(key)
  if kind == "mcts":
    return searching(game, setting, key)
  if kind == "epsilon-optimal":
    try:
      epsilon = float(setting)
    except ValueError:
      raise errors.UserError(
        f"{key}: {name}: expected a probability, as in epsilon-optimal:0.3"
      ) from None
    return players.epsilon(game.game, game.optimal(key), epsilon)
  if custom.is_reference(name):
    return custom.resolve(name, key)
  raise errors.UserError(
    f"{key}: there is no opponent {errors.quote(name)}; use random, optimal,"
    " epsilon-optimal:0.3, mcts:16 or package.module:function"
  )


def searching(
  game: "definition.Definition", simulations: str, key: str
) -> players.Player:
  """Returns a player by tree search with a number of simulations.

  Raises:
    errors.UserError: if that is no number, or the game cannot be searched;
      `key` is the config key.
  """
  if not simulations.isdecimal():
    raise errors.UserError(
      f"{key}: mcts:{simulations}: expected a number of simulations, as in"
      " mcts:16"
    )
  try:
    return mcts.mcts(game.game, simulations=int(simulations))
  except errors.UserError as error:
    raise errors.UserError(f"{key}: {error}") from None
