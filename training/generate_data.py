"""Makes training data: games, positions, pairs, prompts, a model's own games."""

import argparse
import dataclasses
import pathlib
from typing import Any

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import files
from tunix_ttt.data import generate
from tunix_ttt.data import manifests
from tunix_ttt.games.tictactoe import thoughts

# The flags of what a model plays; `--kind dpo` with a model is of its mistakes.
_PLAY = {
  "config",
  "set",
  "model",
  "base",
  "format",
  "temperature",
  "opponent",
  "sides",
}
_OF_A_MODEL = {
  "rejection": _PLAY | {"context", "keep", "no_transform"},
  "dpo": _PLAY | {"rejected", "thoughts"},
}


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/generate_data.py --kind games --count 10000 --mistakes"
    " 0.3 --keep won --output games.jsonl",
  )
  # Of a kind's own flags, those that are not given are not there.
  own: Any = {"default": argparse.SUPPRESS}
  add = parser.add_argument
  add(
    "--kind",
    choices=[*generate.KINDS, "rejection"],
    required=True,
    help="of rows: games of the solver, positions labelled by it, pairs (dpo) of"
    " it or of a model's mistakes, prompts, or a model's own games (rejection)",
  )
  add(
    "--count",
    type=cli.positive,
    required=True,
    help="of games, positions, pairs or prompts",
  )
  add("--seed", type=cli.seed, default=0, help="of all randomness")
  add("--output", type=pathlib.Path, required=True, help="JSONL to write")
  add(
    "--format",
    choices=["grid", "token_board"],
    help="of boards and answers, grid if not given",
    **own,
  )
  add(
    "--thoughts",
    choices=[*thoughts.STYLES],
    help="how moves are explained; template if not given, of positions tactics",
    **own,
  )
  add(
    "--context",
    choices=["board", "full", "truncated"],
    help="a row of each turn (board, truncated) or conversations (full)",
    **own,
  )
  add(
    "--keep",
    choices=[*generate.KEPT],
    help="which games, by their end; all if not given, of a model won",
    **own,
  )
  add(
    "--mistakes",
    type=cli.fraction,
    help="share of the agent's moves that are random, 0 if not given",
    **own,
  )
  add(
    "--random-starts",
    type=cli.fraction,
    help="share of games that begin on a random position, 0 if not given",
    **own,
  )
  add(
    "--labels",
    choices=["all", "one"],
    help="rows of a position: of all optimal moves, or one if not given",
    **own,
  )
  add(
    "--rejected",
    type=_weights,
    help="kinds of rejected answers, such as worse=2,illegal=1,format=1",
    **own,
  )
  cli.add_config(parser, required=False)
  cli.add_base(parser)
  add("--model", help="who plays, a checkpoint or base", **own)
  add("--temperature", type=float, help="of the model, 0.8 if not given", **own)
  add("--sides", choices=["x", "o", "mixed"], help="of the model", **own)
  add("--opponent", help="in place of play.opponent", **own)
  add(
    "--no-transform",
    action="store_true",
    help="keep past thoughts in conversations of a model",
    **own,
  )
  flags = parser.parse_args()
  if _is_of_a_model(flags):
    if flags.config is None:
      model = " with --model" if flags.kind == "dpo" else ""
      parser.error(f"--kind {flags.kind}{model} needs --config")
    known = {*_OF_A_MODEL[flags.kind]}
  else:
    known = _settings(generate.KINDS[flags.kind])
  known |= {"kind", "count", "seed", "output"}
  for name, value in vars(flags).items():
    if name not in known and value not in (None, []):
      parser.error(f"--{name.replace('_', '-')} is not for --kind {flags.kind}")
  return flags


def _settings(kind: Any) -> set[str]:
  return {field.name for field in dataclasses.fields(kind)}


def _is_of_a_model(flags: argparse.Namespace) -> bool:
  return flags.kind == "rejection" or (flags.kind == "dpo" and "model" in flags)


def _weights(text: str) -> dict[str, float]:
  try:
    return generate.parse_weights(text)
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from None


def _of_a_model(given: dict[str, Any]) -> generate.Kind:
  settings = cli.overrides(
    given["set"],
    play__context=given.get("context"),
    play__format=given.get("format"),
    play__opponent=given.get("opponent"),
    play__temperature=given.get("temperature", 0.8),
    model__base=given["base"],
  )
  config = config_lib.load_any(given["config"], settings)
  cli.require_tunix()

  from tunix_ttt.data import rejection
  from tunix_ttt.train import base_model

  if "no_transform" in given:
    given["transform"] = False
  kind: Any = rejection.Rejection
  if given["kind"] == "dpo":
    kind = rejection.Mistakes
  names = _settings(kind) - {"name", "model", "config"}
  name = given.get("model", "base")
  return kind(
    **{k: v for k, v in given.items() if k in names},
    name=name,
    model=base_model.load(name, config),
    config=config,
  )


def main() -> None:
  """Parses the flags, makes the rows and writes them."""
  flags = _parse()
  files.check_output(flags.output)
  files.check_output(manifests.beside(flags.output))
  given = vars(flags)
  if _is_of_a_model(flags):
    kind = _of_a_model(given)
  else:
    make: Any = generate.KINDS[flags.kind]
    names = _settings(make)
    kind = make(**{k: v for k, v in given.items() if k in names})
  made = generate.write(flags.output, flags.kind, kind, flags.count, flags.seed)
  counts = ", ".join(f"{name} {n:,}" for name, n in made.counts.items())
  print(f"{flags.output}: {made.rows:,} rows{counts and f' ({counts})'}")


if __name__ == "__main__":
  cli.run(main)
