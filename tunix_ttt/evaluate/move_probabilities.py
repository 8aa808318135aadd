"""Computes the exact distribution of a model's moves, without sampling.

An answer without a thought is one of few texts, so the probability of each
follows from the probabilities of its tokens. These are the sampler's: at its
temperature, after `top_k`, `top_p` and constrained decoding. A model reads a
prompt and the prefixes of all answers once, in one pass in which a prefix attends
to the prompt and to its own tokens.

An answer counts with the tokens that the tokenizer gives its text and with any
of the tokens that end a turn. The same text in other tokens or with whitespace
around it is `unresolved`. A trained model gives such answers next to no
probability.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import errors
from tunix_ttt.evaluate import answer_tree
from tunix_ttt.games import definition
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy
from tunix_ttt.rollout import policy as policy_lib
from tunix_ttt.rollout import sampling as sampling_lib
from tunix_ttt.rollout import tables as tables_lib
from tunix_ttt.text import answers as answers_lib

# Bytes of a batch's probabilities of tokens.
_BYTES = 2**27
_MAX_BATCH = 256


class Moves(NamedTuple):
  """Distribution of answers in N states; the probabilities of a row add up to 1.

  Attributes:
    probabilities: Probability of each of the A actions, legal or not, float64
      [N, A].
    unreadable: Probability of answers that are no move, float64 [N].
    truncated: Probability of answers that a token limit cuts, float64 [N].
    unresolved: Probability of answers in other tokens, which may be any of the
      above, float64 [N].
  """

  probabilities: np.ndarray
  unreadable: np.ndarray
  truncated: np.ndarray
  unresolved: np.ndarray


class _Scores(NamedTuple):
  """Probabilities of tokens after the R prefixes in N states.

  Attributes:
    edges: Probability of each prefix's last token after its parent, [N, R].
    ends: Total probability of the tokens that end an answer, [N, R].
    strays: Total probability of the tokens that leave the tree, [N, R].
    lengths: Number of tokens of the prompt, int [N].
  """

  edges: Any
  ends: Any
  strays: Any
  lengths: Any


class MoveProbabilities:
  """Distribution of a model's moves as a function of states.

  Compiled on the first call.
  """

  def __init__(
    self,
    model: checkpoints.Model,
    game: definition.Definition,
    tables: tables_lib.Tables,
    sampling: sampling_lib.Sampling,
    *,
    max_new_tokens: int = answers_lib.NEVER,
    max_game_tokens: int | None = None,
    batch_size: int | None = None,
  ):
    """Tokenizes the answers.

    Args:
      model: Model that answers.
      game: Game of the model.
      tables: Tables of the game's text.
      sampling: Settings of the sampler.
      max_new_tokens: Maximum number of tokens in an answer.
      max_game_tokens: Maximum number of tokens in a prompt and its answer; None
        is no limit.
      batch_size: Number of states in a batch; None for a number that fits in
        memory.

    Raises:
      errors.UserError: if answers have thoughts.
    """
    texts = game.grammar().texts()
    if texts is None:
      raise errors.UserError(
        "answers with thoughts have no exact distribution; set"
        " data.games.thoughts to none, or judge by sampled answers"
      )
    encode = model.tokenizer.encode
    self._tree = tree = answer_tree.build(tables.answers, [*map(encode, texts)])
    self._num_actions = len(game.text.actions)
    self._limits = max_new_tokens, max_game_tokens
    row = 4 * len(tree) * len(tables.answers.token_class)
    self._batch_size = batch_size or min(max(_BYTES // row, 1), _MAX_BATCH)
    policy = model_policy.ModelPolicy(model.module, model.spec)
    self.params, legal = policy.params, game.environment().legal

    @jax.jit
    def score(params: Any, states: Any) -> _Scores:
      tokens, mask = tables.observations.chunks("begin", states)
      begun = policy_lib.begin(policy, params, tables.prefix)
      memory = policy_lib.repeat(begun, len(tokens))
      logits = _feed(policy, params, memory, tokens, mask, tree)
      allowed = None
      if sampling.constrained:
        counts = None
        if sampling.constrained == "legal":
          counts = answers_lib.count_legal(
            tables.answers, jax.vmap(legal)(states)
          )
          counts = jnp.repeat(counts[:, None], len(tree), axis=1)
        shape = logits.shape[:2]
        allowed = answers_lib.allowed(
          tables.answers,
          jnp.broadcast_to(tree.states, shape),
          jnp.broadcast_to(tree.ranks, shape),
          counts,
          room=max_new_tokens - jnp.asarray(tree.depths),
        )
      odds = sampling_lib.probabilities(logits, sampling, allowed)
      edges = odds[:, tree.parents[1:], tree.tokens[1:]]
      return _Scores(
        jnp.pad(edges, [(0, 0), (1, 0)], constant_values=1),
        jnp.where(tree.ends, odds, 0).sum(axis=2),
        jnp.where(tree.strays, odds, 0).sum(axis=2),
        mask.sum(axis=1),
      )

    self._score = score

  def __call__(self, states: Any, params: Any = None) -> Moves:
    """Returns the distribution in N states of the game's `environment`.

    `params` replaces the parameters of the model.
    """
    params = self.params if params is None else params
    total, size, batches = len(jax.tree.leaves(states)[0]), self._batch_size, []
    for first in range(0, total, size):
      # Repeated states fill the last batch.
      rows = np.arange(first, first + size) % total
      batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], states)
      batches.append(meshes.fetch(self._score(params, batch)))
    scores = _Scores(
      *(
        np.concatenate(parts)[:total].astype(np.float64)
        for parts in zip(*batches, strict=True)
      )
    )
    return self._combine(scores)

  def _combine(self, scores: _Scores) -> Moves:
    tree, (limit, game_limit) = self._tree, self._limits
    room = np.full(len(scores.lengths), limit)
    if game_limit is not None:
      room = np.minimum(room, game_limit - scores.lengths)
    moves = np.zeros((len(room), self._num_actions))
    truncated, unresolved = np.zeros((2, len(room)))
    reach = scores.edges.copy()
    for number, action in enumerate(tree.actions):
      if number:
        reach[:, number] *= reach[:, tree.parents[number]]
      left = room - tree.depths[number]
      is_cut = left <= 0
      truncated[is_cut] += reach[is_cut, number]
      reach[is_cut, number] = 0
      if action >= 0:
        moves[:, action] += reach[:, number] * scores.ends[:, number]
      stray = reach[:, number] * scores.strays[:, number]
      truncated += np.where(left == 1, stray, 0)
      unresolved += np.where(left > 1, stray, 0)
    readable = moves.sum(axis=1) + truncated + unresolved
    return Moves(moves, np.maximum(1 - readable, 0), truncated, unresolved)


def _feed(
  policy: policy_lib.Policy,
  params: Any,
  memory: policy_lib.Memory,
  tokens: jax.Array,
  mask: jax.Array,
  tree: answer_tree.AnswerTree,
) -> jax.Array:
  """Returns the logits after each prefix, [B, R, V].

  Args:
    policy: Model.
    params: Parameters of the model.
    memory: Memory of the first tokens of all prompts.
    tokens: Prompts, int32 [B, L].
    mask: Mask of the prompts' tokens, bool [B, L].
    tree: Prefixes.
  """
  prefix_length = memory.valid.shape[1]
  tokens, mask = tokens[:, prefix_length:], mask[:, prefix_length:]
  (batch_size, length), more = tokens.shape, len(tree) - 1
  shape = batch_size, more
  positions = prefix_length + jnp.concatenate(
    [
      jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0),
      mask.sum(axis=1)[:, None] + tree.depths[1:] - 1,
    ],
    axis=1,
  )
  # Slots of the memory, of the rest of the prompts and of the tree.
  causal = np.ones((length + more, prefix_length + length + more), bool)
  causal[:length, prefix_length:] = np.tri(length, length + more, dtype=bool)
  causal[length:, prefix_length + length :] = tree.is_read[1:, 1:]
  valid = jnp.concatenate([memory.valid, mask, jnp.ones(shape, bool)], axis=1)
  # The empty prefix is read at the last token of the prompt.
  last = length - 1 - jnp.argmax(mask[:, ::-1], axis=1, keepdims=True)
  read = jnp.broadcast_to(length + jnp.arange(more), shape)
  logits, _ = policy(
    params,
    jnp.concatenate([tokens, jnp.broadcast_to(tree.tokens[1:], shape)], axis=1),
    positions,
    policy.grow_cache(memory.cache, prefix_length + length + more),
    memory.end,
    valid[:, None, :] & causal,
    jnp.concatenate([last, read], axis=1),
  )
  return logits
