"""The settings of a pipeline of runs."""

import dataclasses

import pydantic

from tunix_ttt.config import fields


@fields.settings
class PairsConfig:
  """The preference pairs that DPO trains on.

  Attributes:
    count: how many.
    rejected: how often each kind of worse answer is drawn: `worse` by the
      solver, `illegal`, or badly `format`ted.
  """

  count: fields.Positive = 6000
  rejected: dict[fields.Text, fields.NonNegative] = dataclasses.field(
    default_factory=lambda: {"worse": 1.0}
  )


@fields.settings
class StageConfig:
  """A run of a pipeline.

  Attributes:
    config: its own YAML file, by its path from where the command is run.
    set: assignments that replace settings of it, as `--set` has them.
  """

  config: fields.Text
  set: list[fields.Text] = pydantic.Field(default_factory=list)


@fields.settings
class PipelineConfig:
  """Stages, each of which starts from the model of the one before.

  Attributes:
    seed: of all stages.
    pairs: made first, for `dpo`.
    sft: makes the first model.
    dpo: left out where None.
    grpo: left out where None.
  """

  seed: fields.Count = 0
  pairs: PairsConfig = PairsConfig()
  sft: StageConfig
  dpo: StageConfig | None = None
  grpo: StageConfig | None = None
