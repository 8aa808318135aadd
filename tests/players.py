"""Games of scripted players on every line, for what reads games."""

from collections.abc import Callable
import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import matches as matches_lib
from tunix_ttt.evaluate import rates
from tunix_ttt.games import catalog
from tunix_ttt.games.tictactoe import board_records
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import lines
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.rollout import trajectory as trajectory_lib

GAME = catalog.load("tictactoe", thoughts=True)
# The cell to take on each board: int32 [NUM_BOARDS].
PERFECT = solver.solve().preferred.astype(np.int32)
FIRST_LEGAL = rules.nth_cell()[rules.legal_masks(), 0].astype(np.int32)


def scripted_play(
  env: env_lib.TicTacToe, table: np.ndarray, num_turns: int = 5
) -> Callable[[jax.Array, env_lib.State], trajectory_lib.Trajectory]:
  """Returns a rollout function that plays moves from a table, without a model.

  `table` has the cell to play on each board, int [3^9].
  """
  cells = jnp.asarray(table, jnp.int32)

  @jax.jit
  def play(keys: jax.Array, states: env_lib.State) -> trajectory_lib.Trajectory:
    del keys

    def turn(state: env_lib.State, _: None) -> tuple[env_lib.State, Any]:
      active = state.outcome == env_lib.Outcome.ONGOING
      move = cells[state.board]
      moves = jnp.where(active, move, -1)
      record = state, active, moves
      return jax.vmap(env.step)(state, move), record

    end, records = jax.lax.scan(turn, states, None, num_turns)
    played, turn_mask, moves = jax.tree.map(
      lambda leaf: jnp.swapaxes(leaf, 0, 1), records
    )
    no_tokens = jnp.zeros((*turn_mask.shape, 0))
    return trajectory_lib.Trajectory(
      ending=end.outcome,
      state=end,
      states=played,
      retried=jnp.zeros_like(turn_mask),
      turn_mask=turn_mask,
      moves=moves,
      actions=no_tokens.astype(jnp.int32),
      action_mask=no_tokens.astype(bool),
      log_probs=no_tokens,
    )

  return play


def matches(table: np.ndarray) -> list[matches_lib.Match]:
  """Returns the games of a player on every line, as X and as O."""
  scripted = scripted_play(env_lib.TicTacToe(), table)
  return list(matches_lib.exact_matches(scripted, GAME, 128))


def exact(
  summary: game_files.Summary | None, mark: board_records.Mark
) -> rates.Exact:
  """Returns the results of every line."""
  assert summary is not None
  result = summary.results[mark]
  assert isinstance(result, rates.Exact)
  return result


def write(
  played: list[matches_lib.Match],
  path: pathlib.Path,
  say: Callable[[str], str] = "I take {}.".format,
) -> pathlib.Path:
  """Writes games as `matches.write` does, every answer put into words.

  Args:
    played: the games.
    path: where they go; the summary goes beside it.
    say: what is said with a move, given its cell.
  """
  rows = []
  for match in played:
    every = list(trajectory_lib.describe(GAME, match.games, str))
    for game in (every[number] for number in lines.distinct(match.games)):
      said = [{**turn, "response": say(turn["move"])} for turn in game["turns"]]
      rows.append({**game, "turns": said})
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  summary = {
    "model": "a scripted player",
    "play": {"opponent": "random"},
    "results": {
      match.seat: dataclasses.asdict(match.result) for match in played
    },
    "openings": dataclasses.asdict(
      board_records.Openings(
        temperature=1.0,
        x=[0, 0, 0, 0, 10, 0, 0, 0, 0, 2],
        o={"A1": [0, 0, 0, 0, 7, 0, 0, 0, 1, 0]},
      )
    ),
  }
  game_files.summary_path(path).write_text(json.dumps(summary))
  return path
