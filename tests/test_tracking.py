"""Tests the metrics sent to TensorBoard and W&B."""

import importlib.util
import sys
import types

import jax
import pytest

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import recorder
from tunix_ttt.train import run_loop


class Recording:
  """A backend that keeps what it is told."""

  def __init__(self):
    self.heard = []
    self.closed = 0

  def log_scalar(self, event, value, **kwargs):
    self.heard.append((event, value, kwargs))

  def close(self):
    self.closed += 1


def test_only_the_trainers_own_metrics_are_heard_until_the_end():
  inner = Recording()
  backend = recorder.FilteredBackend(inner, "sft")
  jax.monitoring.register_scalar_listener(backend.log_scalar)
  jax.monitoring.record_scalar("sft/train/loss", 1.5, step=3)
  jax.monitoring.record_scalar("/jax/orbax/write/gbytes", 0.1)
  jax.monitoring.record_scalar("sft2/loss", 0.1)
  backend.close()
  backend.close()
  jax.monitoring.record_scalar("sft/train/loss", 2.5, step=4)
  assert inner.heard == [("sft/train/loss", 1.5, {"step": 3})]
  assert inner.closed == 1


def test_tensorboard_always_and_wandb_on_request(tmp_path):
  def backends(**settings):
    config = config_lib.LoggingConfig(**settings)
    options = recorder.options(config, tmp_path, "sft")
    return options.backend_kwargs["custom_backend"]

  assert len(backends()) == 1
  assert len(backends(wandb=True)) == 2
  (make,) = backends()
  assert callable(make)
  make().close()
  assert list((tmp_path / "tensorboard").glob("events.*"))


def test_the_page_on_wandb_is_in_the_manifest(tmp_path, monkeypatch, capsys):
  manifest = run_manifest.RunManifest.model_construct(
    run_id="a", sessions=[], wandb_url=None
  )
  run = tmp_path / "a"
  run.mkdir()

  def begin(manifest, tracked):
    wandb = types.SimpleNamespace(run=tracked)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return run_loop.begin_session(manifest, run, 0)

  def tracked(name, url):
    return types.SimpleNamespace(id=name, url=url)

  assert begin(manifest, None).wandb_url is None
  # Another's, in the same notebook; and one that is offline.
  assert begin(manifest, tracked("b", "https://w/b")).wandb_url is None
  assert begin(manifest, tracked("a", "")).wandb_url is None
  assert not capsys.readouterr().out
  found = begin(manifest, tracked("a", "https://w/a"))
  assert found.wandb_url == "https://w/a"
  assert "W&B: https://w/a" in capsys.readouterr().out
  assert (
    '"wandb_url": "https://w/a"' in (run / run_directory.MANIFEST).read_text()
  )
  # Gone on with without W&B.
  assert begin(found, None).wandb_url == "https://w/a"


def test_an_offline_run_has_no_page(tmp_path, monkeypatch):
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  logging = config_lib.LoggingConfig(wandb=True)
  options = recorder.options(logging, tmp_path, "sft")
  backends = options.create_backends()
  try:
    assert recorder.wandb_url(tmp_path) is None
    assert list(tmp_path.glob("wandb/offline-run-*"))
  finally:
    for backend in backends:
      backend.close()


def test_wandb_that_is_not_installed(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  recorder.check(config_lib.LoggingConfig())
  with pytest.raises(errors.UserError, match=r"tunix_ttt\[tracking\]"):
    recorder.check(config_lib.LoggingConfig(wandb=True))
