"""Converts adapters between PEFT and Qwix.

PEFT adds alpha / r * B A to the weight [out, in] of a linear module, where A
(`lora_A`) is [r, in] and B (`lora_B`) is [out, r]. Some Gemma modules of Tunix
stack two or three modules of transformers; these share one A.
"""

from collections.abc import Mapping
import pathlib
from typing import Any, NamedTuple

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

# Prefixes of the decoder's module names: text models, vision models since
# transformers 4.52, and vision models before it.
_PREFIXES = ("model.", "model.language_model.", "language_model.model.")
# Settings that do not change an adapter's outputs, or are checked below.
_ALLOWED = {
  "alpha_pattern",
  "auto_mapping",
  "base_model_name_or_path",
  "inference_mode",
  "init_lora_weights",
  "lora_alpha",
  "lora_dropout",
  "megatron_core",
  "peft_version",
  "qalora_group_size",
  "r",
  "rank_pattern",
  "revision",
  "target_modules",
  "task_type",
}
# Settings of plain LoRA. All other settings must be null, false or empty.
_REQUIRED = {"bias": "none", "peft_type": "LORA"}
# Other initial weights change the base.
_PLAIN_INITIAL_WEIGHTS = (True, False, "gaussian", None)


class Description(NamedTuple):
  """An `adapter_config.json`; `targets` is None for a pattern."""

  base: str
  revision: str | None
  rank: int
  alpha: float
  targets: tuple[str, ...] | None


class Adapter(NamedTuple):
  """An adapter as Qwix represents it.

  Attributes:
    lora: Settings for Qwix. Rank and alpha are two or three times those of PEFT
      if a stacked Gemma module has as many different A.
    parts: Values of each adapted parameter, by its path: its distinct A, stacked
      to [R, in], and B [n, out, R] of its n tensors, which is zero for the A of
      other tensors.
  """

  lora: config_lib.LoraConfig
  parts: dict[str, tuple[np.ndarray, np.ndarray]]


def is_adapter(directory: pathlib.Path) -> bool:
  """Returns whether a directory holds a PEFT adapter."""
  return (directory / CONFIG).is_file()


