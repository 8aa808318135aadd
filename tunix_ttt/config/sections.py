"""Sections of a run's settings, under the names that Tunix and Optax use."""

import dataclasses
from typing import (
  Annotated,
  Any,
  Literal,
  Self,
  TypeVar,
  dataclass_transform,
  get_args,
)

import pydantic
from pydantic import dataclasses as pydantic_dataclasses

from tunix_ttt import streams

Strict = pydantic.Strict()
Text = Annotated[str, Strict]
Flag = Annotated[bool, Strict]
# A function, as `package.module:function`.
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
  """Turns a class into a frozen dataclass that validates its values."""
  decorate: Any = pydantic_dataclasses.dataclass(
    frozen=True,
    kw_only=True,
    config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False),
  )
  return decorate(cls)


def section_type(annotation: Any) -> type | None:
  """Returns the dataclass that a field's annotation is or contains, if any."""
  for member in (annotation, *get_args(annotation)):
    if dataclasses.is_dataclass(member) and isinstance(member, type):
      return member
  return None


# Names of a model's sizes in Tunix.
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
    name: Name of a tiny model that starts from random values, such as
      `tiny-qwen2.5`; directory of a checkpoint, a PEFT adapter, or a Qwen or
      Gemma model in transformers' format; or Hugging Face hub id of such a
      model.
    revision: Branch, tag or commit of a hub id; None is the hub's default
      branch. The manifest records the commit.
    base: Directory of the adapter's base model, or, for a resumed run, of the
      model that the run started from. None uses the recorded path. The
      directory's digest must match the recorded one.
    dtype: Type of a Hugging Face model's parameters and computation; None is
      bfloat16 on an accelerator and float32 on a CPU.
    chat_template: Path of a Jinja file that replaces a Hugging Face model's chat
      template; None keeps the model's template.
    enable_thinking: Value of the `enable_thinking` switch of chat templates that
      have one, such as Qwen 3's.
    remat: Activations that the backward pass recomputes to save memory: `none`,
      each `block` (attention or feed-forward), or each `decoder` layer.
    num_layers: Number of decoder layers. This and the sizes below are for tiny
      models only; None keeps the named model's size.
    embed_dim: Width of the residual stream.
    hidden_dim: Width of the feed-forward layers.
    num_heads: Number of query heads.
    num_kv_heads: Number of key and value heads, a divisor of `num_heads`.
    head_dim: Width of each head, an even number.
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
    """Returns the sizes that are not None."""
    values = {name: getattr(self, name) for name in SIZES}
    return {k: v for k, v in values.items() if v is not None}


@settings
class TokenizerConfig:
  """The tokenizer of a tiny model, trained on the run's data.

  Attributes:
    vocab_size: Maximum number of pieces.
    split_by_whitespace: Whether a piece ends before each space. Games whose
      observations have many slots need it.
  """

  vocab_size: Annotated[int, Strict, pydantic.Field(ge=512, le=65536)] = 512
  split_by_whitespace: Flag = False


@settings
class GameConfig:
  """The game.

  Attributes:
    name: Name of a game of this library, such as `tictactoe` or `kuhn_poker`, of
      a board game of pgx, such as `hex`, or `package.module:function`, which
      returns a `games.definition.Definition`.
    options: Options of the game by name.
  """

  name: Text = "tictactoe"
  options: dict[Text, Any] = pydantic.Field(default_factory=dict)


@settings
class LoraConfig:
  """Low-rank adapters (Hu et al., 2021) on a frozen base, through Qwix.

  Attributes:
    rank: Rank of each adapter.
    alpha: Scaling numerator; an adapter's output is multiplied by alpha / rank.
    target_modules: Names of the linear modules to adapt, or `all-linear`.
  """

  rank: Positive = 8
  alpha: AboveZero = 16.0
  target_modules: Literal["all-linear"] | list[Text] = "all-linear"


