"""Tests answer tables against regular expressions."""

import functools
import itertools
import re
import time

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tunix_ttt import errors
from tunix_ttt import testing
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import answers

BYTES = [bytes([byte]) for byte in range(256)]
# Spellings of which some start or end as others do.
ACTIONS = (
  ("A1", "a1"),
  ("A10",),
  ("B1",),
  ("pass", "skip", ""),
  ("e7e8",),
  ("e7e8q",),
  ("é",),
  ("</mo",),
)
GRID = [(name, name[0].lower() + name[1]) for name in text_formats.COORDINATES]


def pattern(actions, *, thoughts):
  """Returns the regular expression of answers, a group for each action."""
  choices = "|".join(
    "(" + "|".join(map(re.escape, spellings)) + ")" for spellings in actions
  )
  thought = r"<think>(?:(?!</think>).)*</think>\s*" if thoughts else ""
  return re.compile(
    rf"\s*{thought}<move>(?:{choices})</move>\s*", re.DOTALL | re.ASCII
  )


class Reader:
  """Reads tokens without JAX."""

  def __init__(self, table):
    self.table = table
    names = ("token_class", "next_state", "offset", "tokens_left", "actions")
    arrays = [np.asarray(getattr(table, name)) for name in names]
    self.token_class, self.next_state, self.offset = arrays[:3]
    self.tokens_left, self.actions = arrays[3:]

  def read(self, tokens):
    """Returns the state and the rank after tokens."""
    state, rank = answers.START, 0
    for token in tokens:
      index = state, self.token_class[token]
      state, rank = int(self.next_state[index]), rank + int(self.offset[index])
    return state, rank

  def action(self, tokens):
    """Returns the action of tokens that end a turn, -1 for others."""
    state, rank = self.read(tokens)
    return int(self.actions[rank]) if state == answers.ENDED else -1


FRAGMENTS = [
  *(
    "<think>",
    "</think>",
    "<move>",
    "</move>",
    "A1",
    "a1",
    "A10",
    "A100",
    "B1",
  ),
  *("B", "pass", "pas", "skip", "e7e8", "e7e8q", "é", "<", ">", "</", "</mo"),
  *("</thi", "</</think>", "\n", " ", "\u00a0", "\x1c", "\t\v\f\r", "0", "q"),
]
TEXT = st.one_of(
  st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join),
  st.tuples(
    st.sampled_from(["", " ", "\n"]),
    st.sampled_from(["", "<think>", "<think>a</think>", "<think></</think>"]),
    st.sampled_from(["", "\n", "x"]),
    st.sampled_from(["<move>", "<move> ", "<move><move>", ""]),
    st.sampled_from([*itertools.chain(*ACTIONS), "e7e", "A1\n", "</move>"]),
    st.sampled_from(["</move>", "</move", "</move> \n", "</move>."]),
  ).map("".join),
)


@functools.cache
def byte_reader(thoughts):
  tokens = [*BYTES, None, None]
  return Reader(
    answers.compile_answers(ACTIONS, tokens, [256], thoughts=thoughts)
  )


def action_of(match):
  return -1 if match is None else match.lastindex - 1


@pytest.mark.parametrize("thoughts", [True, False])
def test_the_table_is_the_regular_expression(thoughts):
  expression = pattern(ACTIONS, thoughts=thoughts)

  @given(TEXT)
  def agrees(text):
    expected = action_of(expression.fullmatch(text))
    reader = byte_reader(thoughts)
    tokens = [*text.encode()]
    assert reader.action([*tokens, 256]) == expected
    assert reader.action(tokens) == -1
    assert reader.read([*tokens, 257])[0] == answers.DEAD
    assert reader.read([*tokens, 256, 256])[0] == answers.DEAD

  agrees()


@pytest.mark.parametrize("thoughts", [True, False])
def test_random_bytes_and_mutated_answers(thoughts):
  rng = np.random.default_rng(0)
  expression = pattern(ACTIONS, thoughts=thoughts)
  reader = byte_reader(thoughts)
  spellings = [*itertools.chain(*ACTIONS)]
  accepted = 0
  for n in range(3_000):
    thought = rng.choice(["x<", "", "</think", "é"]) if thoughts else None
    text = bytearray(
      b"" if thought is None else f"<think>{thought}</think>\n".encode()
    )
    text += f"<move>{spellings[n % len(spellings)]}</move>".encode()
    for _ in range(rng.integers(3)):
      where = int(rng.integers(len(text)))
      if rng.random() < 0.5:
        del text[where]
      else:
        text[where : where + 1] = rng.choice(
          [*b"<>/ A1a0e78\n\x00\xff"], 1
        ).tolist()
    # Latin-1 has a character for each byte.
    match = re.compile(
      expression.pattern.encode().decode("latin-1"), re.DOTALL | re.ASCII
    ).fullmatch(text.decode("latin-1"))
    assert reader.action([*text, 256]) == action_of(match)
    accepted += match is not None
    noise = rng.bytes(int(rng.integers(12)))
    assert reader.action([*noise, 256]) == -1
  assert 500 < accepted < 2_500


