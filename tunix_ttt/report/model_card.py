"""Renders the model card of an exported model."""

from collections.abc import Iterator, Sequence
import json
import pathlib
from typing import Any, NamedTuple

import huggingface_hub

from tunix_ttt import config as config_lib
from tunix_ttt import files
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.models.hub import hub_export as export_lib
from tunix_ttt.report import delta_report
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import tokenizers

README = "README.md"
# Settings on the card. Paths are left out: they belong to the user's machine.
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
# Values that vLLM accepts for --max-lora-rank.
_MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256)


class Run(NamedTuple):
  """The run that trained a model, with the SHA-256 of its manifest file."""

  manifest: run_manifest.RunManifest
  digest: str
  directory: pathlib.Path


def find_run(model: str) -> Run | None:
  """Returns the run that a checkpoint belongs to; None for other models."""
  directory = run_directory.of_model(model)
  if directory is None:
    return None
  manifest = run_manifest.RunManifest.read(directory)
  digest = files.digest(directory / run_directory.MANIFEST, "run manifest")
  return Run(manifest, digest, directory)


def find_summaries(revision: str, run: Run | None) -> list[game_files.Summary]:
  """Returns the summaries of a model's games in its run directory."""
  if run is None:
    return []
  paths = sorted(run.directory.glob("*.summary.json"))
  summaries = [game_files.read_summary(path) for path in paths]
  return [summary for summary in summaries if summary.revision == revision]


def render(
  export: export_lib.Export,
  title: str,
  run: Run | None,
  summaries: Sequence[game_files.Summary],
) -> str:
  """Returns the model card: Markdown with YAML front matter."""
  title, lora = " ".join(title.split()), export.model.lora
  base_name, base = _base(export, run)
  tags = ["tic-tac-toe", "tunix", "tunix_ttt"]
  is_sentencepiece = isinstance(
    export.model.tokenizer, tokenizers.SentencePieceTokenizer
  )
  return delta_report.template("model_card.md").render(
    front=huggingface_hub.ModelCardData(
      library_name="peft" if export.is_adapter else "transformers",
      pipeline_tag="text-generation",
      tags=tags if lora is None else [*tags, "lora"],
      base_model=base_name if files.is_hub_id(base_name) else None,
    ),
    title=title,
    quoted_title=json.dumps(title),
    spec=export.model.spec,
    lora=lora,
    is_adapter=export.is_adapter,
    base=base,
    base_name=base_name,
    max_lora_rank=lora
    and next((r for r in _MAX_LORA_RANKS if r >= lora.rank), lora.rank),
    tokenizer="PreTrainedTokenizerFast"
    if is_sentencepiece
    else "AutoTokenizer",
    tables=[_result_rows(summary) for summary in summaries],
    run=run,
    settings=run and _settings(run.manifest.config),
  )


def _base(export: export_lib.Export, run: Run | None) -> tuple[str, str]:
  """Returns the base model's name without directories, and its description."""
  name, commit, record = None, None, export.model.base
  if record is not None:
    name, commit = record.path, record.commit
  elif run is not None:
    name, commit = run.manifest.model.name, run.manifest.model.commit
  if name is None:
    return "", "a model from scratch"
  if commit is not None:
    name = " ".join(name.split())
    return name, (
      f"{delta_report.code(name)} at commit {delta_report.code(commit)}"
    )
  name = " ".join(pathlib.PurePath(name).name.split())
  origin = "from scratch" if name.startswith("tiny-") else "a local directory"
  return name, f"{delta_report.code(name)}, {origin}"


def _result_rows(summary: game_files.Summary) -> Iterator[list[str]]:
  """Yields the cells of a summary's table."""
  for mark, result in summary.results.items():
    games = (
      f"{result.lines} lines, {result.lines_lost} lost"
      if isinstance(result, rates_lib.Exact)
      else f"{result.games} sampled"
    )
    against = result.against(str(summary.play.get("opponent", "?")))
    for opponent, rates in against.items():
      names = ("win_rate", "draw_rate", "loss_rate")
      shares = [rates.get(name, 0.0) for name in names]
      shares += [sum(rates.values()) - sum(shares), result.optimal_move_rate]
      percent = [f"{abs(share):.2%}" for share in shares]
      yield [mark, games, delta_report.escape(opponent), *percent]


def _settings(config: dict[str, Any]) -> dict[str, str]:
  """Returns the settings on the card and their values as JSON."""
  settings = config_lib.flatten(config)
  return {
    key: files.to_json(settings[key])
    for key in _SETTINGS
    if settings.get(key) is not None
  }
