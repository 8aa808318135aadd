"""Settings of the games that GRPO trains on: starts, seats and opponents."""

from typing import Literal, Self

import pydantic

from tunix_ttt.config import sections

# Shares at the first and the last step, linear in between.
Course = tuple[sections.NonNegative, sections.NonNegative]


@sections.settings
class EpisodesConfig:
  """Start positions and lengths of games.

  Attributes:
    source: `games` are played from their start to the end, `positions` are
      single moves in random positions, and `prompts` are single moves on the
      boards of `data.path`, each row once per epoch, for games that can read
      them.
    agent: Seat of the model by the game's name for it, such as `x` or `o`;
      `mixed` for all in equal shares of the groups; or `both` for self-play, in
      which the model makes the moves of both seats and learns from both. Prompts
      determine the seat themselves.
    opponent_seed: Whether the games of a `group` share the opponent's random
      seed or each `game` has its own.
    starts: Share of the groups whose games start on a random position and run
      to the end. All reachable positions on which the model moves are equally
      likely, and the games of a group share one. Requires `source: games`.
    mistakes: Share of those random positions that are drawn from the model's
      mistakes instead: positions of the last evaluation on which its move was
      not optimal, all equally likely for each seat. Requires exact evaluation
      and a game that is solved.
    sampled_mistakes: Share of those random positions that are drawn from the
      mistakes among 512 random positions for each seat, which the model answers
      at each evaluation. Requires exact evaluation and a game that is solved.
    try_all: Whether the games of a group that starts on a random position or a
      mistake begin with each legal move in turn, instead of sampled ones. The
      tokens are sampled among those that lead to the move, and trained if the
      move is better than the others.
  """

  source: Literal["games", "positions", "prompts"] = "games"
  agent: sections.Text = "mixed"
  opponent_seed: Literal["group", "game"] = "group"
  starts: sections.Fraction = 0.0
  mistakes: sections.Fraction = 0.0
  sampled_mistakes: sections.Fraction = 0.0
  try_all: sections.Flag = False

  @property
  def are_single_moves(self) -> bool:
    """Whether an episode is one move of the model."""
    return self.source != "games"

  @property
  def has_mistakes(self) -> bool:
    """Whether games start on mistakes."""
    return self.mistakes + self.sampled_mistakes > 0

  @property
  def num_agents(self) -> int:
    """Number of seats of a game that the model plays."""
    return 2 if self.agent == "both" else 1

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    if self.source == "prompts" and self.agent != "mixed":
      raise ValueError(
        f"agent: {self.agent}: the prompts determine the model's seat; remove"
        " this key"
      )
    if self.agent == "both" and self.source != "games":
      raise ValueError(
        f"agent: both: {self.source} are single moves of one seat; set source to"
        " games, or agent to mixed"
      )
    if self.starts and self.source != "games":
      raise ValueError(
        f"starts: {self.starts}: {self.source} determine the start of single"
        " moves; set source to games or remove starts"
      )
    for name in ("mistakes", "sampled_mistakes"):
      if (share := getattr(self, name)) and not self.starts:
        raise ValueError(
          f"{name}: {share}: they are a share of the random positions; set starts"
          f" above 0 or remove {name}"
        )
    if self.mistakes + self.sampled_mistakes > 1:
      raise ValueError(
        f"mistakes: {self.mistakes} and sampled_mistakes: {self.sampled_mistakes}"
        " are shares of the same positions; lower one, so that they add up to 1 at"
        " the most"
      )
    if self.try_all and not self.starts:
      raise ValueError(
        "try_all: moves are tried where games start on random positions; set"
        " source to games and starts above 0, or remove try_all"
      )
    return self


@sections.settings
class MctsConfig:
  """The opponent that plays by tree search, in games of two seats.

  Attributes:
    simulations: Number of simulations for a move.
    share: Share of the games, at the first and at the last step.
  """

  simulations: sections.Positive = 16
  share: Course = (1.0, 1.0)


@sections.settings
class OpponentsConfig:
  """Opponents, as shares of the games.

  Each share is a pair: its value at the first and at the last step.

  Attributes:
    custom: Opponent of all games in place of the shares, named as
      `play.opponent` is.
    random: Share of the opponent that plays uniformly random legal moves.
    optimal: Share of the opponent that plays random optimal moves.
    mcts: The opponent that plays by tree search.
    past_selves: Share of opponents that play the moves of earlier weights; the
      random opponent replaces them until the pool has one.
    exploiter: Share of the opponent that plays the exact best response to the
      model, in games of two seats whose states can be listed; the random
      opponent replaces it until the first.
    policy: Policy of past selves, and the one that the exploiter responds to:
      `greedy` moves, or `sampled` ones at `rollout.temperature`, of which a past
      self that is a table has one draw in each state.
    pool: Form of past selves: `tables` of their moves, for games whose states
      can be listed, or the `weights` themselves, for games of two seats. With
      weights, the share of past selves is one of the steps, whose games are all
      against one of them.
    pool_size: Maximum number of earlier weights; new ones replace the oldest.
    add_every_n_steps: Number of steps between additions to the pool, and between
      responses of the exploiter.
  """

  custom: sections.Text | None = None
  random: Course = (1.0, 1.0)
  optimal: Course = (0.0, 0.0)
  mcts: MctsConfig | None = None
  past_selves: Course = (0.0, 0.0)
  exploiter: Course = (0.0, 0.0)
  policy: Literal["greedy", "sampled"] = "greedy"
  pool: Literal["tables", "weights"] = "tables"
  pool_size: sections.Positive = 4
  add_every_n_steps: sections.Positive = 20

  @property
  def shares(self) -> dict[str, Course]:
    """Shares by name of the opponent."""
    return {
      "random": self.random,
      "optimal": self.optimal,
      "mcts": self.mcts.share if self.mcts else (0.0, 0.0),
      "past_selves": self.past_selves,
      "exploiter": self.exploiter,
    }

  @property
  def has_past_weights(self) -> bool:
    """Whether games are played against earlier weights, not their tables."""
    is_met = self.custom is None and any(self.past_selves)
    return is_met and self.pool == "weights"

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    for end in (0, 1):
      if sum(shares[end] for shares in self.shares.values()) <= 0:
        raise ValueError("the shares of all opponents are 0; set one above 0")
    return self
