"""Games to train on, sampled by the jitted rollout, as a Tunix rollout engine."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from tunix.rl.rollout import base_rollout

from tunix_ttt import config as config_lib
from tunix_ttt import streams
from tunix_ttt.data import datasets
from tunix_ttt.data import positions
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy as policy_lib
from tunix_ttt.rollout import build
from tunix_ttt.rollout import trajectory as trajectory_lib

Trajectory = trajectory_lib.Trajectory
_STREAMS = streams.Stream


class GameRollout(base_rollout.BaseRollout):
  """Whole games of the model that is trained.

  Prompts are numbers of groups. A group's start and the opponent's luck depend
  on the seed and its number alone, each game's tokens on its place in the group
  too, so that a run can go on from any step.

  Attributes:
    tables: what games are played with.
  """

  def __init__(
    self,
    rollout_actor: Any,
    tokenizer: Any,
    mesh: Any,
    rollout_config: Any,
    *,
    model: checkpoints.Model,
    config: config_lib.GRPOConfig,
    prompts: Sequence[positions.Shown] = (),
  ):
    """Called by Tunix's `RLCluster`, which knows nothing of the last three."""
    del tokenizer, rollout_config
    self.mesh = mesh
    # In the layout `split` the devices are the sampler's own, and so is the copy.
    is_split = config.mesh.layout == "split"
    self._model = (
      meshes.copy(rollout_actor, mesh) if is_split else rollout_actor
    )
    self._config = config
    self._tokenizer = model.tokenizer
    self.tables = build.make_tables(config, model.tokenizer)
    play = config.play
    if config.episodes.are_single_moves:
      play = build.single_moves(play)
    self._policy = policy_lib.ModelPolicy(self._model, model.spec)
    self._sample = build.make_sampler(
      self._policy, env_lib.TicTacToe(), self.tables, play, config.rollout
    )
    self._begin = jax.jit(self._start)
    self._boards = np.array([each.board for each in prompts], np.int32)
    last = [-1 if p.last_move is None else p.last_move for p in prompts]
    self._last_moves = np.array(last, np.int8)
    self._pool: list[np.ndarray] = []
    self._greedy: Any = None

  def play(self, groups: np.ndarray, step: int) -> Trajectory:
    """Plays a game for each entry; those of one group stand in a row.

    Args:
      groups: int [B], the number of each game's group.
      step: Step of the run, from 0, which selects the opponents.
    """
    opponent = self._opponent(step)
    keys, states = self.begin(groups, opponent)
    params = nnx.split(self._model)[1]
    return self._sample(params, keys, states, opponent)

  def begin(
    self, groups: np.ndarray, opponent: Any
  ) -> tuple[jax.Array, env_lib.State]:
    """Returns the keys of games' tokens [B] and the states they start in.

    Args:
      groups: See `play`.
      opponent: Opponent, who makes the first move of a game it opens.
    """
    members = np.arange(len(groups)) % self._config.grpo.num_generations
    return self._begin(
      jnp.asarray(groups),
      jnp.asarray(members),
      opponent,
      self._has_random_start(groups),
      self._asked(groups),
    )

  def _has_random_start(self, groups: np.ndarray) -> np.ndarray:
    """Returns which groups start on a random position: bool [B].

    Two groups in a row, which are X and O, are treated alike.
    """
    episodes = self._config.episodes
    share = 1.0 if episodes.source == "positions" else episodes.starts
    pairs = groups // 2
    return np.floor((pairs + 1) * share) > np.floor(pairs * share)

  def _asked(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the prompts of some groups: boards int32 [B], moves int8 [B]."""
    if self._config.episodes.source != "prompts":
      return None
    count = len(self._boards)
    epochs, places = np.divmod(groups, count)
    orders = {
      epoch: datasets.epoch_order(count, self._config.seed, epoch)
      for epoch in np.unique(epochs).tolist()
    }
    numbers = [
      orders[epoch][place]
      for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)
    ]
    return self._boards[numbers], self._last_moves[numbers]

  def _start(
    self,
    groups: jax.Array,
    members: jax.Array,
    opponent: Any,
    has_random_start: jax.Array,
    asked: Any,
  ) -> tuple[jax.Array, env_lib.State]:
    seed = self._config.seed
    env = env_lib.TicTacToe(opponent=opponent)
    agents = {"x": (rules.X, rules.X), "o": (rules.O, rules.O)}
    episodes = self._config.episodes
    marks = jnp.array(agents.get(episodes.agent, (rules.X, rules.O)), jnp.int8)

    def begin(
      group: jax.Array, member: jax.Array, has_random_start: Any, asked: Any
    ) -> Any:
      opponent_member = member if episodes.luck == "game" else 0
      luck = jax.random.bits(
        streams.key(seed, _STREAMS.GAME_OPPONENTS, group, opponent_member)
      )
      if asked is not None:
        board, last = asked
        agent = jnp.asarray(rules.side_to_move())[board]
      else:
        agent = marks[group % 2]
        board, last = opponents.random_position(
          streams.key(seed, _STREAMS.GROUP_STARTS, group),
          streams.key(seed, _STREAMS.GROUP_LAST_MOVES, group),
          agent,
        )
        board = jnp.where(has_random_start, board, rules.EMPTY_BOARD)
        last = jnp.where(has_random_start, last, -1)
      state = env.init(luck, agent, board, last)
      return streams.key(seed, _STREAMS.GAME_TOKENS, group, member), state

    return jax.vmap(begin)(groups, members, has_random_start, asked)

  def _opponent(self, step: int) -> Any:
    config = self._config.opponents
    done = step / max(self._config.training.max_steps - 1, 1)

    def share(course: tuple[float, float]) -> float:
      return course[0] + done * (course[1] - course[0])

    shares = np.zeros(2 + config.pool_size, np.float32)
    shares[0], shares[1] = share(config.random), share(config.optimal)
    past = share(config.past_selves)
    tables = np.full((config.pool_size, rules.NUM_BOARDS), -1, np.int8)
    if self._pool:
      shares[2 : 2 + len(self._pool)] = past / len(self._pool)
      tables[: len(self._pool)] = self._pool
    else:
      shares[0] += past
    return jax.tree_util.Partial(
      opponents.mixture, jnp.asarray(shares), jnp.asarray(tables)
    )

  def set_pool(self, tables: list[np.ndarray]) -> None:
    """Sets the past selves: int8 [3^9] each, of which the last are kept."""
    self._pool = tables[-self._config.opponents.pool_size :]

  def greedy_moves(self) -> np.ndarray:
    """Returns the model's move on every board on which one is to be made.

    It is asked on the board alone, greedily: int8 [3^9], -1 for an unreadable
    answer and where nobody is to move.
    """
    boards = rules.positions()
    if self._greedy is None:
      play = build.greedy_single_moves(self._config.play)
      self._greedy = build.make_sampler(
        self._policy, env_lib.TicTacToe(), self.tables, play
      )
    theirs = rules.X + rules.O - rules.side_to_move()[boards]
    taken = (rules.cells()[boards] == theirs[:, None]).argmax(axis=1)
    last = np.where(boards == rules.EMPTY_BOARD, -1, taken)
    params, moves, size = nnx.split(self._model)[1], [], 512
    for first in range(0, len(boards), size):
      rows = np.arange(first, first + size) % len(boards)
      states = jax.vmap(env_lib.TicTacToe().init)(
        jnp.zeros(size, jnp.uint32),
        jnp.asarray(rules.side_to_move()[boards[rows]]),
        jnp.asarray(boards[rows]),
        jnp.asarray(last[rows], jnp.int8),
      )
      keys = streams.keys(0, _STREAMS.GREEDY, last=jnp.arange(size))
      played = self._greedy(params, keys, states)
      moves.append(meshes.fetch(played.moves)[:, 0])
    table = np.full(rules.NUM_BOARDS, -1, np.int8)
    table[boards] = np.concatenate(moves)[: len(boards)]
    return table

  def generate(
    self, prompts: Any, rollout_config: Any, **kwargs: Any
  ) -> base_rollout.RolloutOutput:
    """Plays games; what a game's model said is one text."""
    del rollout_config, kwargs
    games = meshes.fetch(self.play(np.asarray(prompts), 0))
    said = np.asarray(games.action_mask)
    tokens = [games.actions[n][mask] for n, mask in enumerate(said)]
    return base_rollout.RolloutOutput(
      text=[self._tokenizer.decode(row.tolist()) for row in tokens],
      logits=[],
      tokens=tokens,
      left_padded_prompt_tokens=np.zeros((len(tokens), 0), np.int32),
      logprobs=[games.log_probs[n][mask] for n, mask in enumerate(said)],
    )

  def get_per_token_logps(self, prompt_tokens: Any, completion_tokens: Any):
    """Not needed: the sampler's log-probabilities are the old ones."""
    raise NotImplementedError

  def update_params(self, params: Any, filter_types: Any = None) -> None:
    """Takes new values for some of the model's parameters, from any devices."""
    del filter_types
    places = meshes.shardings(params, self.mesh)
    nnx.update(self._model, jax.device_put(params, places))

  def pad_id(self) -> int:
    """Returns the tokenizer's pad token."""
    return self._tokenizer.pad_id()

  def eos_id(self) -> int:
    """Returns the tokenizer's end token."""
    return self._tokenizer.eos_id()

  def model(self) -> Any:
    """Returns the model that plays."""
    return self._model
