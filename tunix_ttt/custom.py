"""Functions of users, named in a config as `package.module:function`.

Whoever starts a run with such a config has the module imported, so read a
config of others before you run it.
"""

from collections.abc import Callable, Mapping
import hashlib
import importlib
import inspect
import os
import re
import sys
from typing import Any

from tunix_ttt import errors

# Keys of a config that may name a function.
FUNCTION_KEYS = (
  "game.name",
  "grpo.advantage_estimator",
  "opponents.custom",
  "play.format",
  "play.opponent",
  "training.optimizer",
)
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(name: str) -> bool:
  """Returns whether a name has the form `package.module:function`."""
  return _REFERENCE.fullmatch(name) is not None


def resolve(name: str, key: str) -> Callable[..., Any]:
  """Imports a function; modules in the working directory are found, too.

  Args:
    name: Reference to the function, `package.module:function`.
    key: Config key that messages name.

  Raises:
    errors.UserError: if there is no such module or function.
  """
  if not is_reference(name):
    raise errors.UserError(
      f"{key}: expected package.module:function, found {name!r}"
    )
  module_name, _, attribute = name.partition(":")
  directory = os.getcwd()
  is_added = not {directory, ""} & {*sys.path}
  if is_added:
    # At the end, so that nothing installed is shadowed.
    sys.path.append(directory)
  try:
    module = importlib.import_module(module_name)
  except ImportError as error:
    raise errors.UserError(f"{key}: {name}: {error}") from None
  finally:
    if is_added:
      sys.path.remove(directory)
  function = getattr(module, attribute, None)
  if not callable(function):
    raise errors.UserError(
      f"{key}: the module {module_name} has no function {attribute}"
    )
  return function


def reference(function: Callable[..., Any] | str, key: str) -> str:
  """Returns the reference by which `resolve` finds a function again.

  Raises:
    errors.UserError: if the function is not at the top level of a module.
  """
  if isinstance(function, str):
    return function
  module = getattr(function, "__module__", None)
  name = f"{module}:{getattr(function, '__qualname__', '')}"
  imported = None
  if is_reference(name):
    imported = getattr(
      sys.modules.get(str(module)), name.partition(":")[2], None
    )
  if imported is not function:
    raise errors.UserError(
      f"{key}: {function!r} cannot be found by name; define it with def at the"
      " top level of a module or notebook"
    )
  return name


def digests(values: Mapping[str, Any]) -> dict[str, str | None]:
  """Returns the digests of the functions that a flat config names, by key."""
  return {
    key: digest(resolve(values[key], key))
    for key in FUNCTION_KEYS
    if is_reference(str(values.get(key)))
  }


def definition(function: Any) -> Any:
  """Returns a function, or the class of a callable object."""
  return function if hasattr(function, "__qualname__") else type(function)


def digest(function: Any) -> str | None:
  """Returns the SHA-256 of a function's source; None if it has no source."""
  try:
    source = inspect.getsource(definition(function))
    return hashlib.sha256(source.encode()).hexdigest()
  except (OSError, TypeError):
    return None
