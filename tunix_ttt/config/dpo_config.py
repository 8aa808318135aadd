"""Settings of DPO runs."""

from typing import Annotated, Literal

import pydantic

from tunix_ttt.config import sections


@sections.settings
class PreferenceConfig:
  """Preference loss, under Tunix's names.

  Attributes:
    algorithm: Loss: `dpo` (Rafailov et al., 2023), whose reference is the model
      that training starts from, or `orpo` (Hong et al., 2024), which has no
      reference.
    beta: KL penalty coefficient of DPO; larger keeps the policy closer to the
      reference.
    lambda_orpo: Weight of ORPO's odds-ratio term, beside the likelihood of
      chosen answers.
    label_smoothing: Assumed share of pairs with swapped labels.
  """

  algorithm: Literal["dpo", "orpo"] = "dpo"
  beta: sections.AboveZero = 0.1
  lambda_orpo: sections.AboveZero = 0.1
  label_smoothing: Annotated[
    float, sections.Strict, pydantic.Field(ge=0, lt=0.5)
  ] = 0.0


@sections.settings
class DPOConfig(sections.SFTConfig):
  """A DPO or ORPO run on the preference pairs at `data.path`.

  `training.batch_size` counts pairs.

  Attributes:
    training: Optimizer and schedule.
    dpo: Preference loss.
  """

  training: sections.TrainingConfig = sections.TrainingConfig(
    max_steps=200, batch_size=32, learning_rate=1e-4, eval_every_n_steps=50
  )
  dpo: PreferenceConfig = PreferenceConfig()
