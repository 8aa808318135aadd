"""The package's shape: imports go one way, and importing does nothing."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from tunix_ttt.games import catalog
from tunix_ttt.games.pgx_boards import pgx_games

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tunix_ttt"
MODULES = sorted(PACKAGE.rglob("*.py"))
ASSETS = sorted(PACKAGE.glob("*/assets/*"))
# Each may import those before it; a game and its text know each other.
FLOORS = [
  {"games", "text"},
  {"rollout"},
  {"models"},
  {"algorithms"},
  {"evaluate"},
  {"data"},
  {"report"},
  {"train"},
  {"service"},
  {"doctor", "dry_run", "recipes", "pipeline", "run"},
]
# Anyone may import these, and they import only each other.
GROUND = {
  "config",
  "custom",
  "errors",
  "files",
  "requirements",
  "runs",
  "streams",
}
GAMES = PACKAGE / "games"
# May name a game, and the reason.
KNOW_GAMES = {
  "__init__.py": "the public names of tic-tac-toe",
  "config/sections.py": "the default of `game.name`",
}
TUNIX = {"tunix", "qwix", "orbax"}


def imports(path: pathlib.Path) -> set[str]:
  """Lists the modules a file imports, wherever in it."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


def layer(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
  "path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_one_way(path):
  own = layer(path)
  if own in ("__init__", "cli", "testing", "train_command"):
    return
  used = {
    name.split(".")[1]
    for name in imports(path)
    if name.startswith("tunix_ttt.")
  }
  allowed = set(GROUND)
  if own not in GROUND:
    floor = next(n for n, floor in enumerate(FLOORS) if own in floor)
    allowed |= set().union(*FLOORS[: floor + 1])
  assert used <= allowed


def test_no_two_modules_share_a_name():
  names = [path.stem for path in MODULES if path.stem != "__init__"]
  names += [path.parent.name for path in MODULES if path.stem == "__init__"]
  assert len(names) == len(set(names))


@pytest.mark.parametrize(
  "path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_tunix_is_touched_below_training_only(path):
  used = {name.split(".")[0] for name in imports(path)}
  layers = ("algorithms", "models", "train", "service")
  assert not used & TUNIX or layer(path) in layers


def games_in(text: str) -> list[str]:
  """Lists the games that a text names, in any spelling."""
  names = {*catalog.names(), *pgx_games._GAMES}
  spellings = "|".join(name.replace("_", "[-_ ]?") for name in sorted(names))
  return re.findall(rf"(?i)(?<![a-z])(?:{spellings})(?![a-z(])", text)


def test_games_are_found_in_text():
  text = "Tic-tac-toe: tictactoe, connect_four.hex() of Kuhn poker; a Hexagon"
  names = ["Tic-tac-toe", "tictactoe", "connect_four", "Kuhn poker"]
  assert games_in(text) == names


@pytest.mark.parametrize(
  "path", [*MODULES, *ASSETS], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_only_its_folder_knows_a_game(path):
  if path.parent.parent == GAMES:
    return
  is_known = str(path.relative_to(PACKAGE)) in KNOW_GAMES
  assert bool(games_in(path.read_text())) == is_known


@pytest.mark.parametrize(
  "path", sorted((ROOT / "training").glob("*.py")), ids=lambda p: p.name
)
def test_scripts_import_no_game(path):
  folders = {
    f"tunix_ttt.games.{each.parent.name}"
    for each in GAMES.glob("*/__init__.py")
  }
  assert not {name.rpartition(".")[0] for name in imports(path)} & folders


def test_importing_starts_no_backend_and_needs_no_tunix():
  light = [
    "tunix_ttt",
    "tunix_ttt.cli",
    "tunix_ttt.config",
    "tunix_ttt.data.checks",
    "tunix_ttt.data.datasets",
    "tunix_ttt.data.generate",
    "tunix_ttt.data.versions",
    "tunix_ttt.report.delta_report",
    "tunix_ttt.evaluate.evalsets",
    "tunix_ttt.runs.run_directory",
    "tunix_ttt.runs.run_manifest",
  ]
  code = f"import {', '.join(light)}, sys; assert 'tunix' not in sys.modules; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_importing_everything_starts_no_backend():
  names = [
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(
      ".__init__"
    )
    for p in MODULES
  ]
  code = f"import {', '.join(names)}; from jax._src import xla_bridge; assert not xla_bridge._backends"
  subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_file_is_long():
  for path in [
    *MODULES,
    *(ROOT / "tests").glob("*.py"),
    *(ROOT / "training").glob("*.py"),
  ]:
    assert len(path.read_text().splitlines()) < 500, path
