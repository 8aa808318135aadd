"""Adapters as PEFT saves them, to and from Qwix's.

PEFT adds alpha / r * B A to the weight [out, in] of a linear module, where A,
`lora_A`, is [r, in] and B, `lora_B`, [out, r]. Tunix's Gemmas have modules that
stand for two or three of transformers'; those have an A in common.
"""

from collections.abc import Mapping
import dataclasses
import math
import pathlib
from typing import Any, NoReturn

from flax import nnx
import jax.numpy as jnp
import numpy as np
import safetensors

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.models.families import family as family_lib
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import hub_loading

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"

# What stands before the decoder's layers in modules' names, of text models and
# of those that also see, in transformers since 4.52 and before.
_PREFIXES = ("model.", "model.language_model.", "language_model.model.")
# Settings that change nothing of what an adapter computes, or are read below.
_FREE = {
  "alpha_pattern",
  "auto_mapping",
  "base_model_name_or_path",
  "inference_mode",
  "init_lora_weights",
  "lora_alpha",
  "lora_dropout",
  "megatron_core",
  "peft_type",
  "peft_version",
  "qalora_group_size",
  "r",
  "rank_pattern",
  "revision",
  "target_modules",
  "task_type",
}
# Of others, what makes it an adapter that Qwix has; all more is null or false.
_ONLY = {"bias": "none", "peft_type": "LORA"}
# Other ways to begin change the base.
_PLAIN_BEGINNINGS = (True, False, "gaussian", None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
  """The contents of an `adapter_config.json`.

  Attributes:
    base: the model beneath: a hub id or a path.
    revision: Revision of the hub id.
    rank: r.
    alpha: what the rank divides.
    targets: what modules' names end with; None where a pattern says it.
  """

  base: str
  revision: str | None
  rank: int
  alpha: float
  targets: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
  """An adapter that was read.

  Attributes:
    lora: its settings as Qwix's. The rank is two or three times PEFT's where a
      module of Gemma's needs as many different A; so is alpha.
    parts: by a parameter's path, its A [r, in], each once, and for each tensor
      that the parameter is made of which of them it has and its B [out, r];
      None for one without an adapter.
  """

  lora: config_lib.LoraConfig
  parts: dict[str, tuple[list[np.ndarray], list[tuple[int, np.ndarray] | None]]]


def is_adapter(directory: pathlib.Path) -> bool:
  """Returns whether a directory holds an adapter of PEFT's."""
  return (directory / CONFIG).is_file()


def matrices(
  values: Mapping[str, Any], table: Mapping[str, family_lib.Source]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns A [r, in] and B [out, r] of each tensor that has an adapter.

  Args:
    values: a model's parameters, by path.
    table: what its parameters are made of; names the tensors.
  """
  result = {}
  for path, source in table.items():
    if f"{path}_lora_a" not in values:
      continue
    a = np.asarray(values[f"{path}_lora_a"])
    b = np.asarray(values[f"{path}_lora_b"])
    rank = a.shape[-1]
    parts = [b] if len(source.names) == 1 else np.moveaxis(b, 1, 0)
    for name, part in zip(source.names, parts, strict=True):
      result[name] = (a.reshape(-1, rank).T, part.reshape(rank, -1).T)
  return result


def tensors(
  values: Mapping[str, Any], spec: specs.ModelSpec, prefix: str
) -> dict[str, np.ndarray]:
  """Returns the tensors of an adapter by the names that PEFT gives them.

  Args:
    values: the model's parameters, by path.
    spec: its architecture.
    prefix: what stands before its layers in modules' names.
  """
  result = {}
  for name, pair in matrices(values, spec.tensor_sources(prefix)).items():
    for kind, matrix in zip("AB", pair, strict=True):
      result[_key(name, kind)] = matrix
  return result


def settings(
  lora: config_lib.LoraConfig,
  tensors: Mapping[str, Any],
  base: str,
  revision: str | None,
) -> dict[str, Any]:
  """Returns what `adapter_config.json` is to say.

  Args:
    lora: the adapter's settings.
    tensors: its tensors, by PEFT's names.
    base: the model beneath: a hub id or a path.
    revision: Revision of the hub id.
  """
  targets: Any = sorted({name.split(".")[-3] for name in tensors})
  if not any(name.startswith(_key("model.layers.", "")) for name in tensors):
    # A model that also sees has modules of the same names.
    targets = rf".*\.language_model\..*\.({'|'.join(targets)})"
  return {
    "base_model_name_or_path": base,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
    "lora_dropout": 0.0,
    "peft_type": "LORA",
    "r": lora.rank,
    "revision": revision,
    "target_modules": targets,
    "task_type": "CAUSAL_LM",
    "use_rslora": False,
  }


def describe(directory: pathlib.Path) -> Description:
  """Reads what an adapter says of itself.

  Raises:
    errors.UserError: if it is of a kind that Qwix has not.
  """
  path = directory / CONFIG
  values = files.read_json(path, "adapter config")

  def refuse(key: str, reason: str) -> NoReturn:
    found = f"is {files.to_json(values[key])}" if key in values else "missing"
    raise errors.UserError(f"{path}: {key} {found}; {reason}")

  for key, wanted in _ONLY.items():
    if values.get(key) != wanted:
      refuse(key, f"expected {files.to_json(wanted)}")
  if values.get("init_lora_weights") not in _PLAIN_BEGINNINGS:
    refuse("init_lora_weights", "it changes the base, which is not done here")
  for key in ("rank_pattern", "alpha_pattern"):
    if values.get(key):
      refuse(key, "one rank and one alpha for all modules are supported")
  for key, value in values.items():
    # Not by `in`: 0, which is a layer, equals False.
    is_off = value is None or value is False or value in ("", [], {})
    if not is_off and key not in _FREE and key not in _ONLY:
      refuse(key, "plain LoRA of whole linear modules is supported")
  rank: Any = values.get("r")
  alpha: Any = values.get("lora_alpha")
  if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
    refuse("r", "expected a positive whole number")
  is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
  if not is_number or not math.isfinite(alpha) or alpha <= 0:
    refuse("lora_alpha", "expected a positive number")
  base: Any = values.get("base_model_name_or_path")
  revision: Any = values.get("revision")
  if not isinstance(base, str) or not base:
    refuse("base_model_name_or_path", "expected a model's hub id or path")
  if not isinstance(revision, str | None):
    refuse("revision", "expected a commit, branch or tag")
  targets = values.get("target_modules")
  is_list = isinstance(targets, list) and all(
    isinstance(target, str) for target in targets
  )
  if not isinstance(targets, str) and not is_list:
    refuse("target_modules", "expected a list of names of modules")
  return Description(
    base=base,
    revision=revision,
    rank=rank,
    alpha=float(alpha),
    targets=tuple(targets) if isinstance(targets, list) else None,
  )


def read(directory: pathlib.Path, spec: specs.ModelSpec) -> Adapter:
  """Reads an adapter.

  Args:
    directory: PEFT's.
    spec: the architecture of the base.

  Raises:
    errors.UserError: if it is of another kind, or does not fit the base.
  """
  described = describe(directory)
  path = directory / WEIGHTS
  if not path.is_file():
    reason = f"{path}: this file is missing"
    if (directory / _PICKLE).is_file():
      reason = (
        f"{directory / _PICKLE}: weights as a pickle are never opened, as"
        f" pickles run the code they hold; save the adapter as {WEIGHTS}"
      )
    raise errors.UserError(reason)
  found = hub_loading.read_headers(path)
  table = _adaptable(spec, found)
  shapes = {
    name: shape
    for source in table.values()
    for name, shape in zip(source.names, source.shapes, strict=True)
  }
  wanted = _wanted(directory, described, [*shapes], found)
  expected: dict[str, tuple[int, ...]] = {}
  for name in wanted:
    outputs, inputs = shapes[name]
    expected[_key(name, "A")] = (described.rank, inputs)
    expected[_key(name, "B")] = (outputs, described.rank)
  hub_loading.check(found, expected, directory)
  parts = {}
  with safetensors.safe_open(path, "numpy") as file:

    def matrix(name: str, kind: str) -> np.ndarray:
      values = file.get_tensor(_key(name, kind))
      hub_loading.check_finite(path, _key(name, kind), values)
      return values

    for ours, source in table.items():
      if not wanted.isdisjoint(source.names):
        pairs = [
          (matrix(name, "A"), matrix(name, "B")) if name in wanted else None
          for name in source.names
        ]
        parts[ours] = _share(pairs)
  # One rank serves all modules.
  times = max(len(shared) for shared, _ in parts.values())
  modules = sorted({ours.split(".")[-2] for ours in parts})
  is_all = len(parts) == len(table)
  lora = config_lib.LoraConfig(
    rank=times * described.rank,
    alpha=times * described.alpha,
    target_modules="all-linear" if is_all else modules,
  )
  return Adapter(lora=lora, parts=parts)


def fill(module: nnx.Module, adapter: Adapter) -> nnx.Module:
  """Returns a model whose new adapters have the values that were read.

  What the wider rank leaves over keeps its A and a B of zero.

  Args:
    module: with adapters by `adapter.lora` that were not trained.
    adapter: the values.
  """
  values = specs.parameters(module)
  for path, (shared, pairs) in adapter.parts.items():
    old_a, old_b = (values[f"{path}_lora_{kind}"] for kind in "ab")
    rank = old_a.shape[-1]
    a = np.array(old_a, np.float32).reshape(-1, rank)
    # Of one tensor, or of several that are stacked.
    b = np.zeros((rank, len(pairs), old_b.size // rank // len(pairs)))
    for number, matrix in enumerate(shared):
      size = matrix.shape[0]
      a[:, number * size : (number + 1) * size] = matrix.T
    for number, pair in enumerate(pairs):
      if pair is not None:
        first, matrix = pair
        size = matrix.shape[1]
        b[first * size : (first + 1) * size, number] = matrix.T
    values[f"{path}_lora_a"] = jnp.asarray(a.reshape(old_a.shape), old_a.dtype)
    values[f"{path}_lora_b"] = jnp.asarray(b.reshape(old_b.shape), old_b.dtype)
  return specs.with_parameters(module, values)


def _key(name: str, kind: str) -> str:
  """Returns PEFT's name for a matrix of the adapter of a weight."""
  module = name.removesuffix(".weight")
  return f"base_model.model.{module}" + (kind and f".lora_{kind}.weight")


def _adaptable(
  spec: specs.ModelSpec, found: Mapping[str, Any]
) -> dict[str, family_lib.Source]:
  """Returns the part of `ModelSpec.tensor_sources` that adapters are for."""
  prefix = next(
    (
      prefix
      for prefix in _PREFIXES
      if any(name.startswith(_key(f"{prefix}layers.", "")) for name in found)
    ),
    _PREFIXES[0],
  )
  return {
    path: source
    for path, source in spec.tensor_sources(prefix).items()
    if path.startswith("layers.") and len(source.shapes[0]) == 2
  }


def _wanted(
  directory: pathlib.Path,
  described: Description,
  weights: list[str],
  found: Mapping[str, Any],
) -> set[str]:
  """Returns the weights that are to have adapters.

  Where a pattern says which, it is taken at its word that they are those which
  have: running a stranger's pattern can take for ever.
  """
  if described.targets is None:
    chosen = {name for name in weights if _key(name, "A") in found}
  else:
    chosen = {
      name
      for name in weights
      if any(
        f".{name.removesuffix('.weight')}".endswith(f".{target}")
        for target in described.targets
      )
    }
  path = directory / CONFIG
  if not chosen:
    raise errors.UserError(
      f"{path}: target_modules: names no linear module of the base's layers"
    )
  kinds = {name.split(".")[-2] for name in chosen}
  every = {name for name in weights if name.split(".")[-2] in kinds}
  if left_out := sorted(every - chosen):
    raise errors.UserError(
      f"{path}: target_modules: leaves out {left_out[0].removesuffix('.weight')};"
      " an adapter of a kind of module in every layer is supported"
    )
  return chosen


def _share(
  pairs: list[tuple[np.ndarray, np.ndarray] | None],
) -> tuple[list[np.ndarray], list[tuple[int, np.ndarray] | None]]:
  """Lists each different A once, and says which one each B goes with."""
  shared: list[np.ndarray] = []
  result: list[tuple[int, np.ndarray] | None] = []
  for pair in pairs:
    if pair is None:
      result.append(None)
      continue
    a, b = pair
    same = [n for n, known in enumerate(shared) if np.array_equal(known, a)]
    if not same:
      shared.append(a)
    result.append((same[0] if same else len(shared) - 1, b))
  return shared, result
