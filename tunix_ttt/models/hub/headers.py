"""Reads the headers of weight files; no tensor is read."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np
import safetensors

from tunix_ttt import errors
from tunix_ttt import files

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Python's pickles, which run whatever code they hold.
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# What `load` can make the two dtypes of `ModelSpec` of.
DTYPES = ("F32", "BF16", "F16")

_ROWS = 1024
# Numbers of a tensor that are looked at together.
_PART = 1 << 22
# The bits of bfloat16's exponent; all of them are set where it is not finite.
_EXPONENT = 0x7F80


@dataclasses.dataclass(frozen=True)
class Header:
  """A tensor in a file.

  Attributes:
    path: the file.
    dtype: as safetensors names it: F32, BF16, ...
    shape: its shape.
  """

  path: pathlib.Path
  dtype: str
  shape: tuple[int, ...]


def read(directory: pathlib.Path) -> dict[str, Header]:
  """Returns the header of every tensor in a model directory.

  Raises:
    errors.UserError: if there are no weights in safetensors' format, a file is
      damaged, or the index and the files differ.
  """
  headers: dict[str, Header] = {}
  for path in weight_files(directory):
    for name, header in read_file(path).items():
      if name in headers:
        raise errors.UserError(
          f"{path}: {name} is also in {headers[name].path.name}"
        )
      headers[name] = header
  if (directory / INDEX).is_file():
    _check_index(directory / INDEX, headers)
  return headers


def read_file(path: pathlib.Path) -> dict[str, Header]:
  """Returns the header of every tensor in a file.

  Raises:
    errors.UserError: if it is damaged.
  """
  try:
    with safetensors.safe_open(path, "numpy") as file:
      names = list(file.keys())
      slices = {name: file.get_slice(name) for name in names}
      return {
        name: Header(path, part.get_dtype(), tuple(part.get_shape()))
        for name, part in slices.items()
      }
  except (safetensors.SafetensorError, OSError) as error:
    raise errors.UserError(
      f"{path}: cannot read this weight file: {error}; it is damaged or was not"
      " fetched whole"
    ) from None


def weight_files(directory: pathlib.Path) -> list[pathlib.Path]:
  """Lists a model directory's weight files by name.

  Raises:
    errors.UserError: if there are none, one that the index names is missing,
      or there are others beside them.
  """
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
  # Tunix's loader reads whatever files there are.
  for path in sorted(directory.glob("*.safetensors")):
    if path.name not in names:
      raise errors.UserError(
        f"{path}: not one of this model's weight files ({', '.join(names)});"
        " move it elsewhere"
      )
  return [directory / name for name in names]


def check(
  headers: Mapping[str, Header],
  shapes: Mapping[str, Sequence[int]],
  where: pathlib.Path,
) -> None:
  """Compares the tensors that there are with those that a model needs.

  Args:
    headers: Headers of the tensors in the files.
    shapes: Shapes of the tensors that the model has, by name.
    where: the model directory.

  Raises:
    errors.UserError: at the first that is missing, unknown, or of another
      shape or a dtype that cannot be read.
  """
  dtypes: dict[pathlib.Path, str] = {}
  for name in sorted(shapes.keys() | headers.keys()):
    if name not in headers:
      raise errors.UserError(
        f"{where}: the tensor {name}, {list(shapes[name])}, is in none of its"
        " weight files"
      )
    header = headers[name]
    problem = None
    if name not in shapes:
      problem = "the model has no such tensor"
    elif header.shape != tuple(shapes[name]):
      problem = (
        f"has shape {list(header.shape)}, the model needs {list(shapes[name])}"
      )
    elif header.dtype not in DTYPES:
      problem = f"has dtype {header.dtype}, expected one of {', '.join(DTYPES)}"
    # Tunix's loader reads a file as if all of it had the first one's dtype.
    elif dtypes.setdefault(header.path, header.dtype) != header.dtype:
      problem = (
        f"has dtype {header.dtype}, others of this file {dtypes[header.path]};"
        " save the model in one dtype"
      )
    if problem is not None:
      raise errors.UserError(f"{header.path}: the tensor {name}: {problem}")


def check_finite(path: pathlib.Path, name: str, values: np.ndarray) -> None:
  """Raises a UserError if a tensor has NaN or infinite values.

  Args:
    path: the file, for the message.
    name: the tensor's name.
    values: the tensor; a part at a time is looked at.
  """
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


def are_equal(headers: Mapping[str, Header], one: str, other: str) -> bool:
  """Returns whether two matrices have the same bytes; reads a part at a time."""
  a, b = headers[one], headers[other]
  if (a.dtype, a.shape) != (b.dtype, b.shape):
    return False
  with (
    safetensors.safe_open(a.path, "numpy") as a_file,
    safetensors.safe_open(b.path, "numpy") as b_file,
  ):
    left, right = a_file.get_slice(one), b_file.get_slice(other)
    rows = a.shape[0]
    parts = [
      slice(start, min(start + _ROWS, rows)) for start in range(0, rows, _ROWS)
    ]
    return all(left[x].tobytes() == right[x].tobytes() for x in parts)


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


def _check_index(index: pathlib.Path, headers: Mapping[str, Header]) -> None:
  weights = _weight_map(index)
  for name in sorted(weights.keys() | headers.keys()):
    stated = weights.get(name)
    found = headers[name].path.name if name in headers else None
    if stated != found:
      raise errors.UserError(
        f"{index}: the tensor {name} is said to be in {stated}, but is in"
        f" {found}"
      )
