"""Prepares a GRPO run: checks the config, makes the model, writes nothing."""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.data import datasets
from tunix_ttt.evaluate import matches
from tunix_ttt.models import checkpoints
from tunix_ttt.models import memory
from tunix_ttt.rollout import build
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import base_model
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import run_loop
from tunix_ttt.train import tracking

# Says which model the KL divergence is to, where a model starts from adapters.
_REFERENCE_NOTES = {
  "start": "note: the KL divergence is to the model with the adapters that it"
  " starts with; grpo.reference=base takes the model without adapters",
  "base": "note: the KL divergence is to the model without adapters;"
  " grpo.reference=start takes the adapters that it starts with",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """All that a GRPO run needs, checked and in memory.

  Attributes:
    config: Settings of the run.
    model: Model to train.
    record: The model's record for the manifest.
    evaluate: Function of parameters that returns metrics by name, `score`
      among them.
    source: Prompts, where the config has them in place of whole games.
    rewards: Custom rewards.
  """

  config: config_lib.GRPOConfig
  model: checkpoints.Model
  record: run_manifest.ModelRecord
  evaluate: Callable[[Any], dict[str, float]]
  source: datasets.Prompts | None
  rewards: rewards_lib.CustomRewards

  def dataset_record(self) -> run_manifest.DatasetRecord | None:
    """See `run_loop.Prepared`."""
    if self.source is None:
      return None
    return self.source.record(train_rows=len(self.source.samples))


def plan(
  config: config_lib.GRPOConfig,
  tokenizer: pathlib.Path | None = None,
  rewards: rewards_lib.CustomRewards = rewards_lib.NO_CUSTOM_REWARDS,
) -> Plan:
  """Reads the prompts, if any, and makes the model.

  Args:
    config: Settings of the run.
    tokenizer: File of a tiny model's tokenizer, where it has been trained.
    rewards: Custom rewards.

  Raises:
    errors.UserError: if anything in the config or its files is wrong.
  """
  tracking.check(config.logging)
  num_turns = 1 if config.episodes.are_single_moves else config.play.max_turns
  memory.check_answers(config.play, config.training.batch_size)
  rewards_lib.check_custom(rewards, num_turns, config.play.max_new_tokens)
  source = None
  if config.episodes.source == "prompts":
    source = datasets.load_prompts(config.data)
  base = base_model.base_model(config, source, tokenizer)
  model, record = run_loop.adapt(base, config)
  if not record.trainable_parameters:
    raise errors.UserError(
      "nothing would be trained: no parameter is trainable"
    )
  # The tables are checked here, where a mistake costs nothing.
  evaluate = matches.Evaluator(model, config)
  tables = build.make_tables(config, model.tokenizer)
  prompt_tokens = int(tables.observations.begin.lengths.max())
  memory.check(model, config, *memory.shape_of_games(config, prompt_tokens))
  return Plan(
    config=config,
    model=model,
    record=record,
    evaluate=evaluate,
    source=source,
    rewards=rewards,
  )


def reference(plan: Plan) -> reference_log_probs.Scorer | None:
  """Returns the reference of the KL divergence, None without one.

  Call it before a checkpoint is restored into the model.
  """
  if not plan.config.grpo.beta:
    return None
  if reference_log_probs.starts_from_adapters(plan.model):
    progress.say(_REFERENCE_NOTES[plan.config.grpo.reference])
  return reference_log_probs.of_reference(
    plan.model, plan.model.module, plan.config
  )
