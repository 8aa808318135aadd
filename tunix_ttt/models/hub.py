"""Models by name: a directory, or an id of the Hugging Face hub."""

import dataclasses
import pathlib
import re
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors

from tunix_ttt import errors

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What describes a model, and what it is made of. Nothing else is downloaded:
# no pickles, no code.
_DESCRIPTION = ("*.json", "*.model", "*.jinja", "merges.txt")
_WEIGHTS = ("*.safetensors",)


@dataclasses.dataclass(frozen=True)
class Found:
  """Where a model's files are.

  Attributes:
    directory: on this machine.
    commit: of the hub's repository; None for a directory.
  """

  directory: pathlib.Path
  commit: str | None = None


def is_id(name: str) -> bool:
  """Returns whether a name has the form of a hub id, such as Qwen/Qwen3-0.6B."""
  return _ID.fullmatch(name) is not None


def find(
  name: str, revision: str | None = None, *, weights: bool = True
) -> Found:
  """Returns a model's files, downloading them if need be.

  Args:
    name: a directory, or a hub id.
    revision: of the hub's repository: a branch, tag or commit.
    weights: whether the weights are needed, or its description alone.

  Raises:
    errors.UserError: if there is no such model, or it cannot be reached.
  """
  directory = pathlib.Path(name)
  if directory.is_dir():
    return Found(directory)
  if not is_id(name):
    raise errors.UserError(
      f"{name}: no such model directory, and no id of the Hugging Face hub"
    )
  patterns = [*_DESCRIPTION, *(_WEIGHTS if weights else ())]
  path = pathlib.Path(_download(name, revision, patterns))
  # The hub keeps a snapshot under its commit.
  return Found(path, path.name)


def _download(name: str, revision: str | None, patterns: list[str]) -> Any:
  where = name if revision is None else f"{name} at {revision}"
  try:
    return huggingface_hub.snapshot_download(
      name, revision=revision, allow_patterns=patterns
    )
  except hub_errors.GatedRepoError:
    reason = (
      "it asks for its terms to be accepted; do so on its page on the hub, and set"
      " HF_TOKEN"
    )
  except hub_errors.RevisionNotFoundError:
    reason = "there is no such revision"
  except hub_errors.RepositoryNotFoundError:
    reason = "it does not exist, or is private and HF_TOKEN is not set"
  except (hub_errors.HfHubHTTPError, OSError):
    # Of the network's many errors, the last one is of the local cache.
    reason = (
      "it is not in the local cache and the Hugging Face hub cannot be reached;"
      " check the network, or give a directory"
    )
  raise errors.UserError(f"{where}: {reason}")
