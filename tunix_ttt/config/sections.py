"""The settings of runs, section by section.

Field names are Tunix's and Optax's where they have one.
"""

from typing import Annotated, Any, Literal, Self, TypeVar, dataclass_transform

import pydantic
from pydantic import dataclasses as pydantic_dataclasses

from tunix_ttt import streams

Strict = pydantic.Strict()
Text = Annotated[str, Strict]
Flag = Annotated[bool, Strict]
# `package.module:function`
Reference = Annotated[str, Strict, pydantic.Field(pattern=r"^[\w.]+:\w+$")]
Count = Annotated[int, Strict, pydantic.Field(ge=0)]
Seed = Annotated[int, Strict, pydantic.Field(ge=0, le=streams.MAX_SEED)]
Positive = Annotated[int, Strict, pydantic.Field(ge=1)]
NonNegative = Annotated[float, Strict, pydantic.Field(ge=0)]
AboveZero = Annotated[float, Strict, pydantic.Field(gt=0)]
Fraction = Annotated[float, Strict, pydantic.Field(ge=0, le=1)]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
  """Makes a class a frozen dataclass whose values are checked."""
  decorate: Any = pydantic_dataclasses.dataclass(
    frozen=True,
    kw_only=True,
    config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False),
  )
  return decorate(cls)


# The sizes of a model, by Tunix's names.
SIZES = (
  "num_layers",
  "embed_dim",
  "hidden_dim",
  "num_heads",
  "num_kv_heads",
  "head_dim",
)


@settings
class ModelConfig:
  """The model to train.

  Attributes:
    name: `tiny-qwen2.5` or another tiny model, made from scratch; the directory
      of a checkpoint, of a PEFT adapter, or of a Qwen or Gemma as transformers
      saves it; or such a model's id on the Hugging Face hub.
    revision: branch, tag or commit of a hub id; the manifest has the commit.
    base: directory of the base of the adapter that `name` is, where it is no
      longer the recorded one; for a run that is resumed, of the model that it
      started from. Its digest is checked.
    dtype: Type of a Hugging Face model's parameters and computation; None for
      bfloat16 on an accelerator and float32 on a CPU.
    chat_template: a Jinja file, in place of a Hugging Face model's own.
    enable_thinking: told to a chat template that has such a switch, as Qwen 3's.
    remat: what the backward pass computes again instead of keeping it: `none`,
      each `block` (attention or feed-forward), or each `decoder` layer.
    num_layers: decoder layers of a tiny model; None keeps its own. So with the
      other sizes.
    embed_dim: width of the residual stream.
    hidden_dim: width of the feed-forward layers.
    num_heads: query heads.
    num_kv_heads: key and value heads; divides `num_heads`.
    head_dim: width of a head; even.
  """

  name: Text = "tiny-qwen2.5"
  revision: Text | None = None
  base: Text | None = None
  dtype: Literal["float32", "bfloat16"] | None = None
  chat_template: Text | None = None
  enable_thinking: Flag = True
  remat: Literal["none", "block", "decoder"] = "none"
  num_layers: Positive | None = None
  embed_dim: Positive | None = None
  hidden_dim: Positive | None = None
  num_heads: Positive | None = None
  num_kv_heads: Positive | None = None
  head_dim: Positive | None = None

  def shape(self) -> dict[str, int]:
    """Returns the sizes that are set."""
    values = {name: getattr(self, name) for name in SIZES}
    return {k: v for k, v in values.items() if v is not None}


@settings
class TokenizerConfig:
  """The tokenizer of a tiny model, trained on its data before the model is.

  Attributes:
    vocab_size: pieces at the most.
  """

  vocab_size: Annotated[int, Strict, pydantic.Field(ge=512, le=65536)] = 512


@settings
class LoraConfig:
  """Low-rank adapters (Hu et al., 2021), by Qwix; the base stays frozen.

  Attributes:
    rank: inner width of an adapter.
    alpha: an adapter's output is scaled by alpha / rank.
    target_modules: `all-linear`, or names of the model's linear modules.
  """

  rank: Positive = 8
  alpha: AboveZero = 16.0
  target_modules: Literal["all-linear"] | list[Text] = "all-linear"


@settings
class GamesConfig:
  """Games to train on where no data file is given.

  Attributes:
    num_games: games of the solver against a random opponent, half as X.
    mistakes: probability that a move is any legal one instead of the solver's.
    keep: `won` keeps the games that were won, as rejection sampling does.
    random_starts: share of games that start on a random position.
    context: `board` makes one conversation of each position; `full` makes one
      of each game.
    any_move_positions: share of the positions kept, in the context `board`, on
      which any legal move is as good as any other.
    thoughts: `template` explains each move in a sentence; `none` has moves
      alone.
  """

  num_games: Positive = 8000
  mistakes: Fraction = 0.0
  keep: Literal["all", "won"] = "all"
  random_starts: Fraction = 1.0
  context: Literal["board", "full"] = "board"
  any_move_positions: Fraction = 0.3
  thoughts: Literal["template", "none"] = "template"


