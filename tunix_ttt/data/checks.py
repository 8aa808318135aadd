"""Describes a data file and grades its moves by the solver."""

from collections import Counter
from collections.abc import Collection, Iterator
import hashlib
import re
from typing import Any, NamedTuple

import numpy as np

from tunix_ttt.data import reading
from tunix_ttt.data import row_formats
from tunix_ttt.games import position_reader
from tunix_ttt.runs import progress
from tunix_ttt.text import chat

# Line numbers that a report lists per remark, and that the table prints.
_LISTED, _PRINTED = 20, 5
_QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_OPEN_TAG = re.compile(r"<[|/\w]*$")


class Decision(NamedTuple):
  """A position in a text and its supervised answer."""

  match: position_reader.Match
  answer: str
  reader: position_reader.Reader

  def move(self) -> position_reader.Move:
    """Returns the move of the answer."""
    return self.reader.read_answer(self.answer, self.match.kind)

  def grade(self, move: position_reader.Move) -> str:
    """Grades a move by the solver."""
    return self.reader.grade(self.match.position, move.action)


def decisions(
  sample: row_formats.Trained, reader: position_reader.Reader
) -> Iterator[Decision]:
  """Yields the positions that a sample's supervised text answers."""
  if isinstance(sample, row_formats.Conversation):
    for i, turn in enumerate(sample.messages):
      if turn["role"] == "assistant" and i >= sample.supervised_from:
        matches = reader.find(sample.messages[i - 1]["content"])
        if matches:
          yield Decision(matches[-1], turn["content"], reader)
    return
  text, supervised_from = sample.prompt + sample.completion, len(sample.prompt)
  # A completion can end a move that the prompt begins.
  if (open_move := reader.open_move(sample.prompt)) is not None:
    supervised_from = open_move
  matches = reader.find(text)
  ends = [*(match.start for match in matches[1:]), len(text)]
  for match, end in zip(matches, ends, strict=False):
    if end > supervised_from:
      answer = text[max(match.end, supervised_from) : end]
      yield Decision(match, answer, reader)


class Labels:
  """Counts the grades of supervised moves and of rejected moves."""

  def __init__(self, reader: position_reader.Reader | None):
    """Sets the reader of the game; None grades no moves."""
    self._reader = reader
    self._supervised: Counter[str] = Counter()
    self._rejected: Counter[str] = Counter()
    self._pairs: Counter[str] = Counter()
    self._remarks: dict[str, dict[str, Any]] = {}

  def add(self, number: int, sample: row_formats.Sample) -> None:
    """Grades the moves of a row."""
    reader = self._reader
    if isinstance(sample, row_formats.Prompt) or reader is None:
      return
    if isinstance(sample, row_formats.Preference):
      chosen, rejected = (
        list(decisions(each, reader)) for each in sample.answers()
      )
      if chosen and rejected:
        self._grade(number, chosen[-1])
        self._compare(chosen[-1], rejected[-1].move())
      return
    is_text = isinstance(sample, row_formats.PlainText)
    if is_text and _OPEN_TAG.search(sample.prompt):
      self._remark(number, "the prompt ends inside a tag")
    for decision in decisions(sample, reader):
      self._grade(number, decision)

  def report(self) -> dict[str, Any]:
    """Returns counts and shares."""
    return {
      "moves": _shares(self._supervised),
      "rejected_moves": _shares(self._rejected),
      "pairs": {
        "judged": self._rejected.total(),
        **_shares(self._pairs, self._rejected.total()),
      },
      "format_errors": self._remarks,
    }

  def _remark(self, number: int, remark: str) -> None:
    """Counts a remark and lists the first line numbers that it is about."""
    entry = self._remarks.setdefault(remark, {"count": 0, "lines": []})
    entry["count"] += 1
    if len(entry["lines"]) < _LISTED:
      entry["lines"].append(number)

  def _grade(self, number: int, decision: Decision) -> None:
    move = decision.move()
    self._supervised[decision.grade(move)] += 1
    if move.action is None:
      self._remark(number, "the answer has no move")
    elif not move.is_strict:
      self._remark(number, "the answer is not of the format")
    if not decision.reader.is_turn(decision.match):
      self._remark(number, "it is the other player's turn on the board")

  def _compare(
    self, decision: Decision, rejected: position_reader.Move
  ) -> None:
    if not rejected.is_strict:
      self._rejected["not_of_the_format"] += 1
      return
    self._rejected[decision.grade(rejected)] += 1
    # Reported even if it stays 0.
    self._pairs["rejected_as_good"] += 0
    action, chosen = rejected.action, decision.move().action
    if chosen is None or action is None:
      return
    if action == chosen:
      self._pairs["same_move"] += 1
    elif decision.reader.is_as_good(decision.match.position, action, chosen):
      self._pairs["rejected_as_good"] += 1


def _shares(counts: Counter[str], total: int | None = None) -> dict[str, Any]:
  total = counts.total() if total is None else total
  return {
    name: {"count": n, "share": round(n / total, 4)}
    for name, n in counts.most_common()
  }


