"""Derives JAX keys and NumPy generators from seeds, one stream per purpose.

No other module makes keys or generators from seeds. Two purposes therefore
never share random numbers, whatever their seeds are.
"""

import enum
import hashlib
import numbers
from typing import TYPE_CHECKING

from tunix_ttt import errors

if TYPE_CHECKING:
  import jax
  import numpy as np

# JAX uses 32 bits of a seed.
MAX_SEED = 2**32 - 1


class Stream(enum.StrEnum):
  """A purpose of random numbers.

  The number of a stream is a hash of its value, so a new value changes the
  random numbers. The comments name the counters that a stream is used with.
  """

  # Models.
  MODEL_VALUES = "initial values of a model"  # CRC-32 of the parameter's name
  TUNIX_VALUES = "Tunix's own initial values of a model"
  ADAPTER_VALUES = "initial values of adapters"
  # Data.
  EXPERT_STARTS = "where the expert's games start"  # game
  EXPERT_OPPONENTS = "opponents of the expert"  # game
  EXPERT_MISTAKES = "mistakes of the expert"  # game, turn
  KEPT_POSITIONS = "positions kept where any move is optimal"
  POSITION_ROWS = "rows of positions"
  PAIR_ROWS = "preference pairs"
  PROMPT_ROWS = "prompts"
  BETTER_MOVES = "chosen answers to a model's mistakes"
  BUILT_ROWS = "rows that a built dataset takes"
  HELD_OUT_ROWS = "rows held out for evaluation"
  ROW_ORDER = "order of an epoch's rows"  # epoch
  # Completions and play.
  COMPLETIONS = "completions of prompts"  # batch
  PARTNER_TOKENS = "tokens of a partner"  # mark, game
  OPENING_TOKENS = "tokens of opening moves"  # mark, game
  MATCH_OPPONENTS = "opponents of matches"  # mark, game
  MATCH_TOKENS = "tokens of matches"  # mark, game
  VALIDATION_OPPONENTS = "opponents of matches during training"  # mark, game
  VALIDATION_TOKENS = "tokens of matches during training"  # mark, game
  REJECTION_OPPONENTS = "opponents of games for rejection sampling"  # game
  REJECTION_TOKENS = "tokens of games for rejection sampling"  # game
  # GRPO; the member is 0 where a group shares its opponent seed.
  GROUP_STARTS = "where a group's games start"  # group
  GROUP_LAST_MOVES = "the move before a group's start"  # group
  GROUP_MISTAKES = "the mistake that a group starts on"  # group
  SAMPLED_STARTS = "positions answered at evaluations"  # step, seat, number
  SAMPLED_LAST_MOVES = "the moves before such positions"  # step, seat, number
  GROUP_TRIED_MOVES = "which move a group tries first"  # group
  GAME_OPPONENTS = "opponents of games trained on"  # group, member
  GAME_TOKENS = "tokens of games trained on"  # group, member
  PAST_TOKENS = "tokens of past selves"  # step, position
  PAST_SELVES = "which past weights the games of a step are against"  # step
  PAST_ANSWERS = "answers of past weights"  # folded into a key of GAME_TOKENS
  # Opponents, seeded by a game's `opponent_seed`.
  OPPONENT_KINDS = "which opponent of a mixture plays"
  OPPONENT_MOVES = "moves of an opponent"  # board
  # Greedy samplers take a key and do not use it.
  GREEDY = "nothing"  # game
  CONFORMANCE = "games that check an environment"
  PGX_PLAYERS = "which player of a pgx game moves first"  # attempt
  # Games of any kind, folded into the game's key.
  EXPERT_GAMES = "games of an expert"  # game
  EXPERT_CHOICES = "choices of an expert for a whole game"
  EXPERT_MOVES = "moves of an expert"  # turn
  JUDGED_GAMES = "games that judge a model"  # seat, game
  JUDGED_TOKENS = "tokens of a model that is judged"  # training, seat, answer
  OBSERVATIONS = (
    "games whose observations are compared with whole texts"  # game
  )
  EXPERT_SLIPS = "random moves in games of an expert"  # ply
  GAME_STARTS = "first states of games"
  CHANCE_OUTCOMES = "outcomes of chance nodes"  # ply
  PLAYER_GAMES = "choices of a player for a whole game"  # seat
  PLAYER_MOVES = "moves of players"  # ply
  GAME_CONFORMANCE = "games that check a game's rules and text"  # game
  FIRST_STATES = "first states that an exact solver compares"
  ESTIMATED_ANSWERS = "moves that estimate the number of requests"  # seat
  TRACED_GAMES = "games whose traces are rows"  # game

  @property
  def number(self) -> int:
    """The first 32 bits of the SHA-256 of the value."""
    return int.from_bytes(hashlib.sha256(self.encode()).digest()[:4])


def check_seed(seed: int) -> int:
  """Returns the seed; raises a UserError if it is not within 32 bits."""
  if not 0 <= seed <= MAX_SEED:
    raise errors.UserError(f"seed: must be from 0 to {MAX_SEED}, found {seed}")
  return seed


def key(
  seed: "int | jax.Array", stream: Stream, *counters: "int | jax.Array"
) -> "jax.Array":
  """Returns the JAX key of a stream.

  Args:
    seed: Random seed, an int or a traced uint32 [].
    stream: Purpose of the random numbers.
    *counters: Numbers within the stream, such as a game's; each below 2^32.

  Raises:
    errors.UserError: if the seed is below 0 or above 2^32 - 1.
  """
  # Imported lazily: readers of data do not need JAX.
  import jax

  if isinstance(seed, numbers.Integral):
    check_seed(int(seed))
  return fold_in(jax.random.key(seed), stream, *counters)


def fold_in(
  base: "jax.Array", stream: Stream, *counters: "int | jax.Array"
) -> "jax.Array":
  """Returns the key of a stream that starts at a key instead of a seed."""
  import jax

  for number in (stream.number, *counters):
    base = jax.random.fold_in(base, number)
  return base


def keys(
  seed: "int | jax.Array",
  stream: Stream,
  *counters: "int | jax.Array",
  last: "jax.Array",
) -> "jax.Array":
  """Returns the keys of a stream for several values of its last counter.

  They are `key(seed, stream, *counters, n)` for each n in `last`, int [B].
  """
  import jax

  base = key(seed, stream, *counters)
  return jax.vmap(jax.random.fold_in, (None, 0))(base, last)


def generator(
  seed: int, stream: Stream, *counters: int
) -> "np.random.Generator":
  """Returns the NumPy generator of a stream."""
  # Imported lazily: scripts check their flags without NumPy.
  import numpy as np

  spawn_key = (stream.number, *counters)
  return np.random.default_rng(
    np.random.SeedSequence(check_seed(seed), spawn_key=spawn_key)
  )
