"""Generated files: deterministic, filtered, complete and counted."""

from collections import Counter
import hashlib
import itertools
import json

import pytest

from tunix_ttt import errors
from tunix_ttt.data import checks
from tunix_ttt.data import generate
from tunix_ttt.data import reading
from tunix_ttt.data import row_formats
from tunix_ttt.games import position_reader
from tunix_ttt.games import row_kinds
from tunix_ttt.games.tictactoe import board_kinds
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import solver


def rows_of(kind, count=30, seed=0):
  counts = Counter()
  return list(kind.rows(count, seed, counts)), counts


KINDS = [
  board_kinds.Games(mistakes=0.5, keep="won"),
  board_kinds.Games(context="full", thoughts="none"),
  board_kinds.Games(context="truncated", thoughts="tactics"),
  board_kinds.Games(format="token_board", random_starts=0.5),
  board_kinds.Positions(labels="all"),
  board_kinds.Positions(format="token_board", thoughts="none"),
  board_kinds.Pairs(rejected={"worse": 1.0, "illegal": 1.0}),
  board_kinds.Prompts(),
]


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_a_seed_gives_the_rows_and_a_smaller_count_the_first(kind):
  rows, _ = rows_of(kind)
  assert rows_of(kind)[0] == rows != rows_of(kind, seed=1)[0]
  fewer, _ = rows_of(kind, count=20)
  assert rows[: len(fewer)] == fewer and len(fewer) < len(rows)
  for row in rows:
    row_formats.parse_row(row)


def test_games_are_kept_by_their_ending():
  games = board_kinds.Games(mistakes=0.7, keep="not-lost", context="full")
  rows, counts = rows_of(games, 200)
  outcomes = Counter(row["outcome"] for row in rows)
  assert set(outcomes) == {"win", "draw"}
  assert counts["kept win"] == outcomes["win"] > 0
  assert counts["kept draw"] == outcomes["draw"] > 0
  assert counts["dropped loss"] == 200 - len(rows) > 0


def test_games_of_different_batches_differ(monkeypatch):
  monkeypatch.setattr(board_kinds, "_BATCH", 8)
  rows, _ = rows_of(board_kinds.Games(mistakes=1.0, context="full"), 24)
  assert len(rows) == 24
  assert rows[:8] != rows[8:16] != rows[16:]


def test_positions_have_every_optimal_move_or_one():
  rows, counts = rows_of(board_kinds.Positions(labels="all"), 4520)
  assert counts["positions"] == 4520
  assert len(rows) == sum(
    len(solver.optimal_cells(board)) for board in range(3**9)
  )
  one, _ = rows_of(board_kinds.Positions(), 4520)
  assert len({row["messages"][1]["content"] for row in one}) == 4520
  answers = {
    board_text.find(prompt["content"])[-1].position: answer["content"]
    for _, prompt, answer in (row["messages"] for row in one)
  }
  assert answers[0].endswith("<move>B2</move>")
  labels = checks.Labels(position_reader.of(None, "test"))
  for number, row in enumerate([*rows[:500], *one[:500]]):
    labels.add(number, row_formats.parse_row(row)[0])
  assert labels.report()["moves"] == {"optimal": {"count": 1000, "share": 1.0}}
  with pytest.raises(errors.UserError, match="--count: 4521 is too many"):
    rows_of(board_kinds.Positions(), 4521)


def test_prompts_differ_and_run_out():
  rows, counts = rows_of(board_kinds.Prompts(format="token_board"), 5000)
  assert len(rows) == 4520
  assert len({row["board"] for row in rows}) == 4520
  assert counts == {"not found, as there are no more different ones": 480}
  board = board_text.from_text(rows[0]["board"])
  assert len(rows[0]["optimal"]) == len(solver.optimal_cells(board))


def test_weights():
  assert row_kinds.parse_weights("worse") == {"worse": 1.0}
  weights = row_kinds.parse_weights("format=0.5,worse=2")
  assert weights == {"format": 0.5, "worse": 2.0}
  for text in (
    "",
    "best",
    "worse=0",
    "worse=-1",
    "worse=x",
    "worse,worse",
    "worse=inf",
  ):
    with pytest.raises(ValueError):
      row_kinds.parse_weights(text)


def test_rows_that_differ_run_out():
  for count, missing in ((5, 3), (1, 0)):
    rows = itertools.cycle([{"a": 1}, {"a": 2}])
    counts = Counter()
    distinct = list(row_kinds.distinct(rows, count, "row", counts))
    assert distinct == [{"a": 1}, {"a": 2}][:count]
    assert counts.total() == missing


def test_a_file_and_its_manifest(tmp_path):
  path = tmp_path / "sub" / "rows.jsonl"
  kind = board_kinds.Games(keep="won")
  manifest = generate.write(path, "games", kind, 20, 3)
  assert manifest == reading.Generated.read(reading.beside(path))
  data = path.read_bytes()
  assert manifest.digest == hashlib.sha256(data).hexdigest()
  rows, counts = rows_of(kind, 20, 3)
  assert [json.loads(line) for line in data.splitlines()] == rows
  assert manifest.rows == len(rows) and manifest.counts == dict(counts)
  assert (
    manifest.settings == {"count": 20, **kind.settings()} and manifest.seed == 3
  )
  assert manifest.settings["keep"] == "won"
  with pytest.raises(errors.UserError, match="already exists"):
    generate.write(path, "games", kind, 20, 3)


def test_what_fails_leaves_no_file(tmp_path):
  class Failing(board_kinds.Prompts):
    def rows(self, count, seed, counts):
      yield {"text": "a"}
      raise RuntimeError("no more")

  class Nothing(board_kinds.Prompts):
    def rows(self, count, seed, counts):
      counts["dropped loss"] = count
      yield from ()

  path = tmp_path / "rows.jsonl"
  with pytest.raises(RuntimeError):
    generate.write(path, "games", Failing(), 1, 0)
  with pytest.raises(errors.UserError, match="no row was kept .dropped loss 9"):
    generate.write(path, "games", Nothing(), 9, 0)
  assert list(tmp_path.iterdir()) == []
