"""Renders the model card of an exported model."""

from collections.abc import Sequence
import json
import pathlib

import huggingface_hub

from tunix_ttt import config as config_lib
from tunix_ttt import files
from tunix_ttt.evaluate import game_files
from tunix_ttt.games import catalog
from tunix_ttt.models.hub import hub_export as export_lib
from tunix_ttt.report import delta_report
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import tokenizers

README = "README.md"
# Values that vLLM accepts for --max-lora-rank.
_MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256)


def find_summaries(
  revision: str, run: pathlib.Path | None
) -> list[game_files.Summary]:
  """Returns the summaries of a model's games in its run directory."""
  paths = sorted(run.glob("*.summary.json")) if run else ()
  summaries = [game_files.read_summary(path) for path in paths]
  return [summary for summary in summaries if summary.revision == revision]


def render(
  export: export_lib.Export,
  title: str,
  run: pathlib.Path | None,
  summaries: Sequence[game_files.Summary],
) -> str:
  """Returns the model card: Markdown with YAML front matter."""
  title, lora = " ".join(title.split()), export.model.lora
  manifest = run and run_manifest.RunManifest.read(run)
  base_name, commit = _base(export, manifest)
  game = export.model.game or config_lib.GameConfig().name
  game = " ".join(game.split())
  game_title = catalog.title(game)
  tags = [game_title.lower().replace(" ", "-"), "tunix", "tunix_ttt"]
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
    game=game,
    game_title=game_title,
    spec=export.model.spec,
    lora=lora,
    is_adapter=export.is_adapter,
    base_name=base_name,
    commit=commit,
    max_lora_rank=lora
    and next((r for r in _MAX_LORA_RANKS if r >= lora.rank), lora.rank),
    tokenizer="PreTrainedTokenizerFast"
    if is_sentencepiece
    else "AutoTokenizer",
    summaries=summaries,
    manifest=manifest,
    digest=run and files.digest(run / run_directory.MANIFEST, "run manifest"),
    config=manifest and config_lib.flatten(manifest.config),
  )


def _base(
  export: export_lib.Export, manifest: run_manifest.RunManifest | None
) -> tuple[str, str | None]:
  """Returns the base model's name without directories, and its commit."""
  name, commit, record = "", None, export.model.base
  if record is not None:
    name, commit = record.path or "", record.commit
  elif manifest is not None:
    name, commit = manifest.model.name, manifest.model.commit
  if commit is None:
    name = pathlib.PurePath(name).name
  return " ".join(name.split()), commit
