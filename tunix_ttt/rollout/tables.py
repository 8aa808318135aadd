"""Lookup tables of a rollout: tokenized observations and the answer grammar."""

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import grammar as grammar_lib
from tunix_ttt.text import segments as observations_lib
from tunix_ttt.text import tokenizers


class Tables(struct.PyTreeNode):
  """Arrays on the device, for one format and tokenizer.

  Attributes:
    observations: the chunks of tokens.
    next_state: uint8 [S, V], of the answer's automaton.
    moves: int8 [S], see `grammar.TokenTable`.
    tokens_left: int32 [S], see `grammar.TokenTable`.
    end_ids: int32 [E], the tokens that end a turn.
  """

  observations: observations_lib.Observations
  next_state: jax.Array
  moves: jax.Array
  tokens_left: jax.Array
  end_ids: jax.Array


def build(
  text_format: text_formats.TextFormat, tokenizer: tokenizers.Tokenizer
) -> Tables:
  """Tokenises all that can be shown and compiles the grammar of answers.

  Raises:
    errors.UserError: if the tokenizer cannot spell the format's answers.
  """
  end_ids = text_format.end_ids(tokenizer)
  table = grammar_lib.compile_table(
    text_format.grammar(), tokenizer.token_bytes(), end_ids
  )
  observations = observations_lib.build(text_format, tokenizer)
  return Tables(
    observations=jax.tree.map(jnp.asarray, observations),
    next_state=jnp.asarray(table.next_state),
    moves=jnp.asarray(table.moves),
    tokens_left=jnp.asarray(table.tokens_left),
    end_ids=jnp.asarray(end_ids, jnp.int32),
  )


def retry_chunk(
  tables: Tables, row: jax.Array, said_last: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the chunks [B, L] after unreadable answers and which tokens exist.

  Such a chunk begins with the end of the model's turn, except where the model
  itself said it.

  Args:
    tables: the tables.
    row: int32 [B], of the observations.
    said_last: int32 [B], the last token that is kept of the answer.
  """
  tokens, mask = look_up(tables.observations.retry, row)
  ended = jnp.isin(said_last, tables.end_ids)
  return tokens, mask.at[:, 0].set(~ended)


def look_up(
  chunks: observations_lib.Chunks, row: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns a table's tokens [B, L] and which of them exist."""
  tokens = jnp.asarray(chunks.ids)[row]
  lengths = jnp.asarray(chunks.lengths)[row]
  return tokens, jnp.arange(tokens.shape[1]) < lengths[:, None]
