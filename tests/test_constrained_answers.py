"""Tests that constrained answers are legal and that all legal ones occur."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_answers import ACTIONS
from tests.test_answers import BYTES
from tests.test_answers import CHESS
from tests.test_answers import GRID
from tests.test_answers import Reader
from tests.test_answers import chess
from tests.test_answers import random_vocabulary
from tunix_ttt import testing
from tunix_ttt.text import answers
from tunix_ttt.text.spellings import WHITESPACE


@functools.partial(jax.jit, static_argnames="length")
def sample(table, key, legal, room, length=45):
  """Samples constrained answers of B rows.

  Returns their actions, the room left, and whether a token was always allowed.
  """
  counts = answers.count_legal(table, legal)
  # Each class is as likely as another: few tokens are on the way to an end.
  sizes = jnp.bincount(table.token_class, length=table.next_state.shape[1])

  def step(carry, key):
    state, rank, room = carry
    mask = answers.allowed(table, state, rank, counts, room=room)
    logits = jnp.where(mask, -jnp.log(sizes[table.token_class]), -jnp.inf)
    token = jax.random.categorical(key, logits)
    is_ended = state == answers.ENDED
    carry = jax.tree.map(
      lambda old, new: jnp.where(is_ended, old, new),
      carry,
      (*answers.advance(table, state, rank, token), room - 1),
    )
    return carry, is_ended | mask.any(axis=-1)

  zeros = jnp.zeros(len(legal), jnp.int32)
  keys = jax.random.split(key, length)
  start = (zeros + answers.START, zeros, zeros + room)
  (state, rank, room), is_free = jax.lax.scan(step, start, keys)
  return answers.action(table, state, rank), room, is_free.all(axis=0)


@pytest.mark.parametrize("vocabulary", ["bytes", "pieces"])
@pytest.mark.parametrize("thoughts", [True, False])
def test_constrained_answers_are_legal(vocabulary, thoughts):
  rng = np.random.default_rng(4)
  tokens = [*BYTES, None]
  if vocabulary == "pieces":
    tokens = random_vocabulary(rng, 200)
  table = answers.compile_answers(
    ACTIONS, tokens, [len(tokens) - 1], thoughts=thoughts
  )
  count, num_actions = 499, len(ACTIONS)
  legal = rng.random((count, num_actions)) < 0.2
  legal[np.arange(count), rng.integers(0, num_actions, count)] = True
  # The least room that suffices, and a little more.
  room = table.tokens_needed[answers.START] + np.arange(count) % 5
  assert room.max() <= 45
  actions, left, is_free = sample(table, jax.random.key(0), legal, room)
  assert is_free.all() and (left >= 0).all()
  assert legal[np.arange(count), actions].all()
  # A single legal action is reached, and all are where all are legal.
  legal[:num_actions] = np.eye(num_actions)
  legal[num_actions:] = True
  actions, left, is_free = sample(table, jax.random.key(1), legal, room + 2)
  assert is_free.all() and (left >= 0).all()
  assert actions[:num_actions].tolist() == [*range(num_actions)]
  assert {*actions[num_actions:].tolist()} == {*range(num_actions)}


def test_constrained_answers_of_chess():
  table = chess()
  rows = np.random.default_rng(5).choice(len(CHESS), 7, replace=False)
  legal = np.zeros((7, len(CHESS)), bool)
  legal[np.arange(7), rows] = True
  room = table.tokens_needed[answers.START]
  actions, left, is_free = sample(
    table, jax.random.key(0), legal, room, length=int(room)
  )
  assert is_free.all() and (left >= 0).all()
  assert actions.tolist() == rows.tolist()


def test_the_mask_has_the_tokens_that_legal_answers_begin_with():
  rng = np.random.default_rng(6)
  vocabulary = random_vocabulary(rng, 300)
  end = len(vocabulary) - 1
  table = answers.compile_answers(ACTIONS, vocabulary, [end], thoughts=False)
  mask_of = jax.jit(answers.allowed)
  for _ in range(40):
    legal = rng.random(len(ACTIONS)) < 0.3
    spellings = [s for i in np.flatnonzero(legal) for s in ACTIONS[i]]
    words = [f"<move>{spelling}</move>".encode() for spelling in spellings]

    def is_start(text, words=words):
      text = text.lstrip(WHITESPACE)
      return any(
        word.startswith(text) or text.rstrip(WHITESPACE) == word
        for word in words
      )

    counts = answers.count_legal(table, jnp.asarray(legal))
    state, rank, text = jnp.int32(answers.START), jnp.int32(0), b""
    while state != answers.ENDED:
      mask = mask_of(table, state, rank, counts)
      expected = [bool(t) and is_start(text + t) for t in vocabulary]
      expected[end] = text.strip(WHITESPACE) in words
      assert mask.tolist() == expected
      if not words:
        break
      token = int(rng.choice(np.flatnonzero(mask)))
      state, rank = answers.advance(table, state, rank, jnp.int32(token))
      text += vocabulary[token] or b""


def test_the_mask_without_legal_actions_or_room():
  toy = testing.CharacterTokenizer()
  end = toy.end_of_turn_id
  table = answers.compile_answers(GRID, toy.token_bytes(), [end])
  shortest = len("<think></think><move>A1</move>") + 1
  start = jnp.int32([answers.START, answers.START, answers.DEAD])
  rank = jnp.zeros(3, jnp.int32)
  room = jnp.int32([shortest, shortest - 1, 99])
  masks = answers.allowed(table, start, rank, room=room)
  assert masks.sum(axis=1).tolist() == [1, 0, 0]
  assert masks[0, toy.encode("<")[0]]
  # Without a limit, whitespace may come first.
  free = answers.allowed(table, start, rank)
  assert free.sum(axis=1).tolist() == [1 + len(WHITESPACE)] * 2 + [0]
  # Without a legal action, no token is allowed.
  counts = answers.count_legal(table, jnp.zeros(9, bool))
  counts = jnp.broadcast_to(counts, (3, *counts.shape))
  assert not answers.allowed(table, start, rank, counts).any()


def test_tokens_that_suffice_for_any_action():
  # "A" is followed by 2 only, so nothing but whole answers may be sampled.
  tokens = [
    b"<move>",
    b"A1</move>",
    b"A2</move>",
    b"A",
    b"2</move>",
    b" ",
    None,
  ]
  table = answers.compile_answers(
    [("A1",), ("A2",)], tokens, [6], thoughts=False
  )
  reader = Reader(table)
  assert reader.action([0, 3, 4, 6]) == 1
  state, rank = (jnp.int32(n) for n in reader.read([0]))
  legal = jnp.array([False, True])
  counts = answers.count_legal(table, legal)
  mask = answers.allowed(table, state, rank, counts)
  assert mask.tolist() == [False, False, True, False, False, False, False]
  assert answers.allowed(table, state, rank).tolist()[:5] == [
    False,
    *[True] * 3,
    False,
  ]
  assert (table.tokens_left[1], table.tokens_needed[1]) == (3, 3)