@settings
class GamesConfig:
  """Generated games of an expert, used if `data.path` is not set.

  Attributes:
    num_games: Number of games against a random opponent, in each seat in turn.
    expert: Player whose moves are taught, named as in `play.opponent`.
    mistakes: Probability that the expert plays a random legal move.
    keep: Games to keep: `all`, or only `won` games, as in rejection sampling.
    random_starts: Share of games that start on a random position. Like the
      settings below, for games that have it; see the game's page.
    context: Text of one conversation: a `board` with its answer, or a `full`
      game.
    any_move_positions: Share of positions to keep, in the context `board`, among
      the positions on which all legal moves are equally good.
    thoughts: Text before each move: `template` explains the move in a sentence,
      `none` leaves it out.
  """

  num_games: Positive = 8000
  expert: Text = "optimal"
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
    path: File (JSONL, Parquet, CSV or Arrow), directory of a dataset from
      `build_dataset.py`, or Hugging Face hub id of a dataset; None generates
      expert games from the seed.
    split: Split of a dataset on the hub.
    format: Format of the rows; `auto` detects the format of each row from its
      fields.
    skip_bad_rows: Whether to skip and record unreadable rows; otherwise the
      first such row is an error.
    games: Settings of the generated games.
    max_seq_length: Maximum number of tokens in a row; longer rows are dropped
      and counted.
    max_samples: Maximum number of rows, taken from the start of the data; None
      takes all rows.
    eval_fraction: Share of the rows held out for the eval loss. Rows with the
      same key by `held_out_by` stay on one side.
    held_out_by: Key that separates held-out rows: `text` is the whole text, or
      the prompt of a preference pair; `position` is the board up to rotation and
      reflection, and needs rows that answer one board each, as in the context
      `board`.
    packing: Whether to pack several rows of a batch into one sequence, without
      attention between rows. Losses and updates are the same up to rounding;
      steps are faster if rows differ in length.
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
  """Optimizer and schedule.

  Attributes:
    max_steps: Number of training steps.
    batch_size: Number of rows in a training step.
    gradient_accumulation_steps: Divisor of `batch_size`; as many rows, or in GRPO
      fewer, are trained at a time. The update does not depend on it.
    optimizer: Optimizer: `adamw`; `muon` for whole models (not adapters), which
      needs fewer steps from scratch; or a function `package.module:function`
      that takes this section and returns an Optax optimizer.
    learning_rate: Peak learning rate.
    warmup_steps: Number of steps of linear warmup to the peak, which starts at
      the peak divided by the number of warmup updates; 0 disables warmup.
    final_learning_rate: Learning rate at the end of the cosine decay, as a share
      of the peak.
    b1: Decay rate of Adam's first moment.
    b2: Decay rate of Adam's second moment.
    weight_decay: Decoupled weight decay of all parameters.
    max_grad_norm: Maximum global norm of the gradient; larger ones are clipped.
    eval_every_n_steps: Number of steps between evaluations. The model is also
      evaluated before the first step and after the last one.
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
  """Checkpoints to resume from; the final model is always saved.

  Attributes:
    save_interval_steps: Number of steps between checkpoints.
    max_to_keep: Maximum number of checkpoints; the oldest are deleted. None
      keeps all.
  """

  save_interval_steps: Positive = 100
  max_to_keep: Positive | None = 3


@settings
class LoggingConfig:
  """Logs and reports of a run.

  Attributes:
    log_every_n_steps: Number of steps between lines on the console and in the
      text log; `metrics.jsonl` has every step.
    report: Whether a finished run plays every line of play and writes
      `report.html` and plots.
    wandb: Whether to log to Weights & Biases (needs the extra `tracking`).
    wandb_project: Weights & Biases project.
  """

  log_every_n_steps: Positive = 10
  report: Flag = True
  wandb: Flag = False
  wandb_project: Text = "tunix_ttt"


@settings
class EvalConfig:
  """Sampling of completions for an evalset.

  Attributes:
    max_new_tokens: Maximum number of tokens in a completion.
    batch_size: Number of prompts per batch.
    temperature: Sampling temperature; 0 is greedy decoding.
    top_p: Probability mass of nucleus sampling, if the temperature is above 0; 1
      samples from all tokens.
  """

  max_new_tokens: Positive = 64
  batch_size: Positive = 128
  temperature: NonNegative = 0.0
  top_p: Annotated[float, Strict, pydantic.Field(gt=0, le=1)] = 1.0


@settings
class PlayConfig:
  """Play of whole games.

  Attributes:
    format: Format of boards and answers, for games with several: `grid`,
      `token_board`, or a custom text format `package.module:name`.
      `data.games.thoughts` decides whether answers begin with a thought.
    context: Prompt of each turn: `board` is the current board, `full` the whole
      conversation, `truncated` the conversation with past thoughts replaced.
    opponent: Opponent: `random`, `optimal` and `epsilon-optimal:0.3` (a random
      move with probability 0.3, else an optimal one) for games that are solved,
      `mcts:16` (tree search with 16 simulations), or a function
      `package.module:function`, a `games.players.Player`.
    num_games: Number of sampled games in each seat.
    batch_size: Number of games per batch.
    max_new_tokens: Maximum number of tokens in an answer.
    max_game_tokens: Maximum number of tokens in a conversation, boards and
      answers together; None is no limit. A model's own context length also
      applies.
    max_turns: Maximum number of turns in a game of each seat that is the model's.
    on_parse_error: Response to an unreadable answer: `end` ends the game,
      `retry` shows the board again.
    temperature: Sampling temperature; 0 is greedy decoding.
    num_answers: Number of sampled answers to an observation of every game, fewer to
      rarer ones, for exact results at a temperature above 0; 0 computes their
      probabilities instead. None is 0, but 32 for answers with thoughts and, in
      training, for games of more than 2000 observations.
    top_k: Number of most likely tokens to sample from; None samples from all.
    top_p: Probability mass of nucleus sampling; 1 samples from all tokens.
    constrained: Whether to sample only tokens that can complete an answer;
      `legal` for tokens that can complete an answer with a legal move.
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
  num_answers: Count | None = None
  top_k: Positive | None = None
  top_p: Annotated[float, Strict, pydantic.Field(gt=0, le=1)] = 1.0
  constrained: Flag | Literal["legal"] = False

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    limit = self.max_game_tokens
    if limit is not None and self.max_new_tokens >= limit:
      raise ValueError(
        f"max_new_tokens {self.max_new_tokens} leaves no room for the board in"
        f" max_game_tokens {limit}; lower the first or raise the second"
      )
    return self


