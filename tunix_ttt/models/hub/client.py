"""Downloads models from the Hugging Face hub and publishes them there."""

import dataclasses
import os
import pathlib
from typing import Any

import httpx
import huggingface_hub
from huggingface_hub import errors as hub_errors

from tunix_ttt import errors
from tunix_ttt import files

# Pickles and code are never downloaded.
_DESCRIPTION = ("*.json", "*.model", "*.jinja", "merges.txt")
_WEIGHTS = ("*.safetensors",)


@dataclasses.dataclass(frozen=True)
class Location:
  """The location of a model's files.

  Attributes:
    directory: Directory on this machine.
    commit: Commit of the hub's repository; None for a local directory.
  """

  directory: pathlib.Path
  commit: str | None = None


def find(
  name: str, revision: str | None = None, *, weights: bool = True
) -> Location:
  """Returns the location of a directory or hub id, downloading its files.

  Raises:
    errors.UserError: if there is no such model, or it cannot be reached.
  """
  directory = pathlib.Path(name)
  # pathlib's `is_dir` raises an error if the name is too long.
  if os.path.isdir(directory):
    return Location(directory)
  if not files.is_hub_id(name):
    raise errors.UserError(
      f"{name}: no such model directory, and no id of the Hugging Face hub"
    )
  patterns = [*_DESCRIPTION, *(_WEIGHTS if weights else ())]
  path = pathlib.Path(_download(name, revision, patterns))
  # The hub's cache names a snapshot's directory by its commit.
  return Location(path, path.name)


def _download(name: str, revision: str | None, patterns: list[str]) -> Any:
  where = name if revision is None else f"{name} at {revision}"
  try:
    return huggingface_hub.snapshot_download(
      name, revision=revision, allow_patterns=patterns
    )
  except hub_errors.GatedRepoError:
    reason = (
      "its terms must be accepted; accept the terms on its hub page and set"
      " HF_TOKEN"
    )
  except hub_errors.RevisionNotFoundError:
    reason = "there is no such revision"
  except hub_errors.RepositoryNotFoundError:
    reason = "it does not exist, or is private and HF_TOKEN is not set"
  except (hub_errors.HfHubHTTPError, OSError):
    # After a network error, the hub's library raises one of its local cache.
    reason = (
      "it is not in the local cache and the Hugging Face hub cannot be reached;"
      " check the network, or give a directory"
    )
  raise errors.UserError(f"{where}: {reason}")


def check_new_name(name: str) -> None:
  """Raises a UserError unless a name is valid for a new repository."""
  if not files.is_hub_id(name):
    raise errors.UserError(
      f"{name}: not a name for a repository on the Hugging Face hub; expected"
      " a name such as your-name/tictactoe"
    )


def publish(directory: pathlib.Path, name: str, *, private: bool) -> str:
  """Uploads a directory to a new repository and returns its URL.

  The token is the environment's `HF_TOKEN` or the one of `hf auth login`.

  Raises:
    errors.UserError: if the hub refuses it or cannot be reached.
  """
  api = huggingface_hub.HfApi()
  advice = (
    f"{directory} is written; upload it with: hf upload {name} {directory}"
  )
  try:
    url = api.create_repo(name, private=private, exist_ok=False)
  except (httpx.HTTPError, OSError) as error:
    raise errors.UserError(f"{name}: {_refusal(error)}. {advice}") from None
  try:
    api.upload_folder(
      repo_id=name, folder_path=directory, commit_message="Add the model"
    )
  except (httpx.HTTPError, OSError) as error:
    raise errors.UserError(
      f"{name}: the repository was made, and is empty: {_refusal(error)}."
      f" {advice}"
    ) from None
  return str(url)


def _refusal(error: Exception) -> str:
  """Explains an error of the hub without repeating the request's contents."""
  response = getattr(error, "response", None)
  if response is None:
    return "the Hugging Face hub cannot be reached; check the network"
  reasons = {
    401: "no valid token; set HF_TOKEN, or run: hf auth login",
    403: "the token has no right to write there",
    409: "it exists already and is never written over; choose another name",
  }
  code = response.status_code
  return reasons.get(code, f"the Hugging Face hub answers with status {code}")
