"""The model card of an exported model: what it is, and what it is worth."""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import pathlib
import shlex
from typing import Any

import huggingface_hub

from tunix_ttt import files
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import rates as play_lib
from tunix_ttt.models.hub import hub_export as export_lib
from tunix_ttt.report import delta_report
from tunix_ttt.runs import run_directory
from tunix_ttt.text import tokenizers

README = "README.md"
# What is said of a run's config; no paths, which are of somebody's machine.
_SETTINGS = (
  "seed",
  "lora.rank",
  "lora.alpha",
  "lora.target_modules",
  "data.format",
  "data.games.num_games",
  "data.max_seq_length",
  "training.max_steps",
  "training.batch_size",
  "training.gradient_accumulation_steps",
  "training.optimizer",
  "training.learning_rate",
  "training.weight_decay",
  "play.format",
  "play.context",
  "grpo.num_generations",
  "grpo.loss_algo",
  "grpo.advantage_estimator",
  "grpo.beta",
  "rollout.temperature",
)
# Those that vLLM takes.
_MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """The origin of a model.

  Attributes:
    manifest: The run's manifest.
    digest: SHA-256 of the manifest's file.
    directory: the run's.
  """

  manifest: run_directory.RunManifest
  digest: str
  directory: pathlib.Path


def find_run(model: str) -> Run | None:
  """Returns the run that a checkpoint is of; None for other models."""
  directory = run_directory.of_model(model)
  if directory is None:
    return None
  manifest = run_directory.RunManifest.read(directory)
  data = (directory / run_directory.MANIFEST).read_bytes()
  digest = hashlib.sha256(data).hexdigest()
  return Run(manifest=manifest, digest=digest, directory=directory)


def find_summaries(revision: str, run: Run | None) -> list[game_files.Summary]:
  """Returns the summaries in a run's directory that are of a model.

  Args:
    revision: the model's digest, which does not change where a run is moved.
    run: the run.
  """
  if run is None:
    return []
  paths = sorted(run.directory.glob("*.summary.json"))
  found = [game_files.read_summary(path) for path in paths]
  return [summary for summary in found if summary.revision == revision]


def render(
  export: export_lib.Export,
  name: str,
  run: Run | None,
  summaries: Sequence[game_files.Summary],
) -> str:
  """Returns the card, in Markdown with YAML in front.

  Args:
    export: what is exported.
    name: what it is to be called: a repository or a directory.
    run: what it was trained by.
    summaries: games that it played.
  """
  name = _line(name)
  base, base_text = _base(export, run)
  tags = ["tic-tac-toe", "tunix", "tunix_ttt"]
  front = huggingface_hub.ModelCardData(
    library_name="peft" if export.is_adapter else "transformers",
    pipeline_tag="text-generation",
    tags=tags if export.model.lora is None else [*tags, "lora"],
    base_model=base if files.is_hub_id(base) else None,
  )
  parts = [
    f"---\n{front.to_yaml()}\n---",
    f"# {delta_report.escape(name)}",
    _what(export, base_text, run),
    *_games(summaries),
    *([] if run is None else _training(run)),
    _use(export, name, base),
  ]
  return "\n\n".join(parts) + "\n"


def _line(text: str) -> str:
  return " ".join(text.split())


def _base(export: export_lib.Export, run: Run | None) -> tuple[str, str]:
  """Returns the base's name without directories, and how to speak of it."""
  record = export.model.base
  name, commit = None, None
  if record is not None:
    name, commit = record.path, record.commit
  elif run is not None:
    name, commit = run.manifest.model.name, run.manifest.model.commit
  if name is None:
    return "", "a model from scratch"
  if commit is not None:
    name = _line(name)
    where = delta_report.code(name)
    return name, f"{where} at commit {delta_report.code(commit)}"
  name = _line(pathlib.PurePath(name).name)
  if name.startswith("tiny-"):
    return name, f"{delta_report.code(name)}, made from scratch"
  return name, f"{delta_report.code(name)}, a local directory"


