"""Malformed inputs of every script, and a runner that tries them in process.

    python -m tests.faults.inputs [PART_OF_A_NAME ...]

A case is a command in a directory of good files (see `write_good`) of which one
is damaged, or whose flags are. It survives where the script ends with exit code
2 and one message that starts with `error: `, without a traceback, and leaves
the directory as it was.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import io
import itertools
import json
import os
import pathlib
import runpy
import shutil
import sys
import tempfile
import traceback
from typing import Any

import yaml

from tests import hugging_face
from tests.fixtures import make_models

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Makes a file, a directory, or any other damage.
Damage = bytes | Callable[[pathlib.Path], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A command that a script must refuse.

  Attributes:
    name: A unique name.
    script: The script's name in `training/`.
    argv: Its flags.
    files: Damage by path, done to the good files.
  """

  name: str
  script: str
  argv: tuple[str, ...]
  files: Mapping[str, Damage] = dataclasses.field(default_factory=dict)


# Settings of a model that is made in no time.
_TINY = {
  "model": {
    "num_layers": 1,
    "embed_dim": 16,
    "hidden_dim": 16,
    "num_heads": 1,
    "num_kv_heads": 1,
    "head_dim": 16,
  },
  "data": {"games": {"num_games": 8}, "max_seq_length": 64},
  "training": {"max_steps": 1, "batch_size": 4},
  "logging": {"report": False},
  "eval": {"max_new_tokens": 4, "batch_size": 2},
  "play": {"max_new_tokens": 9, "batch_size": 4, "constrained": True},
}
_GRPO = {**_TINY, "grpo": {"num_generations": 2}, "exhaustive_eval": False}
_ITEM = {"id": "a", "prompt": "2 + 2?", "expected_answer": "4"}
_ANSWER = {
  "id": "a",
  "section": "general",
  "match": "normalized",
  "prompt": "2 + 2?",
  "expected_answer": "4",
  "response": "4",
  "verdict": "right",
  "score": 1,
  "chance": None,
  "model": "base",
  "seed": 0,
}
_GAME = {
  "agent": "X",
  "ending": "loss",
  "board": "OX.XO...O",
  "turns": [
    {
      "board": ".........",
      "opponent_move": None,
      "response": "a",
      "move": "A2",
      "optimal": True,
    },
    {
      "board": ".X..O....",
      "opponent_move": "B2",
      "response": "b",
      "move": "B1",
      "optimal": False,
    },
  ],
}
_RATES = {
  f"{name}_rate": float(name == "loss")
  for name in ("win", "draw", "loss", "illegal", "parse_error", "truncated")
}
_SUMMARY = {
  "model": "base",
  "play": {"opponent": "random"},
  "results": {
    "X": {
      "games": 1,
      "rates": _RATES,
      "intervals": {name: [0.0, 1.0] for name in _RATES},
      "optimal_move_rate": 0.5,
    }
  },
}
_MANIFEST = {
  "run_id": "run",
  "created_at": "2026-01-01T00:00:00Z",
  "recipe": "sft",
  "seed": 0,
  "config": {},
  "dataset": None,
  "dataset_key": "games",
  "model": {
    "name": "tiny-qwen2.5",
    "revision": "0",
    "tokenizer": "0",
    "parameters": 1,
    "trainable_parameters": 1,
  },
  "versions": {},
  "platform": "x",
  "devices": ["cpu"],
  "mesh": {},
  "git_sha": None,
  "git_dirty": None,
  "artifacts_path": "run",
}
_METRIC = {"step": 1, "split": "train", "loss": 1.0}
_USER = {"role": "user", "content": "a"}
_MODEL = {"role": "assistant", "content": "b"}


def _jsonl(*rows: Any) -> bytes:
  return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_good(directory: pathlib.Path) -> None:
  """Writes the good files into an empty directory."""
  contents = {
    "sft.yaml": yaml.safe_dump(_TINY).encode(),
    "dpo.yaml": yaml.safe_dump({**_TINY, "dpo": {"beta": 1.0}}).encode(),
    "grpo.yaml": yaml.safe_dump(_GRPO).encode(),
    "pipeline.yaml": b"sft: {config: sft.yaml}\n",
    "data.jsonl": _jsonl({"text": "a"}, {"text": "b"}),
    "pairs.jsonl": _jsonl({"prompt": "a", "chosen": "b", "rejected": "c"}),
    "prompts.jsonl": _jsonl({"prompt": "a"}),
    "items.jsonl": _jsonl(_ITEM),
    "before.jsonl": _jsonl(_ANSWER),
    "after.jsonl": _jsonl(_ANSWER),
    "games.jsonl": _jsonl(_GAME),
    "games.summary.json": _jsonl(_SUMMARY),
    "run/run_manifest.json": _jsonl(_MANIFEST),
    "run/metrics.jsonl": _jsonl(_METRIC),
    "other/run_manifest.json": _jsonl({**_MANIFEST, "run_id": "other"}),
    "other/metrics.jsonl": _jsonl(_METRIC),
    "taken": b"",
  }
  for name, data in contents.items():
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
  (directory / "folder").mkdir()


