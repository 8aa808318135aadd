"""Generates and scores a model's answers to an evalset."""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt.evaluate import evalsets
from tunix_ttt.runs import processes


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/eval_generate.py --model base --config"
    " configs/sft_tiny.yaml --eval-set evalsets/tictactoe_v1.jsonl --output"
    " eval_before.jsonl",
  )
  cli.add_model(parser)
  cli.add_backend(parser)
  parser.add_argument(
    "--eval-set", type=pathlib.Path, required=True, help="JSONL of questions"
  )
  parser.add_argument(
    "--output", type=pathlib.Path, required=True, help="JSONL to write"
  )
  parser.add_argument(
    "--seed",
    type=cli.seed,
    help="random seed for sampling, in place of the config's",
  )
  parser.add_argument(
    "--max-examples",
    type=cli.positive,
    help="maximum number of items, from the start of the evalset",
  )
  return parser.parse_args()


def main() -> None:
  """Generates, writes and counts the answers."""
  flags = _parse()
  config = cli.config_of_model(flags, flags.set)
  items = evalsets.load(flags.eval_set, config.game)[: flags.max_examples]
  cli.require_tunix()
  processes.start(config.distributed)
  processes.check_output(flags.output)
  # Imported lazily: pulls in Tunix.
  from tunix_ttt import recipes

  answers = list(recipes.answer_evalset(flags.model, config, items, flags.seed))
  if processes.is_first():
    evalsets.write(answers, flags.output)
  right = sum(answer.score for answer in answers)
  print(
    f"{flags.model}: {right} of {len(answers)} right"
    f" ({right / len(answers):.3f}); {flags.output}"
  )


if __name__ == "__main__":
  cli.run(main)
