"""Results in a sentence and in tables."""

import pytest

from tests import players
from tests import test_report
from tunix_ttt.evaluate import evaluator
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.report import delta_report
from tunix_ttt.report import result_tables


def exact(lost: int, lines: int | None = 100, **fields) -> game_files.Side:
  return game_files.Side({}, lines=lines, lines_lost=lost, **fields)


def sampled(win: float, **fields) -> game_files.Side:
  rates = dict.fromkeys(rates_lib.RATES, 0.0) | {"win_rate": win}
  return game_files.Side({"mcts:4": rates}, **fields)


INTERVALS = {"mcts:4": {"win_rate": (0.5512, 0.684)}}
PAIRS = [
  delta_report.Pair(test_report.answer(key, 0), test_report.answer(key, score))
  for key, score in (("a", 1), ("b", 0))
]


@pytest.mark.parametrize(
  "before, after, expected",
  [
    ({}, {"X": exact(0), "O": exact(0, 571)},
     "Never loses: it lost 0 of 100 lines as X and 0 of 571 as O."),
    ({}, {"X": exact(0), "O": exact(4, 571)},
     "Never loses as X (0 of 100 lines); as O it loses 4 of 571 lines."),
    ({"X": exact(8, 91), "O": exact(83, 559)}, {"X": exact(1), "O": exact(4)},
     "Loses 1 of 100 lines as X and 4 of 100 as O; before training 8 of 91 and 83 of 559."),
    # Evaluations of older runs have no number of lines.
    ({"player": exact(2, None)}, {"player": exact(0)},
     "Never loses: it lost 0 of 100 lines as player; before training 2."),
    ({}, {"a": sampled(0.62, games=1200, intervals=INTERVALS)},
     "Wins 62.0% (95% interval 55.1 to 68.4) of 1,200 games as a against mcts:4."),
    ({"a": sampled(0.5)}, {"a": sampled(0.25), "b": exact(1)._replace(against=sampled(1.0).against)},
     "Wins 25.0% of games as a against mcts:4 and 100.0% of games as b against mcts:4."),
    ({"a": sampled(0.5)}, {"a": sampled(0.25)},
     "Wins 25.0% of games as a against mcts:4; before training 50.0%."),
    # Of games with hidden cards every player loses some lines.
    ({"1": exact(8, 9, returns={"random": 0.2, "worst": -1.0})},
     {"1": exact(6, 9, returns={"random": 0.389, "worst": -0.5})},
     "Earns -0.500 in the worst case, and against random +0.389 as 1; before training +0.200."),
    # Earlier games against another opponent are no comparison.
    ({"a": game_files.Side({"random": {}})}, {"a": sampled(0.25)},
     "Wins 25.0% of games as a against mcts:4."),
    ({}, {}, "No games and no answers were evaluated."),
  ],
)  # fmt: skip
def test_the_sentence(before, after, expected):
  assert result_tables.sentence(before, after) == expected
  with_answers = result_tables.sentence(before, after, PAIRS)
  if not after:
    expected = "Answers 1 of 2 items right; before training 0."
  assert with_answers == expected


def test_changes_without_a_before_are_on_the_page_alone():
  after = {"X": exact(3, thought_true_rate=0.5)}
  rows = result_tables.changes({}, after)
  assert rows == [
    ("lost lines as X", "", "3 of 100", ""),
    ("true thoughts as X", "", "50.0%", ""),
  ]
  assert result_tables.change_table(rows) == ""
  (_, _, answers) = result_tables.changes({}, after, PAIRS)
  assert answers.before == "0.000" and answers.note.startswith("+0.500, 95% CI")


def test_tables_have_a_column_for_each_model_and_rows_of_what_any_has():
  one = {"a": sampled(0.62, intervals=INTERVALS, returns={"mean": 0.25})}
  two = {"a": exact(0, optimal_move_rate=1.0, returns={"worst": -1.0})}
  (seat, rows), (other, _) = result_tables.by_seat(
    [one, two, {"b": exact(1)}]
  ).items()
  assert (seat, other) == ("a", "b")
  against = "against mcts:4"
  assert rows == [
    ("", "lost lines", ["-", "0 of 100", "-"]),
    ("", "return in the worst case", ["-", "-1.000", "-"]),
    ("", "optimal moves, %", ["-", "100.00", "-"]),
    (against, "won, %", ["62.00 (55.12 to 68.40)", "-", "-"]),
    (against, "drawn, %", ["0.00", "-", "-"]),
    (against, "lost, %", ["0.00", "-", "-"]),
    (against, "no move, %", ["0.00", "-", "-"]),
    (against, "mean return", ["+0.250", "-", "-"]),
  ]  # fmt: skip


def test_an_evaluation_has_its_lost_lines_of_all_lines():
  played = players.matches(players.FIRST_LEGAL)
  metrics = evaluator.evaluation_metrics(
    players.GAME,
    [(match.seat, match.result) for match in played],
    "random",
    lambda games: None,
  )
  sides = game_files.sides_of_metrics(metrics)
  for match in played:
    assert isinstance(match.result, rates_lib.Exact)
    lost = f"{match.result.lines_lost} of {match.result.lines}"
    assert sides[match.seat].lost_text == lost