def random_vocabulary(rng, size):
  """Returns all bytes and random pieces of answers."""
  text = (
    "".join(FRAGMENTS).encode() + b"</move>\n<move>A1</move></think>\n<move>"
  )
  starts = rng.integers(0, len(text), size)
  lengths = rng.integers(2, 12, size)
  pieces = [text[i : i + n] for i, n in zip(starts, lengths, strict=True)]
  return [*dict.fromkeys([*BYTES, *pieces]), b"", None]


def split(text, vocabulary, rng):
  """Splits text into random tokens."""
  tokens = []
  while text:
    fits = [
      i
      for i, piece in enumerate(vocabulary)
      if piece and text.startswith(piece)
    ]
    token = int(rng.choice(fits))
    tokens.append(token)
    text = text[len(vocabulary[token]) :]
  return tokens


@pytest.mark.parametrize("thoughts", [True, False])
def test_however_text_is_split(thoughts):
  rng = np.random.default_rng(1)
  vocabulary = random_vocabulary(rng, 300)
  empty, end = len(vocabulary) - 2, len(vocabulary) - 1
  table = answers.compile_answers(ACTIONS, vocabulary, [end], thoughts=thoughts)
  reader, by_bytes = Reader(table), byte_reader(thoughts)

  @given(TEXT, st.integers(0, 2**32 - 1))
  def agrees(text, seed):
    rng = np.random.default_rng(seed)
    tokens = split(text.encode(), vocabulary, rng)
    state, rank = reader.read(tokens)
    # A byte-level vocabulary can complete what this one can.
    expected_state, expected_rank = by_bytes.read(text.encode())
    assert state == expected_state
    # A dead end has no rank.
    assert state == answers.DEAD or rank == expected_rank
    assert reader.action([*tokens, end]) == by_bytes.action(
      [*text.encode(), 256]
    )
    assert reader.read([*tokens, empty])[0] == answers.DEAD

  agrees()


SQUARES = [file + rank for file in "abcdefgh" for rank in "12345678"]
# As many actions as in AlphaZero's chess; those of promotions are longer.
CHESS = [(a + b,) for a in SQUARES for b in SQUARES] + [
  (a + b + piece,) for a in SQUARES for b in SQUARES[:3] for piece in "qrn"
]


@functools.cache
def large_vocabulary():
  """Returns 152,000 tokens: bytes, squares, tags and words."""
  rng = np.random.default_rng(3)
  pieces = dict.fromkeys(BYTES)
  tags = ["<move>", "</move>", "<think>", "</think>", ">\n", "><", "<m", "ove"]
  for text in [*tags, *SQUARES]:
    pieces[text.encode()] = None
  for alphabet, count, longest in (
    (b"abcdefgh12345678", 4_000, 4),
    (b"etaoinshrdlucmfwypvbgkjqxz", 152_000, 9),
  ):
    letters = rng.choice([*alphabet], (2 * count, longest)).astype(np.uint8)
    lengths = rng.integers(2, longest + 1, 2 * count)
    for word, length in zip(letters, lengths, strict=True):
      if len(pieces) < min(count, 151_999):
        pieces[word[:length].tobytes()] = None
  assert len(pieces) == 151_999
  return [*pieces, None]


@functools.cache
def chess():
  vocabulary = large_vocabulary()
  start = time.perf_counter()
  table = answers.compile_answers(CHESS, vocabulary, [len(vocabulary) - 1])
  print(f"{table.next_state.shape} in {time.perf_counter() - start:.1f} s")
  return table


def test_chess_with_a_large_vocabulary():
  table, vocabulary = chess(), large_vocabulary()
  assert len(CHESS) == 4_672
  assert table.token_class.shape == (152_000,)
  assert sum(x.nbytes for x in jax.tree.leaves(table)) < 1e6
  reader = Reader(table)
  ids = {text: token for token, text in enumerate(vocabulary)}
  for number in range(0, len(CHESS), 7):
    (spelling,) = CHESS[number]
    halves = [spelling[:2], spelling[2:4], *spelling[4:]]
    text = ["<think>", "e", "2", " ", "</think>", ">\n"[1:], "<move>", *halves]
    tokens = [ids[piece.encode()] for piece in [*text, "</move>"]]
    assert reader.action([*tokens, ids[None]]) == number
  # Every spelling is distinct, and the ranks are those of the sorted bytes.
  by_rank = [CHESS[action][0] for action in reader.actions]
  assert by_rank == sorted(by_rank, key=lambda s: f"{s}</move>".encode())


