"""Deals from one deck, for games whose states list the cards that are dealt.

Cards are numbered from 0; -1 is a card that is yet to be dealt.
"""

import jax
import jax.numpy as jnp


def odds(cards: jax.Array, num_cards: int) -> jax.Array:
  """Returns the probability of each card to be dealt next: float32 [num_cards].

  `cards` int8 [N] has the cards dealt so far, then -1. One card must be left.
  """
  is_left = (jnp.arange(num_cards)[:, None] != cards).all(axis=1)
  return is_left / is_left.sum(dtype=jnp.float32)


def deal(cards: jax.Array, card: jax.Array) -> jax.Array:
  """Returns the cards with one more; the same cards if all are dealt."""
  num_dealt = (cards >= 0).sum()
  return cards.at[num_dealt].set(card.astype(cards.dtype), mode="drop")