_TRAIN = {
  "train_sft_tunix": ("--config", "sft.yaml", "--output", "new"),
  "train_dpo_tunix": (
    *("--config", "dpo.yaml", "--data", "pairs.jsonl", "--output", "new"),
  ),
  "train_grpo_tunix": ("--config", "grpo.yaml", "--output", "new"),
}
_EVALUATE = {
  "eval_generate": (
    *("--model", "base", "--config", "sft.yaml", "--eval-set", "items.jsonl"),
    *("--output", "new"),
  ),
  "eval_play": (
    *("--model", "base", "--config", "sft.yaml", "--output", "new"),
  ),
  "play": ("--model", "base", "--config", "sft.yaml", "--self-play", "1"),
}
_DATA = {
  "check_data": ("data.jsonl",),
  "build_dataset": (
    *("--name", "d", "--version", "v", "--root", "sets"),
    *("--from", "data.jsonl"),
  ),
}
# Every script, as it would succeed but for the damage.
COMMANDS: dict[str, tuple[str, ...]] = {
  **_TRAIN,
  **_EVALUATE,
  **_DATA,
  "pipeline": ("--config", "pipeline.yaml", "--output", "new"),
  "generate_data": (
    *("--kind", "positions", "--count", "3", "--output", "new"),
  ),
  "eval_report": (
    *("--before", "before.jsonl", "--after", "after.jsonl"),
    *("--output", "new.md"),
  ),
  "doctor": (),
  "compare": ("run", "other", "--output", "new.html"),
  "evalset": ("validate", "items.jsonl"),
  "judge": ("--answers", "data.jsonl", "--output", "new.jsonl"),
  "export": ("--model", "folder", "--output", "new"),
}
_CONFIG_OF = {
  "train_sft_tunix": "sft.yaml",
  "train_dpo_tunix": "dpo.yaml",
  "train_grpo_tunix": "grpo.yaml",
  "eval_generate": "sft.yaml",
  "eval_play": "sft.yaml",
  "play": "sft.yaml",
  "pipeline": "pipeline.yaml",
}