def matrices(
  values: Mapping[str, Any], sources: Mapping[str, family_lib.Source]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns A [r, in] and B [out, r] of each adapted tensor, by its name."""
  result = {}
  for path, source in sources.items():
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
  """Returns an adapter's tensors by PEFT's names; modules have the prefix."""
  return {
    _key(name, kind): np.ascontiguousarray(matrix)
    for name, pair in matrices(values, spec.tensor_sources(prefix)).items()
    for kind, matrix in zip("AB", pair, strict=True)
  }


def settings(
  lora: config_lib.LoraConfig,
  tensors: Mapping[str, Any],
  base: str,
  revision: str | None,
) -> dict[str, Any]:
  """Returns the contents of `adapter_config.json`."""
  targets: Any = sorted({name.split(".")[-3] for name in tensors})
  if not any(name.startswith(_key("model.layers.", "")) for name in tensors):
    # The vision tower has modules of the same names.
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
  """Reads an `adapter_config.json`; a UserError tells what Qwix lacks."""
  path = directory / CONFIG
  values = files.read_json(path, "adapter config")
  config = family_lib.Section(path, "", values)
  for key, required in _REQUIRED.items():
    if values.get(key) != required:
      config.refuse(key, f"expected {files.to_json(required)}")
  if values.get("init_lora_weights") not in _PLAIN_INITIAL_WEIGHTS:
    config.refuse(
      "init_lora_weights",
      "initial weights that change the base are not supported",
    )
  for key in ("rank_pattern", "alpha_pattern"):
    if values.get(key):
      config.refuse(key, "one rank and one alpha for all modules are supported")
  for key, value in values.items():
    # 0 equals False, but is a layer.
    is_off = value is None or value is False or value in ("", [], {})
    if not is_off and key not in _ALLOWED and key not in _REQUIRED:
      config.refuse(key, "plain LoRA of whole linear modules is supported")
  base, revision = values.get("base_model_name_or_path"), values.get("revision")
  if not isinstance(base, str) or not base:
    config.refuse(
      "base_model_name_or_path", "expected a model's hub id or path"
    )
  if not isinstance(revision, str | None):
    config.refuse("revision", "expected a commit, branch or tag")
  targets = values.get("target_modules")
  is_list = isinstance(targets, list) and all(
    isinstance(target, str) for target in targets
  )
  if not isinstance(targets, str) and not is_list:
    config.refuse("target_modules", "expected a list of names of modules")
  return Description(
    base=base,
    revision=revision,
    rank=config.size("r"),
    alpha=config.number("lora_alpha"),
    targets=tuple(targets) if isinstance(targets, list) else None,
  )


def read(directory: pathlib.Path, spec: specs.ModelSpec) -> Adapter:
  """Reads an adapter of a base with the architecture `spec`.

  A UserError tells what Qwix lacks or does not fit the base.
  """
  description = describe(directory)
  path = directory / WEIGHTS
  if not path.is_file():
    reason = f"{path}: this file is missing"
    if (directory / _PICKLE).is_file():
      reason = (
        f"{directory / _PICKLE}: weights as a pickle are never opened, as"
        f" pickles run the code they hold; save the adapter as {WEIGHTS}"
      )
    raise errors.UserError(reason)
  headers = hub_loading.read_headers(path)
  prefix = next(
    (
      prefix
      for prefix in _PREFIXES
      if any(name.startswith(_key(f"{prefix}layers.", "")) for name in headers)
    ),
    _PREFIXES[0],
  )
  # The linear modules in the layers.
  sources = {
    path: source
    for path, source in spec.tensor_sources(prefix).items()
    if path.startswith("layers.") and len(source.shapes[0]) == 2
  }
  shapes = hub_loading.tensor_shapes(sources)
  adapted = _adapted(directory, description, [*shapes], headers)
  expected: dict[str, tuple[int, ...]] = {}
  for name in adapted:
    outputs, inputs = shapes[name]
    expected[_key(name, "A")] = (description.rank, inputs)
    expected[_key(name, "B")] = (outputs, description.rank)
  hub_loading.check(headers, expected, directory)
  parts = {}
  with safetensors.safe_open(path, "numpy") as file:

    def matrix(name: str, kind: str) -> np.ndarray:
      values = file.get_tensor(_key(name, kind))
      hub_loading.check_finite(path, _key(name, kind), values)
      return values

    for param_path, source in sources.items():
      if not adapted.isdisjoint(source.names):
        parts[param_path] = _stack(
          [
            (matrix(name, "A"), matrix(name, "B")) if name in adapted else None
            for name in source.names
          ]
        )
  # All modules have the same rank.
  rank = max(len(a) for a, _ in parts.values())
  modules = sorted({param_path.split(".")[-2] for param_path in parts})
  lora = config_lib.LoraConfig(
    rank=rank,
    alpha=rank // description.rank * description.alpha,
    target_modules="all-linear" if len(parts) == len(sources) else modules,
  )
  return Adapter(lora=lora, parts=parts)


def fill(module: nnx.Module, adapter: Adapter) -> nnx.Module:
  """Fills a model's new adapters, which have the settings `adapter.lora`.

  Unused ranks keep their A and a B of zero.
  """
  values = specs.parameters(module)
  for path, (used_a, used_b) in adapter.parts.items():
    old_a, old_b = (values[f"{path}_lora_{kind}"] for kind in "ab")
    rank, used = old_a.shape[-1], len(used_a)
    a = np.array(old_a, np.float32).reshape(-1, rank)
    a[:, :used] = used_a.T
    # [rank, tensors, outputs]; stacked parameters have several tensors.
    b = np.zeros((rank, *used_b.shape[:2]))
    b[:used] = used_b.transpose(2, 0, 1)
    values[f"{path}_lora_a"] = jnp.asarray(a.reshape(old_a.shape), old_a.dtype)
    values[f"{path}_lora_b"] = jnp.asarray(b.reshape(old_b.shape), old_b.dtype)
  return specs.with_parameters(module, values)


def _key(name: str, kind: str) -> str:
  """Returns the name in PEFT of the matrix A or B of a weight."""
  module = name.removesuffix(".weight")
  return f"base_model.model.{module}" + (kind and f".lora_{kind}.weight")


def _adapted(
  directory: pathlib.Path,
  description: Description,
  weights: list[str],
  headers: Mapping[str, Any],
) -> set[str]:
  """Returns the weights that should have adapters.

  A pattern is not run, since a malicious one may take forever; the tensors in
  the file decide instead.
  """
  if description.targets is None:
    adapted = {name for name in weights if _key(name, "A") in headers}
  else:
    ends = tuple(f".{target}.weight" for target in description.targets)
    adapted = {name for name in weights if f".{name}".endswith(ends)}
  path = directory / CONFIG
  if not adapted:
    raise errors.UserError(
      f"{path}: target_modules: names no linear module of the base's layers"
    )
  kinds = {name.split(".")[-2] for name in adapted}
  every = {name for name in weights if name.split(".")[-2] in kinds}
  if left_out := sorted(every - adapted):
    raise errors.UserError(
      f"{path}: target_modules: leaves out {left_out[0].removesuffix('.weight')};"
      " an adapter of a kind of module in every layer is supported"
    )
  return adapted


def _stack(
  pairs: list[tuple[np.ndarray, np.ndarray] | None],
) -> tuple[np.ndarray, np.ndarray]:
  """Stacks A [r, in] and B [out, r] of tensors as in `Adapter.parts`."""
  distinct: list[np.ndarray] = []
  for a, _ in filter(None, pairs):
    if not any(np.array_equal(a, other) for other in distinct):
      distinct.append(a)

  def columns(pair: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    parts = [
      pair[1] if pair and np.array_equal(pair[0], a) else zero for a in distinct
    ]
    return np.concatenate(parts, axis=1)

  zero = np.zeros_like(next(b for _, b in filter(None, pairs)))
  return np.concatenate(distinct), np.stack([columns(pair) for pair in pairs])
