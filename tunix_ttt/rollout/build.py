"""The sampler that a config describes."""

import dataclasses

from tunix_ttt import config as config_lib
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.rollout import policy as policy_lib
from tunix_ttt.rollout import sampler as sampler_lib
from tunix_ttt.rollout import sampling as sampling_lib
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.text import tokenizers


def make_tables(
  config: config_lib.SFTConfig, tokenizer: tokenizers.Tokenizer
) -> tables_lib.Tables:
  """Returns the tables of the config's text format.

  Raises:
    errors.UserError: if the tokenizer cannot spell the answers.
  """
  thoughts = config.data.games.thoughts == "template"
  text_format = text_formats.named(config.play.format, thoughts=thoughts)
  return tables_lib.build(text_format, tokenizer)


def make_sampler(
  policy: policy_lib.Policy,
  env: env_lib.TicTacToe,
  tables: tables_lib.Tables,
  play: config_lib.PlayConfig,
  draw: config_lib.RolloutConfig | None = None,
) -> sampler_lib.Sampler:
  """Returns the sampler of a policy.

  Args:
    policy: who plays.
    env: against whom.
    tables: see `make_tables`.
    play: what games look like, and how tokens are drawn.
    draw: how they are drawn instead.

  Raises:
    errors.UserError: if the limits leave no room for an answer.
  """
  drawn = draw or play
  sampling = sampling_lib.Sampling(
    temperature=drawn.temperature,
    top_k=drawn.top_k,
    top_p=drawn.top_p,
    constrained=drawn.constrained,
  )
  config = sampler_lib.RolloutConfig(
    context=play.context,
    max_turns=play.max_turns,
    max_new_tokens=play.max_new_tokens,
    max_game_tokens=play.max_game_tokens,
    on_parse_error=play.on_parse_error,
    sampling=sampling,
  )
  return sampler_lib.Sampler(policy, env, tables, config)


def single_moves(play: config_lib.PlayConfig) -> config_lib.PlayConfig:
  """Returns the same play, a single move of each game."""
  return dataclasses.replace(play, max_turns=1)


def greedy_single_moves(
  play: config_lib.PlayConfig,
) -> config_lib.PlayConfig:
  """Returns a single greedy move on the board alone."""
  return dataclasses.replace(
    play, max_turns=1, context="board", temperature=0.0, on_parse_error="end"
  )
