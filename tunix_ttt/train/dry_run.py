"""Validates a config and describes its run, from shapes and without weights."""

from collections.abc import Sequence
from typing import Any

import jax

from tunix_ttt import config as config_lib
from tunix_ttt.algorithms import rewards
from tunix_ttt.data import batches
from tunix_ttt.data import datasets
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.models import memory
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy as policy_lib
from tunix_ttt.models import sources
from tunix_ttt.models.families import specs
from tunix_ttt.rollout import sampler as rollout_setup
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.train import dpo
from tunix_ttt.train import grpo_plan
from tunix_ttt.train import recorder
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import sft

# Modules that load and tokenize the rows of a recipe.
_MODULES: dict[type[config_lib.SFTConfig], Any] = {
  config_lib.SFTConfig: sft,
  config_lib.DPOConfig: dpo,
  config_lib.GRPOConfig: grpo_plan,
}


def describe(config: config_lib.SFTConfig) -> str:
  """Checks a config and its files, and returns a description of the run.

  Raises:
    errors.UserError: if the config or one of its files is invalid.
  """
  recorder.check(config.logging)
  source = _MODULES[type(config)].load(config)
  model = sources.outline(
    config.model, reference_log_probs.tokenizer_maker(config, source)
  )
  model = sources.adapt(model, config.lora, config.model.name)
  lines = [_model_line(model, config)]
  if model.tokenizer is None:
    lines.append("no tokenizer in the local cache: lengths are not checked")
  elif note := getattr(model.tokenizer, "note", ""):
    lines.append(f"chat     {note}")
  if isinstance(config, config_lib.GRPOConfig):
    rewards.custom_rewards(None, config.rewards)
    data_lines, rows, length = _games(model, config)
    if source is not None:
      data_lines.append(
        f"prompts  {source.key}: {len(source.samples):,}, {source.skipped.rows:,} rows bad and skipped"
      )
  else:
    data_lines, rows, length = _rows(model, config, source)
  parts = config.training.gradient_accumulation_steps
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

  The data of later runs need not exist yet.

  Args:
    configs: Settings of the runs; the first run is SFT.

  Raises:
    errors.UserError: if the settings of a run are invalid.
  """
  first = configs[0]
  source = datasets.load(first.data, first.seed)
  model = sources.outline(
    first.model, reference_log_probs.tokenizer_maker(first, source)
  )
  for config in configs:
    recorder.check(config.logging)
    model = sources.adapt(model, config.lora, config.model.name)
    meshes.check(config, model.spec)
    if model.tokenizer is not None:
      _check_play(model, config)
  if model.tokenizer is not None:
    sft.tokenize(source, model.tokenizer, first)


def memory_of_games(
  model: sources.Outline, config: config_lib.GRPOConfig
) -> dict[str, memory.Estimate]:
  """Estimates the memory of each device in a GRPO run.

  Args:
    model: Outline of the model with its adapters. Without a tokenizer, a board
      is assumed to have `data.max_seq_length` tokens.
    config: Settings of the run; the mesh may be larger than this machine.

  Returns:
    A single estimate with the key "" or, in the layout `split`, estimates with
    the keys `trainer` and `sampler`.

  Raises:
    errors.UserError: if the mesh does not divide rows or heads.
  """
  meshes.check(config, model.spec)
  _, rows, length = _games(model, config)
  return memory.of_run(model, config, rows, length)


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


def _rows(
  model: sources.Outline,
  config: config_lib.SFTConfig,
  source: datasets.Source | datasets.Pairs,
) -> tuple[list[str], int, int]:
  """Returns lines about the data, the rows of a step and their length."""
  training, limit = config.training, config.data.max_seq_length
  module = _MODULES[type(config)]
  if model.tokenizer is None:
    line = f"data     {source.key}: {len(source.samples):,} rows, of {limit} tokens at the most"
    return [line], module.SEQUENCES_PER_ROW * training.batch_size, limit
  dataset = module.tokenize(source, model.tokenizer, config)
  layout = batches.layout(config, dataset)
  step_rows = layout.rows * training.gradient_accumulation_steps
  length, form = layout.length, f"padded to {layout.length}"
  if config.data.packing:
    form = f"packed into {step_rows} of {length}"
  num_rows = len(dataset.train)
  epochs = training.max_steps * training.batch_size / num_rows
  lines = [
    f"data     {source.key}: {num_rows:,} row{'s' if num_rows > 1 else ''} to"
    f" train on, {len(dataset.eval):,} held out,"
    f" {dataset.dropped_too_long:,} dropped as longer than {limit} tokens,"
    f" {source.skipped.rows:,} bad and skipped",
    f"steps    {training.max_steps:,} of {training.batch_size} rows, {form}"
    f" tokens: {epochs:.1f} epochs",
  ]
  return lines, step_rows, length


def _games(
  model: sources.Outline, config: config_lib.GRPOConfig
) -> tuple[list[str], int, int]:
  """Returns lines about the games, the rows of a step and their length."""
  training, play = config.training, config.play
  group_size = config.grpo.num_generations
  num_games = training.max_steps * training.batch_size
  lines = [
    f"games    {num_games:,}: {training.max_steps:,} steps of"
    f" {training.batch_size // group_size} groups of {group_size}",
    f"turns    context {play.context}, answers of {play.max_new_tokens} tokens"
    " at the most",
  ]
  prompt_tokens = config.data.max_seq_length
  if model.tokenizer is not None:
    tables = _check_play(model, config)
    prompt_tokens = int(tables.observations.begin.lengths.max())
  return lines, *memory.shape_of_games(config, prompt_tokens)


def _check_play(
  model: sources.Outline, config: config_lib.SFTConfig
) -> tables_lib.Tables:
  """Returns the tables of a model's play, after checking its settings."""
  assert model.tokenizer is not None
  tables = rollout_setup.make_tables(config, model.tokenizer)
  policy = policy_lib.ModelPolicy(model.module, model.spec)
  env = env_lib.TicTacToe()
  rollout_setup.make_sampler(policy, env, tables, config.play)
  return tables
