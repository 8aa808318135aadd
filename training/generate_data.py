"""Makes training data: games, positions, pairs, prompts, a model's own games."""

import argparse
import dataclasses
import pathlib
from typing import Any

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.data import reading
from tunix_ttt.games import row_kinds

# Flags of the kinds that a model plays.
_PLAY_FLAGS = {"config", "set", "model", "base", "format", "temperature"}
_MODEL_FLAGS = {
  "rejection": {"opponent", "sides", "context", "keep", "no_transform"},
  "dpo": {"opponent", "sides", "rejected", "thoughts"},
}


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/generate_data.py --kind games --count 10000 --mistakes"
    " 0.3 --keep won --output games.jsonl",
  )
  add = parser.add_argument
  cli.add_game(parser)
  add(
    "--kind",
    required=True,
    help="games of the solver or an expert, positions labelled by it, preference"
    " pairs (dpo) by the solver or of a model's mistakes, prompts, or games of a"
    " model (rejection)",
  )
  add(
    "--count",
    type=cli.positive,
    required=True,
    help="number of games, positions, pairs or prompts",
  )
  add("--seed", type=cli.seed, default=0, help="random seed")
  add("--output", type=pathlib.Path, required=True, help="JSONL to write")
  cli.add_config(parser, required=False)
  cli.add_base(parser)

  def add_optional(name: str, **settings: Any) -> None:
    # Flags that are not set are absent, so that a kind's own defaults hold.
    add(name, default=argparse.SUPPRESS, **settings)

  add_optional(
    "--format",
    choices=["grid", "token_board"],
    help="text format of boards and answers (default: grid)",
  )
  add_optional(
    "--thoughts",
    choices=["template", "tactics", "none"],
    help="style of explanations (default: template, of positions tactics)",
  )
  add_optional(
    "--context",
    choices=["board", "full", "truncated"],
    help="a row per turn (board, truncated) or per conversation (full)",
  )
  add_optional(
    "--keep",
    choices=[*row_kinds.KEPT],
    help="outcomes to keep (default: all, of a model won)",
  )
  add_optional(
    "--expert",
    help="player whose moves are taught, named as in play.opponent (default:"
    " optimal)",
  )
  add_optional(
    "--mistakes",
    type=cli.fraction,
    help="share of random moves of the solver or expert (default: 0)",
  )
  add_optional(
    "--random-starts",
    type=cli.fraction,
    help="share of games that start on a random position (default: 0)",
  )
  add_optional(
    "--labels",
    choices=["all", "one"],
    help="a row per optimal move, or one row per position (default: one)",
  )
  add_optional(
    "--rejected",
    type=_weights,
    help="kinds of rejected answers, such as worse=2,illegal=1,format=1",
  )
  add_optional("--model", help="model that plays: a checkpoint or base")
  add_optional(
    "--temperature",
    type=float,
    help="sampling temperature of the model (default: 0.8)",
  )
  add_optional("--sides", help="seat that the model plays, such as x, or mixed")
  add_optional(
    "--opponent",
    help="opponent of an expert (default: random), or instead of play.opponent",
  )
  add_optional(
    "--no-transform",
    action="store_true",
    help="keep past thoughts in conversations of a model",
  )
  flags = parser.parse_args()
  # Imported lazily: pulls in JAX. The game decides which kinds there are.
  from tunix_ttt.games import catalog

  kinds = catalog.load(flags.game).rows.kinds
  if flags.kind not in (*kinds, "rejection"):
    parser.error(
      f"argument --kind: invalid choice: {errors.quote(flags.kind)} (choose from"
      f" {', '.join([*kinds, 'rejection'])})"
    )
  if _needs_model(flags):
    if flags.config is None:
      model = " with --model" if flags.kind == "dpo" else ""
      parser.error(f"--kind {flags.kind}{model} needs --config")
    allowed = _PLAY_FLAGS | _MODEL_FLAGS[flags.kind]
  else:
    allowed = _fields(kinds[flags.kind])
  allowed = {*allowed, "game", "kind", "count", "seed", "output"}
  for name, value in vars(flags).items():
    if name not in allowed and value not in (None, []):
      parser.error(f"--{name.replace('_', '-')} is not for --kind {flags.kind}")
  return flags


def _fields(kind: Any) -> set[str]:
  return {field.name for field in dataclasses.fields(kind)}


def _needs_model(flags: argparse.Namespace) -> bool:
  return flags.kind == "rejection" or (flags.kind == "dpo" and "model" in flags)


def _weights(text: str) -> dict[str, float]:
  try:
    return row_kinds.parse_weights(text)
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from None


def _make(kind: Any, settings: dict[str, Any]) -> row_kinds.Kind:
  names = _fields(kind)
  return kind(**{k: v for k, v in settings.items() if k in names})


def _model_kind(flags: dict[str, Any]) -> row_kinds.Kind:
  overrides = cli.overrides(
    flags["set"],
    play__context=flags.get("context"),
    play__format=flags.get("format"),
    play__opponent=flags.get("opponent"),
    play__temperature=flags.get("temperature", 0.8),
    model__base=flags["base"],
  )
  config = config_lib.load_any(flags["config"], overrides)
  cli.require_tunix()

  from tunix_ttt.data import rejection
  from tunix_ttt.train import reference_log_probs

  if "no_transform" in flags:
    flags["transform"] = False
  is_pairs = flags["kind"] == "dpo"
  kind = rejection.Mistakes if is_pairs else rejection.Rejection
  name = flags.get("model", "base")
  model = reference_log_probs.load(name, config)
  return _make(kind, {**flags, "name": name, "model": model, "config": config})


def main() -> None:
  """Parses the flags, generates the rows and writes them."""
  flags = _parse()
  files.check_output(flags.output)
  files.check_output(reading.beside(flags.output))
  # Imported lazily: pulls in JAX.
  from tunix_ttt.data import generate
  from tunix_ttt.games import catalog

  if _needs_model(flags):
    kind = _model_kind(vars(flags))
  else:
    game = catalog.load(flags.game)
    kind = _make(game.rows.kinds[flags.kind], {**vars(flags), "game": game})
  manifest = generate.write(
    flags.output, flags.kind, kind, flags.count, flags.seed
  )
  counts = ", ".join(f"{name} {n:,}" for name, n in manifest.counts.items())
  print(f"{flags.output}: {manifest.rows:,} rows{counts and f' ({counts})'}")


if __name__ == "__main__":
  cli.run(main)
