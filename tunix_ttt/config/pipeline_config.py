"""The settings of a pipeline of runs."""

import dataclasses
from typing import Annotated, Literal

import pydantic

from tunix_ttt.config import sections

Rejected = Literal["worse", "illegal", "format"]


@sections.settings
class PairsConfig:
  """The preference pairs that DPO trains on.

  Attributes:
    source: whose answers are rejected: `model`, those of the model that DPO
      starts from, in its own words; `solver`, moves that the solver calls worse.
    count: how many; fewer, if no more are found.
    rejected: kinds of worse answers: `worse` by the solver, `illegal`, or badly
      `format`ted; with `solver`, how often each is drawn.
    temperature: Sampling temperature of the model's games.
  """

  source: Literal["model", "solver"] = "model"
  count: sections.Positive = 6000
  rejected: Annotated[
    dict[Rejected, sections.AboveZero], pydantic.Field(min_length=1)
  ] = dataclasses.field(
    default_factory=lambda: {"worse": 1.0, "illegal": 1.0, "format": 1.0}
  )
  temperature: sections.AboveZero = 1.0


@sections.settings
class StageConfig:
  """A run of a pipeline.

  Attributes:
    config: its own YAML file, by its path from where the command is run.
    set: assignments that replace settings of it, as `--set` has them.
  """

  config: sections.Text
  set: list[sections.Text] = dataclasses.field(default_factory=list)


@sections.settings
class PipelineConfig:
  """Stages, each of which starts from the model of the one before.

  Attributes:
    seed: Random seed of all stages.
    pairs: made before `dpo`, for it.
    sft: makes the first model.
    dpo: left out where None.
    grpo: left out where None.
  """

  seed: sections.Seed = 0
  pairs: PairsConfig = PairsConfig()
  sft: StageConfig
  dpo: StageConfig | None = None
  grpo: StageConfig | None = None