def _what(export: export_lib.Export, base: str, run: Run | None) -> str:
  model = export.model
  recipe = "" if run is None else f" by {run.manifest.recipe.upper()}"
  spec = model.spec
  shape = (
    f"{spec.family}, {spec.num_layers} layers, width {spec.embed_dim},"
    f" {spec.vocab_size} tokens, {spec.dtype}"
  )
  trained = (
    f"trained on tic-tac-toe{recipe} with tunix_ttt, which uses JAX and Google's"
    " Tunix."
  )
  if model.lora is None:
    return f"A language model ({shape}), {trained} It began as {base}."
  kind = "A LoRA adapter"
  if not export.is_adapter:
    kind = "A language model with a LoRA adapter merged in"
  return (
    f"{kind} ({shape}; rank {model.lora.rank}, alpha {model.lora.alpha:g}),"
    f" {trained} Its base is {base}."
  )


def _games(summaries: Sequence[game_files.Summary]) -> list[str]:
  if not summaries:
    return []
  parts = ["## Evaluation"]
  for summary in summaries:
    lines = [
      "| as | games | against | win | draw | loss | other | optimal moves |",
      "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    opponent = str(summary.play.get("opponent", "?"))
    for mark, result in summary.results.items():
      if isinstance(result, play_lib.Exact):
        games = f"{result.lines} lines, {result.lines_lost} lost"
        rows = [("random", result.random), ("optimal", result.optimal)]
      else:
        games = f"{result.games} sampled"
        rows = [(opponent, result.rates)]
      lines += [
        _row(mark, games, against, rates, result.optimal_move_rate)
        for against, rates in rows
      ]
    parts.append("\n".join(lines))
  parts.append(
    "Lines are all games that a greedy model can come into: their rates are"
    " exact. Other endings are illegal moves and answers that cannot be read."
  )
  return parts


def _row(
  mark: str, games: str, against: str, rates: dict[str, float], optimal: float
) -> str:
  known = [rates.get(f"{name}_rate", 0.0) for name in ("win", "draw", "loss")]
  numbers = [*known, sum(rates.values()) - sum(known), optimal]
  percent = [f"{abs(number):.2%}" for number in numbers]
  return (
    f"| {' | '.join([mark, games, delta_report.escape(against), *percent])} |"
  )


def _training(run: Run) -> list[str]:
  manifest = run.manifest
  lines = ["| setting | value |", "|---|---|"]
  for key in _SETTINGS:
    value: Any = manifest.config
    for part in key.split("."):
      value = value.get(part) if isinstance(value, dict) else None
    if value is not None:
      text = delta_report.code(files.to_json(value))
      lines.append(f"| `{key}` | {text} |")
  digests = [("run_manifest.json", run.digest)]
  if manifest.dataset is not None:
    digests.append(("the training data", manifest.dataset.digest))
  digests.append(("the model before training", manifest.model.revision))
  shas = [
    "| SHA-256 of | |\n|---|---|",
    *(f"| {what} | {delta_report.code(digest)} |" for what, digest in digests),
  ]
  return [
    f"## Training\n\nRun {delta_report.code(manifest.run_id)}, recipe"
    f" {manifest.recipe.upper()}, {delta_report.escape(manifest.status)}.",
    "\n".join(lines),
    "\n".join(shas),
  ]


def _use(export: export_lib.Export, name: str, base: str) -> str:
  quoted = json.dumps(name)
  tokenizer, note = "AutoTokenizer", ""
  if isinstance(export.model.tokenizer, tokenizers.SentencePieceTokenizer):
    tokenizer = "PreTrainedTokenizerFast"
    if tokenizer_note := export.model.spec.traits.tokenizer_note:
      note = f"\n\n{tokenizer_note}"
  if export.is_adapter:
    assert export.model.lora is not None
    rank = export.model.lora.rank
    room = next((r for r in _MAX_LORA_RANKS if r >= rank), rank)
    load = f"peft.AutoPeftModelForCausalLM.from_pretrained({quoted})"
    serve = (
      f"vllm serve {shlex.quote(base)} --enable-lora --max-lora-rank {room} \\\n"
      f"  --lora-modules {shlex.quote(f'tictactoe={name}')}"
    )
    imports = "import peft\nimport transformers"
  else:
    load = f"transformers.AutoModelForCausalLM.from_pretrained({quoted})"
    serve = f"vllm serve {shlex.quote(name)}"
    imports = "import transformers"
  return (
    "## Use\n\n"
    f"```python\n{imports}\n\n"
    f"tokenizer = transformers.{tokenizer}.from_pretrained({quoted})\n"
    f"model = {load}\n```\n\n"
    f"With vLLM:\n\n```sh\n{serve}\n```{note}"
  )
