"""Attacks runs: kills them, or damages their files, and counts survivors."""

import argparse
import collections
from collections.abc import Iterable
import itertools
import pathlib
import shutil
import sys
import tempfile

from tests.faults import campaign
from tests.faults import damage
from tests.faults import subjects
from tests.faults import zygote

_KINDS = ("kills", "damage")


def make_parser() -> argparse.ArgumentParser:
  """Returns the parser of the command's flags."""
  parser = argparse.ArgumentParser(
    prog="python -m tests.faults", description=__doc__
  )
  parser.add_argument(
    "--kind",
    choices=_KINDS,
    nargs="+",
    default=[*_KINDS],
    help="kill runs and go on with them, or damage finished and killed runs",
  )
  parser.add_argument(
    "--subject",
    nargs="+",
    choices=[*subjects.SUBJECTS],
    default=["sft"],
    help="tiny runs to make and attack; pipelines and two processes are only"
    " killed",
  )
  parser.add_argument(
    "--run",
    type=pathlib.Path,
    help="a run of yours to damage copies of, in place of a tiny one",
  )
  parser.add_argument(
    "--action",
    nargs="+",
    help="commands that read damaged runs, as failures name them; by default"
    " all",
  )
  parser.add_argument(
    "--damage",
    nargs="+",
    choices=[*damage.OF_FILES, *damage.OF_DISKS],
    default=[*damage.OF_FILES, *damage.OF_DISKS],
    help="kinds of damage; by default all",
  )
  parser.add_argument(
    "--count", type=int, default=20, help="attacks on each run"
  )
  parser.add_argument("--seed", default="0", help="seed of the attacks")
  parser.add_argument(
    "--reproduce",
    type=int,
    metavar="NUMBER",
    help="repeat the attack of this number alone, and keep what it leaves",
  )
  parser.add_argument(
    "--work",
    type=pathlib.Path,
    help="directory to make for runs and logs, which is kept",
  )
  parser.add_argument(
    "--cache",
    type=pathlib.Path,
    help="directory of compiled programs; by default one in --work",
  )
  return parser


class _Table:
  """Prints failures as they come, and a row for each kind of attack."""

  _COLUMNS = ("survived", "attempted", "in run", "same bits", "message")

  def __init__(self) -> None:
    """Prints the names of the columns."""
    self._counts: dict[str, collections.Counter[str]] = {}
    self._row("", self._COLUMNS)

  def _row(self, name: str, cells: Iterable[object]) -> None:
    print(f"{name:24}" + "".join(f"{cell:>11}" for cell in cells), flush=True)

  def add(self, name: str, number: int, verdict: campaign.Verdict) -> None:
    """Counts a verdict, and prints a failure."""
    counts = self._counts.setdefault(name, collections.Counter())
    counts["attempted"] += 1
    counts["in run"] += verdict.in_run
    counts["survived" if not verdict.fault else "failed"] += 1
    if verdict.fault:
      print(
        f"FAILED {name} #{number}: {verdict.attack}: {verdict.fault}",
        flush=True,
      )
    else:
      counts[verdict.answer] += 1

  def end(self, name: str) -> None:
    """Prints the row of a kind of attack."""
    if counts := self._counts.get(name):
      self._row(name, [counts[column] for column in self._COLUMNS])

  def all_survived(self) -> bool:
    """Returns whether there were attacks, and none found a fault."""
    failed = any(counts["failed"] for counts in self._counts.values())
    return bool(self._counts) and not failed


def _kill(name: str, flags: argparse.Namespace, table: _Table) -> None:
  killed, attacker = 0, campaign.Kills(name, flags.work, flags.cache)
  for number in itertools.count(flags.reproduce or 0):
    verdict = attacker.attack(number, f"{flags.seed}/{name}")
    if verdict is not None:
      table.add(f"kills {name}", number, verdict)
      killed += 1
    if killed == flags.count or flags.reproduce is not None:
      break
  table.end(f"kills {name}")


def _damage(name: str, flags: argparse.Namespace, table: _Table) -> None:
  if flags.run is not None:
    directories = {"": pathlib.Path.cwd()}
    where = {"": flags.run.resolve()}
  else:
    directories = campaign.make_runs(name, flags.work)
    where = {k: v / "run" for k, v in directories.items()}
  for kind, run in where.items():
    attacker = campaign.Damages(run, directories[kind], flags.work)
    seed = f"{flags.seed}/{name}/{kind}"
    first = flags.reproduce or 0
    end = flags.count if flags.reproduce is None else first + 1
    attacks = enumerate(
      attack
      for attack in attacker.attacks(seed)
      if flags.action is None or attack[0] in flags.action
      if attack[2] in flags.damage
    )
    title = f"damage {name} {kind}".strip()
    for number, attack in itertools.islice(attacks, first, end):
      table.add(title, number, attacker.attack(attack, seed))
    table.end(title)


def _attack(flags: argparse.Namespace) -> bool:
  zygote.prepare(flags.cache)
  subjects.write_data(flags.work)
  table = _Table()
  names = ["run"] if flags.run is not None else flags.subject
  for name in names:
    if "kills" in flags.kind and flags.run is None:
      _kill(name, flags, table)
    if "damage" in flags.kind and name not in subjects.KILLED_ONLY:
      _damage(name, flags, table)
  return table.all_survived()


def main() -> None:
  """Parses the flags, attacks and prints a table."""
  flags = make_parser().parse_args()
  is_kept = flags.work is not None or flags.reproduce is not None
  if flags.work is None:
    flags.work = pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
  else:
    flags.work.mkdir(parents=True)
  flags.work = flags.work.resolve()
  flags.cache = (flags.cache or flags.work / "cache").resolve()
  try:
    has_survived = _attack(flags)
  finally:
    if not is_kept:
      shutil.rmtree(flags.work)
  if is_kept:
    print(f"runs and logs: {flags.work}")
  sys.exit(not has_survived)


if __name__ == "__main__":
  main()
