"""Downloads models from the Hugging Face hub and publishes them there."""

import os
import pathlib
from typing import NamedTuple

import httpx
import huggingface_hub
from huggingface_hub import errors as hub_errors

from tunix_ttt import errors
from tunix_ttt import files

# Pickles and code are never downloaded.
_DESCRIPTION = ("*.json", "*.model", "*.jinja", "merges.txt")
_WEIGHTS = ("*.safetensors",)


class Location(NamedTuple):
  """A directory; `commit` is the hub repository's, None for a local model."""

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
  try:
    path = huggingface_hub.snapshot_download(
      name, revision=revision, allow_patterns=patterns
    )
    # The hub's cache names a snapshot's directory by its commit.
    return Location(pathlib.Path(path), pathlib.Path(path).name)
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
  where = name if revision is None else f"{name} at {revision}"
  raise errors.UserError(f"{where}: {reason}")


def check_new_name(name: str) -> None:
  """Raises a UserError unless a name is valid for a new repository."""
  if not files.is_hub_id(name):
    raise errors.UserError(
      f"{name}: not a name for a repository on the Hugging Face hub; expected"
      " a name such as your-name/my-model"
    )


def publish(directory: pathlib.Path, name: str, *, private: bool) -> str:
  """Uploads a directory to a new repository and returns its URL.

  The token is the environment's `HF_TOKEN` or the one of `hf auth login`.

  Raises:
    errors.UserError: if the hub refuses it or cannot be reached.
  """
  api, problem = huggingface_hub.HfApi(), ""
  try:
    url = api.create_repo(name, private=private, exist_ok=False)
    problem = "the repository was made, and is empty: "
    api.upload_folder(
      repo_id=name, folder_path=directory, commit_message="Add the model"
    )
    return str(url)
  except (httpx.HTTPError, OSError) as error:
    # The text of the error may repeat the request's contents.
    code = getattr(getattr(error, "response", None), "status_code", None)
    reasons = {
      None: "the Hugging Face hub cannot be reached; check the network",
      401: "no valid token; set HF_TOKEN, or run: hf auth login",
      403: "the token has no right to write there",
      409: "it exists already and is never written over; choose another name",
    }
    status = f"the Hugging Face hub answers with status {code}"
    raise errors.UserError(
      f"{name}: {problem}{reasons.get(code, status)}. {directory} is written;"
      f" upload it with: hf upload {name} {directory}"
    ) from None
