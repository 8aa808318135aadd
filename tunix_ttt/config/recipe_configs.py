"""Settings of GRPO runs."""

import dataclasses
from typing import Annotated, Literal, Self

import pydantic

from tunix_ttt.config import episode_configs
from tunix_ttt.config import sections
from tunix_ttt.config import service_configs

Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]


@sections.settings
class SFTConfig:
  """A supervised fine-tuning run.

  Attributes:
    seed: Random seed of games, data order, initial values and sampling.
    game: Game that the model plays.
    model: Model to train.
    tokenizer: Tokenizer of a tiny model.
    lora: LoRA adapters; None trains all parameters.
    data: Training data.
    training: Optimizer and schedule.
    checkpoint: Checkpoints to resume from.
    logging: Logs and reports.
    eval: Sampling of completions for an evalset.
    play: Play of whole games.
    mesh: Device mesh.
    distributed: Processes of the run; None is a single process.
    service: Service that computes instead of local devices; None is no service.
    checks: Whether to look in each step for mistakes that raise no error, and to
      warn of them; see `docs/silent_failures.md`.
  """

  seed: sections.Seed = 0
  game: sections.GameConfig = sections.GameConfig()
  model: sections.ModelConfig = sections.ModelConfig()
  tokenizer: sections.TokenizerConfig = sections.TokenizerConfig()
  lora: sections.LoraConfig | None = None
  data: sections.DataConfig = sections.DataConfig()
  training: sections.TrainingConfig = sections.TrainingConfig()
  checkpoint: sections.CheckpointConfig = sections.CheckpointConfig()
  logging: sections.LoggingConfig = sections.LoggingConfig()
  eval: sections.EvalConfig = sections.EvalConfig()
  play: sections.PlayConfig = sections.PlayConfig()
  mesh: sections.MeshConfig = sections.MeshConfig()
  distributed: sections.DistributedConfig | None = None
  service: service_configs.ServiceConfig | None = None
  checks: sections.Flag = True

  @pydantic.model_validator(mode="after")
  def _check(self) -> Self:
    if self.lora is not None and self.training.optimizer == "muon":
      raise ValueError(
        "training.optimizer: muon is for whole models; use adamw with lora"
      )
    return self


@sections.settings
class RolloutConfig:
  """Sampling of training games.

  `top_k`, `top_p` and `constrained` bias training: log-probabilities, and so
  importance ratios, are computed before they exclude tokens. The metric
  `sampled_mass` is the probability of the remaining tokens; 1 means no bias.

  Attributes:
    temperature: Sampling temperature, above 0.
    top_k: Number of most likely tokens to sample from; None for all.
    top_p: Total probability of the most likely tokens to sample from.
    constrained: Whether to sample only tokens that can complete an answer;
      `legal` for tokens that can complete an answer with a legal move.
    max_staleness: Maximum number of updates by which the sampler's weights may
      lag behind the trainer's. At 0 each batch of games waits for the previous
      update. At 1 the sampler of the layout `split` works one batch ahead. Games
      after a checkpoint always wait for it.
  """

  temperature: sections.AboveZero = 1.0
  top_k: sections.Positive | None = None
  top_p: Annotated[float, sections.Strict, pydantic.Field(gt=0, le=1)] = 1.0
  constrained: sections.Flag | Literal["legal"] = False
  max_staleness: sections.Count = 0


