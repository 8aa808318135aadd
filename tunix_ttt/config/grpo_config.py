"""The settings of a GRPO run, over those it shares with other runs."""

from typing import Annotated, Literal, Self

import pydantic

from tunix_ttt.config import sections

# A share at the first step and at the last, linear in between.
Course = tuple[sections.NonNegative, sections.NonNegative]
Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]


@sections.settings
class RolloutConfig:
  """Sampling of training games; `play` says how they are presented.

  Attributes:
    temperature: above 0.
    top_k: draw from this many most likely tokens; None for all. This, `top_p`
      and `constrained` bias training: log-probabilities are those before the
      cut, so importance ratios are those of a distribution that tokens were not
      drawn from. The metric `sampled_mass` says how much probability the cut
      keeps; at 1 there is no bias.
    top_p: nucleus; see `top_k` for its bias.
    constrained: only tokens that can complete an answer are drawn; see `top_k`
      for its bias. The model is never told that it made others likely.
    max_staleness: how many updates the weights that games are played with may
      be behind those that are trained on them. At 0 each batch of games waits
      for the update before it; at 1 the sampler of the layout `split` is one
      batch ahead of the trainer. The games after a checkpoint wait for it, so
      that a run can go on from there.
  """

  temperature: sections.AboveZero = 1.0
  top_k: sections.Positive | None = None
  top_p: Annotated[float, sections.Strict, pydantic.Field(gt=0, le=1)] = 1.0
  constrained: sections.Flag = False
  max_staleness: sections.Count = 0


@sections.settings
class EpisodesConfig:
  """Start positions and lengths of games.

  Attributes:
    source: `games` from the empty board to the end; `positions`: a single move
      on a random position; or `prompts`: a single move on the board of a row of
      `data.path`, each row once before any comes again.
    agent: who the model is: `x`, `o`, or `mixed`, half of the groups each; on
      prompts whose turn it is.
    opponent_seed: Randomness of the opponent: shared by the games of a `group`, which
      then differ by the model's moves alone, or drawn for each `game`.
    starts: share of the groups whose games start on a random position and are
      played to the end. Each reachable position on which the model is to move
      is equally likely, and the games of a group share one. Only for `games`.
  """

  source: Literal["games", "positions", "prompts"] = "games"
  agent: Literal["x", "o", "mixed"] = "mixed"
  opponent_seed: Literal["group", "game"] = "group"
  starts: sections.Fraction = 0.0

  @property
  def are_single_moves(self) -> bool:
    """Whether an episode is one move of the model."""
    return self.source != "games"

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    if self.source == "prompts" and self.agent != "mixed":
      raise ValueError(
        f"agent: {self.agent}: on prompts the model is whose turn it is; leave"
        " it out"
      )
    if self.starts and self.source != "games":
      raise ValueError(
        f"starts: {self.starts}: single moves on {self.source} have starts of"
        " their own; set source to games or leave starts out"
      )
    return self


@sections.settings
class OpponentsConfig:
  """Opponents, as shares of the games.

  Shares go from the first number at the first step to the second at the last.

  Attributes:
    random: plays any legal move.
    optimal: plays any optimal move.
    past_selves: plays the greedy moves of an earlier state of the model; the
      random opponent stands in until there is one.
    pool_size: how many earlier states are kept, the latest ones.
    add_every_n_steps: steps between them.
  """

  random: Course = (1.0, 1.0)
  optimal: Course = (0.0, 0.0)
  past_selves: Course = (0.0, 0.0)
  pool_size: sections.Positive = 4
  add_every_n_steps: sections.Positive = 20

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    for end in (0, 1):
      shares = (self.random[end], self.optimal[end], self.past_selves[end])
      if sum(shares) <= 0:
        raise ValueError("the shares of all opponents are 0")
    return self


@sections.settings
class OutcomeConfig:
  """The reward of each ending of a game.

  Attributes:
    weight: Weight of this reward in the sum.
    win: three in a row.
    forced_draw: a draw in which the model never had a won position.
    draw: any other draw.
    loss: the opponent's three in a row.
    illegal: a cell that is taken.
    parse_error: an answer that cannot be read.
    length: cut by a limit of tokens or turns.
    unfinished: a single move that did not end the game.
  """

  weight: Finite = 1.0
  win: Finite = 1.0
  forced_draw: Finite = 1.0
  draw: Finite = 0.5
  loss: Finite = 0.0
  illegal: Finite = -1.0
  parse_error: Finite = -1.0
  length: Finite = -0.1
  unfinished: Finite = 0.0


