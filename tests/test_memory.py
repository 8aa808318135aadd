"""What a run with adapters keeps in memory: one backbone."""

from collections.abc import Callable
import gc
from typing import Any

from flax import nnx
import jax
import pytest

from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.evaluate import evaluator
from tunix_ttt.models.families import specs
from tunix_ttt.train import grpo_plan
from tunix_ttt.train import recorder
from tunix_ttt.train import sft

# Large beside the tables of the sampler and the batches.
SETTINGS: dict[str, Any] = {
  "model": {
    "num_layers": 2,
    "embed_dim": 192,
    "hidden_dim": 768,
    "num_heads": 4,
    "num_kv_heads": 4,
    "head_dim": 32,
  },
  "lora": {"rank": 2},
  "data": {"games": {"num_games": 60}},
  "training": {"max_steps": 3, "batch_size": 8, "eval_every_n_steps": 3},
}


@pytest.fixture
def live() -> Callable[[], int]:
  """Counts the bytes of the arrays that the test has made and still holds."""
  gc.collect()
  before = {id(array) for array in jax.live_arrays()}

  def count() -> int:
    gc.collect()
    found = (a for a in jax.live_arrays() if id(a) not in before)
    return sum(array.nbytes for array in found)

  return count


def sizes(module: nnx.Module) -> tuple[int, int]:
  """Returns the bytes of a model without its adapter, and of that."""
  adapter = specs.parameters(module, nnx.LoRAParam)
  whole = specs.parameters(module)
  small = sum(value.nbytes for value in adapter.values())
  return sum(value.nbytes for value in whole.values()) - small, small


@pytest.mark.slow
def test_supervised(live, tmp_path, monkeypatch):
  config = config_lib.load(config_lib.SFTConfig, SETTINGS)
  backbone, small = sizes(sft.plan(config).model.module)
  seen: list[int] = []

  class Watched(recorder.Recorder):
    def train(self, step, loss, metrics):
      seen.append(live())
      super().train(step, loss, metrics)

  monkeypatch.setattr(recorder, "Recorder", Watched)
  recipes.train_sft(config, tmp_path / "run")
  # The adapter and Adam's two moments, with room for a batch.
  assert len(seen) == 3
  assert backbone < seen[-1] < 1.1 * backbone + 4 * small


@pytest.mark.slow
def test_games(live, tmp_path, monkeypatch):
  games = {"num_games": 8, "batch_size": 8, "max_new_tokens": 12}
  config = config_lib.load(
    config_lib.GRPOConfig,
    SETTINGS
    | {"grpo": {"num_generations": 4}, "play": games, "exhaustive_eval": False},
  )
  prepared = grpo_plan.plan(config)
  backbone, small = sizes(prepared.model.module)
  judge: Any = prepared.evaluate
  tables = sum(
    leaf.nbytes
    for leaf in jax.tree.leaves(judge._player._sample._tables)
    if isinstance(leaf, jax.Array)
  )
  seen: list[int] = []
  evaluate = evaluator.Evaluator.__call__

  def watched(self, params, *visit):
    seen.append(live())
    return evaluate(self, params, *visit)

  del prepared, judge
  monkeypatch.setattr(evaluator.Evaluator, "__call__", watched)
  recipes.train_grpo(config, tmp_path / "run")
  # Besides, the tables of the sampler and of the judge.
  assert len(seen) == 2
  assert backbone < seen[-1] < 1.1 * backbone + 4 * small + 2.2 * tables
