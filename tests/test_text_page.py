"""The page of a game that is played by its text."""

import dataclasses
import html
import json
import re

import pytest

from tests import nim_games
from tests import test_page
from tests import test_sampler
from tunix_ttt import config as config_lib
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import matches
from tunix_ttt.evaluate import recorded_games
from tunix_ttt.models import checkpoints
from tunix_ttt.report import play_table
from tunix_ttt.report import run_page

model = test_sampler.model


@pytest.fixture(scope="module")
def material(tmp_path_factory):
  path = nim_games.write(tmp_path_factory.mktemp("nim") / "games.jsonl")
  collected = run_page.collect(games_before=path, games_after=path)
  # Without a run, a game of one's own has a name but no rules.
  unknown = play_table.Play(None, play_table._UNKNOWN)
  assert collected.play == {"before": unknown, "after": unknown}
  play = play_table.build(nim_games.define(), nim_games.policy())
  return dataclasses.replace(collected, play={"after": play})


@pytest.fixture(scope="module")
def text(material, tmp_path_factory):
  return test_page.written(material, tmp_path_factory.mktemp("page"))


def kuhn(number: int) -> recorded_games.Game:
  turn = {
    "observation": "Your card: king.\nPass or bet?",
    "response": "<move>bet</move>",
    "move": "bet",
    "legal": True,
    "optimal": None,
  }
  row = {
    "game": "kuhn_poker",
    "seat": ("first player", "second player")[number % 2],
    "ending": "win" if number else "loss",
    "return": 1 + number % 2 if number else -2.0,
    "final": "Your card: king.\nYou bet.\nYour opponent passes.",
    "turns": [turn],
  }
  return recorded_games.Game.model_validate(row)


def kuhn_material(count: int) -> run_page.Material:
  return run_page.Material(
    games=[kuhn(number) for number in range(count)],
    play={"after": play_table.load("kuhn_poker", {}, {})},
  )


def parts(text):
  """Lists the sections of a page."""
  found = test_page.elements(text)
  return [attrs["id"] for tag, attrs in found if tag == "section"]


def test_a_page_is_played_by_text_and_lists_games(material, text):
  assert parts(text) == ["play", "results", "recorded", "data"]
  table = re.search(r'id="policy">(.*?)</script>', text, re.DOTALL)
  assert table is not None
  assert json.loads(table[1]) == {"after": material.play["after"].table}
  for seat in nim_games.SEATS:
    assert f'<button type="button">Play as {seat}</button>' in text
    assert f"lost lines as {seat}" in text
    assert f"<caption>As {seat}</caption>" in text
  worst = "return in the worst case</th>"
  assert f"{worst}<td>-1.000</td><td>-1.000</td>" in text
  test_page.test_the_page_allows_its_own_script_and_no_other(text)
  test_page.test_the_page_asks_for_nothing(text)


def test_every_recorded_game_is_on_the_page(material, text):
  body = text.partition('id="recorded">')[2]
  records = re.findall(r"<details.*?</details>", body, re.DOTALL)
  games = sorted(material.games, key=lambda game: game.reward)
  assert len(games) > 30 and f"All {len(games)} games" in body
  for record, game in zip(records, games, strict=True):
    summary = html.unescape(
      re.sub(r"<.*?>", "", record.partition("</summary>")[0])
    )
    ending = game.ending.replace("_", " ")
    count = len(game.turns)
    assert summary.startswith(
      f"As {game.seat}: {ending}, return {game.reward:g}, {count} turn"
    )
    slips = f", {game.num_slips} not optimal" * (game.num_slips > 0)
    assert summary.endswith(f"turn{'s' * (count > 1)}{slips}")
    shown = [
      html.unescape(each) for each in re.findall(r">([^<>]+)</pre>", record)
    ]
    expected = [
      t for turn in game.turns for t in (turn.observation, turn.response)
    ]
    assert shown == [*expected, game.final]
    verdicts = re.findall(r'<p class="small (good|bad)">([^<]+)</p>', record)
    assert verdicts == [verdict(turn) for turn in game.turns]