@sections.settings
class MoveQualityConfig:
  """Heuristic rewards of a move; the first rule that applies counts.

  Attributes:
    weight: Weight of this reward in the sum.
    win: completes a line.
    block: takes the cell that would complete the opponent's.
    center: the middle.
    corner: a corner.
    edge: any other cell.
    invalid: no legal move.
  """

  weight: Finite = 0.0
  win: Finite = 1.0
  block: Finite = 0.8
  center: Finite = 0.6
  corner: Finite = 0.4
  edge: Finite = 0.2
  invalid: Finite = -1.0


@sections.settings
class RewardsConfig:
  """Rewards, each times its weight, summed.

  Attributes:
    outcome: Reward of the whole game.
    move_quality: Heuristic reward of each move.
    optimal_move_weight: Reward of each optimal move.
    regret_weight: Penalty for each unit of regret, by the solver: 1 from a won
      to a drawn or from a drawn to a lost position, 2 from won to lost, and 2
      without a legal move.
    format_weight: Reward of each answer that can be parsed.
    length_weight: Penalty for the share of `play.max_new_tokens` that each
      answer takes.
  """

  outcome: OutcomeConfig = OutcomeConfig()
  move_quality: MoveQualityConfig = MoveQualityConfig()
  optimal_move_weight: Finite = 0.0
  regret_weight: Finite = 0.0
  format_weight: Finite = 0.0
  length_weight: Finite = 0.0

  @property
  def weights(self) -> dict[str, float]:
    """The weight of each reward, by its name in `rewards.components`."""
    return {
      "outcome": self.outcome.weight,
      "move_quality": self.move_quality.weight,
      "optimal_move": self.optimal_move_weight,
      "regret": self.regret_weight,
      "format": self.format_weight,
      "length": self.length_weight,
    }


@sections.settings
class AlgorithmConfig:
  """The algorithm, by Tunix's names.

  Attributes:
    num_generations: games of a group, which share their start.
    num_iterations: optimizer steps on each batch of games.
    loss_algo: `grpo`, with a ratio for each token, or `gspo-token`, with one
      for each sequence (Zheng et al., 2025).
    advantage_estimator: `grpo` (Shao et al., 2024), `drgrpo` without the
      division by the standard deviation (Liu et al., 2025), or `rloo` (Ahmadian
      et al., 2024).
    advantage_level: `episode` gives every token its game's advantage; `turn`
      gives it the advantage of what was earned from its turn on.
    turn_baseline: which turns a turn is compared with, at the level of turns:
      those of its group with the same number on the same `board`, and where
      there is no other, on any; or with the same number on any board, `turn`. A
      turn that is the only one of its number in the group is compared with
      those of the batch. `turn` suits rewards that are fair between boards, as
      regret is: a mistake that every game makes on a board counts, too.
    discount: Discount factor of rewards one turn later, for advantages of
      turns; with 0 a turn counts its own reward alone.
    loss_agg_mode: how the losses of tokens are averaged: `token-mean` over all
      tokens of the batch; `sequence-mean-token-mean` within each sequence, then
      over sequences; `sequence-mean-token-scale` as that, divided by the most
      tokens that a sequence can have in place of its own number;
      `seq-mean-token-sum` and `sequence-mean-token-sum-norm` sum within each
      sequence and average over sequences. A sequence is a whole game where
      `play.context` is `full`, and a single turn in `truncated` and `board`,
      also for `gspo-token`. Sequences without a trained token do not count.
    beta: weight of the KL divergence to the reference; 0 for none.
    reference: `start`, the model that training starts from, with the adapters
      that it has then, or `base`, the model without adapters. They are the same
      where adapters are new or the whole model is trained.
    kl_loss_mode: its estimator.
    epsilon: clips the ratio from below at 1 - epsilon.
    epsilon_high: from above at 1 + epsilon_high; None for epsilon. DAPO (Yu et
      al., 2025) has 0.28.
    epsilon_c: bounds the loss of negative advantages (dual clip, Ye et al.,
      2020); None for no bound.
    positive_only: negative advantages count as 0.
    sampler_is_threshold: where the sampler's weights are others than the
      trainer's, the losses of tokens are weighted with the trainer's probability
      over the sampler's, cut at this (truncated importance sampling, Yao et al.,
      2025).
  """

  num_generations: Annotated[int, sections.Strict, pydantic.Field(ge=2)] = 8
  num_iterations: sections.Positive = 1
  loss_algo: Literal["grpo", "gspo-token"] = "grpo"
  advantage_estimator: Literal["grpo", "drgrpo", "rloo"] = "grpo"
  advantage_level: Literal["episode", "turn"] = "episode"
  turn_baseline: Literal["board", "turn"] = "board"
  discount: sections.Fraction = 1.0
  loss_agg_mode: Literal[
    "token-mean",
    "sequence-mean-token-mean",
    "sequence-mean-token-scale",
    "seq-mean-token-sum",
    "sequence-mean-token-sum-norm",
  ] = "token-mean"
  beta: sections.NonNegative = 0.0
  reference: Literal["start", "base"] = "start"
  kl_loss_mode: Literal["kl", "mse_kl", "low_var_kl"] = "low_var_kl"
  epsilon: sections.AboveZero = 0.2
  epsilon_high: sections.AboveZero | None = None
  epsilon_c: Annotated[float, pydantic.Field(gt=1)] | None = None
  positive_only: sections.Flag = False
  sampler_is_threshold: sections.AboveZero = 2.0


