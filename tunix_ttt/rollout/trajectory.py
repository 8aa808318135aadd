"""Trajectories: games with their tokens, moves and endings."""

from collections.abc import Callable, Iterator
import enum
import functools
from typing import Any, Literal

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import streams
from tunix_ttt.games import definition
from tunix_ttt.games import game as game_lib
from tunix_ttt.rollout import policy as policy_lib
from tunix_ttt.rollout import tables as tables_lib

# (token ids) -> text
Decode = Callable[[list[int]], str]


class Ending(enum.IntEnum):
  """Ending of a game; extends `games.game.Outcome`."""

  ONGOING = game_lib.Outcome.ONGOING
  WIN = game_lib.Outcome.WIN
  DRAW = game_lib.Outcome.DRAW
  LOSS = game_lib.Outcome.LOSS
  ILLEGAL = game_lib.Outcome.ILLEGAL
  PARSE_ERROR = 5
  # The game reached a limit of tokens or turns.
  LENGTH = 6
  # The game is not over after a single move, as requested.
  UNFINISHED = 7


# Metric names of the endings, from best to worst.
RATES = {
  "win_rate": Ending.WIN,
  "draw_rate": Ending.DRAW,
  "unfinished_rate": Ending.UNFINISHED,
  "loss_rate": Ending.LOSS,
  "illegal_rate": Ending.ILLEGAL,
  "parse_error_rate": Ending.PARSE_ERROR,
  "truncated_rate": Ending.LENGTH,
}


@struct.dataclass
class Trajectory:
  """B games of at most T turns of at most A sampled tokens each.

  Attributes:
    ending: `Ending` of the game, never `ONGOING`, int8 [B].
    state: State of the environment at the end, a pytree [B], such as
      `env.State`.
    states: State at each turn of the model, a pytree [B, T].
    retried: Whether the turn follows an unreadable answer, bool [B, T].
    turn_mask: Mask of the turns that were played, bool [B, T].
    moves: Action of the model, -1 if the answer is unreadable, int32 [B, T].
    actions: Sampled tokens, int32 [B, T, A].
    action_mask: Mask of the sampled tokens, bool [B, T, A].
    log_probs: Log-probabilities of the sampled tokens, as `sampling.sample`
      returns them, 0 elsewhere, float32 [B, T, A].
    sampled_mass: Total probability of the tokens that could be sampled, 0
      elsewhere, float32 [B, T, A]; None if all tokens could be.
    tried: Mask of the turns whose action was given, bool [B, T]; None if all were
      sampled.
  """

  ending: jax.Array
  state: Any
  states: Any
  retried: jax.Array
  turn_mask: jax.Array
  moves: jax.Array
  actions: jax.Array
  action_mask: jax.Array
  log_probs: jax.Array
  sampled_mass: jax.Array | None = None
  tried: jax.Array | None = None


def dummy_trajectory(
  game: definition.Definition, num_turns: int, max_new_tokens: int
) -> Trajectory:
  """Returns two games for validating functions of trajectories.

  The first plays a legal move; the answer of the second is unreadable. Both have
  one of `num_turns` turns and one of `max_new_tokens` tokens.
  """
  turns, tokens = (2, num_turns), (2, num_turns, max_new_tokens)
  turn_mask, moves = np.zeros(turns, bool), np.full(turns, -1, np.int32)
  env = game.environment()
  # Greedy samplers do not use their keys either.
  start = game.begin(env, streams.key(0, streams.Stream.GREEDY), 0)
  move = jnp.argmax(env.legal(start))
  turn_mask[:, 0], moves[0, 0] = True, int(move)
  action_mask = np.zeros(tokens, bool)
  action_mask[..., 0] = turn_mask
  first = Ending.UNFINISHED if num_turns == 1 else Ending.LENGTH
  ends = env.step(start, move), start
  # Typed as Any: the fields are NumPy arrays on the host.
  fields: dict[str, Any] = {
    "ending": np.array([first, Ending.PARSE_ERROR], np.int8),
    "state": jax.tree.map(lambda *leaves: np.stack(leaves), *ends),
    "states": jax.tree.map(
      lambda leaf: np.broadcast_to(leaf, turns + leaf.shape), start
    ),
    "retried": np.zeros(turns, bool),
    "turn_mask": turn_mask,
    "moves": moves,
    "actions": np.zeros(tokens, np.int32),
    "action_mask": action_mask,
    "log_probs": np.zeros(tokens, np.float32),
  }
  return Trajectory(**fields)


