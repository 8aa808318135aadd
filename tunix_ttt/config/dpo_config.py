"""The settings of a DPO run, over those it shares with other runs."""

from typing import Annotated, Literal

import pydantic

from tunix_ttt.config import sections


@sections.settings
class PreferenceConfig:
  """The algorithm, by Tunix's names.

  Attributes:
    algorithm: `dpo` (Rafailov et al., 2023), against the model that training
      starts from, or `orpo` (Hong et al., 2024), which has no reference.
    beta: KL penalty of DPO; larger keeps the policy near the reference.
    lambda_orpo: Weight of ORPO's odds-ratio term beside the likelihood of
      chosen answers.
    label_smoothing: the share of pairs taken to be the wrong way round.
  """

  algorithm: Literal["dpo", "orpo"] = "dpo"
  beta: sections.AboveZero = 0.1
  lambda_orpo: sections.AboveZero = 0.1
  label_smoothing: Annotated[
    float, sections.Strict, pydantic.Field(ge=0, lt=0.5)
  ] = 0.0


@sections.settings
class DPOConfig(sections.SFTConfig):
  """A run on preference pairs, which `data.path` names.

  `training.batch_size` counts pairs.

  Attributes:
    training: how to optimise.
    dpo: the algorithm.
  """

  training: sections.TrainingConfig = sections.TrainingConfig(
    max_steps=200, batch_size=32, learning_rate=1e-4, eval_every_n_steps=50
  )
  dpo: PreferenceConfig = PreferenceConfig()