DataFormat = Literal[
  "auto",
  "messages",
  "prompt_completion",
  "preference",
  "text",
  "tunix_sft",
  "episodes",
  "prompt",
]


@settings
class DataConfig:
  """Training data.

  Attributes:
    path: a file (JSONL, Parquet, CSV or Arrow), the directory of a dataset that
      `build_dataset.py` built, or the id of a dataset on the Hugging Face hub;
      None generates expert games from the seed.
    split: Split of a dataset on the hub.
    format: Format of its rows; `auto` decides by each row's fields.
    skip_bad_rows: go on without rows that cannot be read, and record them,
      rather than stop.
    games: the games to generate.
    max_seq_length: rows of more tokens are dropped and counted.
    max_samples: at most this many rows, from the start of the data.
    eval_fraction: share of the rows that is held out for the eval loss; rows
      that are alike by `held_out_by` are held out together, or none of them.
    held_out_by: `text` holds out whole texts and, of pairs, prompts; `position`
      holds out boards, with their rotations and reflections, and needs rows
      that answer one board each, as the context `board` has them.
    packing: put several rows of a batch, which do not see each other, where
      one would be. Losses and updates are the same up to rounding, and steps
      faster where rows differ in length.
  """

  path: Text | None = None
  split: Text = "train"
  format: DataFormat = "auto"
  skip_bad_rows: Flag = False
  games: GamesConfig = GamesConfig()
  max_seq_length: Positive = 512
  max_samples: Positive | None = None
  eval_fraction: Annotated[float, Strict, pydantic.Field(ge=0, lt=1)] = 0.02
  held_out_by: Literal["text", "position"] = "text"
  packing: Flag = False


@settings
class TrainingConfig:
  """Optimisation.

  Attributes:
    max_steps: optimizer steps.
    batch_size: rows of an optimizer step.
    gradient_accumulation_steps: parts that a batch is computed in; divides
      `batch_size`. The update does not depend on it.
    optimizer: `adamw`, `muon`, which needs fewer steps from scratch and is for
      whole models, not for adapters, or a function of this section that
      returns an Optax optimizer, as `package.module:function`.
    learning_rate: peak of the schedule.
    warmup_steps: steps of linear warmup to the peak, from the peak divided by
      the number of updates in them; 0 for none.
    final_learning_rate: where the cosine decay ends, as a share of the peak.
    b1: decay of Adam's first moment.
    b2: decay of Adam's second moment.
    weight_decay: decoupled, of all parameters.
    max_grad_norm: gradients are clipped to this global norm.
    eval_every_n_steps: steps between eval losses; also one before the first
      step and one after the last.
  """

  max_steps: Positive = 300
  batch_size: Positive = 64
  gradient_accumulation_steps: Positive = 1
  optimizer: Literal["adamw", "muon"] | Reference = "adamw"
  learning_rate: AboveZero = 1e-3
  warmup_steps: Count = 0
  final_learning_rate: Fraction = 0.1
  b1: Annotated[float, Strict, pydantic.Field(ge=0, lt=1)] = 0.9
  b2: Annotated[float, Strict, pydantic.Field(ge=0, lt=1)] = 0.99
  weight_decay: NonNegative = 0.0
  max_grad_norm: AboveZero = 1.0
  eval_every_n_steps: Positive = 50

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    if self.batch_size % self.gradient_accumulation_steps:
      raise ValueError(
        f"batch_size {self.batch_size} is not divisible by"
        f" gradient_accumulation_steps {self.gradient_accumulation_steps}"
      )
    if self.warmup_steps >= self.max_steps:
      raise ValueError(
        f"warmup_steps {self.warmup_steps} must be below max_steps"
        f" {self.max_steps}"
      )
    return self


@settings
class CheckpointConfig:
  """Checkpoints to resume from; the final one is saved in any case.

  Attributes:
    save_interval_steps: steps between checkpoints.
    max_to_keep: older ones are deleted; None keeps all.
  """

  save_interval_steps: Positive = 100
  max_to_keep: Positive | None = 3


@settings
class LoggingConfig:
  """The logs and reports that a run writes besides its checkpoints.

  Attributes:
    log_every_n_steps: steps between lines on the console and in the text log;
      `metrics.jsonl` has every step.
    report: whether a finished run plays every line and writes its page,
      `report.html`, and plots.
    wandb: also log to Weights & Biases (needs the extra `tracking`).
    wandb_project: the project there.
  """

  log_every_n_steps: Positive = 10
  report: Flag = True
  wandb: Flag = False
  wandb_project: Text = "tunix_ttt"


@settings
class EvalConfig:
  """Sampling of completions of an evalset.

  Attributes:
    max_new_tokens: where a completion is cut.
    batch_size: prompts sampled together.
    temperature: 0 for greedy decoding.
    top_p: nucleus, where the temperature is above 0.
  """

  max_new_tokens: Positive = 64
  batch_size: Positive = 128
  temperature: NonNegative = 0.0
  top_p: Annotated[float, Strict, pydantic.Field(gt=0, le=1)] = 1.0


