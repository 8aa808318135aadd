"""Composed tokens are those of the whole text, for any tokenizer."""

from collections.abc import Sequence
import itertools
import re

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import hugging_face as made
from tunix_ttt import errors
from tunix_ttt import testing
from tunix_ttt.games.tictactoe import board_tables
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.text import chat
from tunix_ttt.text import hub_tokenizers
from tunix_ttt.text import slot_groups
from tunix_ttt.text import slots

REJECTION = "That is not an answer of the required format.\n"
ROWS = [
  [
    text_formats.render_row(row, marks)
    for marks in itertools.product((rules.EMPTY, rules.X, rules.O), repeat=3)
  ]
  for row in range(3)
]


class Text:
  """The text of a game; `show` is computed outside JAX."""

  rules: str = text_formats.system_prompt()
  seats: Sequence[str] = ("X", "O")
  actions: Sequence[Sequence[str]] = ()

  def __init__(self, *texts):
    self.segments: Sequence[Sequence[str]] = texts

  def show(self, state, seat):
    raise NotImplementedError

  def observation(self, show):
    shown = zip(self.segments, show, strict=True)
    return "".join(texts[int(n)] for texts, n in shown if n >= 0)


LAST_MOVE = [
  f"{text_formats.LAST_MOVE}{name}.\n" for name in text_formats.COORDINATES
]
MARKS = list(text_formats.TO_MOVE)
# One slot has all lists of moves.
TICTACTOE = Text(
  LAST_MOVE,
  [text_formats.BOARD],
  *([row + text_formats.ROW_SEPARATOR for row in rows] for rows in ROWS[:2]),
  ROWS[2],
  [text_formats.MOVES],
  [
    ", ".join(text_formats.COORDINATES[i] for i in rules.mask_to_cells(mask))
    for mask in range(1 << rules.NUM_CELLS)
  ],
  list(text_formats.TO_MOVE.values()),
)
# Each move and each separator has its own slot.
TICTACTOE_PARTS = Text(
  LAST_MOVE,
  [text_formats.BOARD],
  ROWS[0],
  [text_formats.ROW_SEPARATOR],
  ROWS[1],
  [text_formats.ROW_SEPARATOR],
  ROWS[2],
  [text_formats.MOVES],
  *([name, f", {name}"] for name in text_formats.COORDINATES),
  list(text_formats.TO_MOVE.values()),
)


def tictactoe_shows():
  """Lists `show` of both texts for all pairs of a board and a last move."""
  whole, parts, pairs = [], [], []
  for board in rules.positions().tolist():
    cells, mark = rules.cells()[board], int(rules.side_to_move()[board])
    rows = (cells.reshape(3, 3) @ [9, 3, 1]).tolist()
    mask = int(rules.legal_masks()[board])
    free = rules.mask_to_cells(mask)
    moves = [int(i != free[0]) if i in free else -1 for i in range(9)]
    player = MARKS.index(mark)
    last_moves = np.flatnonzero(cells == rules.X + rules.O - mark).tolist()
    for last_move in (-1, *last_moves):
      whole.append([last_move, 0, *rows, 0, mask, player])
      separated = [rows[0], 0, rows[1], 0, rows[2], 0]
      parts.append([last_move, 0, *separated, *moves, player])
      pairs.append((board, last_move))
  return np.array(whole, np.int32), np.array(parts, np.int32), pairs


@pytest.fixture(scope="module")
def all_shows():
  return tictactoe_shows()


def connect_four(width=7, height=6):
  """Returns the text of a game like connect four, with a slot for each cell."""
  cells = [
    [
      mark + ("\n" if column == width - 1 else "")
      for mark in (" .", " X", " O")
    ]
    for _ in range(height)
    for column in range(width)
  ]
  return Text(
    [f"Opponent played column {n + 1}.\n" for n in range(width)],
    ["Board:\n"],
    *cells,
    ["You are X. Your move?", "You are O. Your move?"],
  )


def connect_four_shows(count, seed, width=7, height=6):
  rng = np.random.default_rng(seed)
  heights = rng.integers(0, height + 1, (count, 1, width))
  is_taken = np.arange(height)[::-1, None] < heights
  cells = is_taken * rng.integers(1, 3, (count, height, width))
  last_move = rng.integers(-1, width, (count, 1))
  board = np.zeros((count, 1), int)
  player = rng.integers(0, 2, (count, 1))
  shows = [last_move, board, cells.reshape(count, -1), player]
  return np.concatenate(shows, axis=1).astype(np.int32)


@pytest.fixture(scope="module", params=["sentencepiece", "qwen2.5", "gemma2"])
def encoder(request, tokenizer, tmp_path_factory):
  if request.param == "sentencepiece":
    return tokenizer
  path = tmp_path_factory.mktemp("tokenizer")
  made.write_tokenizer(path, request.param)
  return hub_tokenizers.HuggingFaceTokenizer.load(path, 400)


