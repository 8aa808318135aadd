"""Exports models to transformers and adapters to PEFT."""

from collections.abc import Callable
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.models import checkpoints
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import adapters
from tunix_ttt.models.hub import client
from tunix_ttt.models.hub import hub_config
from tunix_ttt.models.hub import hub_loading
from tunix_ttt.runs import progress
from tunix_ttt.text import hub_tokenizers
from tunix_ttt.text import tokenizers

GENERATION = "generation_config.json"


class Tensor(NamedTuple):
  """A tensor of `size` bytes that `make` computes when it is written."""

  size: int
  make: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
  """The small files of an export and the tensors of its weight files."""

  is_adapter: bool
  contents: dict[str, bytes]
  weights: dict[str, dict[str, Tensor]]
  model: checkpoints.Model

  def sizes(self) -> dict[str, int]:
    """Returns the size of each file in bytes, without headers of weights."""
    sizes = {name: len(data) for name, data in self.contents.items()}
    for name, tensors in self.weights.items():
      sizes[name] = sum(tensor.size for tensor in tensors.values())
    return dict(sorted(sizes.items()))


@progress.stage("preparing the tensors")
def prepare(
  model: checkpoints.Model, *, merge: bool, max_shard_size: int
) -> Export:
  """Prepares an export, in weight files of up to `max_shard_size` bytes.

  `merge` merges adapters into their base. A UserError tells that PEFT could not
  find the base of an adapter.
  """
  tokenizer, is_adapter = model.tokenizer, model.lora is not None and not merge
  if isinstance(tokenizer, tokenizers.SentencePieceTokenizer):
    contents = hub_tokenizers.to_hugging_face(tokenizer)
  else:
    prefix = f"{hub_tokenizers.FOLDER}/"
    contents = {
      name.removeprefix(prefix): data
      for name, data in tokenizer.files().items()
    }
  contents[GENERATION] = _generation(model)
  if is_adapter:
    settings, tensors = _adapter(model)
    # With `config.json`, the directory would be a whole model.
    contents.pop(hub_config.CONFIG, None)
    contents[adapters.CONFIG] = _json(settings)
    weights = {adapters.WEIGHTS: tensors}
  else:
    config = hub_config.of_model(model.spec, _of_base(model, hub_config.CONFIG))
    contents[hub_config.CONFIG] = _json(config)
    tensors = _merged(model)
    shards = _shards(tensors, max_shard_size)
    weights = {
      f"model-{n:05}-of-{len(shards):05}.safetensors": shard
      for n, shard in enumerate(shards, start=1)
    }
    if len(shards) == 1:
      weights = {hub_loading.SINGLE: tensors}
    else:
      index = {
        "metadata": {"total_size": sum(x.size for x in tensors.values())},
        "weight_map": {
          name: file
          for file, shard in weights.items()
          for name in sorted(shard)
        },
      }
      contents[hub_loading.INDEX] = _json(index)
  return Export(
    is_adapter=is_adapter, contents=contents, weights=weights, model=model
  )


@progress.stage("writing the model")
def write(export: Export, output: pathlib.Path) -> None:
  """Writes an export to a new directory, atomically."""
  # transformers 4 refuses files without this metadata.
  metadata = {"format": "pt"}
  with files.new_directory(output) as new:
    for name, tensors in export.weights.items():
      arrays = {key: tensor.make() for key, tensor in tensors.items()}
      safetensors.numpy.save_file(arrays, new / name, metadata=metadata)
    files.write_all(new, export.contents)


def check_public(export: Export) -> None:
  """Raises a UserError if the export only works on this machine."""
  base = export.model.base
  if export.is_adapter and base is not None and base.commit is None:
    raise errors.UserError(
      f"the adapter's base, {base.path}, is a directory of this machine, which"
      " others cannot read; say --merge to publish one model"
    )


def _adapter(
  model: checkpoints.Model,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
  """Returns the settings and the tensors of a PEFT adapter."""
  lora, base = model.lora, model.base
  assert lora is not None and base is not None
  directory = _base_directory(model)
  if directory is None or base.path is None:
    name = "a model from scratch" if base.path is None else base.path
    raise errors.UserError(
      f"the adapter's base, {name}, is not a Hugging Face model, which PEFT"
      " needs; say --merge to write one model"
    )
  hub_class, _ = hub_config.read(directory, model.spec.dtype)
  values = specs.parameters(model.module)
  tensors = adapters.tensors(values, model.spec, hub_class.modules)
  settings = adapters.settings(lora, tensors, base.path, base.commit)
  return settings, {
    name: Tensor(value.nbytes, lambda x=value: x)
    for name, value in tensors.items()
  }


def _merged(model: checkpoints.Model) -> dict[str, Tensor]:
  """Returns a model's tensors with merged adapters, by name."""
  sources = model.spec.tensor_sources()
  values = specs.parameters(model.module)
  pairs = adapters.matrices(values, sources)
  lora = model.lora
  scale = 0.0 if lora is None else lora.alpha / lora.rank
  dtype = jnp.dtype(model.spec.dtype)

  def make(path: str, number: int) -> np.ndarray:
    source = sources[path]
    tensor = source.to_tensors(np.asarray(values[path]))[number]
    if (pair := pairs.get(source.names[number])) is not None:
      a, b = (matrix.astype(np.float32) for matrix in pair)
      tensor = tensor.astype(np.float32) + np.float32(scale) * (b @ a)
    return np.ascontiguousarray(tensor, dtype)

  result = {}
  for path, source in sources.items():
    for number, name in enumerate(source.names):
      size = int(np.prod(source.shapes[number])) * dtype.itemsize
      result[name] = Tensor(size, lambda p=path, n=number: make(p, n))
  return result


def _shards(tensors: dict[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
  """Distributes tensors over files; a tensor above the limit gets its own."""
  shards: list[dict[str, Tensor]] = [{}]
  room = limit
  for name, tensor in tensors.items():
    if shards[-1] and tensor.size > room:
      shards.append({})
      room = limit
    shards[-1][name] = tensor
    room -= tensor.size
  return shards


def _generation(model: checkpoints.Model) -> bytes:
  """Returns a `generation_config.json` with the ids that end a turn."""
  tokenizer = model.tokenizer
  ids = {"bos_token_id": tokenizer.bos_id(), "pad_token_id": tokenizer.pad_id()}
  config: dict[str, Any] = {k: v for k, v in ids.items() if v is not None}
  config |= _of_base(model, GENERATION) or {}
  ends = dict.fromkeys((*tokenizer.end_ids, tokenizer.eos_id()))
  return _json(dict(sorted((config | {"eos_token_id": [*ends]}).items())))


def _of_base(model: checkpoints.Model, name: str) -> dict[str, Any] | None:
  """Returns a JSON file of the base model, None if it has no such file.

  The tokenizer of a Hugging Face model has copies of both configs.
  """
  data = model.tokenizer.files().get(f"{hub_tokenizers.FOLDER}/{name}")
  if data is not None:
    try:
      config = json.loads(data)
    except ValueError:
      return None
    return config if isinstance(config, dict) else None
  directory = _base_directory(model)
  if directory is None or not (directory / name).is_file():
    return None
  return files.read_json(directory / name, "config")


def _base_directory(model: checkpoints.Model) -> pathlib.Path | None:
  """Returns the directory of an adapter's base if Hugging Face's, else None."""
  base = model.base
  if base is None or base.path is None:
    return None
  directory = client.find(base.path, base.commit, weights=False).directory
  return directory if hub_loading.is_model(directory) else None


def _json(value: Any) -> bytes:
  return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
