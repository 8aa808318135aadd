"""Tests that damaged and interrupted runs are detected and recovered."""

import dataclasses
import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import test_sft
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import recipes
from tunix_ttt.models import checkpoints
from tunix_ttt.runs import integrity
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.train import resume_checks

CONFIG = dataclasses.replace(
  test_sft.CONFIG,
  training=config_lib.TrainingConfig(
    max_steps=5, batch_size=8, eval_every_n_steps=2
  ),
  checkpoint=config_lib.CheckpointConfig(save_interval_steps=2),
)
STEPS = [2, 4, 5]


def append(path, row):
  with path.open("a") as file:
    file.write(json.dumps(row) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A run of five steps by hand, saved by Orbax after the steps 2, 4 and 5."""
  run = tmp_path_factory.mktemp("runs") / "made"
  (run / run_directory.OPPONENTS).mkdir(parents=True)
  options = resume_checks.options(config_lib.CheckpointConfig(max_to_keep=3))
  manager = ocp.CheckpointManager(
    run / run_directory.CHECKPOINTS, options=options
  )
  append(run / run_directory.METRICS, {"step": 0, "split": "eval", "loss": 7.0})
  for step in range(1, 6):
    append(
      run / run_directory.METRICS, {"step": step, "split": "train", "loss": 1.5}
    )
    append(run / run_directory.ROLLOUTS, {"step": step, "board": "........."})
    (run / run_directory.OPPONENTS / f"{step}.bin").write_bytes(
      bytes([step] * 7)
    )
    state = {"a": np.arange(5) + step, "b": {"c": np.float32(step)}}
    if step in STEPS:
      manager.save(step, args=ocp.args.StandardSave(state))
    if step % 2 == 0:
      append(
        run / run_directory.METRICS,
        {"step": step, "split": "eval", "loss": 1.0},
      )
  manager.close()
  return run


@pytest.fixture
def run(made, tmp_path):
  return shutil.copytree(made, tmp_path / "run")


def checked_files(directory):
  unchecked = ("_CHECKPOINT_METADATA", "commit_success.txt")
  found = [p for p in directory.rglob("*") if p.is_file()]
  return [path for path in found if path.name not in unchecked]


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


def test_a_whole_run_goes_on_from_any_checkpoint(run):
  assert resume_checks.choose(run, None) == 5
  assert [resume_checks.choose(run, step) for step in STEPS] == STEPS
  # A row of what came later was cut short.
  with (run / run_directory.METRICS).open("a") as file:
    file.write('{"step": 6, "spl')
  assert resume_checks.choose(run, None) == 5
  rows = resume_checks.rewind(run, 4)
  # The evaluation of step 4 is made again.
  expected = [(0, "eval"), (1, "train"), (2, "train"), (2, "eval")]
  expected += [(3, "train"), (4, "train")]
  assert [(row["step"], row["split"]) for row in rows] == expected
  assert run_directory.read_metrics(run) == rows
  games = (run / run_directory.ROLLOUTS).read_text().splitlines()
  assert [json.loads(game)["step"] for game in games] == [1, 2, 3, 4]
  assert resume_checks.choose(run, 4) == 4
  assert resume_checks.rewind(run, 0) == []
  assert (run / run_directory.METRICS).read_bytes() == b""
  assert (run / run_directory.ROLLOUTS).read_bytes() == b""


def test_any_damage_to_a_checkpoint_is_noticed(run, capsys):
  latest = run / run_directory.CHECKPOINTS / "5"
  attacks = {
    "flip": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "empty": lambda path: path.write_bytes(b""),
    "remove": lambda path: path.unlink(),
    "directory": lambda path: (path.unlink(), path.mkdir()),
  }
  for path in checked_files(latest):
    whole = path.read_bytes()
    for name, attack in attacks.items():
      attack(path)
      assert resume_checks.choose(run, None) == 4, (path, name)
      assert capsys.readouterr().out.startswith(f"note: {latest}/")
      with pytest.raises(errors.UserError) as found:
        resume_checks.choose(run, 5)
      assert str(found.value).endswith("of step 5 is damaged; undamaged: 2, 4")
      shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
      path.write_bytes(whole)
  assert resume_checks.choose(run, None) == 5


def test_nothing_is_whole(run):
  root = run / run_directory.CHECKPOINTS
  for step in STEPS:
    (root / str(step) / integrity.DIGESTS).unlink()
  with pytest.raises(errors.UserError, match=r"all checkpoints .2, 4, 5. are"):
    resume_checks.choose(run, None)
  shutil.rmtree(root)
  assert resume_checks.choose(run, None) == 0
  with pytest.raises(errors.UserError, match="step 5; available: none"):
    resume_checks.choose(run, 5)
  root.write_text("")
  with pytest.raises(errors.UserError, match="expected a directory, found a"):
    resume_checks.choose(run, None)


def edit_line(number, line):
  def edit(path):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = line
    path.write_bytes(b"".join(lines))

  return edit


def keep_lines(count):
  def keep(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:count]))

  return keep


OTHER = b'{"step": 4, "split": "train", "loss": 1.6}\n'


# The checkpoint of step 2 is saved after the third line of metrics.
@pytest.mark.parametrize(
  ("name", "damage", "found", "advice"),
  [
    (
      run_directory.METRICS,
      edit_line(6, b"garbage\n"),
      ":6: not valid JSON",
      2,
    ),
    (
      run_directory.METRICS,
      edit_line(6, b'{"loss": 1}\n'),
      ":6: this row has no",
      2,
    ),
    (run_directory.METRICS, edit_line(6, b"\xff\n"), ":6: .* is not UTF-8", 2),
    (run_directory.METRICS, edit_line(6, OTHER), ": has changed since", 2),
    (run_directory.METRICS, keep_lines(6), ":6: the file ends here", 4),
    (run_directory.METRICS, keep_lines(4), ":4: the file ends here", 2),
    (run_directory.METRICS, keep_lines(0), ": the file ends here", None),
    (run_directory.METRICS, lambda p: p.unlink(), ": No such file", None),
    (
      run_directory.METRICS,
      lambda p: (p.unlink(), p.mkdir()),
      ": Is a dir",
      None,
    ),
    (run_directory.METRICS, flip, "has changed|not valid JSON", 2),
    (run_directory.ROLLOUTS, keep_lines(3), ":3: the file ends here", 2),
    (f"{run_directory.OPPONENTS}/3.bin", flip, "has changed since", 2),
    (
      f"{run_directory.OPPONENTS}/5.bin",
      lambda p: p.unlink(),
      "No such file",
      4,
    ),
  ],
)
def test_what_a_checkpoint_needs_of_its_run(run, name, damage, found, advice):
  damage(run / name)
  with pytest.raises(errors.UserError, match=found) as refused:
    resume_checks.choose(run, None)
  message = str(refused.value)
  assert message.startswith(f"{run / name}")
  if advice is None:
    assert message.endswith("start a new run")
  else:
    assert message.endswith(f"from step {advice} (--resume {advice})")
    assert resume_checks.choose(run, advice) == advice


class Killed(BaseException):
  """Stands for a kill between two operations."""


def test_going_back_can_be_killed_at_any_moment(
  finished, tmp_path, monkeypatch
):
  """After each operation the run is not finished, or has its model."""
  rename = run_directory.pathlib.Path.rename
  for last in range(6):
    run = shutil.copytree(finished, tmp_path / str(last))
    (run / run_directory.PAGE).write_text("page")
    (run / run_directory.OPPONENTS).mkdir()
    for step in (2, 4):
      (run / run_directory.OPPONENTS / f"{step}.bin").write_bytes(b"table")
    done = []

    def rename_or_die(path, target, done=done, last=last):
      if len(done) == last:
        raise Killed
      done.append(path)
      return rename(path, target)

    manifest = run_manifest.RunManifest.read(run)
    with monkeypatch.context() as patch:
      patch.setattr(run_directory.pathlib.Path, "rename", rename_or_die)
      try:
        resume_checks.go_back(run, manifest, 2, chosen=True)
        assert last == 5
      except Killed:
        assert last < 5
    assert run_manifest.RunManifest.read(run).status == "running"
    assert resume_checks.choose(run, None) == [5, 4, 2, 2, 2, 2][last]
  (aside,) = (tmp_path / "5").glob("superseded-*")
  assert {path.name for path in aside.iterdir()} == {
    *("4", "4.bin", "5"),
    *(run_directory.FINAL_CHECKPOINT, run_directory.PAGE),
  }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run with checkpoints of the steps 2, 4 and 5."""
  return recipes.train_sft(CONFIG, tmp_path_factory.mktemp("runs") / "run")


def test_a_damaged_latest_checkpoint_and_a_lost_model(
  finished, tmp_path, capsys
):
  run = shutil.copytree(finished, tmp_path / "run")
  model = run / run_directory.FINAL_CHECKPOINT
  flip(model / "model.json")
  shutil.rmtree(run / run_directory.CHECKPOINTS / "5" / "optimizer_state")
  assert recipes.resume(run, CONFIG) == run
  said = capsys.readouterr().out
  assert f"note: {model}/model.json: has changed since" in said
  assert "checkpoints/5/optimizer_state" in said
  assert "no such file; resuming from step 4" in said
  assert test_sft.rows(run) == test_sft.rows(finished)
  assert test_sft.final(run) == test_sft.final(finished)
  assert test_sft.optimizer_state(run) == test_sft.optimizer_state(finished)
  manifest = run_manifest.RunManifest.read(run)
  assert manifest.status == "finished"
  assert [session.from_step for session in manifest.sessions] == [0, 4]
  (aside,) = run.glob("superseded-*")
  assert {p.name for p in aside.iterdir()} == {
    "5",
    run_directory.FINAL_CHECKPOINT,
  }
  # All that is left is to save the model.
  shutil.rmtree(model)
  recipes.resume(run, CONFIG)
  assert test_sft.final(run) == test_sft.final(finished)
  assert test_sft.rows(run) == test_sft.rows(finished)


def test_a_changed_description_of_a_model(finished, tmp_path):
  model = shutil.copytree(
    finished / run_directory.FINAL_CHECKPOINT, tmp_path / "model"
  )
  path = model / "model.json"
  text = path.read_text()
  assert '"rope_theta": 10000.0' in text
  path.write_text(text.replace('"rope_theta": 1', '"rope_theta": 3'))
  with pytest.raises(errors.UserError, match="model.json: has changed since"):
    checkpoints.load(model)


def test_a_run_of_another_recipe(finished, tmp_path):
  run = shutil.copytree(finished, tmp_path / "run")
  manifest = run_manifest.RunManifest.read(run)
  manifest.model_copy(update={"recipe": "dpo"}).write(run)
  with pytest.raises(errors.UserError, match="this is a dpo run; use"):
    recipes.resume(run, CONFIG)
  with pytest.raises(errors.UserError, match="recipe: 'dpo' has no section"):
    recipes.resume(run)


def test_changed_files_of_a_finished_run(finished, tmp_path):
  run = shutil.copytree(finished, tmp_path / "run")
  manifest = run_manifest.RunManifest.read(run)
  assert run_directory.METRICS in manifest.files
  manifest.check_files(run)
  path = run / run_directory.METRICS
  path.write_text(path.read_text().replace("1", "2", 1))
  with pytest.raises(
    errors.UserError, match="metrics.jsonl: has changed since"
  ):
    manifest.check_files(run)
  path.unlink()
  with pytest.raises(errors.UserError, match="metrics.jsonl: is gone"):
    manifest.check_files(run)
  path = run / run_directory.MANIFEST
  path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
  with pytest.raises(errors.UserError, match="manifest has changed since"):
    run_manifest.RunManifest.read(run)


def test_temporaries_of_killed_processes_are_removed(run):
  (run / run_directory.MANIFEST).write_text("{}")
  dead = [
    run / ".run_manifest.json.0a-1-2b",
    run / ".metrics.jsonl.0a-1-2b",
    run / run_directory.OPPONENTS / ".6.bin.0a-1-2b",
    run / ".checkpoint-final.0a-1-2b" / "params",
    run / "..checkpoint-best.new.0a-1-2b" / "params",
    run / run_directory.CHECKPOINTS / "6.orbax-checkpoint-tmp" / "state",
  ]
  for path in dead:
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
  others = [run / ".lock", run / ".games.jsonl.0a-1-2b"]
  for path in others:
    path.write_text("")
  before = {*run.rglob("*")}
  resume_checks.remove_temporaries(run)
  gone = before - {*run.rglob("*")}
  assert {*dead} <= gone and len(gone) == len(dead) + 3
