"""Estimates the memory that a run needs on a device, from its shapes."""

import dataclasses
import math
from typing import Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp

from tunix_ttt import config as config_lib
from tunix_ttt import requirements
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models import sources
from tunix_ttt.models import token_log_probs
from tunix_ttt.models.families import specs
from tunix_ttt.runs import progress

_FLOAT32 = 4
# Arrays of a chunk's logits that are alive at once in the backward pass.
_LOGITS_COPIES = 3
# Moments that an optimizer keeps of each number.
_MOMENTS = {"adamw": 2, "muon": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """Bytes, of what is alive at the peak of a training step.

  Attributes:
    weights: the whole model, adapters included.
    optimizer: moments of what is trained.
    gradients: Gradients of the trained parameters, accumulated and new.
    activations: what the backward pass keeps, and one layer's own.
    logits: Logits of a chunk of tokens.
    playing: keys and values, and one layer's activations, while games are
      played, which is at another time.
  """

  weights: int
  optimizer: int = 0
  gradients: int = 0
  activations: int = 0
  logits: int = 0
  playing: int = 0

  @property
  def total(self) -> int:
    """The larger of training's and playing's."""
    kept = self.weights + self.optimizer
    training = self.gradients + self.activations + self.logits
    return kept + max(training, self.playing)

  def table(self) -> str:
    """Returns the parts as lines of text."""
    parts = {**dataclasses.asdict(self), "in all": self.total}
    unit, name = (2**30, "GiB") if self.total >= 2**30 else (2**20, "MiB")
    return "\n".join(
      f"  {part:12} {size / unit:8.2f} {name}"
      for part, size in parts.items()
      if size
    )


@progress.stage("estimating memory")
def of_run(
  model: sources.Outline | checkpoints.Model,
  config: config_lib.SFTConfig,
  rows: int,
  length: int,
) -> dict[str, Estimate]:
  """Returns what each device holds in a run.

  Args:
    model: The model with its adapters, with or without values.
    config: The settings.
    rows: Rows of a step.
    length: Tokens of a row.

  Returns:
    A single estimate by an empty name or, in the layout `split`, those of a
    device of the `trainer` and of one of the `sampler`.
  """
  parts = config.training.gradient_accumulation_steps
  training = _training(model, config, rows // parts, length)
  if not isinstance(config, config_lib.GRPOConfig):
    return {"": training}
  # A cache is as long as a sequence.
  held = sampling(model.spec, config.training.batch_size, length)
  if config.mesh.layout == "split":
    sampler = _of_sampler(model, config.mesh, held)
    return {"trainer": training, "sampler": sampler}
  playing = held // math.prod(meshes.sizes(config.mesh).values())
  return {"": dataclasses.replace(training, playing=playing)}


def check(
  model: checkpoints.Model, config: config_lib.SFTConfig, rows: int, length: int
) -> None:
  """Raises a UserError if a run needs far more memory than devices have.

  Args:
    model: The model with its adapters.
    config: The settings.
    rows: Rows of a step.
    length: Tokens of a row.
  """
  advice = "training.batch_size, play.max_new_tokens or the model's sizes"
  for whose, estimate in of_run(model, config, rows, length).items():
    what = f"training{whose and f' on a device of the {whose}'}"
    requirements.check_fits(estimate.total, what, advice)


def shape_of_games(
  config: config_lib.GRPOConfig, shown: int
) -> tuple[int, int]:
  """Returns the rows of a step and their length in tokens.

  Args:
    config: The settings.
    shown: Tokens of the longest observation.
  """
  play = config.play
  rows, length = config.training.batch_size, shown + play.max_new_tokens
  if play.context != "board":
    length *= play.max_turns
  elif not config.episodes.are_single_moves:
    # The turns of a game are sequences of their own.
    rows *= play.max_turns
  return rows, length


def check_play(
  spec: specs.ModelSpec, play: config_lib.PlayConfig, shown: int
) -> None:
  """Raises a UserError if a batch of games needs far too much memory.

  Args:
    spec: The architecture of the model that plays.
    play: The settings of play.
    shown: Tokens of the longest observation.
  """
  length = shown + play.max_new_tokens
  if play.context != "board":
    length *= play.max_turns
  if play.max_game_tokens is not None:
    length = min(length, play.max_game_tokens)
  needed = sampling(spec, play.batch_size, length, shown)
  what = f"play of {play.batch_size:,} games of up to {length:,} tokens"
  advice = "play.batch_size, play.max_new_tokens or play.max_turns"
  requirements.check_fits(needed, what, advice)
  check_answers(play, play.batch_size)


def check_answers(play: config_lib.PlayConfig, rows: int) -> None:
  """Raises a UserError if the tokens of games' answers need far too much memory.

  Args:
    play: The settings of play.
    rows: Games at a time.
  """
  # Two arrays of 32 bits.
  needed = 8 * rows * play.max_turns * play.max_new_tokens
  what = f"{rows:,} games of {play.max_turns:,} turns of {play.max_new_tokens:,} tokens"
  requirements.check_fits(needed, what, "play.max_turns or play.max_new_tokens")


def activations(
  spec: specs.ModelSpec,
  rows: int,
  length: int,
  remat: Literal["none", "block", "decoder"],
) -> int:
  """Returns the bytes that a backward pass needs besides gradients.

  Without rematerialisation, all that goes into a product or a norm of any layer
  is kept; with it, what goes into each block or layer, and all that only of the
  one at work.

  Args:
    spec: the architecture.
    rows: sequences at a time.
    length: Length of each sequence.
    remat: as in `config.ModelConfig`.
  """
  # Around each block the residual stream is kept in several forms.
  entering = {"none": 0, "block": 8, "decoder": 1}[remat]
  kept = entering * spec.embed_dim * jnp.dtype(spec.dtype).itemsize
  layers = spec.num_layers if remat == "none" else 1
  token = layers * _token(spec, length) + spec.num_layers * kept
  return rows * length * token


def logits(spec: specs.ModelSpec, rows: int, length: int) -> int:
  """Returns the bytes of the logits that are held at a time."""
  held = min(
    rows * length * spec.vocab_size,
    max(token_log_probs.MAX_LOGITS, rows * spec.vocab_size),
  )
  return _LOGITS_COPIES * _FLOAT32 * held


def sampling(
  spec: specs.ModelSpec, rows: int, slots: int, fed: int | None = None
) -> int:
  """Returns the bytes that sampling needs.

  Args:
    spec: The architecture.
    rows: Sequences at a time.
    slots: Slots of a sequence's cache.
    fed: Tokens of a sequence that are fed together; None for all.
  """
  size = jnp.dtype(spec.dtype).itemsize
  cached = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * size
  fed = slots if fed is None else fed
  return rows * (slots * cached + fed * _token(spec, slots))


def _token(spec: specs.ModelSpec, length: int) -> int:
  """Returns the bytes of one layer's intermediate values of a token."""
  size = jnp.dtype(spec.dtype).itemsize
  heads = (2 * spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim
  values = size * (
    spec.traits.norm_streams * spec.embed_dim + heads + 4 * spec.hidden_dim
  )
  # Attention's scores and weights are float32, and so are capped scores.
  scores = 3 if spec.attn_logit_softcap else 2
  return values + scores * _FLOAT32 * spec.num_heads * length


def _training(
  model: sources.Outline | checkpoints.Model,
  config: config_lib.SFTConfig,
  rows: int,
  length: int,
) -> Estimate:
  mesh = meshes.outline(meshes.sizes(config.mesh))
  size = jnp.dtype(model.spec.dtype).itemsize
  count = meshes.held(trained(model), mesh)
  split = math.prod(mesh.shape.values())
  # Of bfloat16 it keeps a copy in float32 besides.
  kept = _MOMENTS[config.training.optimizer] + (model.spec.dtype != "float32")
  parts = 2 if config.training.gradient_accumulation_steps > 1 else 1
  return Estimate(
    weights=_weights(model, mesh),
    optimizer=4 * kept * count,
    gradients=size * parts * count,
    activations=activations(model.spec, rows, length, config.model.remat)
    // split,
    logits=logits(model.spec, rows, length) // split,
  )


def _of_sampler(
  model: sources.Outline | checkpoints.Model,
  config: config_lib.MeshConfig,
  playing: int,
) -> Estimate:
  mesh = meshes.outline(meshes.sampler_sizes(config))
  return Estimate(
    weights=_weights(model, mesh),
    playing=playing // math.prod(mesh.shape.values()),
  )


def _weights(
  model: sources.Outline | checkpoints.Model, mesh: jax.sharding.AbstractMesh
) -> int:
  size = jnp.dtype(model.spec.dtype).itemsize
  return size * meshes.held(nnx.state(model.module, nnx.Param), mesh)


def trained(model: sources.Outline | checkpoints.Model) -> Any:
  """Returns the state of the parameters that training changes."""
  kind = nnx.Param if model.lora is None else nnx.LoRAParam
  return nnx.state(model.module, kind)