@pytest.mark.parametrize(
  ("actions", "options", "message"),
  [
    ([("A",), ()], {}, "action 1 has no spelling"),
    ([], {}, "the game has no actions"),
    ([("A",), ("B", "A")], {}, "actions 0 and 1 are both spelled 'A'"),
    ([("A", "A")], {}, "actions 0 and 0 are both spelled 'A'"),
    (
      [("A1",), ("B",), ("A10",)],
      {"closing": ""},
      "the spelling 'A10' of an action starts with the spelling 'A1'",
    ),
    ([(" A",)], {"opening": ""}, "must not start with whitespace"),
  ],
)
def test_spellings_that_cannot_be_told_apart(actions, options, message):
  with pytest.raises(errors.UserError, match=message):
    answers.compile_answers(actions, BYTES, [], **options)


def test_actions_that_a_tokenizer_cannot_spell():
  tokens = testing.CharacterTokenizer().token_bytes()
  tokens[tokens.index(b"3")] = None
  with pytest.raises(
    errors.UserError, match="that plays A3, B3, C3, a3, b3, c3$"
  ):
    answers.compile_answers(GRID, tokens, [1], thoughts=False)
  with pytest.raises(errors.UserError, match="A1, A2, .* and 9 others"):
    answers.compile_answers(GRID, [None, b"a"], [0])


def test_a_state_that_tokens_cannot_leave_is_dead():
  tokens = [*(f"<move>{name}</move>".encode() for name, _ in GRID)]
  tokens += [b"<mo", b" ", None, b""]
  actions = [(name,) for name, _ in GRID]
  table = answers.compile_answers(actions, tokens, [11], thoughts=False)
  reader = Reader(table)
  assert [reader.action([9 + 1, n, 11]) for n in range(9)] == [*range(9)]
  states = [reader.read([token])[0] for token in (9, 10, 11, 12)]
  assert states == [answers.DEAD, answers.START, answers.DEAD, answers.DEAD]


def test_other_tags():
  actions = [(f"{row}-{column}",) for row in range(3) for column in range(3)]
  token_bytes = testing.CharacterTokenizer().token_bytes()
  table = answers.compile_answers(
    actions,
    token_bytes,
    [1],
    opening="<|move|><|",
    closing="|><|end|>",
    thought_tags=("<player_think>", "</player_think>"),
  )
  text = "<player_think>x</think></player_think>\n<|move|><|2-1|><|end|>"
  tokens = testing.CharacterTokenizer().encode(text)
  assert Reader(table).action([*tokens, 1]) == 7


MOVE = (b"<think>", b"</think>", b"<move>")


def try_first(texts, actions, before):
  """Tries action 0 after a text; returns the chances of tokens with and without."""
  tokens = [None, b"<move>", b"</move>", b"<think>", b"</think>", *texts]
  table = answers.compile_answers(actions, tokens, [0])
  state, rank = conftest.read_tokens(table, [tokens.index(t) for t in before])
  at = jnp.array([state]), jnp.array([rank])
  logits = np.random.default_rng(1).normal(size=(1, len(tokens)))
  drawn = answers.try_action(table, *at, jnp.asarray(logits), jnp.array([0]))
  chances = np.asarray(jax.nn.softmax(drawn))[0]
  assert not np.isnan(chances).any()
  names = {text: float(p) for text, p in zip(tokens, chances, strict=True)}
  odds = zip(tokens, np.exp(logits[0]).tolist(), strict=True)
  return names, dict(odds)


def test_all_names_of_a_tried_action_share_what_names_have():
  texts = [b" a", b"a", b"b", b"x"]
  drawn, odds = try_first(texts, [["a"], ["b"]], [b"<think>"])
  assert drawn[b"b"] == 0
  names = odds[b" a"] + odds[b"a"] + odds[b"b"]
  assert (drawn[b" a"] + drawn[b"a"]) / drawn[b"x"] == pytest.approx(
    names / odds[b"x"], rel=1e-4
  )
  assert drawn[b"a"] / drawn[b" a"] == pytest.approx(
    odds[b"a"] / odds[b" a"], rel=1e-4
  )
  # The first of them does not spell the move.
  drawn, _ = try_first(texts, [["a"], ["b"]], MOVE)
  assert drawn[b"a"] == 1


def test_a_tried_action_that_no_token_names():
  texts = [b"a", b"b", b"c"]
  drawn, odds = try_first(texts, [["ab"], ["ac"]], [b"<think>"])
  assert drawn[b"c"] / drawn[b"b"] == pytest.approx(odds[b"c"] / odds[b"b"])
  drawn, _ = try_first(texts, [["ab"], ["ac"]], [*MOVE, b"a"])
  assert drawn[b"b"] == 1
