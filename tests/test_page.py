"""The page of a run: what is on it, and that it is data alone."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import pathlib
import re

import pytest

from tests import players
from tunix_ttt import errors
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import recorded_games
from tunix_ttt.games.tictactoe import board_records
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import judged_boards
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.report import result_tables
from tunix_ttt.report import run_page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
_VOID = {"meta", "img", "br", "link", "hr", "input", "wbr"}


class _Checker(html.parser.HTMLParser):
  """Collects elements, and asserts that they are closed in their order."""

  def __init__(self):
    super().__init__()
    self.open: list[str] = []
    self.found: list[tuple[str, dict[str, str | None]]] = []

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))
    if tag not in _VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def elements(text: str) -> list[tuple[str, dict[str, str | None]]]:
  checker = _Checker()
  checker.feed(text)
  assert not checker.open
  return checker.found


@pytest.fixture(scope="module")
def games(tmp_path_factory) -> pathlib.Path:
  """The games of a poor player that is not to be trusted."""
  path = tmp_path_factory.mktemp("games") / "games.jsonl"
  played = players.matches(players.FIRST_LEGAL)
  return players.write(played, path, lambda move: f"{HOSTILE} {move}")


@pytest.fixture(scope="module")
def material(games) -> run_page.Material:
  return run_page.collect(games_before=games, games_after=games)


def written(material: run_page.Material, directory: pathlib.Path) -> str:
  run_page.write(material, directory / "page.html")
  return (directory / "page.html").read_text()


@pytest.fixture(scope="module")
def text(material, tmp_path_factory) -> str:
  return written(material, tmp_path_factory.mktemp("page"))


def lines_of(table, mark, board=0, key=""):
  """Yields the end of every game against a table of answers, checking it."""
  model = rules.X if mark == "X" else rules.O
  if rules.side_to_move()[board] == model:
    _, cell, optimal, then = table["answers"][mark][key]
    assert cell == players.FIRST_LEGAL[board]
    assert optimal == solver.solve().optimal[board]
    board = int(rules.place(board, cell, model))
    assert then == solver.solve().optimal[board]
    if rules.winners()[board] != rules.NO_WINNER:
      yield board
      return
  for cell in rules.mask_to_cells(int(rules.legal_masks()[board])):
    after = int(rules.place(board, cell, rules.X + rules.O - model))
    if rules.winners()[after] != rules.NO_WINNER:
      yield after
    else:
      yield from lines_of(table, mark, after, f"{key}{cell}")


def test_the_change_table_has_lost_lines_before_and_after(
  games, material, tmp_path
):
  perfect = players.matches(players.PERFECT)
  better = players.write(perfect, tmp_path / "games.jsonl", str)
  changed = run_page.collect(games_before=games, games_after=better)
  table = result_tables.change_table(changed.changes)
  title, x, o, *draws = table.splitlines()
  assert [row.split()[:5] for row in draws] == [
    ["draws", "with", "optimal", "as", mark] for mark in board_records.MARKS
  ]
  assert all(row.endswith(" 100.0%") for row in draws)
  assert title.split() == ["before", "after"]
  for row, mark in zip((x, o), board_records.MARKS, strict=True):
    poor = players.exact(material.after, mark)
    good = players.exact(changed.after, mark)
    assert row.split()[:4] == ["lost", "lines", "as", mark]
    assert f"{poor.lines_lost} of {poor.lines} " in row
    assert row.endswith(f"  0 of {good.lines}")
  assert result_tables.change_table(run_page.Material().changes) == ""


@pytest.mark.parametrize("mark", board_records.MARKS)
def test_the_table_answers_every_line(
  material: run_page.Material, mark: board_records.Mark
):
  table = judged_boards.policy_table(material.games)
  ends = list(lines_of(table, mark))
  result = players.exact(material.after, mark)
  assert len(ends) == result.lines
  other = rules.X + rules.O - board_records.MARKS[mark]
  lost = sum(rules.winners()[board] == other for board in ends)
  assert lost == result.lines_lost > 0
  assert table["first"] == rules.ALL_CELLS


def test_lost_lines_have_each_move_judged(material):
  lost = judged_boards.lost_lines(material.games)
  results = [
    players.exact(material.after, mark) for mark in board_records.MARKS
  ]
  assert len(lost) == sum(result.lines_lost for result in results)
  for line in lost[::40]:
    board, model_slips = rules.EMPTY_BOARD, 0
    for number, cell in enumerate(line.moves):
      assert line.marks[cell] == "XO"[number % 2]
      is_optimal = cell in solver.optimal_cells(board)
      assert is_optimal != (cell in line.slips)
      model_slips += line.marks[cell] == line.agent and not is_optimal
      board = int(rules.successors()[board, cell])
    # Who loses without a slip would have lost from the start.
    assert model_slips


def test_thoughts_show_mistakes_and_the_rest(material):
  some = judged_boards.thoughts(material.games, 9)
  assert len(set(some)) == 9
  assert [t.is_optimal for t in some] == [False] * 3 + [True] * 6


def test_a_false_thought_is_marked_where_the_move_is_optimal(tmp_path):
  played = players.matches(players.PERFECT)
  say = "<think>I keep the draw.</think>\n<move>{}</move>".format
  path = players.write(played, tmp_path / "games.jsonl", say)
  found = run_page.collect(games_after=path)
  is_false = {}
  for thought in judged_boards.thoughts(found.games, 10_000):
    assert thought.is_optimal
    board = board_text.from_text(thought.board)
    # Who keeps a draw where a win is possible has a false reason.
    assert thought.is_false == (solver.solve().value[board] == solver.WIN)
    is_false[board] = thought.is_false
  assert set(is_false.values()) == {True, False}
  shown = judged_boards.thoughts(found.games, 9)
  text = re.sub("<script>.*</script>", "", written(found, tmp_path), flags=re.S)
  marks = text.count("✗ The thought is false.")
  assert marks == sum(thought.is_false for thought in shown) > 0
  table = judged_boards.policy_table(found.games)
  turns = {(g.agent, turn.board) for g in found.games for turn in g.turns}
  for mark, keys in table["false_thoughts"].items():
    assert {*keys} < {*table["answers"][mark]}
    assert len(keys) >= sum(is_false[b] for who, b in turns if who == mark)


def test_an_illegal_answer_has_its_thought_judged(tmp_path):
  played = players.matches(players.PERFECT * 0)
  path = players.write(played, tmp_path / "games.jsonl", "I win at {}.".format)
  lost = judged_boards.lost_lines(recorded_games.read_games(path))
  assert lost and all(line.last and line.is_false for line in lost)


def test_rates_of_thoughts_are_on_the_page(material, tmp_path):
  assert "true thoughts" not in written(material, tmp_path / "without")
  rates = {"thought_true_rate": 0.125, "thought_no_claim_rate": 0.0625}
  results = {
    mark: dataclasses.replace(result, **rates)
    for mark, result in material.after.results.items()
  }
  after = material.after.model_copy(update={"results": results})
  changed = dataclasses.replace(material, before=after, after=after)
  text = written(changed, tmp_path / "with")
  elements(text)
  assert text.count("<td>12.5%</td><td>12.5%</td>") == 2
  assert text.count("<td>12.50</td><td>12.50</td>") == 2
  assert text.count("<td>6.25</td><td>6.25</td>") == 2


def test_what_a_model_says_stays_text(text):
  found = elements(text)
  assert "onerror" not in {name for _, attrs in found for name in attrs}
  scripts = [attrs for tag, attrs in found if tag == "script"]
  assert scripts == [{"type": "application/json", "id": "policy"}, {}]
  policy = re.search(r'id="policy">(.*?)</script>', text, re.DOTALL)
  assert policy is not None
  tables = json.loads(policy[1])
  assert [*tables] == ["after", "before"]
  assert all(HOSTILE in table["says"][0] for table in tables.values())


def test_the_page_allows_its_own_script_and_no_other(text):
  (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  (policy,) = (
    attrs["content"]
    for tag, attrs in elements(text)
    if attrs.get("http-equiv") == "Content-Security-Policy"
  )
  assert policy == (
    "default-src 'none'; style-src 'unsafe-inline'; script-src"
    f" 'sha256-{digest}'"
  )


def test_the_page_asks_for_nothing(text):
  for tag, attrs in elements(text):
    assert tag not in ("link", "iframe", "object", "base")
    assert "src" not in attrs
    for name, value in attrs.items():
      if name in ("href", "xlink:href"):
        assert value and value.startswith(("#", "data:application/"))
      if value and "url(" in value:
        assert set(re.findall(r"url\((.)", value)) == {"#"}
  # Names of languages that XML has, which nothing reads.
  rest = re.sub(r'(xmlns(:\w+)?|href)="[^"]*"', "", text)
  assert "http" not in re.sub("http-equiv", "", rest)


def test_the_results_are_on_the_page(material, text):
  for mark in board_records.MARKS:
    result = players.exact(material.after, mark)
    lost = f"{result.lines_lost} of {result.lines}"
    assert text.count(f"<td>{lost}</td><td>{lost}</td>") == 2
    won = f"<td>{100 * result.random['win_rate']:.2f}</td>"
    assert f"won, %</th>{2 * won}" in text
  assert "as O after A1" in text and "16.7%" in text


def test_nothing_is_written_over(material, tmp_path):
  output, plots = tmp_path / "a.html", tmp_path / "plots"
  plots.mkdir()
  with pytest.raises(errors.UserError, match="plots: already exists"):
    run_page.write(material, output, plots)
  assert not output.exists()
  output.write_text("mine")
  with pytest.raises(errors.UserError, match="a.html: already exists"):
    run_page.write(material, output)
  assert output.read_text() == "mine"


def test_a_page_of_nothing_but_sampled_games_has_no_board(games, tmp_path):
  summary = game_files.read_summary(game_files.summary_path(games))
  rates = players.exact(summary, "X").random
  sampled = {
    "games": 20,
    "rates": rates,
    "intervals": dict.fromkeys(rates, (0.1, 0.2)),
    "optimal_move_rate": 0.5,
  }
  found = game_files.Summary.model_validate(
    {"model": "m", "play": {"opponent": "optimal"}, "results": {"X": sampled}}
  )
  text = written(run_page.Material(after=found), tmp_path)
  assert 'id="game"' not in text and "(10.00 to 20.00)" in text
  # Without results before training, a table has one column.
  assert '<th scope="col">before' not in text
  elements(text)
