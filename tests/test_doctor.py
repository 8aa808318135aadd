"""Descriptions of a machine by the doctor."""

import re
import shutil

import pytest

from tests import conftest
from tunix_ttt import doctor
from tunix_ttt.models import speeds

LIMITS = speeds.Ceilings(bytes_per_second=1e12, flops_per_second=1e14)


def test_seconds_of_a_step():
  # A thousand million parameters: 2e-5 s a token and game, 2e-3 s to read weights.
  one = doctor.step_seconds(10**9, 1, LIMITS)
  turn = 64 * 2e-3 + 200 * 2e-5 + 3 * 264 * 2e-5
  assert one == pytest.approx(doctor.TURNS * turn)
  # With many games arithmetic is what counts.
  many = doctor.step_seconds(10**9, 1000, LIMITS)
  turn = (64 + 200 + 3 * 264) * 2e-2
  assert many == pytest.approx(doctor.TURNS * turn)


@pytest.mark.slow
def test_what_fits():
  name = doctor.MODELS[0]
  most = doctor.fit(name, 10**12, LIMITS)
  assert most.games == 256 and 4e8 < most.parameters < 7e8
  less = doctor.fit(name, most.bytes - 1, LIMITS)
  assert less.games == 128 and less.bytes < most.bytes
  none = doctor.fit(name, 0, LIMITS)
  assert none.games == 0 and none.bytes <= less.bytes


def test_a_gpu_that_jax_does_not_see(monkeypatch):
  monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
  assert "tunix_ttt[cuda12]" in "".join(doctor.advice())


def test_it_describes_this_machine(run, monkeypatch):
  monkeypatch.setattr(doctor, "MODELS", doctor.MODELS[:1])
  code, out, _ = run(conftest.ROOT / "training" / "doctor.py")
  assert code == 0
  for pattern in (
    r"^versions  python 3\.\d+.*, jax \d",
    r"^devices   2 x cpu",
    r"^ceilings  \d+\.\d\d TFLOP/s of bfloat16 products, \d+ GB/s",
    r"^decoding  \d+\.\d\d ms a token",
    r"^Qwen/Qwen2.5-0.5B-Instruct +(\d+|none fit) +\d+\.\d GiB",
    r"^- 2 devices: mesh\.fsdp=auto",
  ):
    assert re.search(pattern, out, re.MULTILINE), (pattern, out)
