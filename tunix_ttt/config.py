"""Typed configs: YAML in, validated frozen dataclasses out.

Field names are Tunix's and Optax's where they have one. A config can be made
in Python as well as read from YAML; it is checked the same way.
"""

from collections.abc import Sequence
import dataclasses
import difflib
import pathlib
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

from tunix_ttt import errors
from tunix_ttt import yaml_source

_Strict = pydantic.Strict()
Text = Annotated[str, _Strict]
Flag = Annotated[bool, _Strict]
Count = Annotated[int, _Strict, pydantic.Field(ge=0)]
Positive = Annotated[int, _Strict, pydantic.Field(ge=1)]
NonNegative = Annotated[float, _Strict, pydantic.Field(ge=0)]
AboveZero = Annotated[float, _Strict, pydantic.Field(gt=0)]
Fraction = Annotated[float, _Strict, pydantic.Field(ge=0, le=1)]

T = TypeVar("T")
ConfigT = TypeVar("ConfigT")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _settings(cls: type[T]) -> type[T]:
  """Makes a class a frozen dataclass whose values are checked."""
  decorate: Any = pydantic_dataclasses.dataclass(
    frozen=True,
    kw_only=True,
    config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False),
  )
  return decorate(cls)


@_settings
class ModelConfig:
  """What to train.

  Attributes:
    name: `tiny-qwen2.5` or `tiny-gemma3`, made from scratch, or the directory
      of a checkpoint to go on from. The other fields change the shape of a
      tiny model; None keeps its own.
    num_layers: decoder layers.
    embed_dim: width of the residual stream.
    hidden_dim: width of the feed-forward layers.
    num_heads: query heads.
    num_kv_heads: key and value heads; divides `num_heads`.
    head_dim: width of a head; even.
  """

  name: Text = "tiny-qwen2.5"
  num_layers: Positive | None = None
  embed_dim: Positive | None = None
  hidden_dim: Positive | None = None
  num_heads: Positive | None = None
  num_kv_heads: Positive | None = None
  head_dim: Positive | None = None

  def shape(self) -> dict[str, int]:
    """Returns the shape fields that are set."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return {k: v for k, v in fields.items() if k != "name" and v is not None}


@_settings
class TokenizerConfig:
  """The tokenizer of a tiny model, trained on its data before the model is.

  Attributes:
    vocab_size: pieces at the most.
  """

  vocab_size: Annotated[int, _Strict, pydantic.Field(ge=512, le=65536)] = 512


@_settings
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


@_settings
class GamesConfig:
  """Expert games to train on where no data file is given.

  Attributes:
    num_games: games of the solver against a random opponent, half as X.
    random_starts: share of games that start on a random position.
    context: `board` makes one conversation of each position; `full` makes one
      of each game.
    any_move_positions: share of the positions kept, in the context `board`, on
      which any legal move is as good as any other.
    thoughts: `template` explains each move in a sentence; `none` has moves
      alone.
  """

  num_games: Positive = 8000
  random_starts: Fraction = 1.0
  context: Literal["board", "full"] = "board"
  any_move_positions: Fraction = 0.3
  thoughts: Literal["template", "none"] = "template"


DataFormat = Literal[
  "auto", "messages", "prompt_completion", "text", "tunix_sft"
]


@_settings
class DataConfig:
  """Training data.

  Attributes:
    path: a JSONL file; None generates expert games from the seed.
    format: of its rows; `auto` tells by each row's fields.
    games: the games to generate.
    max_seq_length: rows of more tokens are dropped and counted.
    max_samples: at most this many rows, from the start of the data.
    eval_fraction: share of the rows that is held out for the eval loss.
  """

  path: Text | None = None
  format: DataFormat = "auto"
  games: GamesConfig = GamesConfig()
  max_seq_length: Positive = 512
  max_samples: Positive | None = None
  eval_fraction: Annotated[float, _Strict, pydantic.Field(ge=0, lt=1)] = 0.02


@_settings
class TrainingConfig:
  """Optimisation.

  Attributes:
    max_steps: optimizer steps.
    batch_size: rows of an optimizer step.
    gradient_accumulation_steps: parts that a batch is computed in; divides
      `batch_size`. The update does not depend on it.
    optimizer: `adamw`, or `muon`, which needs fewer steps from scratch; it is
      for whole models, not for adapters.
    learning_rate: peak of the schedule.
    warmup_steps: linear warmup, from 0.
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
  optimizer: Literal["adamw", "muon"] = "adamw"
  learning_rate: AboveZero = 1e-3
  warmup_steps: Count = 0
  final_learning_rate: Fraction = 0.1
  b1: Annotated[float, _Strict, pydantic.Field(ge=0, lt=1)] = 0.9
  b2: Annotated[float, _Strict, pydantic.Field(ge=0, lt=1)] = 0.99
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


