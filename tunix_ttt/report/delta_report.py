"""Compares answers before and after training, and reports in Markdown."""

from collections.abc import Iterable, Sequence
import html
import pathlib
from typing import NamedTuple

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.evaluate import evalsets as answers_lib
from tunix_ttt.evaluate import statistics

_HEADER = (
  "| section | items | before | after | change | 95% CI of the change | p |"
  " wrong → right | right → wrong |\n"
  "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)

_ESCAPES = {ord(c): f"&#{ord(c)};" for c in "&<>\"'\\`*_{}[]|#~"}


class Pair(NamedTuple):
  """The answers to one item before and after training."""

  before: answers_lib.Answer
  after: answers_lib.Answer

  @property
  def flip(self) -> int:
    """The change of the score: 1, 0 or -1."""
    return self.after.score - self.before.score


def read(before: pathlib.Path, after: pathlib.Path) -> list[Pair]:
  """Reads two files of answers and pairs the answers by item.

  Raises:
    errors.UserError: If a file is wrong, or their items differ.
  """
  old, new = answers_lib.read(before), answers_lib.read(after)
  for answers, others, path, other_path in (
    (old, new, before, after),
    (new, old, after, before),
  ):
    missing = sorted(answers.keys() - others.keys())
    if missing:
      raise errors.UserError(
        f"{other_path}: has no answer to {', '.join(missing[:3])}"
        f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}, which"
        f" {path} answers; generate both from the same evalset"
      )
  pairs = [Pair(answer, new[key]) for key, answer in old.items()]
  for b, a in pairs:
    for field in ("prompt", "expected_answer", "match", "section"):
      if getattr(b, field) != getattr(a, field):
        raise errors.UserError(
          f"{after}: the item {a.id!r} has another {field} than in"
          f" {before}; generate both from the same evalset"
        )
  return pairs


def write(pairs: Sequence[Pair], output: pathlib.Path) -> None:
  """Writes the report.

  Raises:
    errors.UserError: If the file exists.
  """
  files.check_absent(output)
  files.write_text(output, render(pairs))


def render(pairs: Sequence[Pair], *, num_examples: int = 5) -> str:
  """Returns the report, with up to `num_examples` for each score change."""
  overall, random_score = compare(pairs), chance(pairs)
  random_text = (
    ""
    if random_score is None
    else f" A random legal move would score {random_score:.3f}."
  )
  rows = [_row(name, paired) for name, paired in sections(pairs).items()]
  parts = [
    "# Evaluation: before and after",
    f"Before: {code(pairs[0].before.model)}  \n"
    f"After: {code(pairs[0].after.model)}",
    f"**{overall.before:.3f} → {overall.after:.3f}** of {overall.count} items"
    f" right ({overall.change:+.3f}, 95% CI {overall.low:+.3f} to"
    f" {overall.high:+.3f}).{random_text}",
    "\n".join((_HEADER, _row("**all**", overall), *rows)),
    "Before and after are means ± sample standard deviations of the items'"
    " scores, 1 for right and 0 for wrong. p: exact McNemar test. Interval:"
    " Newcombe 1998, method 10, for paired proportions.",
    _verdicts(pairs),
    *_examples("Wrong → right", pairs, 1, num_examples),
    *_examples("Right → wrong", pairs, -1, num_examples),
    *_examples("Unchanged", pairs, 0, num_examples),
    _items(pairs),
  ]
  return "\n\n".join(parts) + "\n"


def sections(pairs: Sequence[Pair]) -> dict[str, statistics.Paired]:
  """Compares the scores in each section of an evalset."""
  by_section: dict[str, list[Pair]] = {}
  for paired in pairs:
    by_section.setdefault(paired.before.section, []).append(paired)
  return {name: compare(group) for name, group in by_section.items()}


def compare(pairs: Iterable[Pair]) -> statistics.Paired:
  """Compares scores before and after training."""
  scores = [(p.before.score, p.after.score) for p in pairs]
  return statistics.compare([b for b, _ in scores], [a for _, a in scores])


def _row(name: str, s: statistics.Paired) -> str:
  cells = (
    name if name.startswith("**") else escape(name),
    str(s.count),
    f"{s.before:.3f} ± {s.before_std:.3f}",
    f"{s.after:.3f} ± {s.after_std:.3f}",
    f"{s.change:+.3f}",
    f"{s.low:+.3f} to {s.high:+.3f}",
    f"{s.p_value:.2g}",
    str(s.gained),
    str(s.lost),
  )
  return f"| {' | '.join(cells)} |"


def chance(pairs: Sequence[Pair]) -> float | None:
  """Returns the expected score of random legal moves; None for other items."""
  chances = [p.before.chance for p in pairs if p.before.chance is not None]
  return sum(chances) / len(chances) if len(chances) == len(pairs) else None


def _verdicts(pairs: Sequence[Pair]) -> str:
  lines = ["| verdict | before | after |", "|---|---:|---:|"]
  kinds = dict.fromkeys(a.verdict for p in pairs for a in p)
  for kind in sorted(kinds):
    before = sum(p.before.verdict == kind for p in pairs)
    after = sum(p.after.verdict == kind for p in pairs)
    lines.append(f"| {escape(kind)} | {before} | {after} |")
  return "\n".join(lines)


def _examples(
  title: str, pairs: Sequence[Pair], flip: int, limit: int
) -> list[str]:
  chosen = [p for p in pairs if p.flip == flip]
  blocks = [f"## {title}: {len(chosen)}"]
  # Evenly spaced, to cover every section.
  for b, a in chosen[:: -(-len(chosen) // limit) or 1]:
    expected = b.expected_answer
    if not isinstance(expected, str):
      expected = ", ".join(expected)
    blocks.append(
      f"### {escape(b.id)}\n\n<pre>{_pre(b.prompt)}</pre>\n\n"
      f"Expected: {code(expected)}\n\n"
      "<table><tr><th>before</th><th>after</th></tr>"
      f"<tr><td><pre>{_pre(b.response)}</pre></td>"
      f"<td><pre>{_pre(a.response)}</pre></td></tr>"
      f"<tr><td>{_pre(b.verdict)}</td><td>{_pre(a.verdict)}</td></tr></table>"
    )
  return blocks


def _items(pairs: Sequence[Pair]) -> str:
  lines = [
    "## Every item",
    "",
    "<details><summary>score before and after</summary>",
    "",
    "| item | section | before | after |",
    "|---|---|---:|---:|",
  ]
  for b, a in pairs:
    lines.append(
      f"| {escape(b.id)} | {escape(b.section)} | {b.score} | {a.score} |"
    )
  return "\n".join([*lines, "", "</details>"])


def _pre(text: str) -> str:
  """Escapes text for a raw HTML block, which ends at a blank line."""
  return html.escape(text).replace("\n", "&#10;")


def escape(text: str) -> str:
  """Escapes text for a Markdown line or table cell."""
  return " ".join(text.split()).translate(_ESCAPES)


def code(text: str) -> str:
  """Formats text as code for a Markdown line or table cell."""
  return f"<code>{escape(text)}</code>"
