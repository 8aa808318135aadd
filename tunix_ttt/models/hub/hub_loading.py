"""Loads models that transformers saved, with Tunix's safetensors loader."""

from collections.abc import Mapping, Sequence
import hashlib
import pathlib
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from tunix.models import safetensors_loader

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.models import meshes
from tunix_ttt.models.families import family as family_lib
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import hub_config

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Pickles run any code that they contain.
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Types that `load` can convert to the types of `ModelSpec`.
_DTYPES = ("F32", "BF16", "F16")

# Rows of a matrix that are compared together.
_ROWS = 1024
# Values of a tensor that are checked together.
_PART = 1 << 22
# Exponent bits of bfloat16, all set in NaN and infinity.
_EXPONENT = 0x7F80


class Header(NamedTuple):
  """The file, the type as safetensors names it, and the shape of a tensor."""

  path: pathlib.Path
  dtype: str
  shape: tuple[int, ...]


def load(
  directory: pathlib.Path,
  *,
  dtype: hub_config.Dtype | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[nnx.Module, specs.ModelSpec]:
  """Loads a model and its architecture from a directory.

  Parameters hold the file's values, with their axes permuted and perhaps in
  another dtype; `ModelSpec.tensor_sources` maps them back. The host holds a
  copy of one tensor at a time.

  Args:
    directory: Directory with `config.json` and safetensors weights.
    dtype: Type of parameters and computation; None for `default_dtype`.
    mesh: Mesh to place the parameters on; None for one device.

  Raises:
    errors.UserError: if Tunix has no such model, or the weights do not match
      its parameters or are not finite.
  """
  dtype = dtype or default_dtype()
  hub_class, spec = hub_config.read(directory, dtype)
  sources = spec.tensor_sources(hub_class.tensors)
  headers = _check_headers(directory, hub_class, spec, sources)
  faults: list[errors.UserError] = []

  class Parameters:
    """Makes each parameter when Tunix's loader reads it, and keeps none."""

    def __init__(self, tensors: dict[str, np.ndarray]):
      self._tensors = tensors

    def __contains__(self, path: str) -> bool:
      return path in sources

    def __getitem__(self, path: str) -> np.ndarray:
      tensors = {name: self._tensors[name] for name in sources[path].names}
      for name, tensor in tensors.items():
        try:
          check_finite(headers[name].path, name, tensor)
        except errors.UserError as fault:
          # Raised after loading: Tunix's loader would leave files open.
          faults.append(fault)
      return sources[path].to_parameter([*tensors.values()])

  def build(_: Any, rngs: nnx.Rngs) -> nnx.Module:
    module = spec.traits.build(spec, rngs)
    if mesh is not None:
      meshes.mark(module, mesh)
    return module

  module = safetensors_loader.load_and_create_model(
    str(directory.absolute()),
    build,
    config=None,
    # `Parameters` finds tensors by their original names.
    key_mapping=lambda _: {"(.+)": (r"\1", None)},
    mesh=mesh,
    preprocess_fn=Parameters,
    dtype=jnp.dtype(dtype),
    mode="optimized",
  )
  if faults:
    raise faults[0]
  return module, spec


def is_model(directory: pathlib.Path) -> bool:
  """Returns whether a directory holds a Hugging Face model."""
  return (directory / hub_config.CONFIG).is_file()


def default_dtype() -> hub_config.Dtype:
  """Returns float32 on a CPU, and bfloat16 on an accelerator."""
  return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def revision(directory: pathlib.Path) -> str:
  """Returns the SHA-256 of a directory's config and weight files."""
  digest = hashlib.sha256()
  config = directory / hub_config.CONFIG
  for path in [config, *_weight_files(directory)]:
    try:
      digest.update(f"{path.name} {path.stat().st_size}\n".encode())
      with path.open("rb") as file:
        hashlib.file_digest(file, lambda: digest)
    except OSError as error:
      raise errors.UserError(
        f"{path}: cannot read this file: {error.strerror}"
      ) from None
  return digest.hexdigest()


def read_headers(path: pathlib.Path) -> dict[str, Header]:
  """Returns the header of every tensor in a file, or raises a UserError."""
  try:
    with safetensors.safe_open(path, "numpy") as file:
      slices = {name: file.get_slice(name) for name in list(file.keys())}
      return {
        name: Header(path, part.get_dtype(), tuple(part.get_shape()))
        for name, part in slices.items()
      }
  except (safetensors.SafetensorError, OSError) as error:
    raise errors.UserError(
      f"{path}: cannot read this weight file: {error}; it is damaged or was not"
      " fetched whole"
    ) from None


def tensor_shapes(
  sources: Mapping[str, family_lib.Source],
) -> dict[str, tuple[int, ...]]:
  """Returns the shape of each transformers tensor of some parameters."""
  return {
    name: shape
    for source in sources.values()
    for name, shape in zip(source.names, source.shapes, strict=True)
  }


def check(
  headers: Mapping[str, Header],
  shapes: Mapping[str, Sequence[int]],
  where: pathlib.Path,
) -> None:
  """Raises a UserError at the first tensor that is not the model's.

  It may be missing or unknown, or have another shape or an unsupported dtype.
  """
  dtypes: dict[pathlib.Path, str] = {}
  for name in sorted(shapes.keys() | headers.keys()):
    if name not in headers:
      raise errors.UserError(
        f"{where}: the tensor {name}, {list(shapes[name])}, is in none of its"
        " weight files"
      )
    path, dtype, shape = headers[name]
    problem = None
    if name not in shapes:
      problem = "the model has no such tensor"
    elif shape != tuple(shapes[name]):
      problem = f"has shape {list(shape)}, the model needs {list(shapes[name])}"
    elif dtype not in _DTYPES:
      problem = f"has dtype {dtype}, expected one of {', '.join(_DTYPES)}"
    # Tunix's loader reads a whole file in the dtype of its first tensor.
    elif dtypes.setdefault(path, dtype) != dtype:
      problem = (
        f"has dtype {dtype}, others of this file {dtypes[path]}; save the model"
        " in one dtype"
      )
    if problem is not None:
      raise errors.UserError(f"{path}: the tensor {name}: {problem}")


def check_finite(path: pathlib.Path, name: str, values: np.ndarray) -> None:
  """Raises a UserError if the tensor `name` has NaN or infinite values."""
  flat = np.asarray(values).reshape(-1)
  for start in range(0, flat.size, _PART):
    part = flat[start : start + _PART]
    if part.dtype.name == "bfloat16":
      # NumPy's own loops over bfloat16 are slow.
      is_finite = part.view(np.uint16) & _EXPONENT != _EXPONENT
    else:
      is_finite = np.isfinite(part)
    if not is_finite.all():
      raise errors.UserError(
        f"{path}: the tensor {name} has NaN or infinite values; the file is"
        " damaged, or the training that made it diverged"
      )


def _check_headers(
  directory: pathlib.Path,
  hub_class: family_lib.HubClass,
  spec: specs.ModelSpec,
  sources: dict[str, family_lib.Source],
) -> dict[str, Header]:
  """Returns the headers of a model's tensors, checked against its shapes."""
  headers: dict[str, Header] = {}
  for path in _weight_files(directory):
    for name, header in read_headers(path).items():
      if name in headers:
        raise errors.UserError(
          f"{path}: {name} is also in {headers[name].path.name}"
        )
      headers[name] = header
  index = directory / INDEX
  if index.is_file():
    weight_map = _weight_map(index)
    for name in sorted(weight_map.keys() | headers.keys()):
      stated = weight_map.get(name)
      actual = headers[name].path.name if name in headers else None
      if stated != actual:
        raise errors.UserError(
          f"{index}: the tensor {name} is said to be in {stated}, but is in"
          f" {actual}"
        )
  shapes = tensor_shapes(sources)
  # The dtype of ignored tensors is checked, too.
  for name in headers:
    if name.startswith(hub_class.ignored):
      shapes[name] = headers[name].shape
  # A tied model may also save its head, which must equal the embedding.
  head = family_lib.HEAD
  has_both = spec.tied_embedding and head in headers
  if has_both:
    shapes[head] = (spec.vocab_size, spec.embed_dim)
  check(headers, shapes, directory)
  embedding = hub_class.tensors + family_lib.EMBEDDING
  if has_both and not _are_equal(headers, head, embedding):
    raise errors.UserError(
      f"{headers[head].path}: the tensor {head} is not {embedding},"
      f" though {hub_config.CONFIG} says tie_word_embeddings; correct it there"
      " or remove the tensor"
    )
  return headers


def _weight_files(directory: pathlib.Path) -> list[pathlib.Path]:
  """Lists a model directory's weight files by name, and refuses others."""
  index = directory / INDEX
  if index.is_file():
    names = sorted(set(_weight_map(index).values()))
    for name in names:
      if not (directory / name).is_file():
        raise errors.UserError(
          f"{directory / name}: this file is missing, which {INDEX} names"
        )
  elif (directory / SINGLE).is_file():
    names = [SINGLE]
  else:
    pickles = [
      path.name for kind in _PICKLES for path in sorted(directory.glob(kind))
    ]
    raise errors.UserError(
      f"{directory / pickles[0]}: weights as a pickle are never opened, as"
      f" pickles run the code they hold; save the model as {SINGLE}"
      if pickles
      else f"{directory}: it has neither {SINGLE} nor {INDEX}"
    )
  # Tunix's loader would read all weight files in the directory.
  for path in sorted(directory.glob("*.safetensors")):
    if path.name not in names:
      raise errors.UserError(
        f"{path}: not one of this model's weight files ({', '.join(names)});"
        " move it elsewhere"
      )
  return [directory / name for name in names]


def _weight_map(index: pathlib.Path) -> dict[str, str]:
  weights: Any = files.read_json(index, "index of weights").get("weight_map")
  if not isinstance(weights, dict) or not weights:
    raise errors.UserError(f"{index}: it has no weight_map")
  for name, file in weights.items():
    if (
      not isinstance(file, str)
      or pathlib.PurePath(file).name != file
      or "\\" in file
      or not file.endswith(".safetensors")
    ):
      raise errors.UserError(
        f"{index}: {name} is in {file!r}, which is not the name of a"
        " .safetensors file beside it"
      )
  return weights


def _are_equal(headers: dict[str, Header], first: str, second: str) -> bool:
  """Returns whether two matrices have the same bytes; reads them in parts."""
  a, b = headers[first], headers[second]
  if (a.dtype, a.shape) != (b.dtype, b.shape):
    return False
  with (
    safetensors.safe_open(a.path, "numpy") as a_file,
    safetensors.safe_open(b.path, "numpy") as b_file,
  ):
    x, y = a_file.get_slice(first), b_file.get_slice(second)
    size = a.shape[0]
    parts = [slice(n, min(n + _ROWS, size)) for n in range(0, size, _ROWS)]
    return all(x[part].tobytes() == y[part].tobytes() for part in parts)