class Leakage:
  """Counts the questions of an evalset that appear in rows."""

  def __init__(
    self,
    boards: Collection[str],
    prompts: Collection[str],
    reader: position_reader.Reader | None,
    *,
    symmetric: bool,
  ):
    """Sets the boards of an evalset, and the text of its other questions.

    Boards need the game's reader. If `symmetric`, symmetric boards count, too.
    """
    self._reader = reader if boards else None
    self._boards = set[int]()
    if reader is not None:
      self._form = reader.form if symmetric else int
      self._boards = {self._form(reader.from_text(each)) for each in boards}
    self._prompts = {prompt.strip() for prompt in prompts}
    self._seen: set[int | str] = set()
    self._rows = 0
    self._symmetric = symmetric

  def add(self, samples: list[row_formats.Sample]) -> None:
    """Searches a row."""
    seen: set[int | str] = set()
    for sample in samples:
      if self._reader is not None:
        seen |= self._boards & {
          self._form(match.position)
          for text in sample.texts()
          for match in self._reader.find(text)
        }
      questions = row_formats.questions(sample)
      seen |= self._prompts & {text.strip() for text in questions}
    self._seen |= seen
    self._rows += bool(seen)

  def report(self) -> dict[str, Any]:
    """Returns the numbers of affected rows and of questions seen."""
    return {
      "rows": self._rows,
      "questions": len(self._boards) + len(self._prompts),
      "questions_seen": len(self._seen),
      "symmetric": self._symmetric,
    }


def _summarize(lengths: list[int], limit: int | None) -> dict[str, int]:
  values = np.quantile(lengths, [*_QUANTILES.values()], method="inverted_cdf")
  report = dict(zip(_QUANTILES, values.tolist(), strict=True))
  if limit is not None:
    over = sum(length > limit for length in lengths)
    report |= {"max_seq_length": limit, "over": over}
  return report


@progress.stage("checking the rows")
def check(
  rows: reading.Rows,
  reader: position_reader.Reader | None,
  *,
  data_format: str = "auto",
  skip_bad_rows: bool = False,
  tokenizer: chat.ChatTokenizer | None = None,
  max_seq_length: int | None = None,
  leakage: Leakage | None = None,
) -> dict[str, Any]:
  """Reads a data file and reports its formats, moves, lengths and leakage.

  Moves are graded if the game has a reader.
  `data_format` is a key of `row_formats.FORMATS`, or `auto` to detect it. Lengths
  are measured if there is a tokenizer, and leakage if there is an evalset's.

  Raises:
    errors.UserError: If a row is bad and not skipped, or no row is left.
  """
  kinds: Counter[str] = Counter()
  labels, lengths = Labels(reader), list[int]()
  contents: set[bytes] = set()
  faults = reading.Faults(rows.path)

  is_auto = data_format == "auto"
  for number, row, samples in reading.read(
    rows, lambda row: row_formats.parse_row(row, data_format), faults
  ):
    kinds[row_formats.name_of(row) if is_auto else data_format] += 1
    content = repr(samples).encode()
    contents.add(hashlib.blake2b(content, digest_size=16).digest())
    for sample in samples:
      labels.add(number, sample)
      if tokenizer:
        lengths.append(row_formats.num_tokens(sample.encode(tokenizer)))
    if leakage:
      leakage.add(samples)
  faults.check(kinds.total(), skip_bad_rows=skip_bad_rows)
  return {
    "path": rows.path,
    "digest": rows.digest(),
    "rows": kinds.total(),
    "formats": dict(kinds),
    "bad_rows": faults.record().model_dump(),
    "duplicates": kinds.total() - len(contents),
    **labels.report(),
    "tokens": _summarize(lengths, max_seq_length) if tokenizer else None,
    "leakage": leakage and leakage.report(),
  }


def table(report: dict[str, Any]) -> str:
  """Formats a report as lines of text."""
  kinds = ", ".join(f"{n:,} {name}" for name, n in report["formats"].items())
  lines = [
    f"rows        {report['rows']:,}: {kinds}",
    f"duplicates  {report['duplicates']:,}",
  ]
  if (bad := report["bad_rows"])["rows"]:
    lines.append(f"bad rows    {bad['rows']:,}, skipped")
    lines += [f"            {line}" for line in bad["first"]]
  if report["moves"]:
    lines.append(f"moves       {_format_shares(report['moves'])}")
  if report["rejected_moves"]:
    lines.append(f"rejected    {_format_shares(report['rejected_moves'])}")
    pairs = dict(report["pairs"])
    line = f"pairs       {pairs.pop('judged'):,} judged"
    lines.append(f"{line}; {_format_shares(pairs)}" if pairs else line)
  for remark, entry in report["format_errors"].items():
    numbers = [str(number) for number in entry["lines"][:_PRINTED]]
    more = ", …" * (entry["count"] > len(numbers))
    lines.append(
      f"format      {entry['count']:,} times: {remark} (line"
      f" {', '.join(numbers)}{more})"
    )
  if tokens := report["tokens"]:
    lengths = ", ".join(f"{name} {n:,}" for name, n in tokens.items())
    lines.append(f"tokens      {lengths}")
  if leaks := report["leakage"]:
    also = ", or a symmetric board," if leaks["symmetric"] else ""
    lines.append(
      f"leakage     {leaks['questions_seen']:,} of {leaks['questions']:,}"
      f" questions of the evalset{also} appear in {leaks['rows']:,} rows"
    )
  return "\n".join(lines)


def _format_shares(shares: dict[str, Any]) -> str:
  return ", ".join(
    f"{name.replace('_', ' ')} {entry['count']:,} ({entry['share']:.1%})"
    for name, entry in shares.items()
  )
