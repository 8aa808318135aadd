"""A scripted player of the documentation's Nim, its games and its page."""

from collections.abc import Iterator
import json
import pathlib
import re
import types
from typing import Any

from tests import conftest
from tunix_ttt.evaluate import game_files
from tunix_ttt.games import definition

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
SEATS = ("first", "second")


def load() -> types.ModuleType:
  """Returns the rules and the text of the documentation's page."""
  page = (conftest.ROOT / "docs/your_own_game.md").read_text()
  module = types.ModuleType("nim")
  blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
  exec("\n".join(blocks[:2]), vars(module))
  return module


def define() -> definition.Definition:
  """Returns Nim, as a config names it by `tests.nim_games:define`."""
  return load().define()


def observe(stones: int, *, is_turn: bool = True) -> str:
  return f"Stones: {stones}" + "\nYour move?" * is_turn


def answer(seat: str, stones: int) -> tuple[str, int | None]:
  """Returns the response and the stones to take.

  The first player is perfect; the second takes one, but is unreadable at five
  stones and takes three out of two.
  """
  if seat == "first":
    taken = stones % 4 or 1
  elif stones == 5:
    return f"{HOSTILE} I resign.", None
  else:
    taken = 3 if stones == 2 else 1
  return f"{HOSTILE} <move>{taken}</move>", taken


def policy() -> dict[str, list[game_files.Answer]]:
  return {
    seat: [
      game_files.Answer(
        observe(n), words, None if taken is None else str(taken)
      )
      for n in range(1, 10)
      for words, taken in [answer(seat, n)]
    ]
    for seat in SEATS
  }


def lines(seat: str, stones: int = 9, mover: int = 0) -> Iterator[list[Any]]:
  """Yields the plies of each game of the model, the last one its ending.

  A ply is the stones before it and the stones taken, None for no answer.
  """
  if stones == 0:
    yield ["loss" if SEATS[mover] == seat else "win"]
    return
  moves: list[int | None] = [n for n in (1, 2, 3) if n <= stones]
  if SEATS[mover] == seat:
    moves = [answer(seat, stones)[1]]
  for taken in moves:
    if taken is None:
      yield [(stones, None), "parse_error"]
    elif taken > stones:
      yield [(stones, taken), "illegal"]
    else:
      for rest in lines(seat, stones - taken, 1 - mover):
        yield [(stones, taken), *rest]


def records() -> Iterator[dict[str, Any]]:
  """Yields the rows of `games.jsonl`."""
  for number, seat in enumerate(SEATS):
    for *plies, ending in lines(seat):
      left, last = plies[-1]
      is_over = ending in ("win", "loss")
      yield {
        "game": "nim",
        "seat": seat,
        "ending": ending,
        "return": 1.0 if ending == "win" else -1.0,
        "final": observe(left - last * is_over if is_over else left, is_turn=not is_over),
        "turns": [
          {
            "observation": observe(stones),
            "response": answer(seat, stones)[0],
            "move": None if taken is None else str(taken),
            "legal": taken is not None and taken <= stones,
            "optimal": taken is not None and taken <= stones and stones % 4 in (0, taken),
          }
          for stones, taken in plies[number::2]
        ],
      }  # fmt: skip


def write(path: pathlib.Path) -> pathlib.Path:
  """Writes `games.jsonl` and its summary; returns the path."""
  path.write_text("".join(json.dumps(row) + "\n" for row in records()))
  results = {}
  for seat in SEATS:
    games = [row for row in records() if row["seat"] == seat]
    ends = [row["ending"] for row in games]
    names = ("win", "draw", "unfinished", "loss", "illegal", "parse_error")
    rates = {f"{name}_rate": ends.count(name) / len(ends) for name in names}
    results[seat] = {
      "lines": len(ends),
      "lines_lost": len(ends) - ends.count("win"),
      "worst": "win" if seat == "first" else "parse_error",
      "random": {**rates, "truncated_rate": 0.0},
      "optimal": {**rates, "truncated_rate": 0.0},
      "optimal_move_rate": 1.0 if seat == "first" else 0.5,
      "returns": {
        "random": sum(row["return"] for row in games) / len(games),
        "worst": min(row["return"] for row in games),
      },
    }
  summary = {
    "model": "a scripted player",
    "play": {"opponent": "random"},
    "results": results,
    "policy": policy(),
  }
  game_files.summary_path(path).write_text(json.dumps(summary))
  return path