@sections.settings
class GRPOConfig(sections.SFTConfig):
  """A GRPO run on whole games.

  `training.max_steps` counts batches of games, `training.batch_size` the games
  of a batch. `data` and `tokenizer` are for a tiny model from scratch, as in
  the config of a supervised run; `data` also names the file of prompts.

  Attributes:
    training: how to optimise.
    rollout: how to sample.
    episodes: where games begin.
    opponents: who the model plays against.
    rewards: what games and moves are worth.
    grpo: the algorithm.
    exhaustive_eval: evaluate on every line, exactly, instead of on
      `play.num_games` sampled games against `play.opponent`, whose best score
      of several evaluations is biased upward.
    rollouts_per_log: whole games written to `rollouts.jsonl` at each logged
      step.
  """

  training: sections.TrainingConfig = sections.TrainingConfig(
    max_steps=100, batch_size=128, learning_rate=3e-4, eval_every_n_steps=25
  )
  rollout: RolloutConfig = RolloutConfig()
  episodes: EpisodesConfig = EpisodesConfig()
  opponents: OpponentsConfig = OpponentsConfig()
  rewards: RewardsConfig = RewardsConfig()
  grpo: AlgorithmConfig = AlgorithmConfig()
  exhaustive_eval: sections.Flag = True
  rollouts_per_log: sections.Count = 2

  @property
  def max_sequence_tokens(self) -> int:
    """The most tokens that the model samples in a sequence of the trainer."""
    play = self.play
    if play.context != "full":
      return play.max_new_tokens
    turns = 1 if self.episodes.are_single_moves else play.max_turns
    most = turns * play.max_new_tokens
    return min(most, play.max_game_tokens or most)

  @pydantic.model_validator(mode="after")
  def _check_groups(self) -> Self:
    parts = (
      self.grpo.num_generations * self.training.gradient_accumulation_steps
    )
    if self.training.batch_size % parts:
      raise ValueError(
        f"training.batch_size {self.training.batch_size} is not divisible by"
        " grpo.num_generations * training.gradient_accumulation_steps ="
        f" {parts}"
      )
    if self.episodes.source == "prompts" and self.data.path is None:
      raise ValueError(
        "episodes.source: prompts are read from a file, and data.path names"
        " none; training/generate_data.py --kind prompts makes one"
      )
    if self.exhaustive_eval and self.play.temperature != 0:
      raise ValueError(
        "exhaustive_eval: every line is played greedily; set play.temperature"
        " to 0, or exhaustive_eval to false"
      )
    return self
