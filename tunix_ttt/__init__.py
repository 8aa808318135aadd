"""Post-training of language models on tic-tac-toe with JAX and Tunix.

    import tunix_ttt as ttt

    config = ttt.load_config(ttt.SFTConfig, "configs/sft_tiny.yaml")
    run = ttt.train_sft(config)
    model = ttt.load_model(run)
    print(ttt.results_table(list(ttt.play_all_lines(model, config))))

Settings    `load_config` reads `SFTConfig`, `DPOConfig` and `GRPOConfig`. Every
            function also accepts a YAML file or a dictionary as a config.
Training    `train_sft`, `train_dpo`, `train_grpo` and `resume`. GRPO accepts
            custom `Reward` functions.
Runs        `Run` opens a run directory: its config, model, metrics, games and
            report. `RunManifest`, `read_metrics` and `write_report` read and
            write its files. The module `plots` draws training curves.
Models      `load_model` returns a `Model`, whose method `generate` answers
            prompts; `export_model` writes it for PEFT or transformers.
Games       `play_games` samples games and `play_all_lines` plays every line.
            Both yield a `Match` for each mark, whose `Trajectory` has an
            `Ending` for each game. `describe_games` and `results_table`
            format them. `play` plays against a `Partner` in the terminal.
Evalsets    `load_evalset` reads questions; `answer_evalset` answers them.
Game        `TicTacToe`, `State` and `Outcome`; the modules `rules` and
            `opponents`; `solve`, `optimal_cells` and `render_board`.
Errors      `UserError` reports a mistake in settings, data or paths.

Names are imported on first use: `import tunix_ttt` is fast, starts no JAX
backend and does not need Tunix.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from tunix_ttt.algorithms.rewards import Reward
  from tunix_ttt.config import DPOConfig
  from tunix_ttt.config import GRPOConfig
  from tunix_ttt.config import SFTConfig
  from tunix_ttt.config import load as load_config
  from tunix_ttt.errors import UserError
  from tunix_ttt.evaluate.evalsets import load as load_evalset
  from tunix_ttt.evaluate.matches import Match
  from tunix_ttt.evaluate.matches import describe as describe_games
  from tunix_ttt.evaluate.matches import play_all_lines
  from tunix_ttt.evaluate.matches import play_games
  from tunix_ttt.evaluate.matches import table as results_table
  from tunix_ttt.evaluate.partner import Partner
  from tunix_ttt.evaluate.partner import play
  from tunix_ttt.games.tictactoe import opponents
  from tunix_ttt.games.tictactoe import rules
  from tunix_ttt.games.tictactoe.env import Outcome
  from tunix_ttt.games.tictactoe.env import State
  from tunix_ttt.games.tictactoe.env import TicTacToe
  from tunix_ttt.games.tictactoe.solver import optimal_cells
  from tunix_ttt.games.tictactoe.solver import solve
  from tunix_ttt.games.tictactoe.text_formats import render_grid as render_board
  from tunix_ttt.models.checkpoints import Model
  from tunix_ttt.recipes import answer_evalset
  from tunix_ttt.recipes import export_model
  from tunix_ttt.recipes import report as write_report
  from tunix_ttt.recipes import resume
  from tunix_ttt.recipes import train_dpo
  from tunix_ttt.recipes import train_grpo
  from tunix_ttt.recipes import train_sft
  from tunix_ttt.report import plots
  from tunix_ttt.rollout.trajectory import Ending
  from tunix_ttt.rollout.trajectory import Trajectory
  from tunix_ttt.run import Run
  from tunix_ttt.runs.run_directory import read_metrics
  from tunix_ttt.runs.run_manifest import RunManifest
  from tunix_ttt.train.reference_log_probs import load as load_model

__version__ = "0.1.0"

# Module and attribute of each name, as imported above; "" is the module itself.
_SOURCES = {
  "DPOConfig": ("config", "DPOConfig"),
  "Ending": ("rollout.trajectory", "Ending"),
  "GRPOConfig": ("config", "GRPOConfig"),
  "Match": ("evaluate.matches", "Match"),
  "Model": ("models.checkpoints", "Model"),
  "Outcome": ("games.tictactoe.env", "Outcome"),
  "Partner": ("evaluate.partner", "Partner"),
  "Reward": ("algorithms.rewards", "Reward"),
  "Run": ("run", "Run"),
  "RunManifest": ("runs.run_manifest", "RunManifest"),
  "SFTConfig": ("config", "SFTConfig"),
  "State": ("games.tictactoe.env", "State"),
  "TicTacToe": ("games.tictactoe.env", "TicTacToe"),
  "Trajectory": ("rollout.trajectory", "Trajectory"),
  "UserError": ("errors", "UserError"),
  "answer_evalset": ("recipes", "answer_evalset"),
  "describe_games": ("evaluate.matches", "describe"),
  "export_model": ("recipes", "export_model"),
  "load_config": ("config", "load"),
  "load_evalset": ("evaluate.evalsets", "load"),
  "load_model": ("train.reference_log_probs", "load"),
  "opponents": ("games.tictactoe.opponents", ""),
  "optimal_cells": ("games.tictactoe.solver", "optimal_cells"),
  "play": ("evaluate.partner", "play"),
  "play_all_lines": ("evaluate.matches", "play_all_lines"),
  "play_games": ("evaluate.matches", "play_games"),
  "plots": ("report.plots", ""),
  "read_metrics": ("runs.run_directory", "read_metrics"),
  "render_board": ("games.tictactoe.text_formats", "render_grid"),
  "results_table": ("evaluate.matches", "table"),
  "resume": ("recipes", "resume"),
  "rules": ("games.tictactoe.rules", ""),
  "solve": ("games.tictactoe.solver", "solve"),
  "train_dpo": ("recipes", "train_dpo"),
  "train_grpo": ("recipes", "train_grpo"),
  "train_sft": ("recipes", "train_sft"),
  "write_report": ("recipes", "report"),
}

# Hidden from type checkers, which then report unknown names.
if not TYPE_CHECKING:

  def __getattr__(name: str) -> Any:
    """Imports a name on its first use."""
    if name not in _SOURCES:
      raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    path, attribute = _SOURCES[name]
    try:
      module = importlib.import_module(f"{__name__}.{path}")
      value = getattr(module, attribute) if attribute else module
    except ImportError:
      # Imported lazily: needed only to explain the error.
      from tunix_ttt import requirements

      requirements.check()
      raise
    globals()[name] = value
    return value

  def __dir__() -> list[str]:
    """Lists the module's names, including names not imported yet."""
    return sorted(globals().keys() | _SOURCES.keys())