@settings
class MeshConfig:
  """The device mesh of a run, with Tunix's axes.

  Attributes:
    fsdp: Number of devices that rows, weights and optimizer state are sharded
      over; `auto` takes all devices that the other axes leave.
    tp: Number of devices that heads, feed-forward layers and the vocabulary are
      sharded over.
    layout: Placement of a GRPO run's sampler: `colocated` shares all devices
      with the trainer, `split` uses separate devices after the trainer's.
    rollout_fsdp: Number of devices that rows and weights are sharded over on the
      sampler's separate devices; None uses the trainer's number.
  """

  fsdp: Positive | Literal["auto"] = 1
  tp: Positive = 1
  layout: Literal["colocated", "split"] = "colocated"
  rollout_fsdp: Positive | None = None

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    if self.rollout_fsdp is not None and self.layout != "split":
      raise ValueError(
        "rollout_fsdp: needs separate devices for the sampler; set layout to"
        " split"
      )
    return self


@settings
class DistributedConfig:
  """Several processes of one run, each with its own devices.

  JAX fills in settings that are None on clusters that it detects (Slurm,
  Open MPI, Kubernetes, …).

  Attributes:
    coordinator: Address of the first process, `host:port`.
    num_processes: Number of processes.
    process_id: Index of this process, from 0.
    initialization_timeout_seconds: Seconds to wait for the other processes at
      the start.
    heartbeat_timeout_seconds: Seconds without a heartbeat after which a process
      counts as lost and the others end.
  """

  coordinator: Text | None = None
  num_processes: Positive | None = None
  process_id: Count | None = None
  initialization_timeout_seconds: Positive = 300
  heartbeat_timeout_seconds: Positive = 100
