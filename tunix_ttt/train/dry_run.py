"""What a config would run: checked and described, in shapes alone."""

import dataclasses
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from tunix_ttt import config as config_lib
from tunix_ttt import progress
from tunix_ttt import rewards
from tunix_ttt.data import datasets
from tunix_ttt.data import preferences
from tunix_ttt.game import env as env_lib
from tunix_ttt.models import meshes
from tunix_ttt.models import policy as policy_lib
from tunix_ttt.models import sources
from tunix_ttt.models import specs
from tunix_ttt.rollout import setup as rollout_setup
from tunix_ttt.train import batches
from tunix_ttt.train import memory
from tunix_ttt.train import sft
from tunix_ttt.train import tracking

# Moments that an optimizer keeps of each number.
_MOMENTS = {"adamw": 2, "muon": 1}


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
    rewards.given(None, config.rewards)
    if config.episodes.source == "prompts":
      source = datasets.load_prompts(config.data)
  model = sources.outline(config.model, sft.tokenizer_maker(config, source))
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
  for whose, found in _estimates(model, config, rows, length).items():
    whose = whose and f" of the {whose}"
    lines += [f"memory   of each device{whose}, estimated", found.table()]
  return "\n".join(lines)


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
  return _estimates(model, config, rows, length)


@progress.stage("estimating memory")
def _estimates(
  model: sources.Outline,
  config: config_lib.SFTConfig,
  rows: int,
  length: int,
) -> dict[str, memory.Estimate]:
  """Returns what devices hold, given the rows of a step and their length."""
  parts = config.training.gradient_accumulation_steps
  training = _training(model, config, rows // parts, length)
  if not isinstance(config, config_lib.GRPOConfig):
    return {"": training}
  # A cache is as long as a sequence.
  held = memory.playing(model.spec, config.training.batch_size, length)
  if config.mesh.layout == "split":
    sampling = _sampling(model, config.mesh, held)
    return {"trainer": training, "sampler": sampling}
  playing = held // math.prod(meshes.sizes(config.mesh).values())
  return {"": dataclasses.replace(training, playing=playing)}


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


def _trained(model: sources.Outline) -> Any:
  kind = nnx.Param if model.lora is None else nnx.LoRAParam
  return nnx.state(model.module, kind)


def _model(model: sources.Outline, config: config_lib.SFTConfig) -> str:
  everything = _size(specs.parameters(model.module).values())
  trained = _size(jax.tree.leaves(_trained(model)))
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
    found = preferences.tokenize(source, *settings)
    layout = batches.pair_layout(config, found)
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
    tables = rollout_setup.make_tables(config, model.tokenizer)
    policy = policy_lib.ModelPolicy(model.module, model.spec)
    rollout_setup.make_sampler(policy, env_lib.TicTacToe(), tables, play)
    shown = int(tables.observations.begin.lengths.max())
  rows, length = training.batch_size, shown + play.max_new_tokens
  if play.context != "board":
    length *= play.max_turns
  elif not config.episodes.are_single_moves:
    # The turns of a game are sequences of their own.
    rows *= play.max_turns
  return lines, rows, length


def _training(
  model: sources.Outline, config: config_lib.SFTConfig, rows: int, length: int
) -> memory.Estimate:
  mesh = meshes.outline(meshes.sizes(config.mesh))
  size = jnp.dtype(model.spec.dtype).itemsize
  trained = meshes.held(_trained(model), mesh)
  split = math.prod(mesh.shape.values())
  # Of bfloat16 it keeps a copy in float32 besides.
  kept = _MOMENTS[config.training.optimizer] + (model.spec.dtype != "float32")
  parts = 2 if config.training.gradient_accumulation_steps > 1 else 1
  return memory.Estimate(
    weights=_weights(model, mesh),
    optimizer=4 * kept * trained,
    gradients=size * parts * trained,
    activations=memory.activations(model.spec, rows, length, config.model.remat)
    // split,
    logits=memory.logits(model.spec, rows, length) // split,
  )


def _sampling(
  model: sources.Outline, config: config_lib.MeshConfig, playing: int
) -> memory.Estimate:
  mesh = meshes.outline(meshes.sampler_sizes(config))
  return memory.Estimate(
    weights=_weights(model, mesh),
    playing=playing // math.prod(mesh.shape.values()),
  )


def _weights(model: sources.Outline, mesh: jax.sharding.AbstractMesh) -> int:
  size = jnp.dtype(model.spec.dtype).itemsize
  return size * meshes.held(nnx.state(model.module, nnx.Param), mesh)
