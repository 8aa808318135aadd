"""The scripts as users run them: the whole path, and every wrong input."""

import json
import pathlib
import shutil

import pytest
import yaml

from tests import conftest
from tests.conftest import listing
from tests.conftest import refused
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.runs import run_manifest

TRAIN, TRAIN_GRPO, GENERATE, REPORT, EVALSET, PLAY = (
  conftest.ROOT / "training" / f"{name}.py"
  for name in (
    "train_sft_tunix",
    "train_grpo_tunix",
    "eval_generate",
    "eval_report",
    "evalset",
    "eval_play",
  )
)
SETTINGS = {
  "model": conftest.SMALL_MODEL.shape(),
  "data": {"games": {"num_games": 40}},
  "training": {"max_steps": 3, "batch_size": 8},
  "logging": {"report": False},
  "eval": {"max_new_tokens": 16, "batch_size": 8},
  # So that a model that has learned nothing gives answers, too.
  "play": {
    "max_new_tokens": 9,
    "max_turns": 3,
    "batch_size": 64,
    "constrained": True,
  },
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pathlib.Path("config.yaml").write_text(yaml.safe_dump(SETTINGS))


def edit(**sections):
  merged = {k: {**SETTINGS.get(k, {}), **v} for k, v in sections.items()}
  pathlib.Path("config.yaml").write_text(yaml.safe_dump({**SETTINGS, **merged}))


def test_train_generate_report(run):
  evalset = conftest.ROOT / "evalsets" / "tictactoe_v1.jsonl"
  command = (
    TRAIN, "--config", "config.yaml", "--output", "runs/a", "--resume", "auto",
    "--set", "logging.report=true",
  )  # fmt: skip
  code, out, err = run(*command)
  assert code == 0, err
  assert "step 3/3  loss" in out
  assert "trained model: runs/a/checkpoint-final" in out
  assert "as O: " in out and out.endswith("report: runs/a/report.html\n")
  found = listing()
  for name in (
    "games.jsonl",
    "games.summary.json",
    "plots/loss.svg",
    "plots/opening_as_X.png",
    "report.html",
  ):
    assert f"runs/a/{name}" in found
  # What is there is not made again, and stays.
  report = pathlib.Path("runs/a/report.html")
  made, plots = report.read_text(), pathlib.Path("runs/a/plots")
  assert 'id="game"' in made and "Token accuracy" in made
  report.unlink()
  games = pathlib.Path("runs/a/games.jsonl").stat().st_mtime_ns
  code, out, err = run(*command)
  assert code == 0, err
  assert "step 3/3  loss" not in out
  assert report.read_text() == made and plots.is_dir()
  assert pathlib.Path("runs/a/games.jsonl").stat().st_mtime_ns == games
  for model, name in (("base", "before"), ("runs/a/checkpoint-final", "after")):
    code, out, err = run(
      GENERATE, "--model", model, "--config", "config.yaml", "--eval-set",
      evalset, "--output", f"runs/a/eval_{name}.jsonl", "--max-examples", 12,
    )  # fmt: skip
    assert code == 0, err
    assert f"{model}: " in out and "of 12 right" in out
  code, out, err = run(
    REPORT, "--run", "runs/a", "--before", "runs/a/eval_before.jsonl",
    "--after", "runs/a/eval_after.jsonl", "--output", "runs/a/delta_report.md",
    "--plots", "figures",
  )  # fmt: skip
  assert code == 0, err
  assert "right answers to 12 positions" in out and "95% CI" in out
  assert out.endswith("play.py --model runs/a/checkpoint-final\n")
  assert pathlib.Path("runs/a/delta_report.md").read_text().startswith("# Eval")
  assert (
    f"\n\n**{out.splitlines()[0]}**\n"
    in pathlib.Path("runs/a/delta_report.md").read_text()
  )
  whole = pathlib.Path("runs/a/delta_report.html").read_text()
  assert "Answers to the evalset" in whole and 'id="game"' in whole
  assert pathlib.Path("figures/loss.png").read_bytes().startswith(b"\x89PNG")
  code, out, err = run(REPORT, "--run", "runs/a", "--output", "page.html")
  assert code == 0, err
  sentence, page, play = out.splitlines()
  assert sentence.startswith("Loses ") and " as X and " in sentence
  assert page == "page: page.html" and play.startswith("play: ")
  assert f"<h1>{sentence}</h1>" in pathlib.Path("page.html").read_text()


def test_a_run_without_output_makes_its_own_directory(run):
  code, out, _ = run(TRAIN, "--config", "config.yaml", "--set", "seed=5")
  assert code == 0
  (path,) = pathlib.Path("artifacts/training_runs").iterdir()
  assert f"trained model: {path}/checkpoint-final" in out
  assert run_manifest.RunManifest.read(path).seed == 5


def test_dry_run_writes_nothing(run):
  before = listing()
  code, out, _ = run(
    TRAIN, "--config", "config.yaml", "--dry-run", "--max-samples", 30
  )
  assert code == 0 and listing() == before
  assert "model    tiny-qwen2.5:" in out and "steps    3 of 8 rows" in out
  assert "29 rows to train on, 1 held out, 0 dropped" in out


def test_rows_over_the_limit_are_reported(run):
  rows = [
    {"text": "ab"},
    {"text": "".join(map(chr, range(0x4E00, 0x4E50)))},
    {"text": "cd"},
  ]
  pathlib.Path("d.jsonl").write_text(
    "".join(json.dumps(r) + "\n" for r in rows)
  )
  code, out, _ = run(
    TRAIN, "--config", "config.yaml", "--dry-run", "--data", "d.jsonl",
    "--set", "data.max_seq_length=10",
  )  # fmt: skip
  assert code == 0
  assert "1 row to train on, 1 held out, 1 dropped" in out


@pytest.mark.parametrize(
  "flags, found",
  [
    (["--config", "none.yaml"], ["none.yaml: no such config"]),
    (["--config", "."], ["cannot read this config"]),
    (["--config", "config.yaml", "--data", "no.jsonl"], ["no.jsonl: no such data file"]),
    (["--config", "config.yaml", "--set", "training.max_stepz=3"], ["did you mean 'max_steps'?"]),
    (["--config", "config.yaml", "--set", "training.max_steps=three"], ["must be a valid integer, found 'three'"]),
    (["--config", "config.yaml", "--set", "training.max_steps=-3"], ["greater than or equal to 1, found -3"]),
    (["--config", "config.yaml", "--set", "model.name=tiny-quen"], ["tiny-quen: no such model: neither"]),
    (["--config", "config.yaml", "--set", "model.num_kv_heads=3"], ["3 does not divide num_heads"]),
    (["--config", "config.yaml", "--output", "config.yaml"], ["config.yaml: already exists"]),
    (["--config", "config.yaml", "--output", "new", "--resume", "latest"], ["no such run manifest"]),
    (["--config", "config.yaml", "--set", "lora.target_modules=[q]"], ["lora.target_modules: q: this model's linear"]),
  ],
)  # fmt: skip
def test_wrong_flags_and_settings(run, flags, found):
  before = listing()
  refused(run(TRAIN, *flags), *found)
  assert listing() == before


@pytest.mark.parametrize(
  "flags, found",
  [
    ([], "--config"),
    (
      ["--config", "config.yaml", "--max-samples", "0"],
      "must be at least 1, found 0",
    ),
    (
      ["--config", "config.yaml", "--resume", "latest"],
      "--resume needs --output",
    ),
    (
      ["--config", "config.yaml", "--output", "x", "--resume", "soon"],
      "must be latest, auto or a step, found 'soon'",
    ),
    (["--config", "config.yaml", "--nonsense"], "unrecognized arguments"),
  ],
)
def test_flags_that_do_not_parse(run, flags, found):
  refused(run(TRAIN, *flags), found, "; see --help")


@pytest.mark.parametrize(
  "content, found",
  [
    (b"", "d.jsonl: this data file has no rows"),
    (b'{"text": "a"}\n{"text": \n', "d.jsonl:2: not valid JSON"),
    (b'{"text": "a"}\n\n{"txt": "b"}\n', "d.jsonl:3: found the fields txt, expected one of: messages"),
    (b'{"messages": []}\n', "d.jsonl:1: expected a non-empty list of messages"),
    (b'{"text": "\xe9"}\n', "d.jsonl:1: this data file is not UTF-8"),
  ],
)  # fmt: skip
def test_wrong_data(run, content, found):
  pathlib.Path("d.jsonl").write_bytes(content)
  before = listing()
  refused(run(TRAIN, "--config", "config.yaml", "--data", "d.jsonl"), found)
  assert listing() == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
  """A finished run of `SETTINGS`."""
  config = config_lib.load(config_lib.SFTConfig, SETTINGS)
  return recipes.train_sft(config, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def trained(finished):
  shutil.copytree(finished, "run")
  return "run/checkpoint-final"


def test_a_checkpoint_of_another_model(run, trained):
  pathlib.Path("e.jsonl").write_text(
    '{"id": "a", "prompt": "2+2?", "expected_answer": "4"}\n'
  )
  common = ["--config", "config.yaml", "--eval-set", "e.jsonl", "--output", "o"]
  edit(model={"embed_dim": 16})
  refused(
    run(GENERATE, "--model", trained, *common),
    "the checkpoint is of another model: its embed_dim is 32",
  )
  refused(
    run(
      TRAIN, "--config", "config.yaml", "--output", "run", "--resume", "latest"
    ),
    "these keys differ",
    "model.embed_dim",
  )
  refused(run(GENERATE, "--model", "none", *common), "none: no such model")
  assert not pathlib.Path("o").exists()


def test_a_run_says_how_its_model_plays(run, trained):
  flags = ("--output", "g.jsonl", "--episodes", 2, "--set", "seed=3")
  code, _, err = run(PLAY, "--model", trained, *flags)
  assert code == 0, err
  summary = json.loads(pathlib.Path("g.summary.json").read_text())
  assert summary["play"]["constrained"] and summary["play"]["num_games"] == 2
  refused(run(PLAY, "--model", "base", *flags), "--model base", "give --config")
  refused(
    run(PLAY, "--model", trained, *flags, "play.numgames=3"),
    "did you mean 'num_games'?",
  )


def test_wrong_evaluation_input(run, trained):
  common = ["--model", trained, "--config", "config.yaml"]
  refused(
    run(PLAY, *common, "--set", "lora.rank=2", "--output", "o"),
    "has no adapter, but the config has lora",
  )
  refused(
    run(GENERATE, *common, "--eval-set", "e", "--output", "o"),
    "e: no such evalset",
  )
  pathlib.Path("e").write_text('{"id": "a", "prompt": "b"}\n')
  refused(
    run(GENERATE, *common, "--eval-set", "e", "--output", "o"),
    "e:1: expected_answer: Field required",
  )
  pathlib.Path("e").write_text(
    '{"id": "a", "prompt": "b", "expected_answer": "c"}\n'
  )
  refused(
    run(GENERATE, *common, "--eval-set", "e", "--output", "e"),
    "e: already exists",
  )
  refused(
    run(REPORT, "--before", "e", "--after", "e", "--output", "o"),
    "e:1: section: Field required",
  )
  refused(
    run(REPORT, "--before", "x", "--after", "e", "--output", "o"),
    "x: no such answer file",
  )


def test_evalset_commands(run):
  code, out, _ = run(EVALSET, "make-tictactoe", "--output", "t.jsonl")
  shipped = conftest.ROOT / "evalsets" / "tictactoe_v1.jsonl"
  assert code == 0 and "t.jsonl: 627 items" in out
  assert pathlib.Path("t.jsonl").read_bytes() == shipped.read_bytes()
  refused(
    run(EVALSET, "make-tictactoe", "--output", "t.jsonl"), "already exists"
  )
  code, out, _ = run(EVALSET, "validate", "t.jsonl", shipped)
  assert code == 0 and len(out.splitlines()) == 2
  with pathlib.Path("t.jsonl").open("a") as file:
    file.write("{}\n")
  refused(
    run(EVALSET, "validate", "t.jsonl"), "t.jsonl:628: id: Field required"
  )


PLAY_BASE = (PLAY, "--model", "base", "--config", "config.yaml", "--output")


def test_play_every_line(run):
  code, out, err = run(*PLAY_BASE, "games.jsonl", "--exhaustive")
  assert code == 0, err
  assert "as X: " in out and "as O: " in out and "games: games.jsonl" in out
  results = json.loads(pathlib.Path("games.summary.json").read_text())[
    "results"
  ]
  games = [
    json.loads(line)
    for line in pathlib.Path("games.jsonl").read_text().splitlines()
  ]
  for mark, result in results.items():
    assert sum(result["random"].values()) == pytest.approx(1)
    assert sum(result["optimal"].values()) == pytest.approx(1)
    theirs = [game for game in games if game["agent"] == mark]
    assert len(theirs) == result["lines"]
    lost = [g for g in theirs if g["ending"] not in ("win", "draw")]
    assert len(lost) == result["lines_lost"]
  for game in games:
    for turn in game["turns"]:
      answer = text_formats.parse_answer(turn["response"])
      assert answer and text_formats.coordinate(answer.cell) == turn["move"]


@pytest.mark.slow
def test_sampled_games_depend_on_the_seed_alone(run):
  flags = ("--episodes", 70, "--temperature", 1.0, "--opponent", "optimal")
  for name, seed in (("a", 0), ("b", 0), ("c", 1)):
    code, out, err = run(*PLAY_BASE, f"{name}.jsonl", *flags, "--seed", seed)
    assert code == 0, err
    assert "as O: 70 games" in out
  a, b, c = (pathlib.Path(f"{name}.jsonl").read_text() for name in "abc")
  assert len(a.splitlines()) == 140
  assert a == b != c


@pytest.mark.parametrize(
  ("flags", "found"),
  [
    (("--opponent", "stockfish"), "there is no opponent 'stockfish'"),
    (("--opponent", "scripted:9"), "holds cells 0 to 8"),
    (("--context", "none"), "must be 'board', 'full' or 'truncated'"),
    (
      ("--exhaustive", "--temperature", 1, "--context", "full"),
      "play.context: full: tictactoe is judged exactly on single observations",
    ),
    (
      ("--exhaustive", "--temperature=1", "--set", "play.on_parse_error=retry"),
      "play.on_parse_error: retry: exact results are of single answers",
    ),
    (("--set", "play.max_new_tokens=2"), "max_new_tokens: 2 is too few"),
  ],
)
def test_play_that_is_refused(run, flags, found):
  before = listing()
  refused(run(*PLAY_BASE, "games.jsonl", *flags), found)
  assert listing() == before


def test_play_that_would_write_over(run):
  pathlib.Path("games.summary.json").write_text("mine")
  refused(run(*PLAY_BASE, "games.jsonl"), "games.summary.json", "exists")


GRPO = {
  **SETTINGS,
  "training": {"max_steps": 1, "batch_size": 8},
  "grpo": {"num_generations": 4},
  "exhaustive_eval": False,
}


def test_grpo_dry_run_and_wrong_input(run):
  pathlib.Path("grpo.yaml").write_text(yaml.safe_dump(GRPO))
  before = listing()
  code, out, _ = run(
    TRAIN_GRPO, "--config", "grpo.yaml", "--model", "base", "--dry-run"
  )
  assert code == 0
  assert "games    8: 1 steps of 2 groups of 4" in out
  for flags, found in (
    (["--model", "nowhere"], "nowhere: no such model: neither a directory"),
    (["--set", "grpo.num_generation=4"], "did you mean 'num_generations'?"),
    (["--set", "play.max_new_tokens=2"], "max_new_tokens: 2 is too few"),
    (["--set", "grpo.num_generations=3"], "batch_size 8 is not divisible by"),
  ):
    code, _, err = run(TRAIN_GRPO, "--config", "grpo.yaml", *flags)
    assert code == 2
    assert found in err and len(conftest.told(err)) == 1
  assert listing() == before