@_settings
class CheckpointConfig:
  """Checkpoints to resume from; the final one is saved in any case.

  Attributes:
    save_interval_steps: steps between checkpoints.
    max_to_keep: older ones are deleted; None keeps all.
  """

  save_interval_steps: Positive = 100
  max_to_keep: Positive | None = 3


@_settings
class LoggingConfig:
  """What a run writes besides its checkpoints.

  Attributes:
    log_every_n_steps: steps between lines on the console and in the text log;
      `metrics.jsonl` has every step.
    wandb: also log to Weights & Biases (needs the extra `tracking`).
    wandb_project: the project there.
  """

  log_every_n_steps: Positive = 10
  wandb: Flag = False
  wandb_project: Text = "tunix_ttt"


@_settings
class EvalConfig:
  """How completions of an evalset are sampled.

  Attributes:
    max_new_tokens: where a completion is cut.
    batch_size: prompts sampled together.
    temperature: 0 for greedy decoding.
    top_p: nucleus, where the temperature is above 0.
  """

  max_new_tokens: Positive = 64
  batch_size: Positive = 128
  temperature: NonNegative = 0.0
  top_p: Annotated[float, _Strict, pydantic.Field(gt=0, le=1)] = 1.0


@_settings
class PlayConfig:
  """How a model plays whole games.

  Attributes:
    format: of boards and answers; `data.games.thoughts` says whether answers
      begin with a thought.
    context: what a turn is shown: `board` the present board alone, `full` the
      whole conversation, `truncated` the same with past thoughts replaced.
    opponent: `random`, `optimal`, `epsilon-optimal:0.3` for one that is random
      three times in ten, or `scripted:4,0` for a line of cells.
    num_games: games with each mark, where games are sampled.
    batch_size: games played together.
    max_new_tokens: where an answer is cut.
    max_turns: turns of the model in a game.
    on_parse_error: `end` ends the game at an unreadable answer, `retry` shows
      the board again.
    temperature: 0 for greedy decoding.
    top_k: draw from this many most likely tokens; None for all.
    top_p: nucleus.
    constrained: only tokens that can complete an answer are drawn.
  """

  format: Literal["grid", "token_board"] = "grid"
  context: Literal["board", "full", "truncated"] = "board"
  opponent: Text = "random"
  num_games: Positive = 256
  batch_size: Positive = 128
  max_new_tokens: Positive = 32
  max_turns: Positive = 5
  on_parse_error: Literal["end", "retry"] = "end"
  temperature: NonNegative = 0.0
  top_k: Positive | None = None
  top_p: Annotated[float, _Strict, pydantic.Field(gt=0, le=1)] = 1.0
  constrained: Flag = False


@_settings
class SFTConfig:
  """A supervised fine-tuning run.

  Attributes:
    seed: of the games, the data order, the model's and the adapter's values
      and the samples.
    model: what to train.
    tokenizer: the tokenizer of a tiny model.
    lora: adapters to train instead of the whole model; None for the whole.
    data: what to train on.
    training: how to optimise.
    checkpoint: what to resume from.
    logging: what else to write.
    eval: how to sample completions.
    play: how to play whole games.
  """

  seed: Count = 0
  model: ModelConfig = ModelConfig()
  tokenizer: TokenizerConfig = TokenizerConfig()
  lora: LoraConfig | None = None
  data: DataConfig = DataConfig()
  training: TrainingConfig = TrainingConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  logging: LoggingConfig = LoggingConfig()
  eval: EvalConfig = EvalConfig()
  play: PlayConfig = PlayConfig()

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    if self.lora is not None and self.training.optimizer == "muon":
      raise ValueError(
        "training.optimizer: muon is for whole models; use adamw with lora"
      )
    return self


