"""Describes a data file and judges its moves by the solver."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
import hashlib
import re
from typing import Any, NamedTuple

import numpy as np

from tunix_ttt.data import reading
from tunix_ttt.data import row_formats
from tunix_ttt.games.tictactoe import board_text as boards_lib
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.runs import progress
from tunix_ttt.text import chat

# Of how many lines with the same fault the numbers are kept, and shown.
_LISTED, _SHOWN = 20, 5
_QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_OPEN_TAG = re.compile(r"<[|/\w]*$")
# A move, in the syntax of either board, that a prompt begins.
_OPEN_MOVE = re.compile(
  r"<move>\w*$|(?:<\|move\|>|<move>\w*)?<[|/\w-]*$|<\|move\|>$"
)


class Decision(NamedTuple):
  """A board, and the answer that a row has to it."""

  shown: boards_lib.Position
  answer: str

  def move(self) -> boards_lib.Move:
    """Returns the move of the answer."""
    return boards_lib.read_answer(self.answer, self.shown.kind)


def decisions(sample: row_formats.Trained) -> Iterator[Decision]:
  """Yields the boards that a sample's trained text answers."""
  if isinstance(sample, row_formats.Conversation):
    for i, turn in enumerate(sample.messages):
      if turn["role"] == "assistant" and i >= sample.supervised_from:
        shown = boards_lib.find(sample.messages[i - 1]["content"])
        if shown:
          yield Decision(shown[-1], turn["content"])
    return
  text, trained_from = sample.prompt + sample.completion, len(sample.prompt)
  # A completion that ends a move is no answer without its beginning.
  if (begun := _OPEN_MOVE.search(sample.prompt)) is not None:
    trained_from = begun.start()
  shown = boards_lib.find(text)
  for i, board in enumerate(shown):
    end = shown[i + 1].start if i + 1 < len(shown) else len(text)
    if end > trained_from:
      yield Decision(board, text[max(board.end, trained_from) : end])


def boards_of(sample: row_formats.Sample) -> set[int]:
  """Returns all boards that a sample shows."""
  return {
    found.board for text in sample.texts() for found in boards_lib.find(text)
  }


def grade(board: int, cell: int | None) -> str:
  """Says what a move is worth.

  That is `optimal`, `worse`, `illegal` (the cell is taken), `unreadable` (there
  is no move), or `impossible`: no game passes the board, or it is over.
  """
  if not solver.solve().optimal[board]:
    return "impossible"
  if cell is None:
    return "unreadable"
  if not rules.legal_masks()[board] >> cell & 1:
    return "illegal"
  return "optimal" if cell in solver.optimal_cells(board) else "worse"


class Remarks:
  """Remarks on rows: how often each was made, and on which lines first."""

  def __init__(self):
    self._lines: dict[str, list[int]] = {}
    self._counts: Counter[str] = Counter()

  def add(self, number: int, remark: str) -> None:
    """Adds a remark on the row of a line."""
    self._counts[remark] += 1
    lines = self._lines.setdefault(remark, [])
    if len(lines) < _LISTED:
      lines.append(number)

  def report(self) -> dict[str, Any]:
    """Returns the count of each remark, and the first lines."""
    return {
      remark: {"count": count, "lines": self._lines[remark]}
      for remark, count in self._counts.items()
    }


