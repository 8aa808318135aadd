"""Lookup tables of a rollout: tokenized observations and the answer grammar."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.games import definition
from tunix_ttt.text import answers as answers_lib
from tunix_ttt.text import tokenizers

_MIN_PREFIX = 32


class Tables(struct.PyTreeNode):
  """Device arrays of a game's text and a tokenizer.

  Attributes:
    observations: Token chunks of observations, such as
      `game_observations.GameObservations`.
    answers: Grammar of the answers.
    end_ids: Ids that end a turn, int32 [E].
    prefix: Ids with which every first chunk begins, such as those of the rules;
      none if they are too few to be worth a program of their own.
  """

  observations: Any
  answers: answers_lib.AnswerTable
  end_ids: jax.Array
  prefix: tuple[int, ...] = struct.field(pytree_node=False, default=())

  @property
  def min_answer(self) -> int:
    """Number of tokens of the shortest answer."""
    return int(self.answers.tokens_left[answers_lib.START])

  @property
  def min_legal_answer(self) -> int:
    """Number of tokens that suffice for an answer with any action."""
    return int(self.answers.tokens_needed[answers_lib.START])

  @property
  def unreadable(self) -> int:
    """Row of `observations.answers` that replaces an unreadable answer."""
    return len(self.observations.answers.lengths) - 1

  def retry(
    self, states: Any, last_token: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the chunks after unreadable answers and their mask, [B, L].

    The first token ends the model's turn. It is masked if the last token of the
    answer in the context, int32 [B], already ends it.
    """
    tokens, mask = self.observations.chunks("retry", states)
    is_ended = jnp.isin(last_token, self.end_ids)
    return tokens, mask.at[:, 0].set(~is_ended)


def build(
  game: definition.Definition, tokenizer: tokenizers.Tokenizer
) -> Tables:
  """Tokenizes the observations of a game and compiles the answer grammar.

  Raises:
    errors.UserError: if the tokenizer cannot encode the answers, or merges too
      many texts.
  """
  observations = game.observations(tokenizer)
  prefix = observations.prefix
  return Tables(
    observations=observations,
    answers=game.answers(tokenizer),
    end_ids=jnp.asarray(game.end_ids(tokenizer), jnp.int32),
    prefix=prefix if len(prefix) >= _MIN_PREFIX else (),
  )
