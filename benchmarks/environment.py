"""Random playouts of the environment beside pgx's tic-tac-toe.

Both play the same number of games from the empty board, uniformly at random on
both sides, in one compiled program; a ply is one move of either side.
"""

import argparse
from collections.abc import Callable
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import record

from tunix_ttt import cli
from tunix_ttt import errors
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules


def ours(num_games: int) -> Callable[[jax.Array], jax.Array]:
  """Returns a program that plays games and counts their plies."""
  env = env_lib.TicTacToe()

  def playout(key: jax.Array) -> jax.Array:
    opponent_seeds, agent_seeds = jax.random.bits(key, (2, num_games))
    states = jax.vmap(env.init)(opponent_seeds)

    def turn(states: env_lib.State, _: None) -> tuple[Any, None]:
      moves = opponents.uniform_random(agent_seeds, states.board)
      return jax.vmap(env.step)(states, moves), None

    num_turns = (rules.NUM_CELLS + 1) // 2
    states, _ = jax.lax.scan(turn, states, None, num_turns)
    return jnp.asarray(rules.num_marks())[states.board].astype(jnp.int32).sum()

  return jax.jit(playout)


def peers(num_games: int) -> Callable[[jax.Array], jax.Array]:
  """Returns the same of pgx's."""
  try:
    import pgx  # pyright: ignore[reportMissingImports]
    from pgx.experimental import utils as pgx_utils  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise errors.UserError(
      "pgx is not installed; run: pip install 'tunix_ttt[bench]'"
    ) from None
  env = pgx.make("tic_tac_toe")

  def playout(key: jax.Array) -> jax.Array:
    init_key, move_key = jax.random.split(key)
    states = jax.vmap(env.init)(jax.random.split(init_key, num_games))

    def ply(states: Any, key: jax.Array) -> tuple[Any, jax.Array]:
      moves = pgx_utils.act_randomly(key, states.legal_action_mask)
      live = ~states.terminated
      return jax.vmap(env.step)(states, moves), live.sum()

    keys = jax.random.split(move_key, rules.NUM_CELLS)
    _, plies = jax.lax.scan(ply, states, keys)
    return plies.sum()

  return jax.jit(playout)


def plies_per_second(
  playout: Callable[[jax.Array], jax.Array], repeats: int
) -> float:
  """Returns the median over runs, the first left out."""
  speeds = []
  for key in jax.random.split(jax.random.key(0), repeats + 1):
    started = time.perf_counter()
    plies = int(playout(key))
    speeds.append(plies / (time.perf_counter() - started))
  return statistics.median(speeds[1:])


def main() -> None:
  """Measures, prints and writes."""
  parser = cli.parser(__doc__ or "", "python benchmarks/environment.py")
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--num-games", type=cli.positive, default=4096)
  parser.add_argument("--repeats", type=cli.positive, default=20)
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  rows = []
  # The generator is JAX's choice; `rbg` is its faster one.
  for generator in ("threefry2x32", "rbg"):
    jax.config.update("jax_default_prng_impl", generator)
    speeds = [
      plies_per_second(make(flags.num_games), flags.repeats)
      for make in (ours, peers)
    ]
    rows.append(
      {
        "generator": generator,
        "num_games": flags.num_games,
        "plies_per_second": round(speeds[0]),
        "pgx_plies_per_second": round(speeds[1]),
        "ratio": round(speeds[0] / speeds[1], 2),
      }
    )
    print(
      f"{generator:12}  {speeds[0]:.3g} plies/s, pgx {speeds[1]:.3g}:"
      f" {speeds[0] / speeds[1]:.1f} times"
    )
  record.write(flags.output, {"rows": rows})


if __name__ == "__main__":
  cli.run(main)