class Labels:
  """Quality of the moves that rows teach, and of those that pairs reject."""

  def __init__(self):
    self._trained: Counter[str] = Counter()
    self._rejected: Counter[str] = Counter()
    self._pairs: Counter[str] = Counter()
    self._remarks = Remarks()

  def add(self, number: int, sample: row_formats.Sample) -> None:
    """Judges a row."""
    if isinstance(sample, row_formats.Prompt):
      return
    if isinstance(sample, row_formats.Preference):
      chosen, rejected = (
        next(reversed([*decisions(each)]), None) for each in sample.answers()
      )
      if chosen and rejected:
        self._judge(number, chosen, self._trained)
        self._compare(chosen.shown.board, chosen.move(), rejected.move())
      return
    if isinstance(sample, row_formats.PlainText) and _OPEN_TAG.search(
      sample.prompt
    ):
      self._remarks.add(number, "the prompt ends inside a tag")
    for decision in decisions(sample):
      self._judge(number, decision, self._trained)

  def _judge(
    self, number: int, decision: Decision, counts: Counter[str]
  ) -> None:
    board, player = decision.shown.board, decision.shown.player
    move = decision.move()
    counts[grade(board, move.cell)] += 1
    if move.cell is None:
      self._remarks.add(number, "the answer has no move")
    elif not move.is_strict:
      self._remarks.add(number, "the answer is not of the format")
    if player not in (None, rules.side_to_move()[board]):
      self._remarks.add(number, "it is the other player's turn on the board")

  def _compare(
    self, board: int, chosen: boards_lib.Move, rejected: boards_lib.Move
  ) -> None:
    if not rejected.is_strict:
      self._rejected["not_of_the_format"] += 1
      return
    self._rejected[grade(board, rejected.cell)] += 1
    self._pairs["rejected_as_good"] += 0
    if chosen.cell is None or rejected.cell is None:
      return
    values = solver.solve().move_values[board]
    if rejected.cell == chosen.cell:
      self._pairs["same_move"] += 1
    elif values[rejected.cell] >= values[chosen.cell] >= solver.LOSS:
      self._pairs["rejected_as_good"] += 1

  def report(self) -> dict[str, Any]:
    """Returns counts, and shares of all that was judged."""
    return {
      "moves": _shares(self._trained),
      "rejected_moves": _shares(self._rejected),
      "pairs": {
        "judged": self._rejected.total(),
        **_shares(self._pairs, self._rejected.total()),
      },
      "format_errors": self._remarks.report(),
    }


def _shares(counts: Counter[str], total: int | None = None) -> dict[str, Any]:
  total = counts.total() if total is None else total
  return {
    name: {"count": n, "share": round(n / total, 4)}
    for name, n in counts.most_common()
  }


class Lengths:
  """Lengths of rows in tokens."""

  def __init__(self, tokenizer: chat.ChatTokenizer, limit: int | None):
    """Takes the tokenizer, and `data.max_seq_length` if there is one."""
    self._tokenizer = tokenizer
    self._limit = limit
    self._lengths: list[int] = []

  def add(self, sample: row_formats.Sample) -> None:
    """Measures a row; of a pair, the longer answer's."""
    if isinstance(sample, row_formats.Preference):
      answers = sample.answers()
    elif isinstance(sample, row_formats.Prompt):
      prompt = sample.prompt
      is_text = isinstance(prompt, str)
      answers = (
        row_formats.PlainText(prompt, "")
        if is_text
        else row_formats.Conversation(prompt),
      )
    else:
      answers = (sample,)
    encoded = (answer.encode(self._tokenizer) for answer in answers)
    self._lengths.append(max(len(tokens.ids) for tokens in encoded))

  def report(self) -> dict[str, Any]:
    """Returns quantiles, and how many rows are over the limit."""
    found = np.quantile(
      self._lengths, [*_QUANTILES.values()], method="inverted_cdf"
    )
    report = dict(zip(_QUANTILES, found.tolist(), strict=True))
    if self._limit is not None:
      over = sum(length > self._limit for length in self._lengths)
      report |= {"max_seq_length": self._limit, "over": over}
    return report


class Leakage:
  """Which questions of an evalset rows have seen."""

  def __init__(
    self,
    boards: Collection[int],
    prompts: Collection[str],
    *,
    symmetric: bool,
  ):
    """Takes the evalset's boards and the texts of its other questions.

    With `symmetric`, a rotation or reflection of a board counts as the board.
    """
    self._form = rules.canonical() if symmetric else np.arange(rules.NUM_BOARDS)
    self._boards = {int(self._form[board]) for board in boards}
    self._prompts = {prompt.strip() for prompt in prompts}
    self._seen: set[int | str] = set()
    self._rows = 0
    self._symmetric = symmetric

  def add(self, samples: Iterable[row_formats.Sample]) -> None:
    """Looks through a row."""
    found: set[int | str] = set()
    for sample in samples:
      shown = {int(self._form[board]) for board in boards_of(sample)}
      found |= shown & self._boards
      if self._prompts:
        found |= _asked(sample) & self._prompts
    self._seen |= found
    self._rows += bool(found)

  def report(self) -> dict[str, Any]:
    """Returns how many rows show a question, and how many are shown."""
    return {
      "rows": self._rows,
      "questions": len(self._boards) + len(self._prompts),
      "questions_seen": len(self._seen),
      "symmetric": self._symmetric,
    }


def _asked(sample: row_formats.Sample) -> set[str]:
  """Returns what is asked in a sample."""
  if isinstance(sample, row_formats.Conversation):
    turns = sample.messages
  elif isinstance(sample, row_formats.PlainText) or isinstance(
    sample.prompt, str
  ):
    return {str(sample.prompt).strip()}
  else:
    turns = sample.prompt
  return {t["content"].strip() for t in turns if t["role"] == "user"}


