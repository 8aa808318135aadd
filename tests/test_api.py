"""What `import tunix_ttt` gives: names that are there, documented and light."""

import ast
import inspect
import pydoc
import re
import subprocess
import sys

import pytest

from tests import conftest
from tests import test_grpo
import tunix_ttt as ttt
from tunix_ttt import config as config_lib
from tunix_ttt.rollout import trajectory

NAMES = list(vars(ttt)["_SOURCES"])


def test_type_checkers_see_the_same_names():
  tree = ast.parse((conftest.ROOT / "tunix_ttt/__init__.py").read_text())
  block = next(node for node in tree.body if isinstance(node, ast.If))
  found = {}
  for node in block.body:
    assert isinstance(node, ast.ImportFrom) and node.module
    (alias,) = node.names
    found[alias.asname or alias.name] = (node.module, alias.name)
  assert found.keys() == set(NAMES)
  for name, (module, attribute) in found.items():
    namespace = {}
    exec(f"from {module} import {attribute} as it", namespace)
    assert getattr(ttt, name) is namespace["it"], name


def test_names_are_few_listed_and_documented():
  assert 20 <= len(NAMES) <= 40
  assert set(NAMES) <= set(dir(ttt))
  for name in NAMES:
    value = getattr(ttt, name)
    assert f"`{name}`" in (ttt.__doc__ or "")
    if name != "Reward":  # A type alias, described where it is.
      assert inspect.getdoc(value), name
  with pytest.raises(AttributeError, match="no attribute 'train_ppo'"):
    getattr(ttt, "train_" + "ppo")


def test_importing_is_light():
  code = (
    "import tunix_ttt as ttt, sys\n"
    "assert not {'jax', 'tunix', 'numpy', 'pydantic'} & sys.modules.keys()\n"
    "ttt.load_config, ttt.GRPOConfig, ttt.load_evalset, ttt.read_metrics\n"
    "assert not {'jax', 'tunix'} & sys.modules.keys()\n"
    "for name in ttt._SOURCES: getattr(ttt, name)\n"
    "from jax._src import xla_bridge\n"
    "assert not xla_bridge._backends\n"
  )
  subprocess.run([sys.executable, "-c", code], cwd=conftest.ROOT, check=True)


def test_where_tunix_is_missing_that_is_said():
  code = (
    "import importlib.metadata as m, sys\n"
    "sys.modules['tunix'] = None\n"
    "def missing(name): raise m.PackageNotFoundError(name)\n"
    "m.requires = lambda name: ['google-tunix==0.1.7']\n"
    "m.version = missing\n"
    "import tunix_ttt as ttt\n"
    "try: ttt.train_sft\n"
    "except ttt.UserError as error: print(error)\n"
  )
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=conftest.ROOT,
    check=True,
    capture_output=True,
    text=True,
  )
  assert "needs google-tunix==0.1.7 (not installed); run: " in result.stdout


# A player of its own, from the board alone.
def lazy(opponent_seed, board):
  return ttt.opponents.preferred(opponent_seed, board)


def test_a_run_from_python(tmp_path, monkeypatch, capsys):
  """Trains, reads, plays and exports as a notebook does."""
  monkeypatch.chdir(tmp_path)
  settings = config_lib.to_dict(test_grpo.WITH_KL)
  settings["training"]["max_steps"] = 2

  def short(games: ttt.Trajectory):
    return -games.turn_mask.sum(axis=1)

  config = ttt.load_config(ttt.GRPOConfig, settings)
  run = ttt.train_grpo(config, "run", rewards={"short": (short, 0.1)})
  assert [row["step"] for row in ttt.read_metrics(run)] == [0, 1, 2, 2]
  assert "reward/short" in ttt.read_metrics(run)[1]
  assert ttt.RunManifest.read(run).rewards.keys() == {"short"}
  with pytest.raises(ttt.UserError, match="but the run has short"):
    ttt.resume(run)
  assert ttt.resume(run, rewards={"short": (short, 0.1)}) == run

  model = ttt.load_model(run, config)
  played = list(ttt.play_games(model, config, opponent=lazy))
  assert [match.seat for match in played] == ["X", "O"]
  assert ttt.results_table(played).startswith("as X: 8 games\n")
  (game, *_) = ttt.describe_games(played[0], model.tokenizer.decode)
  assert game["agent"] == "X" and game["turns"][0]["response"]
  assert game["ending"].upper() in trajectory.Ending.__members__

  said = iter(["B2", "nowhere"])
  partner = ttt.Partner(model, config)
  ended = ttt.play(partner, "x", lambda _: next(said, "q"))
  assert ended in (None, 1)
  assert "The model: " in capsys.readouterr().out

  made = ttt.export_model(run, "exported")
  assert (made / "model.safetensors").is_file()
  assert "tunix_ttt" in (made / "README.md").read_text()
  with pytest.raises(ttt.UserError, match="exported"):
    ttt.export_model(run, "exported")


@pytest.mark.slow
def test_resuming_supervised_runs(tmp_path):
  config = ttt.SFTConfig(
    model=conftest.SMALL_MODEL,
    data=test_grpo.CONFIG.data,
    training=config_lib.TrainingConfig(max_steps=4, batch_size=8),
    checkpoint=config_lib.CheckpointConfig(save_interval_steps=2),
  )
  settings = config_lib.to_dict(config)
  run = ttt.train_sft(settings, str(tmp_path / "run"))
  assert ttt.RunManifest.read(str(run)).config == settings
  loss = ttt.read_metrics(run)[-1]["loss"]
  assert ttt.resume(run, settings, step=2) == run
  assert ttt.read_metrics(run)[-1]["loss"] == loss
  assert [s.from_step for s in ttt.RunManifest.read(run).sessions] == [0, 2]
  with pytest.raises(ttt.UserError, match="rewards are for GRPO"):
    ttt.resume(run, rewards={"r": lambda games: games.moves})
  model = ttt.load_model(str(run), settings)
  assert re.fullmatch(
    r"<Model qwen2.5: 25,760 parameters, 1 layer, digest \w{12}>", repr(model)
  )
  first, second = (
    [match.result for match in ttt.play_all_lines(model, form)]
    for form in (config, settings)
  )
  assert first == second


def test_settings_that_are_none(tmp_path):
  output = tmp_path / "run"
  with pytest.raises(ttt.UserError, match="expected a GRPOConfig, a YAML file"):
    ttt.train_grpo(ttt.SFTConfig(), output)  # pyright: ignore[reportArgumentType]
  with pytest.raises(ttt.UserError, match="settings: sead: unknown key"):
    ttt.train_sft({"sead": 1}, output)
  with pytest.raises(ttt.UserError, match="data.games.context=full"):
    ttt.train_sft({"play": {"context": "full"}}, output)
  with pytest.raises(ttt.UserError, match="base: is not in a run"):
    ttt.load_model("base")
  manifest = tmp_path / "run_manifest.json"
  manifest.write_text('{"run_id": "run", "recipe": "sft", "config": {}}')
  with pytest.raises(
    ttt.UserError, match="this is a run manifest, not a config"
  ):
    ttt.load_config(ttt.SFTConfig, str(manifest))
  assert not output.exists()


def test_help_fits_on_two_screens():
  text = pydoc.render_doc(ttt)
  assert "train_grpo" in text and len(text.splitlines()) < 100
