"""Finds games by name: a folder of `games`, a game of pgx, or a user's module."""

from collections.abc import Callable
import functools
import importlib
import inspect
import json
import pathlib
import pkgutil
from typing import Any

from tunix_ttt import config as config_lib
from tunix_ttt import custom
from tunix_ttt import errors
from tunix_ttt.games import definition

# Folder with the games that it names itself.
_FALLBACK = "pgx_boards"


def of(
  config: config_lib.SFTConfig, *, thoughts: bool | None = None
) -> definition.Definition:
  """Returns the game of a config, with the text that the config asks for.

  `thoughts`, whether answers begin with a thought, is the config's if None.

  Raises:
    errors.UserError: if there is no such game, or an option does not fit.
  """
  options = dict(config.game.options)
  if config.play.format != config_lib.PlayConfig().format:
    options["format"] = config.play.format
  if thoughts is None:
    thoughts = config.data.games.thoughts != "none"
  return load(config.game.name, thoughts=thoughts, **options)


def load_config(
  game: config_lib.GameConfig | None, *, thoughts: bool = False
) -> definition.Definition:
  """Returns the game of a section of a config; None is the default game."""
  game = game or config_lib.GameConfig()
  return load(game.name, thoughts=thoughts, **game.options)


def load(
  name: str, *, thoughts: bool = False, **options: Any
) -> definition.Definition:
  """Returns a game.

  Args:
    name: Folder of `tunix_ttt.games`, game of pgx, or `package.module:function`
      (or class) that returns a `Definition`.
    thoughts: Whether answers begin with a thought, for games that have the
      choice.
    **options: Options of the game.

  Raises:
    errors.UserError: if there is no such game, or an option does not fit.
  """
  return _load(name, thoughts, json.dumps(options, sort_keys=True))


# A run asks for its game in many places; solutions are kept with it.
@functools.lru_cache(maxsize=8)
def _load(name: str, thoughts: bool, options_text: str) -> Any:
  options = json.loads(options_text)
  define = _find(name)
  parameters = inspect.signature(define).parameters
  if "thoughts" in parameters:
    options["thoughts"] = thoughts
  try:
    inspect.signature(define).bind(**options)
  except TypeError as error:
    allowed = sorted(parameters.keys() - {"thoughts", "name"})
    raise errors.UserError(
      f"game.options: {name}: {error}; "
      + (f"its options are {', '.join(allowed)}" if allowed else "it has none")
    ) from None
  try:
    made = define(**options)
  except errors.UserError as error:
    raise errors.UserError(f"game.name: {name}: {error}") from None
  if not isinstance(made, definition.Definition):
    raise errors.UserError(
      f"game.name: {name}: expected a games.definition.Definition, found"
      f" {type(made).__name__}"
    )
  return made


def _find(name: str) -> Callable[..., Any]:
  if custom.is_reference(name):
    return custom.resolve(name, "game.name")
  if name in names():
    return importlib.import_module(f"{definition.__package__}.{name}").define
  fallback = importlib.import_module(f"{definition.__package__}.{_FALLBACK}")
  return functools.partial(fallback.define, name)


def title(name: str) -> str:
  """Returns the prose name of a game: `TITLE` of its folder, or its module."""
  if name in names():
    return importlib.import_module(f"{definition.__package__}.{name}").TITLE
  return name.partition(":")[0].rpartition(".")[2].replace("_", " ")


def names() -> list[str]:
  """Returns the names of the folders that define games."""
  directory = [str(pathlib.Path(__file__).parent)]
  return sorted(
    module.name
    for module in pkgutil.iter_modules(directory)
    if module.ispkg and module.name != _FALLBACK
  )
