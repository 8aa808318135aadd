"""Any model, judged by its answers: from a server, a file or a directory."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest

from tests import conftest
from tests import endpoint_server
from tests import players
from tests import test_exact_play
from tests import test_sft
from tests.endpoint_server import Said
from tests.endpoint_server import completion
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt.evaluate import answer_judge
from tunix_ttt.evaluate import endpoint as endpoint_lib
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import rates
from tunix_ttt.evaluate import recorded_games
from tunix_ttt.evaluate import replies as replies_lib
from tunix_ttt.games import catalog
from tunix_ttt.games.tictactoe import text_formats

JUDGE = conftest.ROOT / "training" / "judge.py"
MOVES_ALONE = "data.games.thoughts=none"
REPORT = conftest.ROOT / "training" / "eval_report.py"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(endpoint_lib, "FIRST_WAIT", 0.01)
  monkeypatch.delenv(endpoint_lib.KEY_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def tictactoe():
  return answer_judge.AnswerJudge(config_lib.SFTConfig())


def cells(table, observation):
  """Returns the answer of a table of cells to an observation."""
  assert players.GAME.reader is not None
  (match,) = players.GAME.reader.find(observation)
  return text_formats.render_answer(int(table[match.position]), "So.")


def replies(table):
  return lambda texts: [
    replies_lib.Reply(observation=text, response=cells(table, text))
    for text in texts
  ]


def without_thoughts(result):
  """The result of a player whose answers have no text."""
  assert result.thought_true_rate is None and result.thought_no_claim_rate == 1
  return dataclasses.replace(result, thought_no_claim_rate=None)


@pytest.mark.parametrize("name", test_exact_play.TABLES)
def test_results_are_those_of_every_line(tictactoe, name):
  """The judge's results and games are those of a player in the engine."""
  # A scripted player has no unreadable answers.
  table = np.maximum(test_exact_play.TABLES[name], 0)
  judged, expected = tictactoe(replies(table)), players.matches(table)
  for mine, other in zip(judged, expected, strict=True):
    assert (mine.seat, without_thoughts(mine.result)) == (
      other.seat,
      other.result,
    )
    np.testing.assert_array_equal(mine.games.ending, other.games.ending)
    np.testing.assert_array_equal(mine.games.moves, other.games.moves)


def test_what_is_an_answer(tictactoe):
  def read(response, truncated=False):
    reply = {"observation": "", "response": response, "truncated": truncated}
    action, ending = tictactoe.read(replies_lib.Reply(**reply))
    return action, ending.name

  assert read("<think>B2?</think> <move>a3</move>\n") == (2, "ONGOING")
  # Some servers take the thought away.
  assert read("<move>C3</move>") == (8, "ONGOING")
  for text in ("B2", "I say <move>B2</move>", "<move>B2</move>!", "", "<move>"):
    assert read(text) == (-1, "PARSE_ERROR")
  assert read("<move>B2</move>", truncated=True) == (-1, "LENGTH")


def test_a_perfect_player_behind_a_server(run, tmp_path):
  def behave(number, body):
    del number
    observation = endpoint_server.observation(body)
    return completion(cells(players.PERFECT, observation))

  with endpoint_server.serving(behave) as server:
    code, out, err = run(
      JUDGE, "--endpoint", server.url, "--model", "m", "--output", "j.jsonl",
      "--price-in", 1, "--price-out", "2.5", "--max-tokens", 99,
    )  # fmt: skip
    asked = [endpoint_server.observation(body) for *_, body in server.requests]
    system = {body["messages"][0]["content"] for *_, body in server.requests}
  assert code == 0, err
  assert system == {text_formats.system_prompt()}
  assert {body["max_tokens"] for *_, body in server.requests} == {99}
  # A fraction of the observations that there are.
  assert len(asked) == len({*asked}) == 446
  assert "at most 13,306" in out and "cost      at most about 0." in out
  assert out.count(" lines, 0 lost; at worst draw") == 2
  assert "answers: 446, 0 unreadable; j.answers.jsonl" in out
  summary = game_files.read_summary(pathlib.Path("j.summary.json"))
  for match in players.matches(players.PERFECT):
    assert without_thoughts(summary.results[match.seat]) == match.result
  assert game_files.is_exact(summary) and summary.model == "m"
  games = recorded_games.read_games(pathlib.Path("j.jsonl"))
  assert not any(game.is_lost for game in games)
  # The answers so far are a file of answers, and the report reads the games.
  code, out, err = run(
    JUDGE, "--answers", "j.answers.jsonl", "--output", "again.jsonl"
  )
  assert code == 0, err
  assert pathlib.Path("again.jsonl").read_text() == (
    pathlib.Path("j.jsonl").read_text()
  )
  code, out, err = run(
    REPORT, "--games-after", "j.jsonl", "--output", "page.html"
  )
  assert code == 0, err


