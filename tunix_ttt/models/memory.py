"""Estimates a run's memory per device from its shapes."""

import dataclasses
from typing import Any, Literal

from flax import nnx
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
# Arrays of the size of a chunk's logits that the backward pass holds at once.
_LOGITS_COPIES = 3
# Moments per trained number.
_MOMENTS = {"adamw": 2, "muon": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """Peak memory of a step in bytes.

  Attributes:
    weights: Size of the model with its adapters.
    optimizer: Size of the optimizer's state.
    gradients: Size of the accumulated and the new gradients.
    activations: Size of the activations that the backward pass keeps, and of
      those within one layer.
    logits: Size of the logits of a chunk of tokens.
    playing: Size of the key-value cache and of one layer's activations during
      play, which alternates with training.
  """

  weights: int
  optimizer: int = 0
  gradients: int = 0
  activations: int = 0
  logits: int = 0
  playing: int = 0

  @property
  def total(self) -> int:
    """The memory of training or of play, whichever is larger."""
    training = self.gradients + self.activations + self.logits
    return self.weights + self.optimizer + max(training, self.playing)

  def table(self) -> str:
    """Formats the parts as lines of text."""
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
  """Returns the memory of a run on each kind of device.

  The result is an estimate named `""` or, in the layout `split`, an estimate for
  each device of the `trainer` and of the `sampler`.
  """
  spec, training = model.spec, config.training
  micro_batch = rows // training.gradient_accumulation_steps
  if isinstance(config, config_lib.GRPOConfig):
    micro_batch = min(rows, meshes.rows_at_once(config))
  size = jnp.dtype(spec.dtype).itemsize
  weights = nnx.state(model.module, nnx.Param)
  mesh = meshes.outline(meshes.sizes(config.mesh))
  count = meshes.numbers_per_device(trained(model), mesh)
  # A custom optimizer is taken to keep as much as Adam. The optimizer keeps a
  # float32 copy of bfloat16 parameters.
  moments = _MOMENTS.get(training.optimizer, _MOMENTS["adamw"])
  copies = moments + (spec.dtype != "float32")
  accumulated = 0
  if micro_batch < rows:
    is_grpo = isinstance(config, config_lib.GRPOConfig)
    accumulated = _FLOAT32 if is_grpo else size
  kept = activations(spec, micro_batch, length, config.model.remat)
  trainer = Estimate(
    weights=size * meshes.numbers_per_device(weights, mesh),
    optimizer=_FLOAT32 * copies * count,
    gradients=(size + accumulated) * count,
    activations=kept // mesh.size,
    logits=logits(spec, micro_batch, length) // mesh.size,
  )
  if not isinstance(config, config_lib.GRPOConfig):
    return {"": trainer}
  # A cache has a slot for each token of a sequence.
  playing = sampling(spec, training.batch_size, length)
  # Past weights play with their own parameters and cache.
  past = size * count if config.opponents.has_past_weights else 0
  playing *= 1 + config.opponents.has_past_weights
  if config.mesh.layout != "split":
    playing = playing // mesh.size + past
    return {"": dataclasses.replace(trainer, playing=playing)}
  mesh = meshes.outline(meshes.sampler_sizes(config.mesh))
  sampler = Estimate(
    weights=size * meshes.numbers_per_device(weights, mesh),
    playing=playing // mesh.size + past,
  )
  return {"trainer": trainer, "sampler": sampler}


def trained(model: sources.Outline | checkpoints.Model) -> Any:
  """Returns the state of the parameters that training changes."""
  kind = nnx.Param if model.lora is None else nnx.LoRAParam
  return nnx.state(model.module, kind)


def check(
  model: checkpoints.Model, config: config_lib.SFTConfig, rows: int, length: int
) -> None:
  """Raises a UserError if a run needs far more memory than devices have."""
  advice = "training.batch_size, play.max_new_tokens or the model's sizes"
  for owner, estimate in of_run(model, config, rows, length).items():
    name = f"training{owner and f' on a device of the {owner}'}"
    requirements.check_fits(estimate.total, name, advice)


def shape_of_games(
  config: config_lib.GRPOConfig, prompt_tokens: int
) -> tuple[int, int]:
  """Returns the number of rows per GRPO step and of tokens per row."""
  play = config.play
  rows, length = config.training.batch_size, prompt_tokens + play.max_new_tokens
  if play.context != "board":
    length *= play.max_turns
    rows *= config.episodes.num_agents
  else:
    # Each turn is a sequence.
    rows *= config.num_turns
  return rows, length


def check_play(
  spec: specs.ModelSpec, play: config_lib.PlayConfig, prompt_tokens: int
) -> None:
  """Raises a UserError if a batch of games needs far too much memory."""
  length = prompt_tokens + play.max_new_tokens
  if play.context != "board":
    length *= play.max_turns
  if play.max_game_tokens is not None:
    length = min(length, play.max_game_tokens)
  needed = sampling(spec, play.batch_size, length, prompt_tokens)
  name = f"play of {play.batch_size:,} games of up to {length:,} tokens"
  advice = "play.batch_size, play.max_new_tokens or play.max_turns"
  requirements.check_fits(needed, name, advice)
  check_answers(play, play.batch_size)


def check_answers(play: config_lib.PlayConfig, rows: int) -> None:
  """Raises a UserError if the answer tokens need far too much memory."""
  turns, tokens = play.max_turns, play.max_new_tokens
  requirements.check_fits(
    # Token ids and log-probabilities, of 32 bits each.
    8 * rows * turns * tokens,
    f"{rows:,} games of {turns:,} turns of {tokens:,} tokens",
    "play.max_turns or play.max_new_tokens",
  )


def activations(
  spec: specs.ModelSpec,
  rows: int,
  length: int,
  remat: Literal["none", "block", "decoder"],
) -> int:
  """Returns the bytes of the activations of a backward pass.

  Without rematerialization, the inputs of all products and norms are kept. With
  rematerialization, only the inputs of each block or layer are kept, and those
  of the products and norms of one layer at a time.
  """
  # Several copies of the residual stream are kept around each block.
  copies = {"none": 0, "block": 8, "decoder": 1}[remat]
  inputs = copies * spec.embed_dim * jnp.dtype(spec.dtype).itemsize
  layers = spec.num_layers if remat == "none" else 1
  token = layers * _token(spec, length) + spec.num_layers * inputs
  return rows * length * token


def logits(spec: specs.ModelSpec, rows: int, length: int) -> int:
  """Returns the bytes of the logits in memory at a time."""
  chunk = min(
    rows * length * spec.vocab_size,
    max(token_log_probs.MAX_LOGITS, rows * spec.vocab_size),
  )
  return _LOGITS_COPIES * _FLOAT32 * chunk


def sampling(
  spec: specs.ModelSpec, rows: int, slots: int, chunk: int | None = None
) -> int:
  """Returns the bytes of the cache and the activations of sampling.

  One call of the model gets `chunk` tokens per sequence; None for all tokens.
  """
  size = jnp.dtype(spec.dtype).itemsize
  cached = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * size
  return rows * (slots * cached + (chunk or slots) * _token(spec, slots))


def _token(spec: specs.ModelSpec, length: int) -> int:
  """Returns the bytes of a token's intermediate values in one layer."""
  size = jnp.dtype(spec.dtype).itemsize
  heads = (2 * spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim
  values = size * (
    spec.traits.norm_streams * spec.embed_dim + heads + 4 * spec.hidden_dim
  )
  # Scores, attention weights and capped scores are float32.
  scores = 3 if spec.attn_logit_softcap else 2
  return values + scores * _FLOAT32 * spec.num_heads * length