@settings
class PlayConfig:
  """Play of whole games.

  Attributes:
    format: Format of boards and answers; `data.games.thoughts` says whether
      answers begin with a thought.
    context: what a turn is shown: `board` the present board alone, `full` the
      whole conversation, `truncated` the same with past thoughts replaced.
    opponent: `random`, `optimal`, `epsilon-optimal:0.3` for one that is random
      three times in ten, or `scripted:4,0` for a line of cells.
    num_games: games with each mark, where games are sampled.
    batch_size: games played together.
    max_new_tokens: where an answer is cut.
    max_game_tokens: where a conversation is cut, observations and answers; None
      for no limit. The model's own context, if it has one.
    max_turns: turns of the model in a game.
    on_parse_error: `end` ends the game at an unreadable answer, `retry` shows
      the board again.
    temperature: 0 for greedy decoding.
    top_k: draw from this many most likely tokens; None for all.
    top_p: nucleus.
    constrained: only tokens that can complete an answer are drawn.
  """

  format: Literal["grid", "token_board"] | Reference = "grid"
  context: Literal["board", "full", "truncated"] = "board"
  opponent: Text = "random"
  num_games: Positive = 256
  batch_size: Positive = 128
  max_new_tokens: Positive = 32
  max_game_tokens: Positive | None = None
  max_turns: Positive = 5
  on_parse_error: Literal["end", "retry"] = "end"
  temperature: NonNegative = 0.0
  top_k: Positive | None = None
  top_p: Annotated[float, Strict, pydantic.Field(gt=0, le=1)] = 1.0
  constrained: Flag = False

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    limit = self.max_game_tokens
    if limit is not None and self.max_new_tokens >= limit:
      raise ValueError(
        f"max_new_tokens {self.max_new_tokens} leaves nothing of the"
        f" max_game_tokens {limit} for the board; lower the first or raise the"
        " second"
      )
    return self


@settings
class MeshConfig:
  """The devices that a run is spread over, by Tunix's axes.

  Attributes:
    fsdp: parts that rows, weights and the optimizer's state are split into;
      `auto` for all devices that the other settings leave.
    tp: parts that heads, feed-forward layers and the vocabulary are split into.
    layout: `colocated` has sampler and trainer share all devices; `split` gives
      the sampler of a GRPO run devices of its own, after the trainer's.
    rollout_fsdp: parts that rows and weights are split into on the sampler's
      own devices; None for as many as the trainer's.
  """

  fsdp: Positive | Literal["auto"] = 1
  tp: Positive = 1
  layout: Literal["colocated", "split"] = "colocated"
  rollout_fsdp: Positive | None = None

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    if self.rollout_fsdp is not None and self.layout != "split":
      raise ValueError(
        "rollout_fsdp: the sampler has devices of its own in the layout split"
        " alone"
      )
    return self


@settings
class DistributedConfig:
  """Processes that do one run together, each with its own devices.

  What is None is taken from the environment of the cluster, if JAX knows it
  (Slurm, Open MPI, Kubernetes, …).

  Attributes:
    coordinator: `host:port` of the first process.
    num_processes: how many there are.
    process_id: which one this is, from 0.
    initialization_timeout_seconds: how long to wait for the others at first.
    heartbeat_timeout_seconds: a process that is not heard of for this long is
      lost, and the others end.
  """

  coordinator: Text | None = None
  num_processes: Positive | None = None
  process_id: Count | None = None
  initialization_timeout_seconds: Positive = 300
  heartbeat_timeout_seconds: Positive = 100


@settings
class SFTConfig:
  """A supervised fine-tuning run.

  Attributes:
    seed: Random seed of the games, the data order, the model's and the adapter's
      values and the samples.
    model: what to train.
    tokenizer: the tokenizer of a tiny model.
    lora: adapters to train instead of the whole model; None for the whole.
    data: what to train on.
    training: how to optimise.
    checkpoint: what to resume from.
    logging: what else to write.
    eval: how to sample completions.
    play: how to play whole games.
    mesh: on which devices.
    distributed: the processes that do the run; None for one.
  """

  seed: Seed = 0
  model: ModelConfig = ModelConfig()
  tokenizer: TokenizerConfig = TokenizerConfig()
  lora: LoraConfig | None = None
  data: DataConfig = DataConfig()
  training: TrainingConfig = TrainingConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  logging: LoggingConfig = LoggingConfig()
  eval: EvalConfig = EvalConfig()
  play: PlayConfig = PlayConfig()
  mesh: MeshConfig = MeshConfig()
  distributed: DistributedConfig | None = None

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    if self.lora is not None and self.training.optimizer == "muon":
      raise ValueError(
        "training.optimizer: muon is for whole models; use adamw with lora"
      )
    return self