_BOMB = "a0: &a0 [x, x]\n" + "".join(
  f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
_KEYS_BOMB = "a0: &a0 {x: 1}\n" + "".join(
  f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}\n"
  for n in range(1, 12)
)
# Damage to any YAML file.
YAML_FAULTS: dict[str, bytes] = {
  "unclosed": b"seed: [1\n",
  "tab": b"a:\n\tb: 1\n",
  "colon": b"seed: 1: 2\n",
  "given twice": b"seed: 1\nseed: 2\n",
  "list": b"- seed\n",
  "text": b"seed\n",
  "number": b"3\n",
  "not UTF-8": b"seed: \xff\n",
  "UTF-16": "seed: 1\n".encode("utf-16"),
  "NUL": b"seed: \x00\n",
  "escape": b"\x1b[2Jseed: 1\n",
  "unknown key": b"sead: 1\n",
  "long key": b"k" * 2_000_000 + b": 1\n",
  "recursive list": b"seed: &a [*a]\n",
  "recursive section": b"data: &a {games: *a}\n",
  "nested": b"seed: " + b"[" * 2000 + b"]" * 2000 + b"\n",
  "many digits": b"seed: " + b"9" * 5000 + b"\n",
  "many hexadecimal digits": b"seed: 0x" + b"f" * 5000 + b"\n",
  "date": b"seed: 2020-13-45\n",
  "alias": b"seed: *nothing\n",
  "bomb": _BOMB.encode(),
  "bomb of keys": _KEYS_BOMB.encode(),
  "Python": b"seed: !!python/object/apply:os.getcwd []\n",
  "tag": b"seed: !!int many\n",
  "tag of a flag": b"seed: !!bool perhaps\n",
  "two documents": b"seed: 1\n---\nseed: 2\n",
  "negative seed": b"seed: -1\n",
  "seed of text": b"seed: one\n",
  "seed of a fraction": b"seed: 1.5\n",
}
# Damage to a config of a run.
SETTINGS: dict[str, str] = {
  "wrong type": "training.max_steps=three",
  "out of range": "training.max_steps=0",
  "NaN": "training.learning_rate=.nan",
  "infinite": "training.learning_rate=.inf",
  "beyond floats": "training.learning_rate=1e999",
  "section as a number": "data=3",
  "section as nothing": "training=null",
  "key of a number": "seed.x=1",
  "no value": "seed",
  "no key": "=3",
  "empty part": "a..b=3",
  "unclosed": "seed=[",
  "nested": "seed=" + "[" * 2000 + "]" * 2000,
  "many digits": "seed=" + "9" * 5000,
  "date": "seed=2020-13-45",
  "recursive": "seed=&a [*a]",
  "long": "model.name=" + "x" * 100_000,
  "long number": "training.batch_size=" + "x" * 100_000,
  "control": "model.name=\x1b[2J",
  "two models": "model.name=[a, b]",
  "unknown model": "model.name=tiny-bert",
  "huge model": "model.embed_dim=100000000",
  "wide model": "model.hidden_dim=10000000000000",
  "deep model": "model.num_layers=10000000",
  "heads": "model.num_kv_heads=3",
  "odd head": "model.head_dim=15",
  "many games": "data.games.num_games=1000000000000",
}
_TRAIN_SETTINGS = {
  "huge batch": "training.batch_size=1000000000000",
  "indivisible": "training.gradient_accumulation_steps=3",
  "warmup": "training.warmup_steps=9",
  "modules": "lora={target_modules: [nothing]}",
  "devices": "mesh.fsdp=1000",
}
_PLAY_SETTINGS = {
  "long answers": "play.max_new_tokens=1000000000",
  "short answers": "play.max_new_tokens=2",
  "many turns": "play.max_turns=1000000000000",
  "many games at a time": "play.batch_size=1000000000000",
  "opponent": "play.opponent=stockfish",
}
_ANSWER_SETTINGS = {
  "long answers": "eval.max_new_tokens=1000000000",
  "many questions at a time": "eval.batch_size=100000000000",
}
# Damage to a JSONL file of any kind.
JSONL_FAULTS: dict[str, Damage] = {
  "missing": lambda path: path.unlink(),
  "directory": lambda path: (path.unlink(), path.mkdir()),
  "empty": b"",
  "blank": b"\n  \n\t\n",
  "mark alone": b"\xef\xbb\xbf",
  "cut": b'{"text": "a\n',
  "list": b"[1]\n",
  "number": b"1\n",
  "null": b"null\n",
  "NaN": b'{"text": NaN}\n',
  "beyond floats": b'{"text": 1e999}\n',
  "many digits": b'{"text": ' + b"9" * 5000 + b"}\n",
  "half a pair": b'{"text": "\\ud800"}\n',
  "not UTF-8": b'{"text": "\xff"}\n',
  "UTF-16": '{"text": "a"}\n'.encode("utf-16"),
  "NUL": b"\x00\x00\x00\x00\n",
  "nested": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
  "no fields": b"{}\n",
  "unknown fields": b'{"txt": "a"}\n',
  "control in a field": b'{"\\u001b[2J\\n": "a"}\n',
  "long field": b'{"' + b"k" * 2_000_000 + b'": 1}\n',
  "spread over lines": json.dumps({"text": "a"}, indent=2).encode(),
  "two in a line": b'{"text": "a"} {"text": "b"}\n',
  "single quotes": b"{'text': 'a'}\n",
  "CSV": b"text\na\n",
}
# Rows that are of no format, or have nothing to train on.
ROW_FAULTS: dict[str, Any] = {
  "text of a number": {"text": 3},
  "text of nothing": {"text": None},
  "empty text": {"text": ""},
  "long text of a list": {"text": ["x" * 1000] * 1000},
  "messages of a section": {"messages": {}},
  "no messages": {"messages": []},
  "messages of numbers": {"messages": [1]},
  "unknown role": {"messages": [{"role": "judge", "content": "a"}, _MODEL]},
  "long role": {"messages": [{"role": "j" * 10**6, "content": "a"}, _MODEL]},
  "no role": {"messages": [{"content": "a"}, _MODEL]},
  "no content": {"messages": [{"role": "user"}, _MODEL]},
  "content of a number": {"messages": [{"role": "user", "content": 1}, _MODEL]},
  "content of parts": {"messages": [{**_USER, "content": [{}]}, _MODEL]},
  "unanswered": {"messages": [_USER]},
  "nobody asks": {"messages": [_MODEL]},
  "mixed": {"prompt": "a", "completion": [_MODEL]},
  "completion of a number": {"prompt": "a", "completion": 3},
  "completion of nothing": {"prompt": "a", "completion": None},
  "prompt of nothing": {"prompt": None, "completion": "a"},
  "no steps": {"steps": []},
  "steps of a section": {"steps": {}},
  "empty steps": {"steps": [{}]},
  "steps without messages": {"steps": [{"info": {}}]},
  "turns of a number": {"prompts": 3},
  "no turns": {"prompts": "a"},
  "unfinished turns": {"prompts": "<start_of_turn>user\na<end_of_turn>"},
}
_PAIR_FAULTS: dict[str, Any] = {
  "a text": {"text": "a"},
  "a conversation": {"messages": [_USER, _MODEL]},
  "same answers": {"prompt": "a", "chosen": "b", "rejected": "b"},
  "rejected of a number": {"prompt": "a", "chosen": "b", "rejected": 1},
  "chosen of nothing": {"prompt": "a", "chosen": None, "rejected": "b"},
  "prompt of a list": {"prompt": ["a"], "chosen": "b", "rejected": "c"},
  "mixed": {"prompt": "a", "chosen": [_MODEL], "rejected": "c"},
  "no prompt": {"chosen": "b", "rejected": "c"},
}
_PROMPT_FAULTS: dict[str, Any] = {
  "no board": {"prompt": "a"},
  "empty": {"prompt": ""},
  "a number": {"prompt": 1},
  "won": {"prompt": "X|X|X\n-+-+-\nO|O| \n-+-+-\n | | \n"},
  "unreachable": {"prompt": "X|X|X\n-+-+-\nX|X|X\n-+-+-\n | | \n"},
  "answered": {"prompt": [_USER, _MODEL]},
}
ITEM_FAULTS: dict[str, Any] = {
  "no id": {**_ITEM, "id": ""},
  "id of a number": {**_ITEM, "id": 1},
  "no prompt": {**_ITEM, "prompt": ""},
  "prompt of a list": {**_ITEM, "prompt": ["a"]},
  "no expectation": {"id": "a", "prompt": "b"},
  "expectation of a number": {**_ITEM, "expected_answer": 4},
  "expectation of a list": {**_ITEM, "expected_answer": ["4"]},
  "unknown match": {**_ITEM, "match": "fuzzy"},
  "moves of text": {**_ITEM, "match": "optimal_move"},
  "no moves": {**_ITEM, "match": "optimal_move", "expected_answer": []},
  "unknown move": {**_ITEM, "match": "optimal_move", "expected_answer": ["D4"]},
  "short board": {**_ITEM, "board": "..."},
  "board of other marks": {**_ITEM, "board": "QQQQQQQQQ"},
  "impossible board": {**_ITEM, "board": "XXXXXXXXX"},
  "board of a number": {**_ITEM, "board": 1},
  "chance of text": {**_ITEM, "chance": "half"},
  "section of nothing": {**_ITEM, "section": None},
  "system of a list": {**_ITEM, "system": ["a"]},
}
ANSWER_FAULTS: dict[str, Any] = {
  **{
    f"no {name}": {k: v for k, v in _ANSWER.items() if k != name}
    for name in ("id", "prompt", "response", "score", "seed")
  },
  "unknown field": {**_ANSWER, "why": "a"},
  "long field": {**_ANSWER, "k" * 10**6: "a"},
  "score of a half": {**_ANSWER, "score": 0.5},
  "score of text": {**_ANSWER, "score": "1"},
  "score of a flag": {**_ANSWER, "score": True},
  "response of nothing": {**_ANSWER, "response": None},
  "chance of text": {**_ANSWER, "chance": "half"},
  "another item": {**_ANSWER, "id": "b"},
  "another prompt": {**_ANSWER, "prompt": "3 + 3?"},
  "another section": {**_ANSWER, "section": "other"},
}
GAME_FAULTS: dict[str, Any] = {
  "agent": {**_GAME, "agent": "Z"},
  "ending": {**_GAME, "ending": "defeat"},
  "ending of a number": {**_GAME, "ending": 3},
  "board": {**_GAME, "board": "...."},
  "impossible board": {**_GAME, "board": "XXXXXXXXX"},
  "no turns": {**_GAME, "turns": []},
  "turns of text": {**_GAME, "turns": "a"},
  "another game": {**_GAME, "board": "..X......"},
  "unknown field": {**_GAME, "why": "a"},
  "move": {**_GAME, "turns": [{**_GAME["turns"][0], "move": "D4"}]},
  "move of a list": {**_GAME, "turns": [{**_GAME["turns"][0], "move": []}]},
}
_JSON_FAULTS: dict[str, Damage] = {
  name: JSONL_FAULTS[name]
  for name in (
    *("missing", "directory", "empty", "cut", "list", "not UTF-8", "nested"),
    *("no fields", "half a pair", "NaN", "beyond floats", "many digits"),
  )
}
MANIFEST_FAULTS: dict[str, Any] = {
  "recipe": {**_MANIFEST, "recipe": "ppo"},
  "status": {**_MANIFEST, "status": "lost"},
  "version": {**_MANIFEST, "schema_version": 99},
  "config of text": {**_MANIFEST, "config": "a"},
  "no model": {**_MANIFEST, "model": None},
  "unknown field": {**_MANIFEST, "why": "a"},
  "seed of text": {**_MANIFEST, "seed": "one"},
}
METRIC_FAULTS: dict[str, Any] = {
  "loss of text": {**_METRIC, "loss": "x"},
  "loss of nothing": {**_METRIC, "loss": None},
  "loss of a flag": {**_METRIC, "loss": True},
  "loss of a list": {**_METRIC, "loss": [1.0]},
  "step of text": {**_METRIC, "step": "one"},
  "step of a fraction": {**_METRIC, "step": 1.5},
  "split of a number": {**_METRIC, "split": 1},
  "no step": {"split": "train", "loss": 1.0},
  "no split": {"step": 1, "loss": 1.0},
}
SUMMARY_FAULTS: dict[str, bytes] = {
  "results of text": _jsonl({**_SUMMARY, "results": "a"}),
  "another mark": _jsonl({**_SUMMARY, "results": {"Z": {}}}),
  "no rates": _jsonl({**_SUMMARY, "results": {"X": {"games": 1}}}),
  "no model": _jsonl({k: v for k, v in _SUMMARY.items() if k != "model"}),
  "rate of NaN": json.dumps(_SUMMARY).replace("0.5", "NaN").encode(),
  "rate beyond floats": json.dumps(_SUMMARY).replace("0.5", "1e999").encode(),
}