def verdict(turn):
  if turn.move is None:
    return "bad", "no readable move"
  if not turn.legal:
    return "bad", f"{turn.move}: no legal move"
  good = "optimal" if turn.optimal else "not optimal"
  return "good" if turn.optimal else "bad", f"{turn.move}: {good}"


def test_hostile_responses_stay_text(material, text):
  found = test_page.elements(text)
  assert "onerror" not in {name for _, attrs in found for name in attrs}
  scripts = [attrs for tag, attrs in found if tag == "script"]
  assert scripts == [{"type": "application/json", "id": "policy"}, {}]
  assert "img" not in {tag for tag, _ in found}
  texts = material.play["after"].table["texts"]
  assert any(nim_games.HOSTILE in each for each in texts)


def test_a_page_without_a_table_says_why(tmp_path):
  text = test_page.written(kuhn_material(3), tmp_path)
  assert parts(text) == ["recorded"]
  assert (
    "<p>The game hides information, which a table of answers would reveal."
    in text
  )
  assert 'id="policy"' not in text
  assert "All 3 games" in text and ">bet: legal</p>" in text
  first, *_ = re.findall(r"<summary>([^<]+)", text)
  assert first == "As first player: loss, return -2, 1 turn"


def test_a_page_of_many_games_shows_the_worst_and_the_best(tmp_path):
  text = test_page.written(kuhn_material(101), tmp_path)
  titles = re.findall(r"<summary>([^<]+)", text)
  assert len(titles) == 40 and "40 of 101 games" in text
  assert titles[0].startswith("As first player: loss, return -2")
  assert titles[-1].startswith("As second player: win, return 2")


def test_unknown_returns_and_optimal_moves_are_left_out(tmp_path):
  rates = dict.fromkeys(game_files.rates_lib.RATES, 0.0) | {"win_rate": 1.0}
  result = {
    "games": 20,
    "rates": rates,
    "intervals": dict.fromkeys(rates, (0.5, 0.75)),
    "mean_return": 1.25,
  }
  summary = {"model": "m", "play": {"opponent": "mcts:4"}}
  summary["results"] = {"first player": result}
  after = game_files.Summary.model_validate(summary)
  text = test_page.written(run_page.Material(after=after), tmp_path)
  assert ">against mcts:4</th>" in text and "<td>+1.250</td>" in text
  assert "optimal moves" not in text and "(50.00 to 75.00)" in text


@pytest.mark.slow
def test_the_games_of_a_model_make_a_page_to_play(model, tokenizer, tmp_path):
  spec, module = model
  untrained = checkpoints.Model(
    module=module, spec=spec, tokenizer=tokenizer, revision="untrained"
  )
  config = config_lib.load(
    config_lib.SFTConfig,
    {
      "game": {"name": "tests.nim_games:define"},
      "data": {"games": {"thoughts": "none"}},
      "play": {
        "context": "board",
        "max_turns": 5,
        "max_new_tokens": 24,
        "constrained": True,
        "temperature": 0,
      },
    },
  )
  played = [*matches.play_all_lines(untrained, config)]
  path = tmp_path / "games.jsonl"
  matches.write(path, played, untrained, "a model", config)
  collected = run_page.collect(games_after=path)
  names = {game.game for game in collected.games}
  assert names == {"nim"} and len(collected.games) == 32
  for game in collected.games:
    # Constrained answers are readable, if not always legal.
    assert game.turns and all(turn.move for turn in game.turns)
    is_legal = all(turn.legal for turn in game.turns)
    assert is_legal == (game.ending in ("win", "loss"))
    assert game.reward == (1 if game.ending == "win" else -1)
  assert collected.after is not None
  play = play_table.load(config.game.name, {}, collected.after.policy)
  assert play.reason == "" and play.table is not None
  page = dataclasses.replace(collected, play={"after": play})
  assert parts(test_page.written(page, tmp_path)) == [
    "play",
    "results",
    "recorded",
    "data",
  ]
