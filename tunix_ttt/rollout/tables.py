"""Lookup tables of a rollout: tokenized observations and the answer grammar."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.games.tictactoe import board_tables
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import answers as answers_lib
from tunix_ttt.text import tokenizers


class Tables(struct.PyTreeNode):
  """Device arrays of a text format and tokenizer.

  Attributes:
    observations: Token chunks of all observations: `board_tables.Observations` or
      `game_tables.GameObservations`.
    answers: Grammar of the answers.
    end_ids: Ids that end a turn, int32 [E].
  """

  observations: Any
  answers: answers_lib.AnswerTable
  end_ids: jax.Array

  @property
  def min_answer(self) -> int:
    """Number of tokens of the shortest answer."""
    return int(self.answers.tokens_left[answers_lib.START])

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
  text_format: text_formats.TextFormat, tokenizer: tokenizers.Tokenizer
) -> Tables:
  """Tokenizes all observations and compiles the answer grammar.

  Raises a `UserError` if the tokenizer cannot encode the answers.
  """
  end_ids = text_format.end_ids(tokenizer)
  observations = board_tables.build(text_format, tokenizer)
  return Tables(
    observations=jax.tree.map(jnp.asarray, observations),
    answers=answers_lib.compile_automaton(
      text_format.grammar(), tokenizer.token_bytes(), end_ids
    ),
    end_ids=jnp.asarray(end_ids, jnp.int32),
  )
