"""Settings of pipelines of runs."""

import dataclasses
from typing import Annotated, Literal

import pydantic

from tunix_ttt.config import sections

Rejected = Literal["worse", "illegal", "format"]


@sections.settings
class PairsConfig:
  """Preference pairs for the DPO stage.

  Attributes:
    source: Source of rejected answers: `model` samples the model that DPO starts
      from; `solver` writes moves that the solver rates worse.
    count: Number of pairs; fewer if the source yields no more.
    rejected: Weights of the kinds of rejected answers: `worse` moves by the
      solver, `illegal` moves, and answers in a wrong `format`. With
      the source `model`, all weights must be equal.
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
    config: Path of the run's YAML file, relative to the working directory.
    set: Assignments that replace settings of the file, as for `--set`.
  """

  config: sections.Text
  set: list[sections.Text] = dataclasses.field(default_factory=list)


@sections.settings
class PipelineConfig:
  """Training stages; each one starts from the previous stage's model.

  Attributes:
    seed: Random seed of all stages.
    pairs: Preference pairs for the DPO stage.
    sft: SFT stage.
    dpo: DPO stage; None skips it.
    grpo: GRPO stage; None skips it.
  """

  seed: sections.Seed = 0
  pairs: PairsConfig = PairsConfig()
  sft: StageConfig
  dpo: StageConfig | None = None
  grpo: StageConfig | None = None
