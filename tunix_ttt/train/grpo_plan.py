"""Prepares GRPO runs: checks the config and makes the model."""

from collections.abc import Callable
import dataclasses
import pathlib

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.algorithms import rewards as rewards_lib
from tunix_ttt.data import datasets
from tunix_ttt.evaluate import evaluator
from tunix_ttt.games import catalog
from tunix_ttt.models import memory
from tunix_ttt.models import model_policy
from tunix_ttt.models import sources
from tunix_ttt.rollout import sampler
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import exploiter
from tunix_ttt.train import mistake_starts
from tunix_ttt.train import opponent_pool
from tunix_ttt.train import recorder
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import run_loop

# Notes on the reference of the KL divergence, for models that start from
# adapters.
_REFERENCE_NOTES = {
  "start": "note: the KL reference is the model with its initial adapters;"
  " grpo.reference=base takes the model without adapters",
  "base": "note: the KL reference is the model without adapters;"
  " grpo.reference=start takes the model with its initial adapters",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(run_loop.Plan):
  """The checked parts of a GRPO run, in memory.

  Attributes:
    evaluate: Function from parameters, and one that is called with the games of
      each seat, to metrics by name, with a `score`.
    source: Prompts; None for whole games.
    prefix: Tokens with which all sequences begin, see `tables.Tables`.
  """

  config: config_lib.GRPOConfig
  evaluate: Callable[..., dict[str, float]]
  source: datasets.Prompts | None
  prefix: tuple[int, ...] = ()

  def dataset_record(self) -> run_manifest.DatasetRecord | None:
    """Returns the manifest's record of the prompts, if any."""
    source = self.source
    return source and source.record(train_rows=len(source.samples))


def load(config: config_lib.GRPOConfig) -> datasets.Prompts | None:
  """Reads the prompts; None for whole games."""
  if config.episodes.source != "prompts":
    return None
  return datasets.load_prompts(config.data, config.game)


def plan(
  config: config_lib.GRPOConfig,
  tokenizer: pathlib.Path | None = None,
  rewards: rewards_lib.CustomRewards = rewards_lib.NO_CUSTOM_REWARDS,
) -> Plan:
  """Reads the prompts, if any, and makes the model; writes nothing.

  `tokenizer` is the file of a tiny model's trained tokenizer.

  Raises:
    errors.UserError: if the config or one of its files is invalid.
  """
  recorder.check(config.logging)
  episodes, play = config.episodes, config.play
  num_rows = config.training.batch_size * episodes.num_agents
  memory.check_answers(config.play, num_rows)
  check_games(config, rewards)
  source = load(config)
  base = reference_log_probs.base_model(config, source, tokenizer)
  model, record = run_loop.adapt(base, config)
  if not record.trainable_parameters:
    raise errors.UserError("the model has no trainable parameters")
  # Building the tables validates them before training.
  evaluate = evaluator.Evaluator(model, config)
  tables = sampler.make_tables(config, model.tokenizer)
  exploiter.check(config)
  shortest = tables.min_legal_answer
  if episodes.try_all and play.max_new_tokens < shortest:
    raise errors.UserError(
      f"play.max_new_tokens: {play.max_new_tokens} is too few for"
      f" episodes.try_all; use at least {shortest}, the length of an answer with"
      " any move"
    )
  prompt_tokens = tables.observations.max_begin
  memory.check(model, config, *memory.shape_of_games(config, prompt_tokens))
  return Plan(
    config=config,
    model=model,
    record=record,
    evaluate=evaluate,
    source=source,
    rewards=rewards,
    prefix=tables.prefix,
  )


def check_games(
  config: config_lib.GRPOConfig, rewards: rewards_lib.CustomRewards
) -> None:
  """Refuses what the game does not have, before any file is written.

  Raises:
    errors.UserError: if the game has no such seat, opponent, positions or
      rewards.
  """
  game, episodes = catalog.of(config), config.episodes
  if episodes.num_agents > 1:
    if len(game.seats) != episodes.num_agents:
      raise errors.UserError(
        f"episodes.agent: both: {config.game.name} is not a game of two seats;"
        " set it to mixed"
      )
  elif episodes.agent != "mixed":
    game.seat_number(episodes.agent, "episodes.agent")
  opponent_pool.OpponentPool(config, pathlib.Path())
  if episodes.source == "positions" or episodes.starts:
    _ = game.num_positions
  if episodes.has_mistakes:
    mistake_starts.MistakePool(config, pathlib.Path())
  rewards_lib.check(
    game,
    config.rewards,
    rewards,
    config.num_turns,
    config.play.max_new_tokens,
  )


def describe(
  model: sources.Outline,
  config: config_lib.GRPOConfig,
  source: datasets.Prompts | None,
) -> tuple[list[str], int, int]:
  """Returns lines about the games, the rows of a step and their length."""
  rewards_lib.custom_rewards(None, config.rewards)
  training, play = config.training, config.play
  group_size = config.grpo.num_generations
  num_games = training.max_steps * training.batch_size
  lines = [
    f"games    {num_games:,}: {training.max_steps:,} steps of"
    f" {training.batch_size // group_size} groups of {group_size}",
    f"turns    context {play.context}, answers of {play.max_new_tokens} tokens"
    " at the most",
  ]
  if source is not None:
    lines.append(
      f"prompts  {source.key}: {len(source.samples):,}, {source.skipped.rows:,} rows bad and skipped"
    )
  prompt_tokens = config.data.max_seq_length
  if model.tokenizer is not None:
    tables = check_play(model, config)
    prompt_tokens = tables.observations.max_begin
  return lines, *memory.shape_of_games(config, prompt_tokens)


def check_play(
  model: sources.Outline, config: config_lib.SFTConfig
) -> tables_lib.Tables:
  """Returns the tables of a model's play, after checking its settings."""
  assert model.tokenizer is not None
  tables = sampler.make_tables(config, model.tokenizer)
  policy = model_policy.ModelPolicy(model.module, model.spec)
  env = catalog.of(config).environment()
  sampler.Sampler(policy, env, tables, config.play)
  return tables


def reference(plan: Plan) -> reference_log_probs.Scorer | None:
  """Returns the scorer of the KL reference; None without a KL penalty.

  Call it before a checkpoint is restored into the model.
  """
  if not plan.config.grpo.beta:
    return None
  if reference_log_probs.starts_from_adapters(plan.model):
    progress.say(_REFERENCE_NOTES[plan.config.grpo.reference])
  return reference_log_probs.of_reference(plan.model, plan.config, plan.prefix)
