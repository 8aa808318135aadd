"""Campaigns: attacks by number, each judged by what is left afterwards."""

from collections.abc import Iterator
import dataclasses
import itertools
import pathlib
import random
import re
import shutil
import time
from typing import Any, NamedTuple

import yaml

from tests.faults import compare
from tests.faults import damage
from tests.faults import kill
from tests.faults import subjects
from tests.faults import zygote
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest

# A process that has lost another one ends within this many seconds.
_LOST = 90.0
# Of a message, in characters.
_LONG = 2000


class Verdict(NamedTuple):
  """The end of an attack.

  Attributes:
    attack: what was done.
    answer: how it ended well: `same bits` or `message`.
    fault: what is wrong; empty where the run survived.
    in_run: whether the run's directory existed at the time.
  """

  attack: str
  answer: str
  fault: str
  in_run: bool = True


def _ended(process: zygote.Process) -> str:
  """Describes a process that should have ended otherwise."""
  code = process.code
  lines = process.err.read_text(errors="replace").strip().splitlines()
  last = lines[-1][:300] if lines else ""
  return f"exit code {code}, {len(lines)} lines on stderr, the last: {last}"


def _clear(path: pathlib.Path) -> None:
  if path.exists():
    shutil.rmtree(path)


class Kills:
  """Kills runs of a subject, goes on with them and compares their ends."""

  def __init__(self, name: str, work: pathlib.Path, cache: pathlib.Path):
    """Makes the uninterrupted run that all others are compared with.

    Args:
      name: name of the subject.
      work: directory for runs.
      cache: directory of compiled programs.
    """
    self._cache = cache
    self._subject, self._case = subjects.SUBJECTS[name], work / f"kills-{name}"
    listing = work / f"{name}.writes"
    _clear(self._case)
    self._subject.prepare(self._case)
    began = time.monotonic()
    processes = self._start("reference", [kill.ListWrites(listing)])
    for process in processes:
      if process.wait():
        raise RuntimeError(f"{name}: {_ended(process)}")
    self._seconds = time.monotonic() - began
    self._writes = listing.read_text().splitlines()
    self._expected = zygote.call(compare.state, self._run)

  @property
  def _run(self) -> pathlib.Path:
    return self._case / subjects.RUN

  def _start(
    self, name: str, acts: list[Any] | None = None, is_killed: bool = False
  ) -> list[zygote.Process]:
    """Starts a run or goes on with it; `acts` see the writes of processes."""
    acts = acts or []
    commands = self._subject.commands(self._run.exists())
    return [
      zygote.Process(
        command,
        self._case,
        self._case / f"{name}-{number}",
        devices=self._subject.devices,
        before=kill.Hook(self._case, act) if act else None,
        keeps_programs=not is_killed,
        cache=None if self._subject.processes == 1 else self._cache,
      )
      for number, (command, act) in enumerate(
        itertools.zip_longest(commands, acts)
      )
    ]

  def attack(self, number: int, seed: str) -> Verdict | None:
    """Kills a run, once or more; None if none of the kills came in time.

    Args:
      number: number of the attack: by turns any instant, one after the run's
        directory exists, and a write.
      seed: seed of all that is drawn.
    """
    rng = random.Random(f"{seed}/{number}")
    _clear(self._case)
    self._subject.prepare(self._case)
    kills, in_run = [], False
    for again in range(rng.choice((1, 1, 1, 2, 3))):
      mode = number % 3 if not again else 0
      attack, processes, is_killed = self._kill(mode, number // 3, rng, again)
      if is_killed:
        kills.append(attack)
        in_run |= self._run.exists()
      for process in processes:
        if process.wait(_LOST) is None:
          process.kill()
          fault = "a process did not end when another one was killed"
          return Verdict(", then ".join(kills), "", fault, in_run)
    if not kills:
      return None
    return Verdict(", then ".join(kills), "same bits", self._finish(), in_run)

  def _kill(
    self, mode: int, turn: int, rng: random.Random, again: int
  ) -> tuple[str, list[zygote.Process], bool]:
    count = self._subject.processes
    chosen = rng.sample(range(count), rng.randint(1, count))
    which = f" of {len(chosen)} of {count} processes" if count > 1 else ""
    if mode == 2:
      kind, nth = kill.choose_write(self._writes, turn, rng)
      # The first process writes; others hardly do.
      acts = [kill.AtWrite(kind, nth)]
      processes = self._start(f"killed-{again}", acts, True)
      processes[0].wait()
      return f"before {kind} ({nth})", processes, processes[0].code == -9
    began = time.monotonic()
    processes = self._start(f"killed-{again}", is_killed=True)
    seconds = rng.random() * self._seconds
    victims = [processes[n] for n in chosen]
    exists = self._run if mode else None
    is_killed = kill.after(processes, victims, seconds, exists)
    if not is_killed:
      # It is faster than the first one, which compiled everything.
      self._seconds = min(self._seconds, time.monotonic() - began)
    at = f"{seconds:.2f} s after {'its directory' if mode else 'the start'}"
    return f"{at}{which}", processes, is_killed

  def _finish(self) -> str:
    """Goes on to the end; returns what is wrong with that."""
    for process in self._start("resumed"):
      if process.wait() != 0:
        process.kill()
        return _ended(process)
    state = zygote.call(compare.state, self._run)
    other = compare.difference(self._expected, state)
    return f"other bits: {', '.join(other)}" if other else ""


@dataclasses.dataclass(frozen=True)
class _Baseline:
  """An action on the undamaged run: what it makes and how much it writes."""

  action: subjects.Action
  product: dict[str, Any]
  written: int
  largest: int


class Damages:
  """Damages copies of a run and has them read."""

  def __init__(
    self,
    run: pathlib.Path,
    directory: pathlib.Path,
    work: pathlib.Path,
  ):
    """Reads what there is to attack.

    Args:
      run: run to attack, which is copied.
      directory: working directory that paths in its config are relative to.
      work: directory for copies.
    """
    self._original, self._directory, self._work = run, directory, work
    self._case = work / "case"
    self._manifest = run_manifest.RunManifest.read(run)
    self._config = yaml.safe_dump(self._manifest.config)
    self._disks = damage.own_mounts()
    steps = run_directory.checkpoint_steps(run)
    actions = subjects.actions(self._case, run, self._manifest, steps)
    self._actions = {action.name: action for action in actions}
    self._baselines: dict[str, _Baseline] = {}

  def _copy(self) -> None:
    _clear(self._case)
    self._case.mkdir()
    self._fill_case()

  def _fill_case(self) -> None:
    (self._case / subjects.MADE).mkdir()
    (self._case / subjects.CONFIG).write_text(self._config)
    shutil.copytree(self._original, self._case / subjects.RUN)

  def _act(self, action: subjects.Action, before: Any = None) -> zygote.Process:
    log = self._work / action.name
    process = zygote.Process(
      action.arguments, self._directory, log, before=before
    )
    process.wait()
    return process

  def _product(self, action: subjects.Action) -> dict[str, Any]:
    if action.goes_on:
      return zygote.call(compare.state, self._case / subjects.RUN)
    return compare.bytes_of(self._case / subjects.MADE)

  def _baseline(self, name: str) -> _Baseline:
    """Returns how an action ends on an undamaged copy, the first time by it."""
    if name not in self._baselines:
      self._baselines[name] = self._measure(self._actions[name])
    return self._baselines[name]

  def _measure(self, action: subjects.Action) -> _Baseline:
    self._copy()
    before = _sizes(self._case)
    process = self._act(action)
    if process.code:
      raise RuntimeError(f"{action.name}: {_ended(process)}")
    after = _sizes(self._case)
    new = [size for path, size in after.items() if path not in before]
    return _Baseline(
      action, self._product(action), sum(new), max(new, default=1)
    )

  def attacks(self, seed: str) -> Iterator[tuple[str, str, str]]:
    """Yields (action, path, kind of damage), all that there are.

    Actions and what they read take turns, so that a checkpoint's many files do
    not hide the others.
    """
    groups = []
    for name, action in self._actions.items():
      for part in action.reads:
        root = self._original / part
        paths = [root] if root.exists() else []
        # A command that writes nothing only looks whether it is there.
        paths += root.rglob("*") if action.writes else ()
        # Names of TensorStore's files are random.
        paths.sort(key=lambda p: (p.parent, p.stat().st_size, p.name))
        groups.append(
          [
            (name, str(path.relative_to(self._original)), kind)
            for path in paths
            for kind in damage.kinds(path)
          ]
        )
      if action.writes:
        disks = ["limit", *["full"] * self._disks]
        groups.append([(name, "disk", kind) for kind in disks * 4])
    rng = random.Random(seed)
    for group in groups:
      rng.shuffle(group)
    rng.shuffle(groups)
    for row in itertools.zip_longest(*groups):
      yield from (attack for attack in row if attack is not None)

  def attack(self, attack: tuple[str, str, str], seed: str) -> Verdict:
    """Damages a copy of the run, has it read and judges the answer."""
    name, path, kind = attack
    baseline = self._baseline(name)
    rng = random.Random(f"{seed}/{attack}")
    label = f"{kind} {path}, {name}"
    if path == "disk":
      return self._attack_disk(label, baseline, kind, rng)
    self._copy()
    target = self._case / subjects.RUN / path
    damage.OF_FILES[kind](target, rng)
    before = self._contents()
    process = self._act(baseline.action)
    lost = compare.difference(before, self._contents())
    if process.code == 0:
      # What was neither used nor repaired is as damaged as before.
      touched = any(_is_of(f"case/{subjects.RUN}/{path}", x) for x in lost)
      left = None if touched else path
      return Verdict(label, "same bits", self._compare(baseline, left))
    fault = _message_fault(process)
    if not fault and lost:
      fault = f"exit code 2, but these have changed: {', '.join(lost[:5])}"
    return Verdict(label, "message", fault)

  def _contents(self) -> dict[str, str]:
    """Returns the digests of what a command that is refused must not touch."""
    return {
      name: value
      for name, value in compare.bytes_of(self._case).items()
      if not compare.is_log(name)
    }

  def _compare(self, baseline: _Baseline, left: str | None = None) -> str:
    """Returns how a product differs from the baseline's.

    Args:
      baseline: baseline of the action.
      left: path in the run that the action left as it was, damaged.
    """
    other = compare.difference(baseline.product, self._product(baseline.action))
    if left is not None and not left.startswith(run_directory.FINAL_CHECKPOINT):
      other = [name for name in other if not _is_of(name, left)]
    return f"exit code 0, other bits: {', '.join(other[:5])}" if other else ""

  def _attack_disk(
    self, label: str, baseline: _Baseline, kind: str, rng: random.Random
  ) -> Verdict:
    """Leaves too little room, then enough: nothing may be lost."""
    action = baseline.action
    _clear(self._case)
    self._case.mkdir()
    disk = damage.Disk(self._case) if kind == "full" else None
    try:
      self._fill_case()
      if disk is None:
        size = rng.randrange(baseline.largest)
        process = self._act(action, lambda: damage.limit_files(size))
      else:
        size = rng.randrange(baseline.written)
        disk.fill(size)
        process = self._act(action)
        disk.enlarge()
      label = f"{label}, {size:,} bytes"
      if process.code == 0:
        return Verdict(label, "same bits", self._compare(baseline))
      if fault := _message_fault(process):
        return Verdict(label, "message", fault)
      process = self._act(action)
      fault = f"once there is room: {_ended(process)}"
      if process.code == 0:
        fault = self._compare(baseline)
      return Verdict(label, "message", fault)
    finally:
      if disk is not None:
        disk.remove()


def _is_of(first: str, second: str) -> bool:
  """Returns whether one path is the other one, or is below it."""
  one, two = (re.split("[/:]", name) for name in (first, second))
  return all(a == b for a, b in zip(one, two, strict=False))


def _message_fault(process: zygote.Process) -> str:
  """Returns what is wrong with a refusal: it should be one message and 2."""
  text = process.err.read_text(errors="replace")
  errors = [x for x in text.splitlines() if x.startswith("error: ")]
  is_clear = "Traceback" not in text and len(text) < _LONG
  if process.code == 2 and len(errors) == 1 and is_clear:
    return ""
  return _ended(process)


def _sizes(directory: pathlib.Path) -> dict[pathlib.Path, int]:
  files = [path for path in directory.rglob("*") if path.is_file()]
  return {path: path.stat().st_size for path in files}


def make_runs(name: str, work: pathlib.Path) -> dict[str, pathlib.Path]:
  """Makes a finished run of a subject, and one killed with two checkpoints.

  Args:
    name: name of the subject.
    work: directory for runs.

  Returns:
    The working directories, by `finished` and `killed`.
  """
  subject, found = subjects.SUBJECTS[name], {}
  listing = work / f"{name}-finished.writes"
  for kind in ("finished", "killed"):
    found[kind] = directory = work / f"{name}-{kind}"
    subject.prepare(directory)
    act = kill.ListWrites(listing)
    if kind == "killed":
      # The one that makes the last checkpoint count.
      last = [
        w
        for w in listing.read_text().splitlines()
        if w.startswith(
          f"os.rename {subjects.RUN}/{run_directory.CHECKPOINTS}/#"
        )
      ]
      act = kill.AtWrite(last[-1], last.count(last[-1]))
    (arguments,) = subject.commands(False)
    process = zygote.Process(
      arguments,
      directory,
      directory / kind,
      devices=subject.devices,
      before=kill.Hook(directory, act),
    )
    if process.wait() != (0 if kind == "finished" else -9):
      raise RuntimeError(f"{name}: {_ended(process)}")
  return found
