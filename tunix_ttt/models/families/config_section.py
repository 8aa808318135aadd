"""Reads and checks the values of a `config.json`."""

from collections.abc import Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any, Literal, NoReturn

from tunix_ttt import errors

LayerType = Literal["local", "global"]
LAYER_TYPES: dict[str, LayerType] = {
  "sliding_attention": "local",
  "full_attention": "global",
}


def periodic_layers(num_layers: int, period: int) -> tuple[LayerType, ...]:
  """Returns layer types with a global layer at each multiple of `period`."""
  return tuple(
    "local" if (n + 1) % period else "global" for n in range(num_layers)
  )


@dataclasses.dataclass(frozen=True)
class Section:
  """A JSON object of a `config.json`.

  Attributes:
    path: Path of the file, for error messages.
    prefix: Prefix of the keys in error messages.
    values: The object.
  """

  path: pathlib.Path
  prefix: str
  values: dict[str, Any]

  def refuse(self, key: str, reason: str) -> NoReturn:
    """Raises a UserError that names a key and its value."""
    value = (
      f"is {json.dumps(self.values[key])}" if key in self.values else "missing"
    )
    raise errors.UserError(f"{self.path}: {self.prefix}{key} {value}; {reason}")

  def one_of(self, key: str, names: Sequence[str]) -> str:
    """Returns the single name in the list at `key`."""
    value = self.values.get(key)
    if not isinstance(value, list) or len(value) != 1 or value[0] not in names:
      self.refuse(key, f"supported are {', '.join(names)}")
    return value[0]

  def section(self, key: str) -> "Section":
    """Returns the object at `key`."""
    value = self.values.get(key)
    if not isinstance(value, dict):
      self.refuse(key, "expected an object")
    return Section(self.path, f"{self.prefix}{key}.", value)

  def only(self, key: str, allowed: Sequence[Any]) -> None:
    """Refuses values that are not allowed; the first one is the default."""
    if self.values.get(key, allowed[0]) not in allowed:
      self.refuse(key, f"Tunix's model has {json.dumps(allowed[0])} only")

  def size(self, key: str, default: int | None = None) -> int:
    """Returns a positive whole number."""
    value = self.values.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      self.refuse(key, "expected a positive whole number")
    return value

  def number(self, key: str, default: float) -> float:
    """Returns a positive number."""
    value = self.values.get(key)
    value = default if value is None else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
      self.refuse(key, "expected a positive number")
    return float(value)

  def flag(self, key: str, default: bool) -> bool:
    """Returns a boolean."""
    value = self.values.get(key, default)
    if not isinstance(value, bool):
      self.refuse(key, "expected true or false")
    return value

  def softcap(self, key: str, default: float) -> float:
    """Returns a soft-cap; 0 for null."""
    if key in self.values and self.values[key] is None:
      return 0.0
    return self.number(key, default)

  def layer_types(self, num_layers: int, period: int) -> tuple[LayerType, ...]:
    """Returns the type of each layer; `period` is the default pattern."""
    names = self.values.get("layer_types")
    if names is None:
      return periodic_layers(num_layers, period)
    is_valid = isinstance(names, list) and all(
      isinstance(name, str) and name in LAYER_TYPES for name in names
    )
    if not is_valid or len(names) != num_layers:
      self.refuse(
        "layer_types",
        f"expected {num_layers} (num_hidden_layers) of"
        f" {', '.join(LAYER_TYPES)}",
      )
    return tuple(LAYER_TYPES[name] for name in names)

  def rope(
    self, layer_type: str, theta: float, *, may_scale: bool = False
  ) -> tuple[float, float]:
    """Returns the rotary base of a layer type and the divisor of its positions.

    transformers 5 writes `rope_parameters`, for Gemma 3 one object per layer
    type. transformers 4 wrote `rope_theta`, `rope_local_base_freq` and, for
    global layers, `rope_scaling`. The argument `theta` is the default base.
    """
    is_full = layer_type == "full_attention"
    if self.values.get("rope_parameters") is not None:
      other = self.values.get("rope_scaling")
      if other not in (None, self.values["rope_parameters"]):
        # transformers 5 would use `rope_scaling`.
        self.refuse("rope_scaling", "rope_parameters says otherwise; keep one")
      rope = self.section("rope_parameters")
      if isinstance(rope.values.get(layer_type), dict):
        rope = rope.section(layer_type)
    elif is_full and self.values.get("rope_scaling") is not None:
      rope = self.section("rope_scaling")
    else:
      rope = Section(self.path, self.prefix, {})
    flat = "rope_theta" if is_full else "rope_local_base_freq"
    theta = rope.number("rope_theta", self.number(flat, theta))
    type_key = "rope_type" if "rope_type" in rope.values else "type"
    rope_type = rope.values.get(type_key, "default")
    rope.only("partial_rotary_factor", (1.0, None))
    if rope_type == "linear" and may_scale:
      scale = rope.number("factor", 1.0)
      if scale < 1:
        rope.refuse("factor", "Tunix's model has 1 or more")
      return theta, scale
    if rope_type != "default":
      supported = "default and linear" if may_scale else "default"
      rope.refuse(type_key, f"Tunix's model has {supported} only")
    return theta, 1.0