class Duplicates:
  """Rows whose content is that of an earlier one."""

  def __init__(self):
    self._first: dict[bytes, int] = {}
    self._count = 0

  def add(self, number: int, samples: list[row_formats.Sample]) -> None:
    """Looks a row up."""
    content = repr(samples).encode()
    key = hashlib.blake2b(content, digest_size=16).digest()
    first = self._first.setdefault(key, number)
    if first != number:
      self._count += 1

  def report(self) -> int:
    """Returns how many there are."""
    return self._count


@progress.stage("checking the rows")
def check(
  rows: reading.Rows,
  *,
  data_format: str = "auto",
  skip_bad_rows: bool = False,
  tokenizer: chat.ChatTokenizer | None = None,
  max_seq_length: int | None = None,
  leakage: Leakage | None = None,
) -> dict[str, Any]:
  """Reads a file from start to end and says what is in it.

  Args:
    rows: where from.
    data_format: see `formats.parse_row`.
    skip_bad_rows: go on without rows that cannot be read.
    tokenizer: for lengths; without one they are not measured.
    max_seq_length: the limit on them.
    leakage: for what an evalset asks.

  Raises:
    errors.UserError: with a line for each bad row, or if there are no rows.
  """
  kinds: Counter[str] = Counter()
  duplicates, labels = Duplicates(), Labels()
  lengths = Lengths(tokenizer, max_seq_length) if tokenizer else None
  faults = reading.Faults(rows.path)

  def parse(row: row_formats.Row) -> list[row_formats.Sample]:
    return row_formats.parse_row(row, data_format)

  for number, row, samples in reading.read(rows, parse, faults):
    kinds[
      row_formats.name_of(row) if data_format == "auto" else data_format
    ] += 1
    duplicates.add(number, samples)
    for sample in samples:
      labels.add(number, sample)
      if lengths:
        lengths.add(sample)
    if leakage:
      leakage.add(samples)
  faults.check(kinds.total(), skip_bad_rows=skip_bad_rows)
  return {
    "path": rows.path,
    "digest": rows.digest(),
    "rows": kinds.total(),
    "formats": dict(kinds),
    "bad_rows": faults.record().model_dump(),
    "duplicates": duplicates.report(),
    **labels.report(),
    "tokens": lengths and lengths.report(),
    "leakage": leakage and leakage.report(),
  }


def table(report: dict[str, Any]) -> str:
  """Returns a report as lines of text."""
  kinds = ", ".join(f"{n:,} {name}" for name, n in report["formats"].items())
  lines = [
    f"rows        {report['rows']:,}: {kinds}",
    f"duplicates  {report['duplicates']:,}",
  ]
  bad = report["bad_rows"]
  if bad["rows"]:
    lines += [f"bad rows    {bad['rows']:,}, skipped", *_indented(bad["first"])]
  if report["moves"]:
    lines.append(f"moves       {_named(report['moves'])}")
  if report["rejected_moves"]:
    lines.append(f"rejected    {_named(report['rejected_moves'])}")
    pairs = dict(report["pairs"])
    judged = pairs.pop("judged")
    lines.append(f"pairs       {judged:,} judged{_named(pairs, '; ')}")
  for remark, found in report["format_errors"].items():
    numbers = [str(number) for number in found["lines"][:_SHOWN]]
    more = ", …" * (found["count"] > len(numbers))
    lines.append(
      f"format      {found['count']:,} times: {remark} (line"
      f" {', '.join(numbers)}{more})"
    )
  if tokens := report["tokens"]:
    lines.append(
      "tokens      " + ", ".join(f"{k} {v:,}" for k, v in tokens.items())
    )
  if leaks := report["leakage"]:
    also = ", or one symmetric to it" if leaks["symmetric"] else ""
    lines.append(
      f"leakage     {leaks['questions_seen']:,} of {leaks['questions']:,}"
      f" questions of the evalset are in {leaks['rows']:,} rows{also}"
    )
  return "\n".join(lines)


def _indented(lines: Iterable[str]) -> list[str]:
  return [f"            {line}" for line in lines]


def _named(shares: dict[str, Any], before: str = "") -> str:
  parts = [
    f"{name.replace('_', ' ')} {found['count']:,} ({found['share']:.1%})"
    for name, found in shares.items()
  ]
  return before * bool(parts) + ", ".join(parts)
