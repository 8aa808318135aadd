"""Judges any model exactly, by its answer to each observation.

A model behind an OpenAI-compatible endpoint, or a file of answers, plays every line
of a game by one answer to each distinct observation. A directory of Hugging Face,
an adapter, a run or a checkpoint is loaded and plays them itself.
"""

import argparse
import pathlib

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.runs import interrupts
from tunix_ttt.runs import processes
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory

# Default where no run says more.
_MAX_TOKENS = 256


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/judge.py --endpoint http://localhost:8000/v1 --model NAME"
    " --output judged.jsonl",
  )
  parser.add_argument(
    "--endpoint",
    metavar="URL",
    help="base URL of an OpenAI-compatible server; the API key is the environment"
    " variable OPENAI_API_KEY",
  )
  parser.add_argument(
    "--model",
    help="name of the model at --endpoint, or else a directory or hub id: of"
    " Hugging Face, an adapter, a run or a checkpoint",
  )
  parser.add_argument(
    "--answers",
    type=pathlib.Path,
    help="JSONL of answers, each with an observation and a response",
  )
  parser.add_argument(
    "--game",
    help="game: name or package.module:function; replaces game.name",
  )
  cli.add_config(parser, required=False)
  cli.add_base(parser)
  cli.add_backend(parser)
  group = parser.add_argument_group("requests to --endpoint")
  group.add_argument(
    "--api",
    choices=("chat", "completions"),
    default="chat",
    help="kind of requests",
  )
  for flag, kind, value, text in (
    ("--concurrency", cli.positive, 8, "number of requests at a time"),
    ("--timeout", cli.positive, 60, "longest time for a response in seconds"),
    ("--retries", cli.seed, 5, "number of times to repeat a failed request"),
  ):
    group.add_argument(flag, type=kind, default=value, help=text)
  group.add_argument(
    "--temperature",
    type=float,
    choices=(0.0,),
    default=0.0,
    help="only 0, greedy decoding: one answer stands for all",
  )
  for flag, text in (("--price-in", "prompts"), ("--price-out", "answers")):
    group.add_argument(
      flag, type=float, help=f"price of a million tokens of {text}"
    )
  group.add_argument(
    "--cache",
    type=pathlib.Path,
    help="JSONL of answers so far, which grows (if not set: beside --output)",
  )
  group.add_argument(
    "--dry-run",
    action="store_true",
    help="estimate the number of requests and their cost; ask nothing",
  )
  parser.add_argument(
    "--max-tokens",
    type=cli.positive,
    help="maximum number of tokens in an answer (if not set: that of the model's"
    f" run, or {_MAX_TOKENS})",
  )
  parser.add_argument(
    "--output",
    type=pathlib.Path,
    required=True,
    help="JSONL of games to write; the summary is written beside it",
  )
  flags = parser.parse_args()
  if flags.endpoint is not None and flags.model is None:
    parser.error("--endpoint needs --model, the model's name at the server")
  if (flags.answers is None) == (flags.model is None):
    parser.error("give --endpoint and --model, --model alone, or --answers")
  if flags.endpoint is None and (flags.dry_run or flags.cache):
    parser.error("--dry-run and --cache are for --endpoint")
  is_loaded = flags.model is not None and flags.endpoint is None
  if (flags.backend or flags.base_url) and not is_loaded:
    parser.error("--backend and --base-url are for --model alone")
  if flags.cache == flags.output:
    parser.error("--cache and --output must be different files")
  return flags


def _judge_answers(
  flags: argparse.Namespace, config: config_lib.SFTConfig
) -> bool:
  """Judges answers and writes games; returns whether it was no dry run."""
  # Imported lazily: pulls in Tunix.
  from tunix_ttt.evaluate import answer_judge
  from tunix_ttt.evaluate import endpoint
  from tunix_ttt.evaluate import replies

  if flags.endpoint is None:
    answers = answer_judge.recorded(flags.answers)
    judge = answer_judge.AnswerJudge(config)
    print(judge.write(judge(answers), flags.output, str(flags.answers)))
    return True
  server = endpoint.Endpoint(
    url=flags.endpoint,
    model=flags.model,
    api=flags.api,
    max_tokens=config.play.max_new_tokens,
    timeout=flags.timeout,
    retries=flags.retries,
    concurrency=flags.concurrency,
  )
  path = flags.cache or flags.output.with_suffix(".answers.jsonl")
  cache = replies.Cache(path)
  judge = answer_judge.AnswerJudge(config)
  with endpoint.Client(server, cache, judge.prompt) as client:
    estimate = judge.estimate(client.cached, server.max_tokens)
    print(estimate.describe(flags.price_in, flags.price_out), flush=True)
    if flags.dry_run:
      return False
    kept = f"answers are kept in {path}; to go on: {cli.same_command()}"
    try:
      with progress.stage("asking for answers", has_bar=True):
        played = judge(client)
    except errors.UserError as error:
      raise errors.UserError(f"{error}; {kept}") from None
    except interrupts.Interrupted as interrupted:
      interrupted.args = (f"interrupted; {kept}",)
      raise
  print(f"{judge.write(played, flags.output, flags.model)}; {path}")
  return True


def main() -> None:
  """Judges a model, and writes and prints its results."""
  flags = _parse()
  local = flags.model if flags.endpoint is None else None
  has_run = local is not None and run_directory.of_model(local) is not None
  settings = cli.overrides(
    flags.set,
    game__name=flags.game,
    play__temperature=0.0,
    play__max_new_tokens=flags.max_tokens,
  )
  if flags.config is None and not has_run:
    # Only a model that is loaded here has files with its sizes.
    model = {"name": local, "base": flags.base} if local else {}
    play = {"max_new_tokens": _MAX_TOKENS}
    config = config_lib.load_any({"play": play, "model": model}, settings)
    config = cli.on_backend(flags, config)
  else:
    config = cli.config_of_model(flags, settings)
  if local is None and config.distributed is not None:
    raise errors.UserError(
      "distributed: answers from elsewhere are judged by one process; leave it"
      " out"
    )
  cli.require_tunix()
  # Imported lazily: pulls in Tunix.
  from tunix_ttt.evaluate import game_files
  from tunix_ttt.evaluate import matches

  processes.start(config.distributed)
  game_files.check_absent(flags.output)
  if local is not None:
    # Imported lazily: pulls in Tunix.
    from tunix_ttt import recipes

    model = recipes.open_model(local, config)
    played = list(matches.play_all_lines(model, config))
    openings = matches.sample_openings(model, config, config.seed)
    if processes.is_first():
      matches.write(flags.output, played, model, local, config, openings)
    print(matches.table(played))
  elif not _judge_answers(flags, config):
    return
  summary = game_files.summary_path(flags.output)
  print(f"games: {flags.output}; summary: {summary}")


if __name__ == "__main__":
  cli.run(main)