def optimal_moves(game: definition.Definition, games: Trajectory) -> np.ndarray:
  """Returns the mask of turns with an optimal move, for solved games: bool [B, T]."""
  regret = game.regret(games.states, np.asarray(games.moves))
  return (regret == 0) & np.asarray(games.turn_mask)


def answer_texts(games: Trajectory, decode: Decode) -> list[list[str]]:
  """Decodes the answers of games, B lists of T texts; "" for unplayed turns."""
  masks, tokens = np.asarray(games.action_mask), np.asarray(games.actions)
  # Greedy games repeat their answers.
  decode_ids = functools.cache(lambda ids: decode([*ids]) if ids else "")
  return [
    [
      decode_ids(tuple(answer[mask].tolist()))
      for answer, mask in zip(game_tokens, game_masks, strict=True)
    ]
    for game_tokens, game_masks in zip(tokens, masks, strict=True)
  ]


def thought_truths(
  game: definition.Definition, games: Trajectory, decode: Decode
) -> np.ndarray | None:
  """Judges the reasons that thoughts state: int8 [B, T].

  Returns:
    1 for a true reason, 0 for a false one, -1 for none and for unplayed turns;
    None for a game whose thoughts cannot be judged.
  """
  if game.thought_truth is None:
    return None
  positions = game.position_numbers(games.states)
  moves, texts = np.asarray(games.moves), answer_texts(games, decode)
  truths = np.full(moves.shape, -1, np.int8)
  for n, t in np.argwhere(games.turn_mask).tolist():
    position, move = int(positions[n, t]), int(moves[n, t])
    is_true = game.thought_truth(position, move, texts[n][t])
    truths[n, t] = -1 if is_true is None else is_true
  return truths


def describe(
  game: definition.Definition, games: Trajectory, decode: Decode
) -> Iterator[dict[str, Any]]:
  """Yields each game as a human-readable record."""
  optimal = None if game.unsolved else optimal_moves(game, games)
  for n in range(len(games.ending)):
    turns = []
    for t in np.flatnonzero(games.turn_mask[n]):
      state, move = _at(games.states, (n, t)), int(games.moves[n, t])
      tokens = np.asarray(games.actions[n, t])[games.action_mask[n, t]]
      turns.append(
        {
          **game.record_turn(state, move),
          "response": decode(tokens.tolist()),
          "move": game.spell(move),
          "optimal": None if optimal is None else bool(optimal[n, t]),
        }
      )
    end, ending = _at(games.state, n), Ending(int(games.ending[n]))
    yield {
      **game.record_seat(end),
      "ending": ending.name.lower(),
      **game.record_end(end, ending),
      "turns": turns,
    }


def _at(states: Any, index: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf[index], states)


@struct.dataclass
class Sequences:
  """N sequences of at most L tokens, padded at the end.

  The context `full` has one sequence per game, N = B. The other contexts have
  one per turn, N = B * T, in the order of games and then turns; turns that were
  not played are empty.

  Attributes:
    tokens: Token ids, int32 [N, L].
    mask: Mask of the tokens that exist, bool [N, L].
    action_mask: Mask of the tokens that the model sampled, bool [N, L].
    log_probs: Log-probabilities of the sampled tokens, 0 elsewhere, float32
      [N, L].
    turns: Turn number of the sampled tokens, 0 elsewhere, int32 [N, L].
  """

  tokens: jax.Array
  mask: jax.Array
  action_mask: jax.Array
  log_probs: jax.Array
  turns: jax.Array


