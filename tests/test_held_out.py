"""Held-out rows share no text or position with the training rows."""

import collections
from typing import Any

import pytest

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import testing
from tunix_ttt.data import datasets
from tunix_ttt.data import row_formats
from tunix_ttt.games import position_reader
from tunix_ttt.games.tictactoe import board_positions
from tunix_ttt.games.tictactoe import rules

CHARACTERS = testing.CharacterTokenizer()


def games(**settings: Any) -> Any:
  config = config_lib.GamesConfig(num_games=150, random_starts=0.5, **settings)
  return datasets.load(config_lib.DataConfig(games=config), seed=3)


def data(**settings):
  return config_lib.DataConfig(
    max_seq_length=4000, eval_fraction=0.15, **settings
  )


def split(source, seed=0, **settings):
  """Returns the training and the held-out texts with duplicates."""
  config = data(**settings)
  dataset = datasets.tokenize(source, CHARACTERS, config, seed)
  texts = ([CHARACTERS.decode(row.ids) for row in rows] for rows in
           (dataset.train, dataset.eval))  # fmt: skip
  return tuple(map(list, texts))


def forms(texts):
  canonical = rules.canonical()
  return {int(canonical[board_positions.find(text).board]) for text in texts}


def test_a_text_is_on_one_side():
  source = games()
  train, held = split(source)
  counts = collections.Counter(train + held)
  assert max(counts.values()) > 5 and len(counts) < len(source.samples)
  assert not set(train) & set(held)
  # Only groups that do not fit are missing.
  room = -(-len(source.samples) * 15 // 100)
  assert 0.9 * room < len(held) <= room
  assert len(train) + len(held) == len(source.samples)
  # By text alone, positions are on both sides.
  assert forms(train) & forms(held)
  assert split(source) == (train, held) != split(source, seed=1)


def test_a_position_is_on_one_side_in_all_its_forms():
  source = games()
  train, held = split(source, held_out_by="position")
  assert not forms(train) & forms(held)
  room = -(-len(source.samples) * 15 // 100)
  assert 0.9 * room < len(held) <= room


def test_of_a_truncated_conversation_the_last_board_counts():
  (game, *_) = games(context="full").samples
  *before, last = [
    row_formats.Conversation(game.messages[:n], n - 1)
    for n in range(3, len(game.messages) + 1, 2)
  ]
  keys = datasets.keys_by_position(
    [*before, last], "x", position_reader.of(None, "test")
  )
  assert len(set(keys)) == len(before) + 1


@pytest.mark.parametrize(
  ("sample", "message"),
  [
    (row_formats.PlainText("", "no board"), "row 2 of x.jsonl answers none"),
    (None, "row 2 of x.jsonl answers [345]"),
  ],
)
def test_positions_that_are_not_known(sample, message):
  board = games().samples[0]
  game = max(games(context="full").samples, key=lambda s: len(s.messages))
  source = datasets.Source(
    key="x", path="x.jsonl", digest="", samples=[board, sample or game]
  )
  with pytest.raises(errors.UserError, match=message):
    split(source, held_out_by="position")


def test_a_prompt_of_pairs_is_on_one_side():
  samples = [
    row_formats.Preference(f"ask {n % 7}", f"good {n}", "bad")
    for n in range(45)
  ]
  source = datasets.Pairs(key="k", path="p", digest="d", samples=samples)
  dataset = datasets.tokenize(source, CHARACTERS, data(), 0)

  def prompts_of(pairs):
    return {CHARACTERS.decode(chosen.ids)[:5] for chosen, _ in pairs}

  # A prompt has 6 or 7 pairs; up to 7 of the 45 pairs are held out.
  assert len(dataset.eval) in (6, 7) and len(prompts_of(dataset.eval)) == 1
  assert not prompts_of(dataset.train) & prompts_of(dataset.eval)


@pytest.mark.parametrize(
  ("keys", "share", "count"),
  [("aaaa", 0.5, 0), ("aaab", 0.5, 1), ("a", 0.5, 0), ("abcde", 0.99, 4)],
)
def test_groups_are_whole_and_a_row_is_left(keys, share, count):
  for seed in range(5):
    drawn = datasets.draw_held_out(keys, share, seed)
    assert len(drawn) == count
    rest = {key for n, key in enumerate(keys) if n not in drawn}
    assert not rest & {keys[n] for n in drawn}