@sections.settings
class OutcomeConfig:
  """Rewards of the endings of a game.

  Attributes:
    weight: Weight of this reward in the sum.
    win: Reward of a win.
    forced_draw: Reward of a draw in which the model never had a won position,
      for games that are solved.
    draw: Reward of any other draw.
    loss: Reward of a loss.
    illegal: Reward of an illegal move.
    parse_error: Reward of an unreadable answer.
    length: Reward of a game that reached a limit of tokens or turns.
    unfinished: Reward of a single move that did not end the game.
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

  They are for games on a board of nine cells.

  Attributes:
    weight: Weight of this reward in the sum.
    win: Reward of completing a line.
    block: Reward of taking the cell that would complete the opponent's line.
    center: Reward of the center.
    corner: Reward of a corner.
    edge: Reward of an edge.
    invalid: Reward of an illegal move or an unreadable answer.
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
  """Rewards, summed with their weights.

  Attributes:
    outcome: Reward of the whole game by its ending.
    return_weight: Weight of the game's return, such as chips won; the least one
      if the game did not end by the rules.
    move_quality: Heuristic reward of each move.
    optimal_move_weight: Weight of the reward of 1 for each optimal move.
    regret_weight: Weight of the penalty for each move's regret by the solver:
      the best return that is possible less the move's. It is 1 from a won to a
      drawn or a drawn to a lost position, and the largest difference of returns
      without a legal move.
    thought_weight: Weight of the reward of 1 for each answer whose thought
      states a true reason for the move, for games whose thoughts are judged.
    format_weight: Weight of the reward of 1 for each readable answer.
    length_weight: Weight of the penalty for each answer's length, as a fraction
      of `play.max_new_tokens`.
    custom: Custom rewards of weight 1 by name, each a function of games, as
      `package.module:function`; see `algorithms.rewards.Reward`.
  """

  outcome: OutcomeConfig = OutcomeConfig()
  move_quality: MoveQualityConfig = MoveQualityConfig()
  return_weight: Finite = 0.0
  optimal_move_weight: Finite = 0.0
  regret_weight: Finite = 0.0
  thought_weight: Finite = 0.0
  format_weight: Finite = 0.0
  length_weight: Finite = 0.0
  custom: dict[sections.Text, sections.Reference] = pydantic.Field(
    default_factory=dict
  )

  @property
  def weights(self) -> dict[str, float]:
    """Weight of each reward by its name in `rewards.components`."""
    return {
      "outcome": self.outcome.weight,
      "return": self.return_weight,
      "move_quality": self.move_quality.weight,
      "optimal_move": self.optimal_move_weight,
      "regret": self.regret_weight,
      "thought": self.thought_weight,
      "format": self.format_weight,
      "length": self.length_weight,
    }


@sections.settings
class AlgorithmConfig:
  """Settings of the algorithm, with Tunix's names.

  Attributes:
    num_generations: Number of games per group. The games of a group share their
      start.
    num_iterations: Number of optimizer steps on each batch of games.
    loss_algo: `grpo` for a ratio per token or `gspo-token` for a ratio per
      sequence (Zheng et al., 2025).
    advantage_estimator: `grpo` (Shao et al., 2024), `drgrpo` without division
      by the standard deviation (Liu et al., 2025), `rloo` (Ahmadian et al.,
      2024), or a function, as `package.module:function`; see
      `algorithms.advantages.Estimator`.
    advantage_level: `episode` gives every token the advantage of its game;
      `turn` gives every token the advantage of the rewards from its turn on.
    turn_baseline: Turns in the baseline of turn-level advantages. `board` uses
      the turns of the group with the same number and board, or with the same
      number if no other turn shares the board. `turn` uses the turns of the
      group with the same number, and suits rewards that are comparable between
      boards, such as regret. A turn without any such turn in its group is
      compared with the turns of the batch. `state` uses the turns of the batch
      on the same board, and those of `turn` if there is no other; if all
      earned the same, less than the mean of the batch, it uses all turns of the
      batch. It suits regret at a discount of 0, with which a turn is a bandit on
      its board.
    role_baseline_decay: Decay rate of the running mean of each seat's return,
      which then is the baseline in place of the group: an advantage is the
      return minus this mean, whatever the estimator (SPIRAL, Liu et al., 2025,
      with 0.95). None compares the games of a group.
    discount: Discount factor of rewards per turn for turn-level advantages. At
      0 only the reward of the turn itself counts.
    loss_agg_mode: Average of the token losses. `token-mean` averages over all
      tokens of the batch; `sequence-mean-token-mean` averages within each
      sequence, then over sequences; `sequence-mean-token-scale` does the same,
      but divides by the maximum sequence length in place of the actual one;
      `seq-mean-token-sum` and `sequence-mean-token-sum-norm` sum within each
      sequence and average over sequences. In the context `full` a sequence is a
      game, in `truncated` and `board` a turn, also for `gspo-token`. Sequences
      without a trained token do not count.
    beta: KL penalty coefficient; 0 disables the penalty.
    reference: Reference model of the KL penalty. `start` is the model at the
      start of training with its adapters, `base` the model without adapters.
      They are equal for new adapters and for training without adapters.
    kl_loss_mode: Estimator of the KL divergence.
    epsilon: Lower clipping range: the ratio is clipped at 1 - epsilon.
    epsilon_high: Upper clipping range: the ratio is clipped at 1 +
      epsilon_high. None uses epsilon; DAPO (Yu et al., 2025) uses 0.28.
    epsilon_c: Upper bound of the ratio for negative advantages (dual clip, Ye
      et al., 2020); None for no bound.
    positive_only: Whether to set negative advantages to 0.
    sampler_is_threshold: Maximum importance weight of a token (truncated
      importance sampling, Yao et al., 2025). The weight is the trainer's
      probability over the sampler's, and applies if their weights differ.
  """

  num_generations: Annotated[int, sections.Strict, pydantic.Field(ge=2)] = 8
  num_iterations: sections.Positive = 1
  loss_algo: Literal["grpo", "gspo-token"] = "grpo"
  advantage_estimator: (
    Literal["grpo", "drgrpo", "rloo"] | sections.Reference
  ) = "grpo"
  advantage_level: Literal["episode", "turn"] = "episode"
  turn_baseline: Literal["board", "turn", "state"] = "board"
  role_baseline_decay: sections.Fraction | None = None
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
class GRPOConfig(SFTConfig):
  """Settings of a GRPO run on whole games.

  `training.max_steps` counts batches of games and `training.batch_size` the
  games of a batch. `data` and `tokenizer` configure a tiny model from scratch,
  as in a supervised run; `data.path` also names the file of prompts.

  Attributes:
    training: Settings of optimization.
    rollout: Settings of sampling.
    episodes: Start positions and lengths of games.
    opponents: Shares of the opponents.
    rewards: Weights of the rewards.
    grpo: Settings of the algorithm.
    exhaustive_eval: Whether to evaluate exactly instead of on `play.num_games`
      sampled games against `play.opponent`: on every line of play, or, if
      `play.temperature` is above 0, over all that the sampled policy may answer.
      The best of several sampled scores is biased upward.
    stop_at_no_loss: Whether to stop after an exact evaluation that finds no lost
      line, before `training.max_steps`.
    rollouts_per_log: Number of games written to `rollouts.jsonl` at each logged
      step.
  """

  training: sections.TrainingConfig = sections.TrainingConfig(
    max_steps=100, batch_size=128, learning_rate=3e-4, eval_every_n_steps=25
  )
  rollout: RolloutConfig = RolloutConfig()
  episodes: episode_configs.EpisodesConfig = episode_configs.EpisodesConfig()
  opponents: episode_configs.OpponentsConfig = episode_configs.OpponentsConfig()
  rewards: RewardsConfig = RewardsConfig()
  grpo: AlgorithmConfig = AlgorithmConfig()
  exhaustive_eval: sections.Flag = True
  stop_at_no_loss: sections.Flag = False
  rollouts_per_log: sections.Count = 2

  @property
  def num_turns(self) -> int:
    """Maximum number of the model's turns in an episode, of all its seats."""
    if self.episodes.are_single_moves:
      return 1
    return self.play.max_turns * self.episodes.num_agents

  @property
  def max_sequence_tokens(self) -> int:
    """Maximum number of sampled tokens in a training sequence."""
    play = self.play
    if play.context != "full":
      return play.max_new_tokens
    limit = self.num_turns * play.max_new_tokens
    return min(limit, play.max_game_tokens or limit)

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
        "episodes.source: prompts need a file; set data.path to one that"
        " training/generate_data.py --kind prompts writes"
      )
    if self.episodes.num_agents > 1:
      self._check_self_play()
    if self.episodes.are_single_moves and self.opponents.has_past_weights:
      raise ValueError(
        f"opponents.pool: weights: {self.episodes.source} are single moves, which"
        " past weights do not answer; set episodes.source to games, or pool to"
        " tables"
      )
    is_single = self.play.context == "board"
    if self.exhaustive_eval and self.play.temperature != 0 and not is_single:
      raise ValueError(
        "exhaustive_eval: a sampled policy is judged exactly on single"
        " observations; set play.context to board, play.temperature to 0 or"
        " exhaustive_eval to false"
      )
    is_exact = self.exhaustive_eval and self.play.temperature == 0
    needs = {
      f"episodes.mistakes: {self.episodes.mistakes}": self.episodes.mistakes,
      f"episodes.sampled_mistakes: {self.episodes.sampled_mistakes}": (
        self.episodes.sampled_mistakes
      ),
      "stop_at_no_loss: true": self.stop_at_no_loss,
    }
    for name, is_set in needs.items():
      if is_set and not is_exact:
        raise ValueError(
          f"{name}: needs exact evaluations of greedy play; set exhaustive_eval to"
          " true and play.temperature to 0, or remove it"
        )
    return self

  def _check_self_play(self) -> None:
    if self.opponents != episode_configs.OpponentsConfig():
      raise ValueError(
        "opponents: with episodes.agent: both the model is its own opponent;"
        " remove this section, or set episodes.agent to mixed"
      )