def sequences(
  games: Trajectory,
  tables: tables_lib.Tables,
  context: Literal["full", "truncated", "board"],
) -> Sequences:
  """Returns the token sequences of a sampler's games in its context."""
  num_turns = games.turn_mask.shape[1]
  answers = [_answer(games, turn) for turn in range(num_turns)]
  if context == "board":
    rows = [[_chunk(games, tables, n), a] for n, a in enumerate(answers)]
  else:
    # All parts before the answer of each turn.
    prompts = [[_chunk(games, tables, 0)]]
    for turn in range(1, num_turns):
      if context == "full":
        past = answers[turn - 1]
        last = jnp.maximum(past.mask.sum(axis=1, keepdims=True) - 1, 0)
        last_token = jnp.take_along_axis(past.tokens, last, axis=1)[:, 0]
      else:
        move = games.moves[:, turn - 1].astype(jnp.int32)
        row = jnp.where(move < 0, tables.unreadable, move)
        tokens, mask = tables.observations.answers.take(row)
        past = _read(tokens, mask & games.turn_mask[:, turn, None])
        # The end token of an answer is dropped with it.
        last_token = jnp.full(row.shape, -1)
      chunk = _chunk(games, tables, turn, last_token)
      prompts.append([*prompts[-1], past, chunk])
    rows = [[*prompt, a] for prompt, a in zip(prompts, answers, strict=True)]
    rows = rows[-1:] if context == "full" else rows
  width = max(sum(part.tokens.shape[1] for part in row) for row in rows)
  compact = [_compact(row, width) for row in rows]
  return jax.tree.map(
    lambda *leaves: jnp.stack(leaves, axis=1).reshape(-1, width), *compact
  )


def _chunk(
  games: Trajectory,
  tables: tables_lib.Tables,
  turn: int,
  last_token: jax.Array | None = None,
) -> Sequences:
  """Returns the chunk of a turn; the first of a conversation if no last token."""
  states = jax.tree.map(lambda leaf: leaf[:, turn], games.states)
  is_played = games.turn_mask[:, turn, None]
  if last_token is None:
    tokens, mask = tables.observations.chunks("begin", states)
  else:
    retried = games.retried[:, turn, None]
    follow = tables.observations.chunks("follow", states)
    retry = tables.retry(states, last_token)
    tokens, mask = (
      jnp.concatenate([a, b], axis=1)
      for a, b in zip(follow, retry, strict=True)
    )
    is_retry = jnp.arange(tokens.shape[1]) >= follow[0].shape[1]
    mask = mask & (is_retry == retried)
  return _read(tokens, mask & is_played)


def _answer(games: Trajectory, turn: int) -> Sequences:
  mask = games.action_mask[:, turn]
  return Sequences(
    tokens=games.actions[:, turn],
    mask=mask,
    action_mask=mask,
    log_probs=games.log_probs[:, turn],
    turns=jnp.full(mask.shape, turn, jnp.int32),
  )


def _read(tokens: jax.Array, mask: jax.Array) -> Sequences:
  return Sequences(
    tokens=tokens,
    mask=mask,
    action_mask=jnp.zeros_like(mask),
    log_probs=jnp.zeros(tokens.shape, jnp.float32),
    turns=jnp.zeros(tokens.shape, jnp.int32),
  )


def _compact(parts: list[Sequences], width: int) -> Sequences:
  """Concatenates parts and moves padding to the end."""
  joined = jax.tree.map(lambda *p: jnp.concatenate(p, axis=1), *parts)
  # A turn without sampled tokens was not played.
  is_played = joined.action_mask.any(axis=1, keepdims=True)
  mask = joined.mask & is_played
  order = jnp.argsort(~mask, axis=1, stable=True)

  def arrange(leaf: jax.Array) -> jax.Array:
    leaf = jnp.where(mask, leaf, jnp.zeros_like(leaf))
    leaf = jnp.take_along_axis(leaf, order, axis=1)
    return policy_lib.widen(leaf, width)

  return jax.tree.map(arrange, joined.replace(mask=mask))