def load(
  kind: type[ConfigT], path: pathlib.Path, overrides: Sequence[str] = ()
) -> ConfigT:
  """Reads a config file.

  Args:
    kind: the config's dataclass.
    path: a YAML file.
    overrides: `a.b=value` assignments that replace what the file says.

  Raises:
    errors.UserError: a line for each mistake, with its place and what to do.
  """
  source = yaml_source.Source(path)
  for assignment in overrides:
    source.set(assignment)
  try:
    return pydantic.TypeAdapter(kind).validate_python(source.values)
  except pydantic.ValidationError as error:
    raise errors.UserError(_explain(kind, source, error.errors())) from None


def to_dict(config: Any) -> dict[str, Any]:
  """Returns a config as plain data, every default spelled out."""
  return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def from_dict(kind: type[ConfigT], values: dict[str, Any]) -> ConfigT:
  """Returns the config that `to_dict` gave `values` for.

  Raises:
    pydantic.ValidationError: if they are not such a config's.
  """
  return pydantic.TypeAdapter(kind).validate_python(values)


def differences(ours: Any, theirs: Any) -> list[str]:
  """Lists the dotted keys in which two configs of one kind differ."""

  def flatten(values: Any, key: str) -> dict[str, Any]:
    if not isinstance(values, dict):
      return {key: values}
    flat = {}
    for name, value in values.items():
      flat |= flatten(value, f"{key}.{name}" if key else name)
    return flat

  a, b = flatten(to_dict(ours), ""), flatten(to_dict(theirs), "")
  return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))


def _explain(kind: type, source: yaml_source.Source, found: list[Any]) -> str:
  """Returns a line for each key that Pydantic found fault with."""
  faults: dict[tuple[str, ...], list[str]] = {}
  for error in found:
    key = _key(kind, error)
    if error["type"] == "unexpected_keyword_argument":
      known = list(_fields(_section_at(kind, key[:-1])))
      fault = f"unknown key; {_suggest(key[-1], known)}"
    elif error["type"] == "value_error":
      fault = error["msg"].removeprefix("Value error, ")
    elif error["type"] == "dataclass_type":
      fault = f"must be a section of keys, found {error['input']!r}"
    else:
      must = error["msg"].replace("Input should be", "must be")
      fault = f"{must}, found {error['input']!r}"
    faults.setdefault(key, []).append(fault)
  return "\n".join(
    f"{source.place(key)}: {'.'.join(key)}: {'; or '.join(fault)}"
    for key, fault in faults.items()
  )


def _key(kind: type, error: Any) -> tuple[str, ...]:
  """Returns the config key of an error, less the names of union members."""
  key, section = [], kind
  for part in error["loc"]:
    fields = _fields(section)
    if part in fields or (
      section and error["type"] == "unexpected_keyword_argument"
    ):
      key.append(part)
      section = _section_type(fields.get(part))
  return tuple(key)


def _fields(section: type | None) -> dict[str, Any]:
  if section is None:
    return {}
  return {f.name: f.type for f in dataclasses.fields(section)}


def _section_type(annotation: Any) -> type | None:
  """Returns the dataclass that an annotation is, or has among its members."""
  for member in (annotation, *get_args(annotation)):
    if dataclasses.is_dataclass(member) and isinstance(member, type):
      return member
  return None


def _section_at(kind: type, key: Sequence[str]) -> type | None:
  section: type | None = kind
  for name in key:
    section = _section_type(_fields(section).get(name))
  return section


def _suggest(name: str, known: Sequence[str]) -> str:
  close = difflib.get_close_matches(name, known, n=1)
  if close:
    return f"did you mean {close[0]!r}?"
  return f"the keys here are {', '.join(known)}"
