"""Draws a tic-tac-toe run of GRPO as an animated SVG, `images/run.svg`.

python docs/animation.py RUN

One game of each evaluated step is played on a board, beside the lines that the model
still loses. Where motion is unwanted, the picture shows the last step.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import html
import itertools
import json
import pathlib
import re
import sys
from typing import Any, NamedTuple

IMAGE = pathlib.Path(__file__).parent / "images" / "run.svg"
SECONDS_PER_TURN, SECONDS_AFTER_GAME, SECONDS_AT_END = 0.9, 0.9, 4.0
CELL, LEFT, TOP = 66, 40, 62
PLOT_LEFT, PLOT_TOP, PLOT_WIDTH, PLOT_HEIGHT = 350, 62, 440, 198
ENDINGS = {"win": "won", "loss": "lost", "draw": "drawn"}
STYLE = """
svg { font: 15px system-ui, sans-serif; fill: #1f2328; }
.muted { fill: #59636e; } .line { fill: none; stroke: #59636e; }
.X { stroke: #0969da; fill: #0969da; } .O { stroke: #bc4c00; fill: #bc4c00; }
.mark { fill: none; stroke-width: 7; stroke-linecap: round; }
.curve { fill: none; stroke-width: 3; } .label { stroke: none; }
@media (prefers-color-scheme: dark) {
  svg { fill: #f0f6fc; } .muted { fill: #9198a1; } .line { stroke: #9198a1; }
  .X { stroke: #4493f8; fill: #4493f8; } .O { stroke: #f0883e; fill: #f0883e; }
  .mark, .curve { fill: none; } .label { stroke: none; }
}
"""


class Element(NamedTuple):
  """Part of the picture, and when it is visible, in seconds."""

  svg: str
  start: float
  end: float


class Evaluation(NamedTuple):
  """Lost lines of a step, by the model's mark."""

  step: int
  lost: Mapping[str, int]


def draw(
  evaluations: Sequence[Evaluation], games: Sequence[Mapping[str, Any]]
) -> str:
  """Returns the SVG; `games` has one of each evaluated step."""
  elements, clock, starts = [], 0.0, []
  for evaluation, game in zip(evaluations, games, strict=True):
    starts.append(clock)
    is_last = evaluation is evaluations[-1]
    end = clock + SECONDS_PER_TURN * len(game["turns"])
    end += SECONDS_AT_END if is_last else SECONDS_AFTER_GAME
    elements += _game(evaluation.step, game, clock, end)
    clock = end
  elements += _curves(evaluations, starts, clock)
  return _svg(elements, clock)


def _game(
  step: int, game: Mapping[str, Any], start: float, end: float
) -> Iterator[Element]:
  """Yields the marks of a game and the model's words, turn by turn."""
  title = f"step {step}: a game as {game['agent']}"
  yield Element(_text(LEFT, 34, title), start, end)
  before, clock = "." * 9, start
  for turn in game["turns"]:
    yield from _marks(before, turn["board"], clock, end)
    cell = "ABC".index(turn["move"][0]) * 3 + int(turn["move"][1]) - 1
    board = turn["board"]
    before = f"{board[:cell]}{game['agent']}{board[cell + 1 :]}"
    yield from _marks(board, before, clock + SECONDS_PER_TURN / 2, end)
    thought = re.search("<think>(.*?)</think>", turn["response"])
    words = f"“{thought[1]}” {turn['move']}" if thought else turn["move"]
    is_last = turn is game["turns"][-1]
    until = end if is_last else clock + SECONDS_PER_TURN
    yield Element(_text(LEFT, 296, words, "muted"), clock, until)
    clock += SECONDS_PER_TURN
  yield from _marks(before, game["board"], clock, end)
  ending = ENDINGS.get(game["ending"], "ended by a wrong answer")
  yield Element(_text(LEFT + 3 * CELL, 34, ending, end=True), clock, end)


def _marks(
  before: str, after: str, start: float, end: float
) -> Iterator[Element]:
  """Yields the marks that one board has and the other has not."""
  for cell, (old, new) in enumerate(zip(before, after, strict=True)):
    if old != new:
      x = LEFT + CELL * (cell % 3) + CELL // 2
      y = TOP + CELL * (cell // 3) + CELL // 2
      shape = f"M{x - 17} {y - 17}l34 34m0-34l-34 34"
      if new == "O":
        shape = f"M{x - 19} {y}a19 19 0 1 1 38 0a19 19 0 1 1-38 0"
      yield Element(f'<path class="mark {new}" d="{shape}"/>', start, end)


def _curves(
  evaluations: Sequence[Evaluation], starts: Sequence[float], end: float
) -> Iterator[Element]:
  """Yields the lost lines of each mark, growing step by step."""
  most = max(max(each.lost.values()) for each in evaluations) or 1
  last = evaluations[-1].step or 1

  def at(evaluation: Evaluation, mark: str) -> tuple[float, float]:
    x = PLOT_LEFT + PLOT_WIDTH * evaluation.step / last
    y = PLOT_TOP + PLOT_HEIGHT * (1 - evaluation.lost[mark] / most)
    return x, y

  for mark in evaluations[0].lost:
    for (old, new), start in zip(
      itertools.pairwise(evaluations), starts[1:], strict=True
    ):
      (x, y), (to_x, to_y) = at(old, mark), at(new, mark)
      d = f"M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}"
      yield Element(f'<path class="curve {mark}" d="{d}"/>', start, end)
  for evaluation, start, until in zip(
    evaluations, starts, [*starts[1:], end], strict=True
  ):
    for row, (mark, lost) in enumerate(evaluation.lost.items()):
      x, y = at(evaluation, mark)
      dot = f'<circle class="{mark}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
      yield Element(dot, start, until)
      words = f"as {mark}: {lost}"
      right = PLOT_LEFT + PLOT_WIDTH
      label = _text(
        right, PLOT_TOP + 20 + 24 * row, words, f"label {mark}", end=True
      )
      yield Element(label, start, until)


def _text(x: int, y: int, words: str, kind: str = "", end: bool = False) -> str:
  anchor = ' text-anchor="end"' if end else ""
  escaped = html.escape(words)
  return f'<text class="{kind}" x="{x}" y="{y}"{anchor}>{escaped}</text>'


def _svg(elements: Sequence[Element], seconds: float) -> str:
  """Returns the picture with a rule of animation for each pair of times."""
  names: dict[tuple[float, float], str] = {}
  shapes = []
  for svg, start, end in elements:
    name = names.setdefault((start, end), f"t{len(names)}")
    # Without animation, only what is visible at the end is.
    rest = "" if end == seconds else " rest"
    shapes.append(f'<g class="{name}{rest}">{svg}</g>')
  rules = [STYLE, ".rest { opacity: 0; }"]
  rules.append("@media (prefers-reduced-motion: no-preference) {")
  for (start, end), name in names.items():
    first, last = (f"{100 * time / seconds:.2f}%" for time in (start, end))
    before = "" if start == 0 else "0% { opacity: 0; }"
    after = "" if end == seconds else f"{last}, 100% {{ opacity: 0; }}"
    visible = f"{first} {{ opacity: 1; }}"
    rules.append(f"@keyframes {name} {{ {before} {visible} {after} }}")
    rules.append(
      f".{name} {{ animation: {name} {seconds:.1f}s step-end infinite; }}"
    )
  rules.append("}")
  grid = "".join(
    f"M{LEFT + CELL * n} {TOP}v{3 * CELL}M{LEFT} {TOP + CELL * n}h{3 * CELL}"
    for n in (1, 2)
  )
  axes = f"M{PLOT_LEFT} {PLOT_TOP}v{PLOT_HEIGHT}h{PLOT_WIDTH}"
  middle = PLOT_LEFT + PLOT_WIDTH // 2
  fixed = [
    f'<path class="line" stroke-width="2" d="{grid}"/>',
    f'<path class="line" d="{axes}"/>',
    _text(PLOT_LEFT, 34, "lines of play that the model loses"),
    _text(middle - 60, PLOT_TOP + PLOT_HEIGHT + 36, "steps of GRPO", "muted"),
  ]
  style = "\n".join(rules)
  return "\n".join(
    [
      '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 830 320" role="img">',
      "<title>A model learns tic-tac-toe: its games and the lines it loses</title>",
      f"<style>{style}</style>",
      *fixed,
      *shapes,
      "</svg>\n",
    ]
  )


def read(
  run: pathlib.Path,
) -> tuple[list[Evaluation], list[dict[str, Any]]]:
  """Returns the exact evaluations of a run and a game of each."""
  rows, games = (
    [json.loads(line) for line in (run / name).read_text().splitlines()]
    for name in ("metrics.jsonl", "rollouts.jsonl")
  )
  evaluations = [
    Evaluation(
      row["step"], {mark: int(row[f"{mark}/lines_lost"]) for mark in "XO"}
    )
    for row in rows
    if "X/lines_lost" in row
  ]
  chosen = []
  for number, evaluation in enumerate(evaluations):
    # The games of step 1 were played by the model of step 0.
    step = max(evaluation.step, 1)
    of_step = [
      game
      for game in games
      if game["step"] == step and all(turn["move"] for turn in game["turns"])
    ]
    if not of_step:
      raise LookupError(f"rollouts.jsonl has no game of step {step}")
    chosen.append(of_step[number % len(of_step)])
  return evaluations, chosen


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("run", type=pathlib.Path, help="a run of GRPO")
  parser.add_argument("--output", type=pathlib.Path, default=IMAGE)
  flags = parser.parse_args()
  try:
    flags.output.write_text(draw(*read(flags.run)))
  except (OSError, LookupError) as error:
    sys.exit(f"error: {flags.run}: {error}")
