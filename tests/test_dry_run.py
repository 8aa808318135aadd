"""Tests dry runs of published models, without network or weights."""

import re

import pytest

from tests import conftest
from tunix_ttt import config as config_lib
from tunix_ttt import dry_run

# Parameters of the model, as its card says, and what the config is meant for.
PUBLISHED = {
  "sft_qwen2.5_0.5b": (494_032_768, 24),
  "sft_gemma3_1b": (999_885_952, 24),
  "grpo_qwen2.5_0.5b": (494_032_768, 24),
  "grpo_gemma2_2b": (2_614_341_888, 24),
  "grpo_qwen2.5_7b": (7_615_616_512, 80),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models(name, monkeypatch, tmp_path):
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
  path = conftest.ROOT / "configs" / f"{name}.yaml"
  text = dry_run.describe(config_lib.load_any(path))
  size, device = PUBLISHED[name]
  whole, trained = (
    int(number.replace(",", ""))
    for number in re.findall(r"([\d,]+) (?:parameters|trained)", text)
  )
  # Gemma 2's embedding is padded to a multiple of 256 in Tunix.
  assert 0 <= whole - trained - size < 300_000
  assert 0.002 < trained / whole < 0.03
  (total,) = re.findall(r"in all +([\d.]+) GiB", text)
  assert 1 < float(total) < 0.8 * device
