"""Puts results into a sentence and into tables, for pages and terminals."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tunix_ttt.evaluate import game_files
from tunix_ttt.report import delta_report

Sides = Mapping[str, game_files.Side]
_RATES = {"won": "win_rate", "drawn": "draw_rate", "lost": "loss_rate"}
_SHARES = {
  "optimal moves, %": "optimal_move_rate",
  "true thoughts, % of those with a claim": "thought_true_rate",
  "thoughts without a claim, % of answers": "thought_no_claim_rate",
}
# The opponent `worst` of results is the one that is worst for the model.
_OPPONENTS = {"worst": "the strongest opponent"}
UNKNOWN = "-"


class Row(NamedTuple):
  """A row of a table, with a value for each column, below the name of a group."""

  group: str
  label: str
  values: list[str]


class Change(NamedTuple):
  """A result before and after training; `before` is empty if it is unknown."""

  label: str
  before: str
  after: str
  note: str = ""


def sentence(
  before: Sides, after: Sides, pairs: Sequence[delta_report.Pair] = ()
) -> str:
  """Returns the results of a model in a sentence, with those before training.

  These are the lines that it loses in each seat, if all lines were played, or what it
  earns, if every player must lose some; else the share of games that it wins,
  with its 95% interval, else the share of right answers to an evalset.
  """
  earlier = [(before.get(seat), side) for seat, side in after.items()]
  is_exact = all(side.lines_lost is not None for side in after.values())
  if after and is_exact and not all(map(_is_unsolved, after.values())):
    text = _lines_lost(after)
    past = [was.lost_text if was else "" for was, _ in earlier]
  elif after and is_exact:
    text = _earnings(after)
    past = [_earned(was) if was else "" for was, _ in earlier]
  elif after:
    text = join(_wins(seat, side) for seat, side in after.items())
    text, past = f"Wins {text}", [_earlier_wins(*each) for each in earlier]
  elif pairs:
    score = delta_report.compare(pairs)
    before_right, right = (
      round(mean * score.count) for mean in (score.before, score.after)
    )
    text = f"Answers {right} of {score.count} items right"
    past = [str(before_right)]
  else:
    return "No games and no answers were evaluated."
  if all(past):
    text += f"; before training {join(past)}"
  return f"{text}."


def _lines_lost(sides: Sides) -> str:
  lost = {seat: side.lost_text for seat, side in sides.items()}
  safe = [seat for seat, side in sides.items() if side.lines_lost == 0]
  counts = join(
    f"{text}{'' if number else ' lines'} as {seat}"
    for number, (seat, text) in enumerate(lost.items())
  )
  if len(safe) == len(lost):
    return f"Never loses: it lost {counts}"
  if not safe:
    return f"Loses {counts}"
  rest = join(
    f"as {seat} it loses {text} lines"
    for seat, text in lost.items()
    if seat not in safe
  )
  safes = join(f"as {seat} ({lost[seat]} lines)" for seat in safe)
  return f"Never loses {safes}; {rest}"


def _is_unsolved(side: game_files.Side) -> bool:
  """Returns whether chance or hidden cards decide which lines are lost."""
  return "optimal" not in side.against and {"random", "worst"} <= {
    *side.returns
  }


def _earned(side: game_files.Side, opponent: str = "random") -> str:
  value = side.returns.get(opponent)
  return "" if value is None else f"{value:+.3f}"


def _earnings(sides: Sides) -> str:
  earned = join(f"{_earned(side)} as {seat}" for seat, side in sides.items())
  worst = join(_earned(side, "worst") for side in sides.values())
  return f"Earns {worst} in the worst case, and against random {earned}"


def _wins(seat: str, side: game_files.Side) -> str:
  opponent, rates = next(iter(side.against.items()))
  text, bounds = _percent(rates["win_rate"]), ""
  if interval := side.intervals.get(opponent, {}).get("win_rate"):
    low, high = (f"{100 * bound:.1f}" for bound in interval)
    bounds = f" (95% interval {low} to {high})"
  count = f" of {side.games:,} games" if side.games else " of games"
  return f"{text}{bounds}{count} as {seat} against {opponent}"


def _earlier_wins(
  before: game_files.Side | None, after: game_files.Side
) -> str:
  """Returns the earlier share of wins against the first opponent."""
  rates = before and before.against.get(next(iter(after.against)))
  return _percent(rates["win_rate"]) if rates else ""


def _percent(share: float) -> str:
  return f"{100 * share:.1f}%"


def join(parts: Iterable[str]) -> str:
  """Returns words as a list in a sentence."""
  *rest, last = parts
  return f"{', '.join(rest)} and {last}" if rest else last


def changes(
  before: Sides, after: Sides, pairs: Sequence[delta_report.Pair] = ()
) -> list[Change]:
  """Returns the main results, those before training beside them if known."""
  rows = []
  for seat, side in after.items():
    was = before[seat].lost_text if seat in before else ""
    if side.lost_text:
      rows.append(Change(f"lost lines as {seat}", was, side.lost_text))
  shares = {
    "draws with optimal": lambda side: side.against.get("optimal", {}).get(
      "draw_rate"
    ),
    "true thoughts": lambda side: side.thought_true_rate,
  }
  for name, share in shares.items():
    for seat in after:
      values = [share(s[seat]) if seat in s else None for s in (before, after)]
      was, now = ("" if x is None else _percent(x) for x in values)
      if now:
        rows.append(Change(f"{name} as {seat}", was, now))
  if pairs:
    score = delta_report.compare(pairs)
    noun = "items" if delta_report.chance(pairs) is None else "positions"
    note = f"{score.change:+.3f}, 95% CI {score.low:+.3f} to {score.high:+.3f}"
    label = f"right answers to {score.count} {noun}"
    rows.append(
      Change(label, f"{score.before:.3f}", f"{score.after:.3f}", note)
    )
  return rows


def change_table(rows: Sequence[Change]) -> str:
  """Formats results before and after training as lines of text.

  A row without both numbers is omitted; without rows, the text is empty.
  """
  rows = [row for row in rows if row.before]
  if not rows:
    return ""
  width = max(len(row.label) for row in rows)
  return "\n".join(
    f"{label:<{width}}{first:>13}{second:>13}  {note}".rstrip()
    for label, first, second, note in [Change("", "before", "after"), *rows]
  )


def by_seat(columns: Sequence[Sides]) -> dict[str, list[Row]]:
  """Returns a table of results for each seat, with a column for each model.

  A row has the name of its group; those of the first, "", hold against any
  opponent.
  """
  seats = dict.fromkeys(seat for column in columns for seat in column)
  return {seat: _rows([c.get(seat) for c in columns]) for seat in seats}


def _rows(sides: Sequence[game_files.Side | None]) -> list[Row]:
  rows: list[Row] = []

  def add(group: str, label: str, values: Sequence[str | None]) -> None:
    if any(values):
      rows.append(Row(group, label, [value or UNKNOWN for value in values]))

  def shares(values: Sequence[float | None]) -> list[str | None]:
    return [None if value is None else f"{100 * value:.2f}" for value in values]

  def signed(values: Sequence[float | None]) -> list[str | None]:
    return [None if value is None else f"{value:+.3f}" for value in values]

  add("", "lost lines", [side and side.lost_text for side in sides])
  worst = [side and side.returns.get("worst") for side in sides]
  add("", "return in the worst case", signed(worst))
  for label, name in _SHARES.items():
    add("", label, shares([side and getattr(side, name) for side in sides]))
  opponents = dict.fromkeys(o for side in sides if side for o in side.against)
  for opponent in opponents:
    group = f"against {_OPPONENTS.get(opponent, opponent)}"
    rates = [side and side.against.get(opponent) for side in sides]
    bounds = [
      side.intervals.get(opponent, {}) if side else {} for side in sides
    ]
    for label, name in _RATES.items():
      texts = shares([each[name] if each else None for each in rates])
      for number, text in enumerate(texts):
        if text and name in bounds[number]:
          low, high = shares(bounds[number][name])
          texts[number] = f"{text} ({low} to {high})"
      add(group, f"{label}, %", texts)
    no_move = [
      game_files.no_move_rate(each) if each else None for each in rates
    ]
    add(group, "no move, %", shares(no_move))
    returns = [
      side and game_files.mean_return(side, opponent) for side in sides
    ]
    add(group, "mean return", signed(returns))
  return rows
