"""Models from directories that transformers saved, by Tunix's loader."""

from collections.abc import Iterator, Mapping
import functools
import hashlib
import pathlib
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from tunix.models import safetensors_loader

from tunix_ttt import errors
from tunix_ttt.models import meshes
from tunix_ttt.models.families import builders
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import headers
from tunix_ttt.models.hub import hub_config as config_lib
from tunix_ttt.models.hub import names

_CHUNK = 1 << 22


def load(
  directory: pathlib.Path,
  *,
  dtype: config_lib.Dtype | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[nnx.Module, specs.ModelSpec]:
  """Returns the model in a directory, and its architecture.

  Parameters hold the file's values, in another order of axes and perhaps
  another dtype; `names.table` is the way back. One tensor at a time is copied
  on the host.

  Args:
    directory: with `config.json` and weights in safetensors' format.
    dtype: Type of parameters and computation; None for bfloat16 on an
      accelerator and float32 on a CPU.
    mesh: with axes `fsdp` and `tp`, over which each parameter is placed as
      Tunix would have it; None for one device.

  Raises:
    errors.UserError: if Tunix has no such model, or the weights are not
      exactly its own or not finite.
  """
  dtype = dtype or default_dtype()
  architecture, spec = config_lib.read(directory, dtype)
  table = names.table(spec, architecture.prefix)
  found = _check_headers(directory, architecture, spec, table)
  faults: list[errors.UserError] = []
  module = safetensors_loader.load_and_create_model(
    str(directory.absolute()),
    lambda _, rngs: _build(spec, rngs, mesh),
    config=None,
    # Tensors keep their names, for `_Parameters` to find.
    key_mapping=lambda _: {"(.+)": (r"\1", None)},
    mesh=mesh,
    preprocess_fn=functools.partial(_Parameters, table, found, faults),
    dtype=jnp.dtype(dtype),
    mode="optimized",
  )
  if faults:
    raise faults[0]
  return module, spec


def _build(
  spec: specs.ModelSpec, rngs: nnx.Rngs, mesh: jax.sharding.Mesh | None
) -> nnx.Module:
  module = builders.build(spec, rngs)
  if mesh is not None:
    meshes.mark(module, mesh)
  return module


def is_model(directory: pathlib.Path) -> bool:
  """Returns whether a directory is of Hugging Face's kind."""
  return (directory / config_lib.CONFIG).is_file()


def default_dtype() -> config_lib.Dtype:
  """Returns the dtype of a model for which none is asked."""
  return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def revision(directory: pathlib.Path) -> str:
  """Returns the SHA-256 of a directory's config and weight files.

  Raises:
    errors.UserError: if there are none.
  """
  digest = hashlib.sha256()
  config = directory / config_lib.CONFIG
  for path in [config, *headers.weight_files(directory)]:
    try:
      digest.update(f"{path.name} {path.stat().st_size}\n".encode())
      with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
          digest.update(chunk)
    except OSError as error:
      raise errors.UserError(
        f"{path}: cannot read this file: {error.strerror}"
      ) from None
  return digest.hexdigest()


class _Parameters(Mapping[str, np.ndarray]):
  """Makes each parameter when Tunix's loader takes it, and keeps none."""

  def __init__(
    self,
    table: dict[str, names.Source],
    found: dict[str, headers.Header],
    faults: list[errors.UserError],
    tensors: dict[str, np.ndarray],
  ):
    self._table, self._found, self._tensors = table, found, tensors
    self._faults = faults

  def __getitem__(self, path: str) -> np.ndarray:
    source = self._table[path]
    for name in source.names:
      try:
        headers.check_finite(self._found[name].path, name, self._tensors[name])
      except errors.UserError as fault:
        # Raised after loading: Tunix's loader would leave files open.
        self._faults.append(fault)
    return source.to_parameter([self._tensors[name] for name in source.names])

  def __contains__(self, path: Any) -> bool:
    return path in self._table

  def __iter__(self) -> Iterator[str]:
    return iter(self._table)

  def __len__(self) -> int:
    return len(self._table)


def _check_headers(
  directory: pathlib.Path,
  architecture: config_lib.Architecture,
  spec: specs.ModelSpec,
  table: dict[str, names.Source],
) -> dict[str, headers.Header]:
  """Returns the headers of a model's tensors, checked against its shapes."""
  shapes = {
    name: shape
    for source in table.values()
    for name, shape in zip(source.names, source.shapes, strict=True)
  }
  found = headers.read(directory)
  # They have no part in the model, and the dtype of their file all the same.
  for name in found:
    if name.startswith(architecture.ignored):
      shapes[name] = found[name].shape
  # Some save the head of a tied model as well; it must be the embedding.
  has_both = spec.tied_embedding and names.HEAD in found
  if has_both:
    shapes[names.HEAD] = (spec.vocab_size, spec.embed_dim)
  headers.check(found, shapes, directory)
  embedding = architecture.prefix + names.EMBEDDING
  if has_both and not headers.are_equal(found, names.HEAD, embedding):
    raise errors.UserError(
      f"{found[names.HEAD].path}: the tensor {names.HEAD} is not {embedding},"
      f" though {config_lib.CONFIG} says tie_word_embeddings; correct it there"
      " or remove the tensor"
    )
  return found