@sections.settings
class PreferenceConfig:
  """Preference loss, under Tunix's names.

  Attributes:
    algorithm: Loss: `dpo` (Rafailov et al., 2023), whose reference is the model
      that training starts from, or `orpo` (Hong et al., 2024), which has no
      reference.
    beta: KL penalty coefficient of DPO; larger keeps the policy closer to the
      reference.
    lambda_orpo: Weight of ORPO's odds-ratio term, beside the likelihood of
      chosen answers.
    label_smoothing: Assumed share of pairs with swapped labels.
  """

  algorithm: Literal["dpo", "orpo"] = "dpo"
  beta: sections.AboveZero = 0.1
  lambda_orpo: sections.AboveZero = 0.1
  label_smoothing: Annotated[
    float, sections.Strict, pydantic.Field(ge=0, lt=0.5)
  ] = 0.0


@sections.settings
class DPOConfig(SFTConfig):
  """A DPO or ORPO run on the preference pairs at `data.path`.

  `training.batch_size` counts pairs.

  Attributes:
    training: Optimizer and schedule.
    dpo: Preference loss.
  """

  training: sections.TrainingConfig = sections.TrainingConfig(
    max_steps=200, batch_size=32, learning_rate=1e-4, eval_every_n_steps=50
  )
  dpo: PreferenceConfig = PreferenceConfig()


