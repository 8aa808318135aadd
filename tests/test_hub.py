"""Finding models by name."""

import httpx
import huggingface_hub
from huggingface_hub import errors as hub_errors
import pytest

from tunix_ttt import errors
from tunix_ttt.models.hub import client

RESPONSE = httpx.Response(404, request=httpx.Request("GET", "https://x"))


def test_a_directory_is_itself(tmp_path):
  assert client.find(str(tmp_path)) == client.Location(tmp_path)


def test_neither_directory_nor_id(tmp_path, monkeypatch):
  (tmp_path / "empty").mkdir()
  monkeypatch.chdir(tmp_path / "empty")
  for name in ("nowhere", "a/b/c", "../x", "a/../b", ".hidden/x", "a b/c"):
    with pytest.raises(
      errors.UserError, match="no such model directory, and no id"
    ):
      client.find(name)


@pytest.mark.parametrize(
  ("error", "message"),
  [
    (
      hub_errors.GatedRepoError("x", response=RESPONSE),
      "terms must be accepted",
    ),
    (
      hub_errors.RepositoryNotFoundError("x", response=RESPONSE),
      "it does not exist, or is private",
    ),
    (
      hub_errors.RevisionNotFoundError("x", response=RESPONSE),
      "org/m at v1: there is no such revision",
    ),
    (hub_errors.LocalEntryNotFoundError("x"), "hub cannot be reached"),
    (ConnectionError("x"), "hub cannot be reached"),
  ],
)
def test_what_the_hub_refuses(monkeypatch, error, message):
  def download(*arguments, **settings):
    raise error

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  with pytest.raises(errors.UserError, match=message):
    client.find("org/m", "v1")


def test_no_network(monkeypatch, tmp_path):
  """The hub's own library, with an empty cache."""
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
  with pytest.raises(errors.UserError, match="hub cannot be reached"):
    client.find("org/m")


def test_what_is_downloaded(monkeypatch, tmp_path):
  asked = {}

  def download(name, *, revision, allow_patterns):
    asked.update(name=name, revision=revision, patterns=allow_patterns)
    path = tmp_path / "snapshots" / "0123abc"
    path.mkdir(parents=True, exist_ok=True)
    return str(path)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
  found = client.find("org/m", "main")
  assert found.commit == "0123abc"
  assert (asked["name"], asked["revision"]) == ("org/m", "main")
  assert "*.safetensors" in asked["patterns"]
  assert not any("bin" in p or "py" in p for p in asked["patterns"])
  client.find("org/m", weights=False)
  assert "*.safetensors" not in asked["patterns"]