compose_all = jax.jit(jax.vmap(slots.compose, in_axes=(None, 0)))


def composed(chunk, shows):
  """Returns the rows of tokens and checks the padding after them."""
  tokens, lengths = map(np.asarray, compose_all(chunk, jnp.asarray(shows)))
  assert tokens.shape == (len(shows), chunk.max_length)
  assert tokens.dtype == lengths.dtype == np.int32
  is_padding = np.arange(chunk.max_length) >= lengths[:, None]
  assert (tokens[is_padding] == chunk.pad_id).all()
  return [row[:n].tolist() for row, n in zip(tokens, lengths, strict=True)]


def check_conversation(conversation, text, tokenizer, shows):
  """Compares chunks with the tokens of the chat template."""
  observations = [text.observation(show) for show in shows.tolist()]
  end = tokenizer.template.end_of_turn_id
  system = chat.message("system", text.rules)
  assert composed(conversation.begin, shows) == [
    chat.encode_chat([system, chat.message("user", o)], tokenizer).ids
    for o in observations
  ]
  assert composed(conversation.follow, shows) == [
    chat.encode_follow(o, tokenizer) for o in observations
  ]
  assert composed(conversation.retry, shows) == [
    [end, *chat.encode_follow(REJECTION + o, tokenizer)] for o in observations
  ]


def check_all_of_tictactoe(tokenizer, all_shows):
  shows, _, pairs = all_shows
  conversation = slots.build_conversation(
    TICTACTOE, tokenizer, shows, rejection=REJECTION, exhaustive=True
  )
  tables = board_tables.build(text_formats.GridFormat(), tokenizer)
  boards, last_moves = np.array(pairs).T
  rows = tables.rows[boards, last_moves + 1]
  assert len(rows) == len(tables.begin.ids) and (rows >= 0).all()
  for name in ("begin", "follow", "retry"):
    chunk, expected = getattr(conversation, name), getattr(tables, name)
    tokens, lengths = compose_all(chunk, jnp.asarray(shows))
    np.testing.assert_array_equal(tokens, expected.ids[rows])
    np.testing.assert_array_equal(lengths, expected.lengths[rows])
  assert sum(x.nbytes for x in jax.tree.leaves(conversation)) < 300_000


@pytest.mark.slow
def test_all_observations_of_tictactoe(tokenizer, all_shows):
  check_all_of_tictactoe(tokenizer, all_shows)


@pytest.mark.slow
def test_all_observations_of_tictactoe_for_each_tokenizer(encoder, all_shows):
  check_all_of_tictactoe(encoder, all_shows)


@pytest.mark.parametrize("text", [TICTACTOE, TICTACTOE_PARTS])
def test_a_sample_stands_for_all_observations(encoder, all_shows, text):
  shows = all_shows[0] if text is TICTACTOE else all_shows[1]
  conversation = slots.build_conversation(
    text, encoder, shows[::151], rejection=REJECTION
  )
  check_conversation(conversation, text, encoder, shows[5::97])


def check_connect_four(tokenizer, count):
  text = connect_four()
  conversation = slots.build_conversation(
    text, tokenizer, connect_four_shows(99, seed=0), rejection=REJECTION
  )
  shows = connect_four_shows(count, seed=1)
  check_conversation(conversation, text, tokenizer, shows)


def test_a_slot_for_each_cell(encoder):
  check_connect_four(encoder, 501)


@pytest.mark.slow
def test_a_slot_for_each_cell_of_many_boards(encoder):
  check_connect_four(encoder, 100_000)


class GreedyTokenizer(testing.CharacterTokenizer):
  """Merges the longest of some strings, from left to right."""

  def __init__(self, *merged):
    self._ids = {text: 200 + n for n, text in enumerate(merged)}
    longest_first = sorted(merged, key=len, reverse=True)
    self._pattern = re.compile("|".join([*map(re.escape, longest_first), "."]))

  def encode(self, text):
    pieces = self._pattern.findall(text)
    return [
      self._ids.get(p) or super(type(self), self).encode(p)[0] for p in pieces
    ]


def padded(chunk, shows):
  """Pads arrays to one shape for all examples, so `compose` compiles once."""

  def pad(array, *shape):
    array = np.asarray(array)
    after = np.subtract(shape, array.shape)
    return np.pad(array, [(0, n) for n in after])

  rows, groups = 600, len(chunk.first_rows)
  first_rows = pad(chunk.first_rows, 7)
  # The rows after the last are empty.
  first_rows[groups:] = rows - 1
  chunk = chunk.replace(
    ids=pad(chunk.ids, 9_000),
    starts=pad(chunk.starts, rows),
    lengths=pad(chunk.lengths, rows),
    first_rows=first_rows,
    strides=pad(chunk.strides, 7, 4),
    max_length=40,
  )
  return chunk, pad(shows, 256, 4)