Rejected = Literal["worse", "illegal", "format"]


@sections.settings
class PairsConfig:
  """Preference pairs for the DPO stage.

  Attributes:
    source: Source of rejected answers: `model` samples the model that DPO starts
      from; `solver` writes moves that the solver rates worse.
    count: Number of pairs; fewer if the source yields no more.
    rejected: Weights of the kinds of rejected answers: `worse` moves by the
      solver, `illegal` moves, and answers in a wrong `format`. With
      the source `model`, all weights must be equal.
    temperature: Sampling temperature of the model's games.
  """

  source: Literal["model", "solver"] = "model"
  count: sections.Positive = 6000
  rejected: Annotated[
    dict[Rejected, sections.AboveZero], pydantic.Field(min_length=1)
  ] = dataclasses.field(
    default_factory=lambda: {"worse": 1.0, "illegal": 1.0, "format": 1.0}
  )
  temperature: sections.AboveZero = 1.0


@sections.settings
class StageConfig:
  """A run of a pipeline.

  Attributes:
    config: Path of the run's YAML file, relative to the working directory.
    set: Assignments that replace settings of the file, as for `--set`.
  """

  config: sections.Text
  set: list[sections.Text] = dataclasses.field(default_factory=list)


@sections.settings
class PipelineConfig:
  """Training stages; each one starts from the previous stage's model.

  Attributes:
    seed: Random seed of all stages.
    pairs: Preference pairs for the DPO stage.
    sft: SFT stage.
    dpo: DPO stage; None skips it.
    grpo: GRPO stage; None skips it.
  """

  seed: sections.Seed = 0
  pairs: PairsConfig = PairsConfig()
  sft: StageConfig
  dpo: StageConfig | None = None
  grpo: StageConfig | None = None


Recipe = Literal["sft", "dpo", "grpo"]
# Config classes by recipe, in the order of a pipeline. `load_any` prefers the
# first of equal matches.
RECIPES: dict[Recipe, type[SFTConfig]] = {
  "sft": SFTConfig,
  "dpo": DPOConfig,
  "grpo": GRPOConfig,
}