KUHN = ("--game", "kuhn_poker", "--model", "m", "--concurrency", 1)


def bet(number, body):
  """Bets on everything, in both seats."""
  del number, body
  return completion("<move>bet</move>")


def test_a_server_that_dies_is_asked_for_the_rest(run):
  def dies(number, body):
    return bet(number, body) if number < 5 else Said(None)

  flags = ("--output", "j.jsonl", "--retries", 1)
  with endpoint_server.serving(dies) as server:
    url = server.url
    conftest.refused(
      run(JUDGE, "--endpoint", url, *KUHN, *flags),
      "(tried 2 times); answers are kept in j.answers.jsonl; to go on: ",
      f"judge.py --endpoint {url} --game kuhn_poker",
    )
  assert conftest.listing() == ["j.answers.jsonl"]
  kept = pathlib.Path("j.answers.jsonl").read_text()
  assert len(kept.splitlines()) == 5
  with endpoint_server.serving(bet) as server:
    code, out, err = run(JUDGE, "--endpoint", server.url, *KUHN, *flags)
    num_requests = len(server.requests)
  assert code == 0, err
  assert f"requests  about {num_requests}, as for random" in out
  whole = pathlib.Path("j.answers.jsonl").read_text()
  assert whole.startswith(kept)
  assert len(whole.splitlines()) == 5 + num_requests
  # Betting loses to a higher card, in half of the games with a call.
  summary = game_files.read_summary(pathlib.Path("j.summary.json"))
  result = summary.results[catalog.load("kuhn_poker").seats[0]]
  assert isinstance(result, rates.Exact) and result.lines_lost == 6 - 3
  assert sum(map(len, summary.policy.values())) == 5 + num_requests
  rows = [
    json.loads(r) for r in pathlib.Path("j.jsonl").read_text().splitlines()
  ]
  assert {turn["response"] for r in rows for turn in r["turns"]} == {
    "<move>bet</move>"
  }


def test_a_dry_run_asks_and_writes_nothing(run):
  with endpoint_server.serving(bet) as server:
    code, out, _ = run(
      JUDGE, "--endpoint", server.url, *KUHN, "--output", "j.jsonl",
      "--dry-run", "--price-out", 1e6, "--max-tokens", 3,
    )  # fmt: skip
    assert server.requests == []
  assert code == 0 and conftest.listing() == []
  num_requests = int(out.split()[2].rstrip(","))
  assert 4 <= num_requests <= 12 and "at most 12\n" in out
  assert f"cost      at most about {3 * num_requests}.00" in out


def test_ctrl_c_keeps_the_answers():
  def hangs(number, body):
    if number == 3:
      process.send_signal(signal.SIGINT)
      return bet(number, body)._replace(wait=60)
    return bet(number, body)

  with endpoint_server.serving(hangs) as server:
    flags = ["--endpoint", server.url, *map(str, KUHN), "--output", "j.jsonl"]
    process = subprocess.Popen(
      [sys.executable, JUDGE, *flags],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      env=os.environ | {"PYTHONPATH": str(conftest.ROOT)},
      text=True,
    )
    _, err = process.communicate(timeout=300)
  assert process.returncode == 130
  assert "interrupted; answers are kept in j.answers.jsonl; to go on: " in err
  assert "Traceback" not in err
  assert len(replies_lib.read(pathlib.Path("j.answers.jsonl"))) == 3


@pytest.mark.parametrize(
  "flags, found",
  [
    ([], "give --endpoint and --model, --model alone, or --answers"),
    (["--endpoint", "http://a/v1"], "--endpoint needs --model"),
    (["--answers", "a", "--model", "m"], "give --endpoint and --model"),
    (["--model", "m", "--dry-run"], "--dry-run and --cache are for --endpoint"),
    ([*KUHN, "--endpoint", "a", "--cache", "j.jsonl"], "must be different files"),
    ([*KUHN, "--endpoint", "http://a/v1", "--temperature", 1], "--temperature"),
    ([*KUHN, "--endpoint", "http://a/v1", "--retries", -1], "--retries"),
  ],
)  # fmt: skip
def test_flags_that_do_not_parse(run, flags, found):
  conftest.refused(run(JUDGE, *flags, "--output", "j.jsonl"), found)


