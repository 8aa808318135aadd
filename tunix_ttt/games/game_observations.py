"""Observations of a game that are composed on the device."""

from typing import Literal

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from tunix_ttt import streams
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import players
from tunix_ttt.games import view
from tunix_ttt.text import segments
from tunix_ttt.text import slots
from tunix_ttt.text import spellings
from tunix_ttt.text import tokenizers


class GameObservations(struct.PyTreeNode):
  """Observations that are composed on the device.

  Attributes:
    conversation: Chunks of a conversation.
    answers: Replacements of past answers in the context `truncated`, by action;
      the last row replaces an unreadable answer.
    text: Text of the game.
  """

  conversation: slots.Conversation
  answers: segments.Chunks
  text: game_lib.GameText = struct.field(pytree_node=False)

  @property
  def max_begin(self) -> int:
    """Maximum length of the first chunk of a conversation."""
    return self.conversation.begin.max_length

  @property
  def prefix(self) -> tuple[int, ...]:
    """Tokens with which every first chunk of a conversation begins."""
    return self.conversation.begin.prefix

  def chunks(
    self, name: Literal["begin", "follow", "retry"], states: view.ViewState
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the chunks of B states and their mask, [B, L]."""
    shows = jax.vmap(self.text.show)(states.game, states.seat)
    chunk = getattr(self.conversation, name)
    tokens, lengths = jax.vmap(slots.compose, (None, 0))(chunk, shows)
    return tokens, jnp.arange(tokens.shape[1]) < lengths[:, None]


def build(
  game: game_lib.Game,
  text: game_lib.GameText,
  tokenizer: tokenizers.Tokenizer,
  *,
  thoughts: bool = True,
  num_games: int = 1024,
) -> GameObservations:
  """Tokenizes the texts of a game.

  Composed tokens are compared with those of whole texts in random games.

  Args:
    game: Rules of the game.
    text: Text of the game.
    tokenizer: Tokenizer of the model.
    thoughts: Whether answers begin with a thought.
    num_games: Number of random games.

  Raises:
    errors.UserError: if the tokenizer merges too many texts.
  """
  end_id = next(iter(tokenizer.end_ids))
  thought = spellings.TRUNCATED if thoughts else None
  past = [spellings.render_answer(names[0], thought) for names in text.actions]
  observations = GameObservations(
    conversation=slots.build_conversation(
      text,
      tokenizer,
      sample_shows(game, text, num_games),
      rejection=spellings.REJECTION,
    ),
    answers=segments.pad(
      [
        *([*tokenizer.encode(answer), end_id] for answer in past),
        tokenizer.encode(spellings.TRUNCATED),
      ],
      tokenizer.pad_id(),
    ),
    text=text,
  )
  return jax.tree.map(jnp.asarray, observations)


def sample_shows(
  game: game_lib.Game, text: game_lib.GameText, num_games: int
) -> np.ndarray:
  """Returns the distinct observations in random games: int32 [S, K].

  An observation is what `GameText.show` returns for the seat to act.
  """

  def play(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    first_key, key = jax.random.split(key)
    first = game.init(first_key)
    has_chance = jax.eval_shape(game.chance, first).shape != (0,)

    def ply(state: object, number: jax.Array) -> tuple[object, tuple]:
      ply_key, turn = jax.random.fold_in(key, number), game.to_act(state)
      action = players.choose(ply_key, game.legal(state))
      if has_chance:
        outcome = players.draw(ply_key, game.chance(state))
        action = jnp.where(turn == game_lib.CHANCE, outcome, action)
      show = text.show(state, jnp.maximum(turn, 0))
      return game.step(state, action), (show, turn >= 0)

    return jax.lax.scan(ply, first, jnp.arange(game.max_plies))[1]

  numbers = jnp.arange(num_games)
  keys = streams.keys(0, streams.Stream.OBSERVATIONS, last=numbers)
  shows, is_turn = jax.device_get(jax.jit(jax.vmap(play))(keys))
  return np.unique(shows[is_turn], axis=0)
