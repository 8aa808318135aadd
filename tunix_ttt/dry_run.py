"""Validates a config and describes its run, from shapes and without weights."""

from collections.abc import Sequence
from typing import Any

import jax

from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.data import datasets
from tunix_ttt.models import memory
from tunix_ttt.models import meshes
from tunix_ttt.models import sources
from tunix_ttt.models.families import specs
from tunix_ttt.train import grpo_plan
from tunix_ttt.train import recorder
from tunix_ttt.train import reference_log_probs


def describe(config: config_lib.SFTConfig) -> str:
  """Checks a config and its files, and returns a description of the run.

  Raises:
    errors.UserError: if the config or one of its files is invalid.
  """
  recorder.check(config.logging)
  if config.service is not None:
    # Imported here: local runs have no use for it.
    from tunix_ttt.service import service_runs

    return service_runs.describe(config)
  recipe = recipes.RECIPES[config_lib.recipe_of(config)]
  source = recipe.load(config)
  samples = source and source.samples
  tokenizer = reference_log_probs.tokenizer_maker(config, samples)
  model = sources.outline(config.model, tokenizer)
  model = sources.adapt(model, config.lora, config.model.name)
  lines = [_model_line(model, config)]
  if model.tokenizer is None:
    lines.append("no tokenizer in the local cache: lengths are not checked")
  elif note := getattr(model.tokenizer, "note", ""):
    lines.append(f"chat     {note}")
  data_lines, rows, length = recipe.describe(model, config, source)
  parts = config.training.gradient_accumulation_steps
  if isinstance(config, config_lib.GRPOConfig):
    parts = -(-rows // meshes.rows_at_once(config))
  lines += [
    *data_lines,
    f"tokens   {rows * length:,} a step at the most, in {parts}"
    f" micro-batch{'es' if parts > 1 else ''}",
  ]
  meshes.check(config, model.spec)
  lines.append(_mesh_line(config.mesh))
  for role, estimate in memory.of_run(model, config, rows, length).items():
    device = f"each device of the {role}" if role else "each device"
    lines += [f"memory   of {device}, estimated", estimate.table()]
  return "\n".join(lines)


def check_chain(configs: Sequence[config_lib.SFTConfig]) -> None:
  """Checks a chain of runs, each of which starts from the previous model.

  The first run is SFT. The data of later runs need not exist yet.

  Raises:
    errors.UserError: if the settings of a run are invalid.
  """
  first = configs[0]
  source = datasets.load(first.data, first.seed, first.game)
  tokenizer = reference_log_probs.tokenizer_maker(first, source.samples)
  model = sources.outline(first.model, tokenizer)
  for config in configs:
    recorder.check(config.logging)
    model = sources.adapt(model, config.lora, config.model.name)
    meshes.check(config, model.spec)
    if model.tokenizer is not None:
      grpo_plan.check_play(model, config)
  if model.tokenizer is not None:
    datasets.tokenize(source, model.tokenizer, first.data, first.seed)


def _mesh_line(config: config_lib.MeshConfig) -> str:
  def axes(sizes: dict[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items())

  text = axes(meshes.sizes(config))
  if config.layout == "split":
    text += f"; for the sampler {axes(meshes.sampler_sizes(config))}"
  devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
  return f"mesh     {text}; this machine has {devices}"


def _model_line(model: sources.Outline, config: config_lib.SFTConfig) -> str:
  def size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

  total = size([*specs.parameters(model.module).values()])
  trained = size(memory.trained(model))
  return (
    f"model    {config.model.name}: {total:,} parameters, {trained:,}"
    f" trained ({trained / total:.2%}), {model.spec.dtype}, remat"
    f" {config.model.remat}{model.note and f'; {model.note}'}"
  )
