"""Builds a sampler from a config."""

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
  """Returns the lookup tables of the config's text format.

  Raises:
    errors.UserError: if the tokenizer cannot encode the answers.
  """
  thoughts = config.data.games.thoughts == "template"
  text_format = text_formats.named(config.play.format, thoughts=thoughts)
  return tables_lib.build(text_format, tokenizer)


def make_sampler(
  policy: policy_lib.Policy,
  env: env_lib.TicTacToe,
  tables: tables_lib.Tables,
  play: config_lib.PlayConfig,
  rollout: config_lib.RolloutConfig | None = None,
) -> sampler_lib.Sampler:
  """Returns a sampler of whole games.

  `rollout`, if not None, replaces the settings of token sampling in `play`.

  Raises:
    errors.UserError: if the token limits are too small for an answer.
  """
  settings = rollout or play
  sampling = sampling_lib.Sampling(
    temperature=settings.temperature,
    top_k=settings.top_k,
    top_p=settings.top_p,
    constrained=settings.constrained,
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
  """Returns the settings with one move per game."""
  return dataclasses.replace(play, max_turns=1)


def greedy_single_moves(
  play: config_lib.PlayConfig,
) -> config_lib.PlayConfig:
  """Returns the settings with one greedy move per game in context `board`."""
  return dataclasses.replace(
    play, max_turns=1, context="board", temperature=0.0, on_parse_error="end"
  )
