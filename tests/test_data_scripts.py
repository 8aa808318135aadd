"""The data scripts from the command line, with valid and invalid input."""

import json
import pathlib

import pytest
import yaml

from tests import conftest
from tests.conftest import listing
from tests.conftest import refused
from tunix_ttt.runs import run_manifest

GENERATE, CHECK, BUILD, TRAIN = (
  conftest.ROOT / "training" / f"{name}.py"
  for name in (
    "generate_data",
    "check_data",
    "build_dataset",
    "train_sft_tunix",
  )
)
EVALSETS = conftest.ROOT / "evalsets"
CONFIG = {
  "model": conftest.SMALL_MODEL.shape(),
  "data": {"games": {"num_games": 40}},
  "training": {"max_steps": 1, "batch_size": 8},
  "logging": {"report": False},
  "play": {"max_new_tokens": 10, "batch_size": 32, "constrained": True},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  pathlib.Path("config.yaml").write_text(yaml.safe_dump(CONFIG))


def rows_of(path):
  return [
    json.loads(line) for line in pathlib.Path(path).read_text().splitlines()
  ]


def generate(run, output, *flags):
  code, out, err = run(GENERATE, "--output", output, *flags)
  assert code == 0, err
  return out


def test_from_games_to_a_run(run):
  games = ("--kind", "games", "--count", 60, "--mistakes", 0.3, "--keep", "won")
  out = generate(run, "games.jsonl", *games)
  assert "kept win" in out and "dropped loss" in out
  with pathlib.Path("games.jsonl").open("a") as file:
    file.write('{"nothing": 1}\n')
  place = ("--name", "won", "--version", "v1")
  built = (*place, "--from", "games.jsonl", "--filter", "agent=X")
  refused(run(BUILD, *built), "games.jsonl:", "found the fields nothing")
  code, out, err = run(BUILD, *built, "--skip-bad-rows")
  assert code == 0, err
  assert "filtered out" in out
  assert all(
    row["agent"] == "X" for row in rows_of("datasets/won/v1/data.jsonl")
  )
  refused(run(BUILD, *built, "--skip-bad-rows"), "v1: already exists")
  code, out, err = run(
    BUILD, *place, "--export", "t.jsonl", "--format", "tunix_sft"
  )
  assert code == 0 and "t.jsonl: " in out
  assert rows_of("t.jsonl")[0]["prompts"].startswith("<start_of_turn>user\n")
  refused(
    run(BUILD, *place, "--export", "u.jsonl", "--format", "preference"),
    "a preference pair needs two answers",
  )
  train = ("--config", "config.yaml", "--data")
  refused(run(TRAIN, *train, "games.jsonl"), "found the fields nothing")
  code, _, err = run(
    TRAIN, *train, "games.jsonl", "--skip-bad-rows", "--output", "a"
  )
  assert code == 0, err
  record = run_manifest.RunManifest.read(pathlib.Path("a")).dataset
  assert record is not None and record.bad_rows == 1
  assert "found the fields nothing" in record.first_bad_rows[0]
  code, _, err = run(TRAIN, *train, "datasets/won/v1", "--output", "b")
  assert code == 0, err
  record = run_manifest.RunManifest.read(pathlib.Path("b")).dataset
  assert record is not None
  assert (record.name, record.version) == ("won", "v1")
  manifest = json.loads(
    pathlib.Path("datasets/won/v1/manifest.json").read_text()
  )
  assert record.digest == manifest["digest"]


def test_the_kinds_that_need_no_model(run):
  for kind, more in (
    ("positions", ("--labels", "all", "--thoughts", "none")),
    ("dpo", ("--rejected", "worse=2,illegal=1", "--format", "token_board")),
    ("prompts", ()),
  ):
    generate(run, f"{kind}.jsonl", "--kind", kind, "--count", 20, *more)
    manifest = json.loads(
      pathlib.Path(f"{kind}.jsonl.manifest.json").read_text()
    )
    assert manifest["generator"] == kind
    assert manifest["rows"] == len(rows_of(f"{kind}.jsonl"))
    code, _, err = run(CHECK, f"{kind}.jsonl")
    assert code == 0, err
  assert manifest["settings"] == {
    "count": 20,
    "format": "grid",
    "thoughts": "template",
  }


def test_games_of_an_expert_of_any_game(run):
  game = ("--game", "kuhn_poker")
  flags = (*game, "--kind", "games", "--count", 45, "--keep", "won")
  out = generate(run, "k.jsonl", *flags, "--expert", "random")
  rows = rows_of("k.jsonl")
  assert {row["game"] for row in rows} == {"kuhn_poker"}
  assert min(row["return"] for row in rows) > 0
  assert f"{len(rows)} rows (kept win " in out and "dropped draw 0" in out
  manifest = json.loads(pathlib.Path("k.jsonl.manifest.json").read_text())
  assert sum(manifest["counts"].values()) == 45
  assert manifest["settings"] == {
    "count": 45,
    "game": "kuhn_poker",
    "expert": "random",
    "opponent": "random",
    "mistakes": 0.0,
    "keep": "won",
  }
  code, out, err = run(CHECK, "k.jsonl", *game)
  assert code == 0 and f"rows        {len(rows)}: " in out, err
  output = ("--output", "o.jsonl")
  refused(run(GENERATE, *flags, *output), "--expert: needs an exact solver")
  for kind, message in (
    ("positions", "(choose from games, rejection)"),
    ("rejection", "--kind rejection needs --config"),
  ):
    flags = (*game, "--kind", kind, "--count", 4, *output)
    code, _, err = run(GENERATE, *flags)
    assert code == 2 and message in err


@pytest.mark.slow
def test_a_models_own_games(run):
  flags = ("--kind", "rejection", "--config", "config.yaml", "--count", 40)
  out = generate(run, "own.jsonl", *flags, "--keep", "all", "--sides", "o")
  assert "dropped illegal" in out and "dropped parse error 0" in out
  manifest = json.loads(pathlib.Path("own.jsonl.manifest.json").read_text())
  assert manifest["settings"]["config"]["play"]["temperature"] == 0.8
  assert manifest["settings"]["sides"] == "o"
  assert {row["agent"] for row in rows_of("own.jsonl")} == {"O"}


def test_check(run):
  generate(run, "p.jsonl", "--kind", "positions", "--count", 50)
  code, out, err = run(
    CHECK, "p.jsonl", "--config", "config.yaml", "--evalset",
    EVALSETS / "tictactoe_v1.jsonl", "--symmetry", "--json", "p.json",
  )  # fmt: skip
  assert code == 0, err
  assert "moves       optimal 50 (100.0%)" in out
  report = json.loads(pathlib.Path("p.json").read_text())
  assert report["leakage"]["rows"] == 50
  assert report["tokens"]["max_seq_length"] == 512
  assert 0 < report["tokens"]["min"] <= report["tokens"]["max"]
  refused(run(CHECK, "p.jsonl", "--json", "p.json"), "p.json: already exists")


def test_a_bad_file_is_told_line_by_line(run):
  lines = ['{"text": "a"}', "{", '{"a": 1}', '{"text": ""}']
  pathlib.Path("d.jsonl").write_text("\n".join(lines))
  code, out, err = run(CHECK, "d.jsonl", "--json", "d.json")
  assert code == 2 and not out
  error_lines = err.removeprefix("error: ").splitlines()
  assert [line.split(": ")[0] for line in error_lines] == [
    "d.jsonl:2",
    "d.jsonl:3",
    "d.jsonl:4",
  ]
  assert not pathlib.Path("d.json").exists()
  code, out, _ = run(CHECK, "d.jsonl", "--skip-bad-rows")
  assert code == 0 and "bad rows    3, skipped" in out


@pytest.mark.parametrize(
  "script, flags, message",
  [
    (GENERATE, ["--kind", "games", "--count", 2, "--context", "full", "--format", "token_board"], "of token boards cannot be written"),
    (GENERATE, ["--kind", "positions", "--count", 5000], "there are 4520 positions"),
    (GENERATE, ["--kind", "rejection", "--count", 2, "--config", "no.yaml"], "no.yaml: no such config"),
    (GENERATE, ["--kind", "rejection", "--count", 2, "--config", "config.yaml", "--model", "none"], "none: no such model"),
    (GENERATE, ["--kind", "rejection", "--count", 2, "--config", "config.yaml", "--temperature", -1], "play.temperature: "),
    (GENERATE, ["--kind", "rejection", "--count", 2, "--config", "config.yaml", "--set", "play.max_new_tokens=2"], "max_new_tokens: 2 is too few"),
  ],
)  # fmt: skip
def test_wrong_requests(run, script, flags, message):
  before = listing()
  refused(run(script, "--output", "o.jsonl", *flags), message)
  assert listing() == before


def test_nothing_is_written_over(run):
  pathlib.Path("o.jsonl.manifest.json").write_text("mine")
  flags = ("--kind", "prompts", "--count", 2, "--output", "o.jsonl")
  refused(run(GENERATE, *flags), "o.jsonl.manifest.json: already exists")
  assert not pathlib.Path("o.jsonl").exists()


@pytest.mark.parametrize(
  "script, flags, message",
  [
    (GENERATE, ["--kind", "games"], "required: --count, --output"),
    (GENERATE, ["--kind", "chess", "--count", "1", "--output", "x"], "invalid choice: 'chess'"),
    (GENERATE, ["--kind", "games", "--count", 1, "--output", "o", "--labels", "all"], "--labels is not for --kind games"),
    (GENERATE, ["--kind", "games", "--count", 1, "--output", "o", "--config", "c"], "--config is not for --kind games"),
    (GENERATE, ["--kind", "rejection", "--count", 1, "--output", "o"], "--kind rejection needs --config"),
    (GENERATE, ["--kind", "rejection", "--config", "c", "--count", 1, "--output", "o", "--mistakes", 0.5], "--mistakes is not for"),
    (GENERATE, ["--kind", "games", "--count", 1, "--output", "o", "--mistakes", 2], "must be a number from 0 to 1, found '2'"),
    (GENERATE, ["--kind", "dpo", "--count", 1, "--output", "o", "--rejected", "bad"], "'bad' is not one of worse, illegal, format"),
    (BUILD, ["--name", "a", "--version", "b"], "give --from to build"),
    (BUILD, ["--name", "a", "--version", "b", "--from", "c", "--export", "d"], "--export and --format go together"),
    (BUILD, ["--name", "a", "--version", "b", "--from", "c", "--filter", "x"], "expected KEY=VALUE, found 'x'"),
    (CHECK, ["a", "--config", "c", "--tokenizer", "t"], "leave --tokenizer out"),
  ],
)  # fmt: skip
def test_flags_that_do_not_parse(run, script, flags, message):
  code, _, err = run(script, *flags)
  assert code == 2 and message in err.splitlines()[-1]


@pytest.mark.parametrize(
  "flags, message",
  [
    (["none.jsonl"], "none.jsonl: no such data file"),
    (["empty.jsonl"], "empty.jsonl: this data file has no rows"),
    (["."], "manifest.json: no such dataset manifest"),
    (["a.jsonl", "--evalset", "none.jsonl"], "none.jsonl: no such evalset"),
    (["a.jsonl", "--tokenizer", "none"], "none: no such model"),
    (["a.jsonl", "--format", "messages"], "a.jsonl:1: the field 'messages'"),
  ],
)
def test_files_that_cannot_be_checked(run, flags, message):
  pathlib.Path("empty.jsonl").write_text("")
  pathlib.Path("a.jsonl").write_text('{"text": "a"}\n')
  refused(run(CHECK, *flags), message)
