"""Computes the exact distribution of a model's moves, without sampling.

An answer without a thought is one of few texts, so the probability of each
follows from the log-probabilities of its tokens. An answer counts with the
tokens that the tokenizer gives its text and with any of the tokens that end a
turn; the same text in other tokens or with whitespace around it counts as
unreadable. A trained model gives such answers next to no probability.
"""

from collections.abc import Sequence
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt.games import game as game_lib
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy
from tunix_ttt.rollout import policy as policy_lib
from tunix_ttt.text import segments
from tunix_ttt.text import slots
from tunix_ttt.text import spellings


class Moves(NamedTuple):
  """Distribution of answers to N observations.

  Attributes:
    probabilities: Probability of each of the A actions, legal or not, float64
      [N, A].
    unreadable: Probability of all other answers, float64 [N].
  """

  probabilities: np.ndarray
  unreadable: np.ndarray


class MoveProbabilities:
  """Distribution of a model's moves as a function of observations.

  Compiled on the first call.
  """

  def __init__(
    self,
    model: checkpoints.Model,
    text: game_lib.GameText[Any],
    begin: slots.Chunk,
    *,
    temperature: float = 1.0,
    batch_size: int = 64,
  ):
    """Tokenizes the answers.

    Args:
      model: Model that answers.
      text: Text of the game.
      begin: Prompts of the observations, `slots.Conversation.begin`.
      temperature: Sampling temperature; 0 for greedy decoding.
      batch_size: Number of observations in a batch.
    """
    policy = model_policy.ModelPolicy(model.module, model.spec)
    self.params, self._batch_size = policy.params, batch_size
    self._actions = np.repeat(
      np.arange(len(text.actions)), [len(names) for names in text.actions]
    )
    self._num_actions = len(text.actions)
    encode, names = model.tokenizer.encode, itertools.chain(*text.actions)
    answers = segments.pad(
      [encode(spellings.render_answer(name)) for name in names],
      model.tokenizer.pad_id(),
    )
    end_ids = [*model.tokenizer.end_ids]

    @jax.jit
    def score(params: Any, shows: jax.Array) -> jax.Array:
      tokens, lengths = jax.vmap(slots.compose, (None, 0))(begin, shows)
      mask = jnp.arange(tokens.shape[1]) < lengths[:, None]
      return _log_probs(
        policy, params, tokens, mask, answers, end_ids, temperature
      )

    self._score = score

  def __call__(self, shows: np.ndarray, params: Any = None) -> Moves:
    """Returns the distribution at N observations, int32 [N, K].

    `params` replaces the parameters of the model.
    """
    params = self.params if params is None else params
    log_probs, size = [], self._batch_size
    for first in range(0, len(shows), size):
      # Repeated observations fill the last batch.
      rows = np.arange(first, first + size) % len(shows)
      log_probs.append(meshes.fetch(self._score(params, shows[rows])))
    by_spelling = np.exp(np.concatenate(log_probs).astype(np.float64))
    result = np.zeros((len(shows), self._num_actions))
    np.add.at(result.T, self._actions, by_spelling[: len(shows)].T)
    unreadable = np.maximum(1 - result.sum(axis=1), 0)
    return Moves(result, unreadable)


def _log_probs(
  policy: policy_lib.Policy,
  params: Any,
  tokens: jax.Array,
  mask: jax.Array,
  answers: segments.Chunks,
  end_ids: Sequence[int],
  temperature: float,
) -> jax.Array:
  """Returns the log-probabilities of S answers to B prompts: float32 [B, S].

  A prompt is fed once; its memory is copied for all answers.

  Args:
    policy: Model.
    params: Parameters of the model.
    tokens: Prompts, int32 [B, L].
    mask: Mask of the prompts' tokens, bool [B, L].
    answers: Answers without end tokens, S rows of T tokens.
    end_ids: Tokens of which any ends an answer.
    temperature: Sampling temperature.
  """
  (batch_size, length), (count, steps) = tokens.shape, answers.ids.shape
  memory = policy_lib.empty(policy, batch_size)
  memory = policy_lib.grow(policy, memory, length + steps)
  memory, logits = policy_lib.feed(policy, params, memory, tokens, mask)
  memory, logits = jax.tree.map(
    lambda leaf: jnp.repeat(leaf, count, axis=0) if leaf.ndim else leaf,
    (memory, logits),
  )
  ids = jnp.tile(jnp.asarray(answers.ids), (batch_size, 1))
  lengths = jnp.tile(jnp.asarray(answers.lengths), batch_size)

  def add(total: jax.Array, logits: jax.Array, step: jax.Array) -> jax.Array:
    """Adds the log-probability of a token, or of the end after the last."""
    logits = logits.astype(jnp.float32)
    if temperature == 0:
      is_best = jnp.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]
      logits = jnp.where(is_best, 0, -jnp.inf)
    else:
      logits /= temperature
    token = jnp.take(ids, step, axis=1, mode="clip")
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    ended = jax.nn.logsumexp(logits[:, jnp.asarray(end_ids)], axis=1)
    scores = jnp.where(step < lengths, chosen, ended)
    scores -= jax.nn.logsumexp(logits, axis=1)
    return total + jnp.where(step <= lengths, scores, 0)

  def read(carry: Any, step: jax.Array) -> tuple[Any, None]:
    memory, logits, total = carry
    total = add(total, logits, step)
    is_token = (step < lengths)[:, None]
    column = jnp.take(ids, step, axis=1)[:, None]
    memory, logits = policy_lib.feed(policy, params, memory, column, is_token)
    return (memory, logits, total), None

  start = memory, logits, jnp.zeros(len(ids), jnp.float32)
  (_, logits, total), _ = jax.lax.scan(read, start, jnp.arange(steps))
  total = add(total, logits, jnp.int32(steps))
  return total.reshape(batch_size, count)