def _weights(change: Callable[[dict[str, Any]], object]) -> Damage:
  """Returns damage to the tensors of `hf/model.safetensors`."""

  def damage(path: pathlib.Path) -> None:
    from safetensors import numpy as safetensors_numpy

    tensors = safetensors_numpy.load_file(path)
    change(tensors)
    safetensors_numpy.save_file(tensors, path)

  return damage


def _number(value: float) -> Callable[[dict[str, Any]], object]:
  """Returns a change of the last number of the last tensor."""

  def change(tensors: dict[str, Any]) -> None:
    tensors[max(tensors)].reshape(-1)[-1] = value

  return change


def _cut(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[:-100])


def _json(**changes: Any) -> Damage:
  def damage(path: pathlib.Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

  return damage


WEIGHTS, HF_CONFIG = "hf/model.safetensors", "hf/config.json"
# Damage to a directory that transformers saved.
MODEL_FAULTS: dict[str, dict[str, Damage]] = {
  "NaN": {WEIGHTS: _weights(_number(float("nan")))},
  "infinite": {WEIGHTS: _weights(_number(float("-inf")))},
  "cut": {WEIGHTS: _cut},
  "no weights": {WEIGHTS: lambda path: path.unlink()},
  "empty weights": {WEIGHTS: b""},
  "text for weights": {WEIGHTS: b"version https://git-lfs.github.com\n" * 9},
  "tensor missing": {WEIGHTS: _weights(lambda t: t.pop(min(t)))},
  "tensor too many": {WEIGHTS: _weights(lambda t: t.update(x=t[min(t)] * 1))},
  "pickle": {
    WEIGHTS: lambda path: path.rename(path.with_name("pytorch_model.bin"))
  },
  **{f"config {name}": {HF_CONFIG: d} for name, d in _JSON_FAULTS.items()},
  "architecture": {HF_CONFIG: _json(architectures=["LlamaForCausalLM"])},
  "architectures of text": {HF_CONFIG: _json(architectures="a")},
  "width": {HF_CONFIG: _json(hidden_size=31)},
  "width of text": {HF_CONFIG: _json(hidden_size="a")},
  "width of a flag": {HF_CONFIG: _json(hidden_size=True)},
  "no heads": {HF_CONFIG: _json(num_attention_heads=0)},
  "layers": {HF_CONFIG: _json(num_hidden_layers=9)},
  "activation": {HF_CONFIG: _json(hidden_act="relu")},
  "rope": {HF_CONFIG: _json(rope_scaling={"rope_type": "yarn"})},
  "quantized": {HF_CONFIG: _json(quantization_config={"bits": 4})},
  "no tokenizer": {"hf/tokenizer.json": lambda path: path.unlink()},
  "tokenizer": {"hf/tokenizer.json": b"{"},
  "template": {"hf/chat_template.jinja": b"{% for %}"},
}


def _of_configs() -> Iterator[Case]:
  for script, config in _CONFIG_OF.items():
    # Those of evaluation read it alike.
    few = script in ("eval_generate", "play", "train_dpo_tunix")
    for name, data in itertools.islice(YAML_FAULTS.items(), 8 if few else None):
      yield Case(
        name=f"{script}: YAML: {name}",
        script=script,
        argv=COMMANDS[script],
        files={config: data},
      )
  for script in ("train_sft_tunix", "train_grpo_tunix", "eval_play"):
    own = _TRAIN_SETTINGS if script in _TRAIN else {}
    own = own | (_PLAY_SETTINGS if script != "train_sft_tunix" else {})
    own = own | ({} if script == "train_sft_tunix" else _NO_GAMES)
    for name, setting in {**SETTINGS, **own}.items():
      if setting:
        yield _set(script, name, setting)
  for name, setting in _ANSWER_SETTINGS.items():
    yield _set("eval_generate", name, setting)
  for name, setting in {
    "no rejected": "pairs.rejected={}",
    "no pairs": "pairs.count=0",
    "no config": "sft=null",
    "config missing": "sft.config=none.yaml",
    "stage of text": "dpo=a",
    "stage's setting": "sft.set=[training.max_steps=0]",
    "second stage's setting": "grpo={config: grpo.yaml, set: [seed=x]}",
    "second stage's play": "grpo={config: grpo.yaml, set:"
    " [play.max_new_tokens=2]}",
    "second stage's adapter": "grpo={config: grpo.yaml, set:"
    " ['lora={target_modules: [nothing]}']}",
  }.items():
    yield _set("pipeline", name, setting)


# A GRPO run from a model of its own tokenizer reads no games at all.
_NO_GAMES: dict[str, str] = {}


def _set(script: str, name: str, setting: str) -> Case:
  return Case(
    name=f"{script}: --set: {name}",
    script=script,
    argv=(*COMMANDS[script], "--set", setting),
  )


def _of_flags() -> Iterator[Case]:
  for script, argv in COMMANDS.items():
    yield Case(
      name=f"{script}: unknown flag", script=script, argv=(*argv, "--nonsense")
    )
    yield Case(
      name=f"{script}: log level",
      script=script,
      argv=(*argv, "--log-level", "loud"),
    )
    if argv:
      yield Case(name=f"{script}: no flags", script=script, argv=())
    if "--output" in argv:
      for taken in ("taken", "folder"):
        if script != "compare" or taken == "taken":
          output = taken if script != "eval_report" else "after.jsonl"
          yield Case(
            name=f"{script}: --output {taken}",
            script=script,
            argv=(*argv, "--output", output),
          )
  numbers = {
    "train_sft_tunix": "--max-samples",
    "eval_generate": "--max-examples",
    "eval_play": "--episodes",
    "play": "--self-play",
    "generate_data": "--count",
    "build_dataset": "--limit",
  }
  for script, flag in numbers.items():
    for value in ("0", "-1", "many", "1.5", "", "9" * 5000):
      yield Case(
        name=f"{script}: {flag} {value[:9]}",
        script=script,
        argv=(*COMMANDS[script], flag, value),
      )
  for name, script, *more in (
    ("resume soon", "train_sft_tunix", "--resume", "soon"),
    ("resume of no run", "train_sft_tunix", "--resume", "latest"),
    ("model of no place", "train_dpo_tunix", "--model", "nowhere"),
    ("model of a file", "train_grpo_tunix", "--model", "taken"),
    ("model of a folder", "train_grpo_tunix", "--model", "folder"),
    ("model of no place", "eval_play", "--model", "nowhere"),
    ("model of a folder", "eval_generate", "--model", "folder"),
    ("mark", "play", "--as", "z"),
    ("temperature", "play", "--temperature", "hot"),
    ("temperature below 0", "play", "--temperature", "-1"),
    ("temperature of NaN", "eval_play", "--temperature", "nan"),
    ("context", "eval_play", "--context", "none"),
    ("opponent", "eval_play", "--opponent", "stockfish"),
    ("cells", "eval_play", "--opponent", "scripted:9"),
    ("share of errors", "eval_play", "--opponent", "epsilon-optimal:2"),
    ("seed", "eval_play", "--seed", "-1"),
    ("seed of text", "eval_generate", "--seed", "one"),
    ("evalset missing", "eval_generate", "--eval-set", "none"),
    ("file missing", "check_data", "--evalset", "none"),
    ("format", "check_data", "--format", "xml"),
    ("tokenizer", "check_data", "--tokenizer", "nowhere"),
    ("two tokenizers", "check_data", "--tokenizer", "a", "--config", "b"),
    ("report taken", "check_data", "--json", "taken"),
    ("filter", "build_dataset", "--filter", "a"),
    ("filter without a key", "build_dataset", "--filter", "=a"),
    ("filter of nothing", "build_dataset", "--filter", "a=b"),
    ("strategy", "build_dataset", "--strategy", "best"),
    ("export without a format", "build_dataset", "--export", "new"),
    ("name", "build_dataset", "--name", "../x"),
    ("version", "build_dataset", "--version", "a/b"),
    ("kind", "generate_data", "--kind", "poems"),
    ("mistakes elsewhere", "generate_data", "--mistakes", "0.5"),
    ("too many", "generate_data", "--count", "100000"),
    ("weights", "generate_data", "--kind", "dpo", "--rejected", "bad"),
    ("no weight", "generate_data", "--kind", "dpo", "--rejected", "worse=0"),
    ("weight of text", "generate_data", "--kind", "dpo", "--rejected", "worse=a"),
    ("share", "generate_data", "--kind", "games", "--mistakes", "2"),
    ("share of NaN", "generate_data", "--kind", "games", "--mistakes", "nan"),
    ("model without config", "generate_data", "--kind", "rejection"),
    ("before alone", "eval_report", "--before", "none"),
    ("run missing", "eval_report", "--run", "none"),
    ("games missing", "eval_report", "--games-after", "none"),
    ("plots taken", "eval_report", "--plots", "taken"),
    ("run missing", "compare", "none"),
    ("page of text", "compare", "--output", "new.txt"),
    ("plots taken", "compare", "--plots", "taken"),
    ("missing", "evalset", "none"),
    ("shards", "export", "--max-shard-size", "big"),
    ("shards of nothing", "export", "--max-shard-size", "0GB"),
    ("private", "export", "--private"),
    ("repository", "export", "--push-to-hub", "a b"),
    ("model missing", "export", "--model", "nowhere"),
    ("unknown family", "export", "--model", "meta-llama/Llama-3.2-1B"),
  ):  # fmt: skip
    yield Case(
      name=f"{script}: flags: {name}",
      script=script,
      argv=(*COMMANDS[script], *more),
    )


def _of_files() -> Iterator[Case]:
  rows = {name: _jsonl(row) for name, row in ROW_FAULTS.items()}
  for script in ("train_sft_tunix", "check_data", "build_dataset"):
    argv = COMMANDS[script]
    if script == "train_sft_tunix":
      argv = (*argv, "--data", "data.jsonl")
    faults = JSONL_FAULTS if script == "build_dataset" else JSONL_FAULTS | rows
    for name, damage in faults.items():
      yield _file(script, "data.jsonl", name, damage, argv)
    for suffix in ("parquet", "csv", "arrow"):
      path = f"data.{suffix}"
      yield Case(
        name=f"{script}: {suffix}",
        script=script,
        argv=tuple(path if a == "data.jsonl" else a for a in argv),
        files={path: b"\x01garbage\x00\xff\n"},
      )
  yield _file(
    "check_data", "data.jsonl", "no row for a tokenizer", b"{}\n",
    (*COMMANDS["check_data"], "--config", "sft.yaml"),
  )  # fmt: skip
  for name, row in _PAIR_FAULTS.items():
    yield _file("train_dpo_tunix", "pairs.jsonl", name, _jsonl(row))
  prompts = (*COMMANDS["train_grpo_tunix"], "--data", "prompts.jsonl")
  for name, row in _PROMPT_FAULTS.items():
    yield _file("train_grpo_tunix", "prompts.jsonl", name, _jsonl(row), prompts)
  by_position = (*COMMANDS["train_sft_tunix"], "--data", "data.jsonl", "--set")
  yield _file(
    "train_sft_tunix", "data.jsonl", "no positions", _jsonl({"text": "a"}),
    (*by_position, "data.held_out_by=position"),
  )  # fmt: skip


def _file(
  script: str,
  path: str,
  name: str,
  damage: Damage,
  argv: tuple[str, ...] | None = None,
) -> Case:
  return Case(
    name=f"{script}: {path}: {name}",
    script=script,
    argv=COMMANDS[script] if argv is None else argv,
    files={path: damage},
  )


def _of_evaluation() -> Iterator[Case]:
  items = {name: _jsonl(row) for name, row in ITEM_FAULTS.items()}
  items["twice"] = _jsonl(_ITEM, _ITEM)
  for name, damage in {**JSONL_FAULTS, **items}.items():
    yield _file("evalset", "items.jsonl", name, damage)
  long = _jsonl({**_ITEM, "prompt": "word " * 20_000})
  big = (*COMMANDS["eval_generate"], "--set", "eval.batch_size=128")
  yield _file("eval_generate", "items.jsonl", "long", long, big)
  for name in ("directory", "empty", "cut", "half a pair", "no fields"):
    yield _file("eval_generate", "items.jsonl", name, JSONL_FAULTS[name])
  answers = {name: _jsonl(row) for name, row in ANSWER_FAULTS.items()}
  answers["twice"] = _jsonl(_ANSWER, _ANSWER)
  for name, damage in {**JSONL_FAULTS, **answers}.items():
    yield _file("eval_report", "after.jsonl", name, damage)
  report = ("--output", "new.html", "--games-after", "games.jsonl")
  games = {name: _jsonl(row) for name, row in GAME_FAULTS.items()}
  for name, damage in {**_JSON_FAULTS, **games}.items():
    yield _file("eval_report", "games.jsonl", name, damage, report)
  for name, damage in {**_JSON_FAULTS, **SUMMARY_FAULTS}.items():
    yield _file("eval_report", "games.summary.json", name, damage, report)
  manifests = {name: _jsonl(row) for name, row in MANIFEST_FAULTS.items()}
  metrics = {name: _jsonl(row, _METRIC) for name, row in METRIC_FAULTS.items()}
  run = ("--run", "run", "--output", "new.html")
  for script, argv in (("eval_report", run), ("compare", COMMANDS["compare"])):
    for name, damage in {**_JSON_FAULTS, **manifests}.items():
      yield _file(script, "run/run_manifest.json", name, damage, argv)
    for name, damage in metrics.items():
      yield _file(script, "run/metrics.jsonl", name, damage, argv)


def _write_model(directory: pathlib.Path) -> None:
  shutil.copytree(make_models.MODELS / "qwen2.5", directory)
  hugging_face.write_tokenizer(directory, "qwen2.5", 400)


def _of_models() -> Iterator[Case]:
  train = (
    *("--config", "sft.yaml", "--output", "new"),
    *("--set", "model={name: hf}", "data.max_seq_length=4000"),
  )
  for name, files in MODEL_FAULTS.items():
    yield Case(
      name=f"train_sft_tunix: model: {name}",
      script="train_sft_tunix",
      argv=train,
      files={"hf": _write_model, **files},
    )
  for name in ("NaN", "cut", "no weights", "architecture"):
    yield Case(
      name=f"export: model: {name}",
      script="export",
      argv=("--model", "hf", "--output", "new"),
      files={"hf": _write_model, **MODEL_FAULTS[name]},
    )


def cases() -> list[Case]:
  """Returns all cases."""
  return [
    *_of_configs(),
    *_of_flags(),
    *_of_files(),
    *_of_evaluation(),
    *_of_models(),
  ]


def _listing() -> dict[str, bytes | None]:
  return {
    str(path): path.read_bytes() if path.is_file() else None
    for path in pathlib.Path().rglob("*")
  }


def run_script(script: str, argv: tuple[str, ...]) -> tuple[Any, str, str]:
  """Runs a script in this process; returns its exit code, output and errors."""
  out, err, before = io.StringIO(), io.StringIO(), sys.argv
  path = str(ROOT / "training" / f"{script}.py")
  sys.argv, code = [path, *argv], 0
  try:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      runpy.run_path(path, run_name="__main__")
  except SystemExit as error:
    code = error.code
  except BaseException as error:
    if isinstance(error, KeyboardInterrupt):
      raise
    code = 1
    err.write("".join(traceback.format_exception(error)[-3:]))
  finally:
    sys.argv = before
  return code, out.getvalue(), err.getvalue()


def attempt(case: Case) -> str:
  """Tries a case in a directory of its own.

  Returns:
    What went wrong; nothing where the case survived.
  """
  before = pathlib.Path.cwd()
  with tempfile.TemporaryDirectory() as directory:
    os.chdir(directory)
    try:
      write_good(pathlib.Path())
      for name, damage in case.files.items():
        path = pathlib.Path(name)
        if isinstance(damage, bytes):
          path.write_bytes(damage)
        else:
          damage(path)
      there = _listing()
      code, _, err = run_script(case.script, case.argv)
      return _judge(code, err, there == _listing())
    finally:
      os.chdir(before)


def _judge(code: Any, err: str, is_same: bool) -> str:
  # What passes time while one waits is no message.
  lines = [line for line in err.splitlines() if line[-1:] != "…"]
  if code != 2:
    return f"exit code {code}: {err[-600:]}"
  if "Traceback" in err or sum(x.startswith("error: ") for x in lines) != 1:
    return f"not one message: {err[-600:]}"
  if not lines[0].startswith("error: ") or not lines[0][7:].strip(" :;"):
    return f"not a message: {err[:600]}"
  if len(err) > 50_000 or any(len(line) > 1200 for line in lines):
    return f"a message of {len(err)} characters"
  if any(not c.isprintable() for line in lines for c in line):
    return f"control characters: {err[:200]!r}"
  return "" if is_same else "files were left behind"


def main() -> None:
  """Tries all cases, or those whose names have one of the arguments."""
  os.environ["HF_HUB_OFFLINE"] = "1"
  wanted = sys.argv[1:]
  chosen = [
    c for c in cases() if not wanted or any(w in c.name for w in wanted)
  ]
  failed = 0
  for case in chosen:
    fault = attempt(case)
    failed += bool(fault)
    if fault:
      print(f"FAILED {case.name}: {fault}", flush=True)
  print(f"survived {len(chosen) - failed} of {len(chosen)}")
  sys.exit(failed > 0)


if __name__ == "__main__":
  main()
