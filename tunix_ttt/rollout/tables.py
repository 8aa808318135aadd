"""What a rollout looks things up in: observations and the answers' grammar."""

from typing import Protocol

from flax import struct
import jax
import jax.numpy as jnp

from tunix_ttt.language import chat
from tunix_ttt.language import formats
from tunix_ttt.language import grammar as grammar_lib
from tunix_ttt.language import observations as observations_lib


class Tokenizer(chat.ChatTokenizer, Protocol):
  """A tokenizer that knows what its tokens stand for."""

  def token_bytes(self) -> list[bytes | None]:
    """Returns what each token stands for in text; None for control tokens."""
    ...


class Tables(struct.PyTreeNode):
  """Arrays on the device, for one format and tokenizer.

  Attributes:
    observations: the chunks of tokens.
    next_state: uint8 [S, V], of the answer's automaton.
    moves: int8 [S], see `grammar.TokenTable`.
    tokens_left: int32 [S], see `grammar.TokenTable`.
  """

  observations: observations_lib.Observations
  next_state: jax.Array
  moves: jax.Array
  tokens_left: jax.Array


def build(text_format: formats.TextFormat, tokenizer: Tokenizer) -> Tables:
  """Tokenises all that can be shown and compiles the grammar of answers.

  Raises:
    errors.UserError: if the tokenizer cannot spell the format's answers.
  """
  table = grammar_lib.compile_table(
    text_format.grammar(), tokenizer.token_bytes()
  )
  observations = observations_lib.build(text_format, tokenizer)
  return Tables(
    observations=jax.tree.map(jnp.asarray, observations),
    next_state=jnp.asarray(table.next_state),
    moves=jnp.asarray(table.moves),
    tokens_left=jnp.asarray(table.tokens_left),
  )


def look_up(
  chunks: observations_lib.Chunks, row: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns a table's tokens [B, L] and which of them exist."""
  tokens = jnp.asarray(chunks.ids)[row]
  lengths = jnp.asarray(chunks.lengths)[row]
  return tokens, jnp.arange(tokens.shape[1]) < lengths[:, None]
