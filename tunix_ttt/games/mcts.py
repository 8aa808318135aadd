"""Monte Carlo tree search as a player of any game of two seats, with mctx.

The search is MuZero's (Schrittwieser et al., 2020, appendix B) on the rules
themselves, with uniform priors and values from random games. As in UCB1, each
action of a node is tried once before any is tried again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors
from tunix_ttt import requirements
from tunix_ttt import streams
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import players

# (key, state) -> expected return of the seat to act, float32 []. The result is
# ignored at the end of a game.
Value = Callable[[jax.Array, Any], jax.Array]

# Constant c_1 of MuZero's formula, pb_c_init of mctx. mctx's 1.25 is meant for
# priors of a network.
_EXPLORATION = 2.5
# Beyond all scaled values, which are from 0 to 1.
_UNTRIED, _ILLEGAL = 2.0, -1.0
# Untried actions come in a random order: mctx's noise of 1e-7 is rounded away.
_JITTER = 0.01
_NO_PRIOR = float(np.finfo(np.float32).min)


def mcts(
  game: game_lib.Game,
  *,
  simulations: int,
  rollouts: int = 8,
  value: Value | None = None,
) -> players.Player:
  """Returns a player that searches before each move.

  The player is a pure function of the ply's key and the state. It returns 0 for
  a finished game.

  Args:
    game: Zero-sum game of two seats, who both see the whole state.
    simulations: Number of nodes that a search adds to its tree.
    rollouts: Number of random games that estimate the value of a node.
    value: Function that replaces the estimates by random games.

  Raises:
    errors.UserError: if mctx is missing, the game does not have two seats or
      has chance nodes, or a number is below 1.
  """
  mctx = requirements.import_extra("mctx", "games")
  _check(game, simulations, rollouts)
  evaluate = value or rollout_value(game, rollouts=rollouts)

  def logits(key: jax.Array, state: Any) -> jax.Array:
    legal = game.legal(state)
    jitter = jax.random.uniform(key, legal.shape, maxval=_JITTER)
    return jnp.where(legal, jitter, _NO_PRIOR)

  def expand(
    key: jax.Array, action: jax.Array, state: Any
  ) -> tuple[dict[str, jax.Array], Any]:
    value_key, order_key = jax.random.split(key)
    seat, after = game.to_act(state), game.step(state, action)
    next_seat = game.to_act(after)
    # A search may go on past the end of a game, where nothing counts.
    reward = jnp.where(seat >= 0, game.returns(after)[seat], 0.0)
    sign = jnp.where(next_seat == seat, 1.0, -1.0)
    output = {
      "reward": reward,
      "discount": jnp.where(next_seat >= 0, sign, 0.0),
      "prior_logits": logits(order_key, after),
      "value": evaluate(value_key, after),
    }
    return output, after

  def expand_all(
    params: None, key: jax.Array, actions: jax.Array, states: Any
  ) -> tuple[Any, Any]:
    del params
    keys = jax.random.split(key, len(actions))
    output, after = jax.vmap(expand)(keys, actions, states)
    return mctx.RecurrentFnOutput(**output), after

  def scale(tree: Any, node: jax.Array) -> jax.Array:
    scaled = mctx.qtransform_by_parent_and_siblings(tree, node)
    is_legal = tree.children_prior_logits[node] > _NO_PRIOR
    untried = jnp.where(is_legal, _UNTRIED, _ILLEGAL)
    return jnp.where(tree.children_visits[node] > 0, scaled, untried)

  def play(key: jax.Array, state: Any) -> jax.Array:
    # A batch of one game: the key decides its move, whatever others there are.
    value_key, order_key, search_key, tie_key = jax.random.split(key, 4)
    root = mctx.RootFnOutput(
      prior_logits=logits(order_key, state)[None],
      value=evaluate(value_key, state)[None],
      embedding=jax.tree.map(lambda leaf: leaf[None], state),
    )
    tree = mctx.muzero_policy(
      None,
      search_key,
      root,
      expand_all,
      simulations,
      ~game.legal(state)[None],
      qtransform=scale,
      dirichlet_fraction=0.0,
      pb_c_init=_EXPLORATION,
    ).search_tree
    visits, values = tree.children_visits[0, 0], tree.summary().qvalues[0]
    # The most visited actions, of these the most valuable, of these any.
    best = visits == visits.max()
    best &= values == values.max(where=best, initial=-jnp.inf)
    return players.choose(tie_key, best)

  return players.per_ply(play)


def rollout_value(game: game_lib.Game, *, rollouts: int) -> Value:
  """Returns the mean return of the seat to act over random games."""

  def rollout(key: jax.Array, state: Any) -> jax.Array:
    def is_ongoing(carry: tuple[Any, jax.Array]) -> jax.Array:
      state, plies = carry
      return (game.to_act(state) >= 0) & (plies < game.max_plies)

    def ply(carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
      state, plies = carry
      ply_key = jax.random.fold_in(key, plies)
      action = players.choose(ply_key, game.legal(state))
      return game.step(state, action), plies + 1

    end, _ = jax.lax.while_loop(is_ongoing, ply, (state, jnp.int32(0)))
    return game.returns(end)

  def value(key: jax.Array, state: Any) -> jax.Array:
    keys = jax.random.split(key, rollouts)
    returns = jax.vmap(rollout, (0, None))(keys, state)
    return returns.mean(axis=0)[jnp.maximum(game.to_act(state), 0)]

  return value


def _check(game: game_lib.Game, simulations: int, rollouts: int) -> None:
  """Raises a UserError unless the game and the numbers can be searched with."""
  key = streams.key(0, streams.Stream.GREEDY)
  outcomes = jax.eval_shape(lambda: game.chance(game.init(key)))
  if game.num_seats != 2 or outcomes.size:
    raise errors.UserError(
      "MCTS plays games of two seats without chance or hidden information,"
      f" found {game.num_seats} seats and {outcomes.size} outcomes of chance;"
      " use another player"
    )
  for name, number in (("simulations", simulations), ("rollouts", rollouts)):
    if number < 1:
      raise errors.UserError(f"MCTS: {name} must be 1 or more, found {number}")
