"""The Hugging Face hub: finding models by name, and publishing them."""

import dataclasses
import os
import pathlib
from typing import Any

import httpx
import huggingface_hub
from huggingface_hub import errors as hub_errors

from tunix_ttt import errors
from tunix_ttt import files

# What describes a model, and what it is made of. Nothing else is downloaded:
# no pickles, no code.
_DESCRIPTION = ("*.json", "*.model", "*.jinja", "merges.txt")
_WEIGHTS = ("*.safetensors",)


@dataclasses.dataclass(frozen=True)
class Found:
  """The location of a model's files.

  Attributes:
    directory: on this machine.
    commit: Commit of the hub's repository; None for a directory.
  """

  directory: pathlib.Path
  commit: str | None = None


def find(
  name: str, revision: str | None = None, *, weights: bool = True
) -> Found:
  """Returns a model's files, downloading them if need be.

  Args:
    name: a directory, or a hub id.
    revision: Branch, tag or commit of the hub's repository.
    weights: whether the weights are needed, or its description alone.

  Raises:
    errors.UserError: if there is no such model, or it cannot be reached.
  """
  directory = pathlib.Path(name)
  # Unlike pathlib's, it is false for a name that is too long.
  if os.path.isdir(directory):
    return Found(directory)
  if not files.is_hub_id(name):
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


def check_new_name(name: str) -> None:
  """Raises a UserError unless a name can be one of a new repository."""
  if not files.is_hub_id(name):
    raise errors.UserError(
      f"{name}: not a name for a repository on the Hugging Face hub; expected"
      " one such as your-name/tictactoe"
    )


def publish(directory: pathlib.Path, name: str, *, private: bool) -> str:
  """Makes a repository of a directory's files.

  The token is the environment's `HF_TOKEN` or that of the hub's own login.

  Args:
    directory: what to upload, all of it.
    name: Name of the repository, which must not exist.
    private: whether others cannot see it.

  Returns:
    The repository's address.

  Raises:
    errors.UserError: if the hub refuses it or cannot be reached.
  """
  api = huggingface_hub.HfApi()
  kept = f"{directory} is written; upload it with: hf upload {name} {directory}"
  try:
    address = api.create_repo(name, private=private, exist_ok=False)
  except (httpx.HTTPError, OSError) as error:
    raise errors.UserError(f"{name}: {_refusal(error)}. {kept}") from None
  try:
    api.upload_folder(
      repo_id=name, folder_path=directory, commit_message="Add the model"
    )
  except (httpx.HTTPError, OSError) as error:
    raise errors.UserError(
      f"{name}: the repository was made, and is empty: {_refusal(error)}. {kept}"
    ) from None
  return str(address)


def _refusal(error: Exception) -> str:
  """Says why the hub did not do something; nothing that it was sent."""
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