def num_groups(chunk):
  return len(chunk.first_rows)


def all_of(segments_, *, optional=()):
  ranges = [
    range(-1 if i in optional else 0, len(texts))
    for i, texts in enumerate(segments_)
  ]
  return np.array([*itertools.product(*ranges)], np.int32)


WORDS = st.text("abc", min_size=1, max_size=3)


@given(
  st.lists(st.text("abc", min_size=2, max_size=4), min_size=1, max_size=4),
  st.lists(st.lists(WORDS, min_size=1, max_size=3), min_size=1, max_size=4),
  st.sets(st.integers(0, 3)),
  st.text("abc", max_size=2),
  st.text("abc", max_size=2),
)
def test_any_merges(merged, texts, optional, prefix, suffix):
  toy = GreedyTokenizer(*dict.fromkeys(merged))
  shows = all_of(texts, optional=optional)
  around = [((2, "a", 4, prefix), (suffix, 5, "ab")), ((), ("b",))]
  for exhaustive in (True, False):
    chunks = slots.build(texts, toy, shows, around, exhaustive=exhaustive)
    for chunk, (before, after) in zip(chunks, around, strict=True):
      expected = [
        chat.encode_parts(
          (*before, Text(*texts).observation(show), *after), toy
        )
        for show in shows.tolist()
      ]
      assert composed(*padded(chunk, shows))[: len(shows)] == expected
      longest = max(map(len, expected))
      assert chunk.max_length >= longest
      assert chunk.max_length == longest or not exhaustive


def test_only_slots_that_merge_are_joined():
  texts = [["xa", "y"], ["b", "z"], ["c"], ["d", "e"]]
  shows = all_of(texts)
  cases = {(): 4, ("ab",): 3, ("cd",): 3, ("ab", "cd"): 2, ("abcd",): 1}
  for merged, expected in cases.items():
    (chunk,) = slots.build(texts, GreedyTokenizer(*merged), shows, [((), ())])
    # The fixed text before the slots and after them is empty.
    assert num_groups(chunk) == expected + 2


def test_merges_of_pairs_that_no_observation_shows():
  texts = [["a", "x"], ["y", "b"]]
  shows = np.array([[1, 0]], np.int32)
  toy = GreedyTokenizer("ab")
  (chunk,) = slots.build(texts, toy, shows, [((), ())])
  assert composed(chunk, [[0, 1], [1, 0]]) == [
    toy.encode("ab"),
    toy.encode("xy"),
  ]


def test_merges_across_a_slot_that_shows_nothing():
  texts = [["a"], ["-"], ["b"]]
  toy = GreedyTokenizer("ab")
  for shows, expected in (([[0, 0, 0]], 5), ([[0, 0, 0], [0, -1, 0]], 3)):
    (chunk,) = slots.build(texts, toy, np.array(shows), [((), ())])
    assert num_groups(chunk) == expected
    assert composed(chunk, shows) == [
      toy.encode(Text(*texts).observation(show)) for show in shows
    ]


def test_merges_of_pairs_across_a_slot_that_no_observation_shows():
  texts = [["a", "x"], ["-"], ["b", "y"]]
  toy = GreedyTokenizer("ab")
  shows = np.array([[1, 0, 0], [1, -1, 0]])
  (chunk,) = slots.build(texts, toy, shows, [((), ())])
  assert composed(chunk, [[0, -1, 0]]) == [toy.encode("ab")]


def test_too_many_joined_texts():
  texts = [["a", "b", "c"]] * 9
  toy = GreedyTokenizer("ab")
  message = "merges the text of slots 1 to 9 .* 262,144 texts together"
  with pytest.raises(errors.UserError, match=message):
    slots.build(texts, toy, np.zeros((1, 9), int), [((), ())])
  # Pairs of many texts are compared in observations only.
  many = [[f"{n}a" for n in range(slot_groups.MAX_PAIRS)], ["b", "-"]]
  with_merge, without = np.array([[0, 0]]), np.array([[0, 1]])
  (chunk,) = slots.build(many, toy, without, [((), ())])
  assert num_groups(chunk) == 4
  (chunk,) = slots.build(many, toy, with_merge, [((), ())])
  assert num_groups(chunk) == 3


def test_a_template_that_trims_messages(tmp_path):
  made.write_tokenizer(tmp_path, "gemma3")
  gemma = hub_tokenizers.HuggingFaceTokenizer.load(tmp_path, 400)
  assert gemma.template.is_trimmed
  text, shows = Text(["Go", "Go\n"]), np.array([[0]])
  text.rules = "\n Play well. "
  conversation = slots.build_conversation(
    text, gemma, shows, rejection=REJECTION
  )
  check_conversation(conversation, text, gemma, shows)
  with pytest.raises(errors.UserError, match=r"observation 'Go\\n' starts or"):
    slots.build_conversation(
      text, gemma, np.array([[0], [1]]), rejection=REJECTION
    )
