"""Figures: what is drawn from which metrics, and what is written."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from tunix_ttt import errors
from tunix_ttt.games import board_page
from tunix_ttt.report import plots

SFT = [
  *({"step": n, "split": "train", "loss": 1 / n, "token_accuracy": n / 99, "grad_norm": 1.0} for n in range(1, 81)),
  {"step": 80, "split": "eval", "loss": 0.5, "token_accuracy": 0.25},
]  # fmt: skip
GRPO = [
  {"step": 0, "split": "eval", "X/lines_lost": 8.0, "X/$odd<&/win_rate": 0.5, "X/$odd<&/draw_rate": 0.25, "score": 1.0},
  {"step": 1, "split": "train", "reward": 3.0, "reward/a": 1.0, "reward/b": 2.0, "kl": 0.1, "tokens_per_turn": 7.0},
]  # fmt: skip


def by_name(rows) -> dict[str, plots.Panel]:
  return {panel.name: panel for panel in plots.panels(rows)}


def test_panels_are_of_what_there_is():
  found = by_name(SFT)
  # The loss is last.
  assert [*found] == ["token_accuracy", "grad_norm", "loss"]
  steps, values = found["loss"].lines["training"]
  np.testing.assert_array_equal(steps, np.arange(1, 81))
  np.testing.assert_allclose(values, 1 / np.arange(1, 81))
  assert found["loss"].lines["evaluation"][1].tolist() == [0.5]
  assert found["token_accuracy"].share and not found["loss"].share
  found = by_name(GRPO)
  names = ["lines_lost", "rewards", "play_X_$odd<&", "tokens_per_turn", "kl"]
  assert [*found] == names
  assert all(panel.hint.endswith(".") for panel in found.values())
  assert [*found["rewards"].lines] == ["all", "a", "b"]
  assert [*found["play_X_$odd<&"].lines] == ["win", "draw"]
  seat = {"step": 0, "split": "eval", "first player/lines_lost": 2.0, "first player/mcts:4/win_rate": 0.5}  # fmt: skip
  found = by_name([*GRPO, seat])
  assert [*found["lines_lost"].lines] == ["as X", "as first player"]
  title = "As first player against a mcts:4 player"
  assert found["play_first player_mcts:4"].title == title
  assert [*by_name([{**GRPO[1], "reward/b": 0.0}])["rewards"].lines] == [
    "all", "a", "b",
  ]  # fmt: skip


def test_curves_draw_values_and_their_means():
  figure = plots.curves(by_name(SFT)["loss"])
  drawn = [np.asarray(line.get_xydata()) for line in figure.axes[0].lines]
  raw, means, evaluation = drawn
  values = 1 / np.arange(1, 81)
  np.testing.assert_allclose(raw[:, 1], values)
  # Windows of five: three values at the ends.
  assert means[0, 1] == pytest.approx(values[:3].mean())
  assert means[40, 1] == pytest.approx(values[38:43].mean())
  assert evaluation.tolist() == [[80, 0.5]]


def test_a_readout_has_the_values_and_their_place():
  panel = by_name(SFT)["loss"]
  figure = plots.curves(panel)
  readout = plots.readout(panel, figure)
  training, evaluation = readout["lines"]
  assert training["label"] == "training" and training["steps"][-1] == 80
  assert training["values"][:3] == [1.0, 0.5, 0.3333]
  assert (evaluation["steps"], evaluation["values"]) == ((80,), [0.5])
  # A point of the curve lies where the box and the limits say.
  axes, (left, top, right, bottom) = figure.axes[0], readout["box"]
  x, y = axes.transData.transform((40, axes.get_ylim()[0]))
  width, height = figure.get_size_inches() * figure.dpi
  low, high = readout["limits"]
  across = left + (right - left) * (40 - low) / (high - low)
  assert x / width == pytest.approx(across, abs=1e-3)
  assert 1 - y / height == pytest.approx(bottom, abs=1e-3) and top < bottom
  steps = np.arange(1001)
  long = panel._replace(lines={"a": (steps, np.full(1001, np.nan))})
  (line,) = plots.readout(long, plots.curves(long))["lines"]
  assert len(line["steps"]) == 400 and line["steps"][-1] == 1000
  assert set(line["values"]) == {None}


def test_a_heat_map_has_the_share_of_each_cell():
  cells = [row + column for row in "ABC" for column in "123"]
  counts = [1, 0, 0, 0, 6, 0, 0, 0, 0, 1]
  moves = board_page.FirstMoves("name", "a title", counts, cells, {"A2": "X"})
  figure = plots.heat_map(moves)
  texts = [text.get_text() for text in figure.axes[0].texts]
  assert texts[:5] == ["A1\n12.5%", "X", "A3\n0", "B1\n0", "B2\n75.0%"]
  assert texts[-1] == "no free cell: 12.5%"
  alphas = [patch.get_alpha() or 0 for patch in figure.axes[0].patches]
  assert alphas[4] == pytest.approx(6 * alphas[0])
  assert alphas[0] > 0 == alphas[1]


def test_a_page_gives_figures_their_colours():
  panel = by_name(GRPO)["play_X_$odd<&"]
  text = plots.inline_svg(plots.curves(panel))
  root = ElementTree.fromstring(text)
  assert root.get("aria-label") == "As X against a $odd<& player"
  assert root.get("viewBox") and root.get("width") is None
  assert "var(--ink)" in text and "var(--line-0)" in text
  assert "var(--line-1)" in text and "#24292f" not in text
  assert plots.inline_svg(plots.curves(panel)) == text


def test_figures_are_files_that_are_the_same_each_time(tmp_path):
  panel = by_name(SFT)["loss"]
  for name in ("one", "two"):
    plots.save({"loss": plots.curves(panel)}, tmp_path / name, dpi=50)
  for kind in plots.FORMATS:
    one, two = (tmp_path / n / f"loss.{kind}" for n in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
  with pytest.raises(errors.UserError, match="already exists"):
    plots.save({}, tmp_path / "one")


def test_no_name_leads_out_of_the_directory(tmp_path):
  panel = by_name(SFT)["loss"]
  plots.save({"../a/b": plots.curves(panel)}, tmp_path / "plots", dpi=50)
  written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
  assert written == {".._a_b.svg", ".._a_b.png"}
