"""Traces of High Card Duel: rows, chance, and the path from rows to a report."""

import collections
import itertools
import json
import pathlib

import pytest
from scipy import stats

from tests import conftest
from tunix_ttt.data import reading
from tunix_ttt.data import row_formats
from tunix_ttt.evaluate import evalsets
from tunix_ttt.games.high_card_duel import duel_traces
from tunix_ttt.runs import run_manifest

GENERATE = conftest.ROOT / "training" / "generate_data.py"
DUEL = ("--game", "high_card_duel", "--kind", "games", "--seed", 42)
EVALSET = conftest.ROOT / "evalsets" / "high_card_duel_v1.jsonl"
CONFIG = conftest.ROOT / "configs" / "sft_high_card_duel.yaml"
DECK = ["".join(c) for c in itertools.product("23456789TJQKA*", "SHDC")]
PROMPT = "High Card Duel: You have 1 hidden card. Action: reveal."


@pytest.fixture(scope="module")
def rows():
  return list(duel_traces.rows(5600, 3))


def rank(card):
  return "23456789TJQKA*".index(card[0])


def result(mine, opponents):
  won = rank(mine) - rank(opponents)
  return "win" if won > 0 else "loss" if won < 0 else "tie"


def test_rows_have_all_fields(rows):
  assert len(rows) == 5600
  for n, row in enumerate(rows):
    mine = row["metadata"]["my_card"]
    opponents = row["metadata"]["opponent_card"]
    assert row == {
      "id": f"high_card_duel-3-{n}",
      "prompts": (
        f"<start_of_turn>user\n{PROMPT}<end_of_turn>\n"
        "<start_of_turn>model\n"
        f"<think>Legal moves: [reveal]\nMy hand: {mine}\nUnseen cards: 55\n"
        "Action chosen: reveal</think>\nreveal<end_of_turn>\n"
      ),
      "trace_steps": [
        "Legal moves: [reveal]",
        f"My hand: {mine}",
        "Unseen cards: 55",
        "Action chosen: reveal",
      ],
      "final_answer": "reveal",
      "metadata": {
        "source": "ungar",
        "game": "high_card_duel",
        "seed": 3,
        "episode_index": n,
        "my_card": mine,
        "opponent_card": opponents,
        "result": result(mine, opponents),
      },
    }


def test_every_deal_is_equally_likely(rows):
  deals = [
    (row["metadata"]["my_card"], row["metadata"]["opponent_card"])
    for row in rows
  ]
  assert all(mine != opponents for mine, opponents in deals)
  for cards in zip(*deals, strict=True):
    counts = collections.Counter(cards)
    assert set(counts) == set(DECK)
    assert stats.chisquare([counts[card] for card in DECK]).pvalue > 0.01
  ranks = collections.Counter((rank(a), rank(b)) for a, b in deals)
  pairs = [*itertools.product(range(14), range(14))]
  expected = [5600 * 4 * (3 if a == b else 4) / (56 * 55) for a, b in pairs]
  observed = [ranks[pair] for pair in pairs]
  assert stats.chisquare(observed, expected).pvalue > 0.01


def test_the_seed_and_the_number_decide_a_game(rows):
  for count in (0, 1, 257):
    assert [*duel_traces.rows(count, 3)] == rows[:count]
  others = list(duel_traces.rows(50, 4))
  cards = [row["trace_steps"][1] for row in others]
  assert cards != [row["trace_steps"][1] for row in rows[:50]]


def test_the_evalset_asks_what_the_rows_answer(rows):
  (item,) = evalsets.load(EVALSET)
  assert row_formats.name_of(rows[0]) == "tunix_sft"
  (sample,) = row_formats.parse_trained(rows[0])
  assert isinstance(sample, row_formats.Conversation)
  question, answer = sample.messages
  assert question == {"role": "user", "content": item.prompt}
  assert answer["role"] == "assistant" and sample.supervised_from == 0
  assert evalsets.verdict(item, answer["content"]) == "right"
  assert evalsets.verdict(item, "I reveal") == "wrong"


def test_a_file_has_the_rows(run, tmp_path):
  path = tmp_path / "duel.jsonl"
  code, _, err = run(GENERATE, *DUEL, "--count", 203, "--output", path)
  assert code == 0, err
  assert read_json(path) == [*duel_traces.rows(203, 42)]
  manifest = reading.Generated.read(reading.beside(path))
  assert manifest.settings == {"count": 203, "game": "high_card_duel"}
  code, _, err = run(
    GENERATE, *DUEL, "--expert", "random", "--count", 2, "--output", "a"
  )
  assert code == 2 and "--expert is not for --kind games" in err


def read_json(path):
  lines = pathlib.Path(path).read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_from_traces_to_a_report(run, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)

  def script(name, *flags):
    code, out, err = run(conftest.ROOT / "training" / f"{name}.py", *flags)
    assert code == 0, err
    return out

  script("generate_data", *DUEL, "--count", 203, "--output", "duel.jsonl")
  out = script("check_data", "duel.jsonl", "--evalset", EVALSET)
  assert out.startswith("rows        203: 203 tunix_sft\n")
  assert "leakage     1 of 1 questions" in out
  # Rows of another game are filtered out.
  other = '{"text": "a", "metadata": {"source": "ungar"}}\n'
  traces = pathlib.Path("duel.jsonl").read_text()
  pathlib.Path("more.jsonl").write_text(other + traces)
  out = script(
    "build_dataset", "--name", "hcd_baseline", "--version", "v1",
    "--from", "more.jsonl",
    "--filter", "source=ungar", "--filter", "game=high_card_duel",
    "--export", "hcd.jsonl", "--format", "tunix_sft",
  )  # fmt: skip
  assert "203 rows (read 204, filtered out 1, over limit 0)" in out
  built = pathlib.Path("datasets/hcd_baseline/v1/data.jsonl")
  assert built.read_text() == traces
  assert read_json("hcd.jsonl") == read_json("duel.jsonl")
  script("train_sft_tunix", "--config", CONFIG, "--output", "run")
  record = run_manifest.RunManifest.read(pathlib.Path("run")).dataset
  assert record is not None
  assert (record.name, record.version) == ("hcd_baseline", "v1")
  assert record.train_rows + record.eval_rows == record.rows == 203
  assert record.eval_rows > 0
  before, after = (
    script(
      "eval_generate", "--model", model, "--config", CONFIG,
      "--eval-set", EVALSET, "--output", output,
    )
    for model, output in (
      ("base", "before.jsonl"), ("run/checkpoint-final", "after.jsonl")
    )
  )  # fmt: skip
  assert "0 of 1 right" in before and "1 of 1 right" in after
  out = script(
    "eval_report", "--run", "run", "--before", "before.jsonl",
    "--after", "after.jsonl", "--output", "report.md",
  )  # fmt: skip
  assert "right answers to 1 items        0.000        1.000" in out
  assert "1.000** of 1 items right" in pathlib.Path("report.md").read_text()
  page = pathlib.Path("report.html").read_text()
  assert "high_card_duel" in page and "hcd_baseline v1" in page