@pytest.mark.parametrize(
  "flags, found",
  [
    ([*KUHN, "--endpoint", "localhost:1/v1"], "is no base URL"),
    ([*KUHN, "--endpoint", "http://a/v1", "--cache", "rows.jsonl"], "rows.jsonl:1: obs"),
    (["--answers", "none.jsonl"], "none.jsonl: no such file of answers"),
    (["--answers", "rows.jsonl"], "rows.jsonl:1: observation: Field required"),
    (["--answers", "few.jsonl", "--game", "kuhn_poker"], "few.jsonl: lacks answers to 3 obs"),
    (["--answers", "few.jsonl", "--game", "chess"], "game.name: chess"),
    (["--model", "nowhere"], "nowhere"),
  ],
)  # fmt: skip
def test_wrong_input(run, flags, found):
  pathlib.Path("rows.jsonl").write_text('{"a": 1}\n')
  few = {"observation": "", "response": ""}
  pathlib.Path("few.jsonl").write_text(json.dumps(few) + "\n")
  before = conftest.listing()
  conftest.refused(run(JUDGE, *flags, "--output", "j.jsonl"), found)
  assert conftest.listing() == before


@pytest.mark.slow
def test_directories(run, sft_run, tmp_path):
  """A run, and the same model in a directory of Hugging Face without one."""
  exported = recipes.export_model(sft_run / "checkpoint-final", tmp_path / "hf")
  results = []
  for number, (model, flags) in enumerate(
    [(sft_run, ()), (exported, ("--max-tokens", 32))]
  ):
    output = f"{number}.jsonl"
    code, _, err = run(JUDGE, "--model", model, "--output", output, *flags)
    assert code == 0, err
    summary = game_files.read_summary(pathlib.Path(f"{number}.summary.json"))
    results.append(summary.results)
  assert results[0] == results[1] and results[0].keys() == {"X", "O"}


def serve_command() -> str | None:
  """Returns the command `transformers` if it can serve."""
  packages = ("torch", "fastapi", "uvicorn", "openai", "accelerate")
  if any(importlib.util.find_spec(name) is None for name in packages):
    return None
  return shutil.which(
    "transformers", path=str(pathlib.Path(sys.executable).parent)
  )


@pytest.mark.slow
@pytest.mark.skipif(
  serve_command() is None, reason="needs transformers[serving] and torch"
)
def test_transformers_serve(run, tmp_path):
  """A tiny model answers as it does here, through a server of another library."""
  # Of a tiny Qwen 2.5, transformers would load another tokenizer; with thoughts,
  # the server leaves the end token in the text.
  config = config_lib.load_any(
    test_sft.CONFIG, ["model.name=tiny-qwen3", MOVES_ALONE]
  )
  trained = recipes.train_sft(config, tmp_path / "run")
  exported = recipes.export_model(trained / "checkpoint-final", tmp_path / "hf")
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  url, log = f"http://127.0.0.1:{port}", pathlib.Path("serve.log")
  with log.open("w") as file:
    server = subprocess.Popen(
      [
        str(serve_command()),
        "serve",
        "--port",
        str(port),
        "--dtype",
        "float32",
      ],
      stdout=file,
      stderr=file,
      env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
  try:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and server.poll() is None:
      try:
        httpx.get(url, timeout=5)
        break
      except httpx.TransportError:
        time.sleep(0.5)
    code, _, err = run(
      JUDGE, "--endpoint", f"{url}/v1", "--model", exported, "--output",
      "served.jsonl", "--max-tokens", 32, "--concurrency", 2, "--timeout", 200,
      "--set", MOVES_ALONE,
    )  # fmt: skip
    assert code == 0, err + log.read_text()
  finally:
    server.terminate()
    server.wait()
  code, _, err = run(
    JUDGE, "--model", exported, "--output", "here.jsonl", "--max-tokens", 32,
    "--set", MOVES_ALONE,
  )  # fmt: skip
  assert code == 0, err
  served, here = (
    game_files.read_summary(pathlib.Path(f"{name}.summary.json")).results
    for name in ("served", "here")
  )
  assert served == here
