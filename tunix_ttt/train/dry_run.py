"""Validates a config and describes its run from shapes, without computing."""

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
from tunix_ttt.rollout import build as rollout_setup
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.train import base_model
from tunix_ttt.train import sft
from tunix_ttt.train import tracking


def describe(config: config_lib.SFTConfig) -> str:
  """Checks a config and its files, and says what it would run.

  No weight is read or made, so that any model fits any machine.

  Raises:
    errors.UserError: if anything in the config or its files is wrong.
  """
  tracking.check(config.logging)
  source: datasets.Source | datasets.Pairs | datasets.Prompts | None = None
  if isinstance(config, config_lib.DPOConfig):
    source = datasets.load_pairs(config.data)
  elif not isinstance(config, config_lib.GRPOConfig):
    sft.check_context(config)
    source = datasets.load(config.data, config.seed)
  else:
    rewards.custom_rewards(None, config.rewards)
    if config.episodes.source == "prompts":
      source = datasets.load_prompts(config.data)
  model = sources.outline(
    config.model, base_model.tokenizer_maker(config, source)
  )
  model = sources.adapt_outline(model, config.lora, config.model.name)
  lines = [_model(model, config)]
  if model.tokenizer is None:
    lines.append("tokenizer not at hand: lengths are not checked")
  elif note := getattr(model.tokenizer, "note", ""):
    lines.append(f"chat     {note}")
  parts = config.training.gradient_accumulation_steps
  if isinstance(config, config_lib.GRPOConfig):
    more, rows, length = _games(model, config)
    if source is not None:
      more.append(
        f"prompts  {source.key}: {len(source.samples):,}, {source.skipped.rows:,} rows bad and skipped"
      )
  else:
    assert isinstance(source, datasets.Source | datasets.Pairs)
    more, rows, length = _rows(model, config, source)
  lines += more
  lines.append(
    f"tokens   {rows * length:,} a step at the most, in {parts}"
    f" micro-batch{'es' if parts > 1 else ''}"
  )
  meshes.check(config, model.spec)
  lines += _mesh(config.mesh)
  for whose, found in memory.of_run(model, config, rows, length).items():
    whose = whose and f" of the {whose}"
    lines += [f"memory   of each device{whose}, estimated", found.table()]
  return "\n".join(lines)


def check_chain(configs: Sequence[config_lib.SFTConfig]) -> None:
  """Checks runs of which each starts from the model of the one before.

  No weight is read or made. The data of the later runs need not be there yet.

  Args:
    configs: The settings of the runs; the first is of SFT.

  Raises:
    errors.UserError: if one of them cannot be run.
  """
  first = configs[0]
  source = datasets.load(first.data, first.seed)
  model = sources.outline(
    first.model, base_model.tokenizer_maker(first, source)
  )
  for config in configs:
    tracking.check(config.logging)
    model = sources.adapt_outline(model, config.lora, config.model.name)
    meshes.check(config, model.spec)
    if model.tokenizer is not None:
      _check_play(model, config)
  if model.tokenizer is not None:
    datasets.tokenize(source, model.tokenizer, first.data, first.seed)


def memory_of_games(
  model: sources.Outline, config: config_lib.GRPOConfig
) -> dict[str, memory.Estimate]:
  """Returns what each device holds in a GRPO run.

  Args:
    model: with the adapters of the config, if it has any. Without a tokenizer
      a board is taken to be `data.max_seq_length` tokens.
    config: the settings; the machine need not have the devices of its mesh.

  Returns:
    A single estimate by an empty name or, in the layout `split`, those of a
    device of the `trainer` and of one of the `sampler`.

  Raises:
    errors.UserError: if rows or heads cannot be split over the mesh.
  """
  meshes.check(config, model.spec)
  _, rows, length = _games(model, config)
  return memory.of_run(model, config, rows, length)


def _mesh(config: config_lib.MeshConfig) -> list[str]:
  def axes(sizes: dict[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items())

  text = axes(meshes.sizes(config))
  if config.layout == "split":
    text += f"; for the sampler {axes(meshes.sampler_sizes(config))}"
  devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
  return [f"mesh     {text}; this machine has {devices}"]


def _size(values: Any) -> int:
  return sum(value.size for value in values)


def _model(model: sources.Outline, config: config_lib.SFTConfig) -> str:
  everything = _size(specs.parameters(model.module).values())
  trained = _size(jax.tree.leaves(memory.trained(model)))
  return (
    f"model    {config.model.name}: {everything:,} parameters, {trained:,}"
    f" trained ({trained / everything:.2%}), {model.spec.dtype}, remat"
    f" {config.model.remat}{model.note and f'; {model.note}'}"
  )


def _rows(
  model: sources.Outline,
  config: config_lib.SFTConfig,
  source: datasets.Source | datasets.Pairs,
) -> tuple[list[str], int, int]:
  """Returns lines about the data, the rows of a step and their length."""
  training, limit = config.training, config.data.max_seq_length
  # Of a pair both answers are read.
  each = 2 if isinstance(source, datasets.Pairs) else 1
  if model.tokenizer is None:
    line = f"data     {source.key}: {len(source.samples):,} rows, of {limit} tokens at the most"
    return [line], each * training.batch_size, limit
  settings = model.tokenizer, config.data, config.seed
  if isinstance(source, datasets.Pairs):
    assert isinstance(config, config_lib.DPOConfig)
    found = datasets.tokenize_pairs(source, *settings)
  else:
    found = datasets.tokenize(source, *settings)
  layout = batches.layout(config, found)
  step_rows = layout.rows * training.gradient_accumulation_steps
  length, form = layout.length, f"padded to {layout.length}"
  if config.data.packing:
    form = f"packed into {step_rows} of {length}"
  rows = f"{len(found.train):,} row{'s' if len(found.train) > 1 else ''}"
  epochs = training.max_steps * training.batch_size / len(found.train)
  lines = [
    f"data     {source.key}: {rows} to train on, {len(found.eval):,} held out,"
    f" {found.dropped_too_long:,} dropped as longer than {limit} tokens,"
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
  size = config.grpo.num_generations
  games = training.max_steps * training.batch_size
  lines = [
    f"games    {games:,}: {training.max_steps:,} steps of"
    f" {training.batch_size // size} groups of {size}",
    f"turns    context {play.context}, answers of {play.max_new_tokens} tokens"
    " at the most",
  ]
  if model.tokenizer is None:
    shown = config.data.max_seq_length
  else:
    tables = _check_play(model, config)
    shown = int(tables.observations.begin.lengths.max())
  return lines, *memory.shape_of_games(config, shown)


def _check_play(
  model: sources.Outline, config: config_lib.SFTConfig
) -> tables_lib.Tables:
  """Returns the tables of a model's play, whose settings are checked."""
  assert model.tokenizer is not None
  tables = rollout_setup.make_tables(config, model.tokenizer)
  policy = policy_lib.ModelPolicy(model.module, model.spec)
  env = env_lib.TicTacToe()
  rollout_setup.make_sampler(policy, env, tables, config.play)
  return tables
