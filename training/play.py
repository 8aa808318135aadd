"""Plays against a model in the terminal, or a model against itself."""

import argparse

from tunix_ttt import cli


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/play.py --model RUN/checkpoint-final --as o",
  )
  cli.add_model(parser)
  parser.add_argument(
    "--as", dest="mark", choices=("x", "o"), default="x", help="your mark"
  )
  parser.add_argument(
    "--self-play",
    type=cli.positive,
    metavar="N",
    help="number of games that the model plays against itself",
  )
  cli.add_play(parser)
  return parser.parse_args()


def main() -> None:
  """Plays a game, or plays and counts games against itself."""
  flags = _parse()
  settings = cli.overrides(
    flags.set,
    play__context=flags.context,
    play__temperature=flags.temperature,
  )
  config = cli.config_of_model(flags, settings)
  cli.require_tunix()
  # Imported lazily: pulls in Tunix.
  from tunix_ttt.evaluate import partner as partner_lib
  from tunix_ttt.games.tictactoe import rules
  from tunix_ttt.train import reference_log_probs

  model = reference_log_probs.load(flags.model, config)
  count = flags.self_play or 1
  partner = partner_lib.Partner(model, config, seed=flags.seed, num_games=count)
  if flags.self_play is None:
    mark = {"x": rules.X, "o": rules.O}[flags.mark]
    partner_lib.play(partner, mark)
    return
  played = partner_lib.self_play(partner, count)
  for ending, number in played.endings.most_common():
    print(f"{ending:14} {number:6,}  {number / count:7.2%}")
  share = played.num_optimal / max(played.num_moves, 1)
  games = "game" if played.num_different == 1 else "games"
  print(
    f"{played.num_different:,} different {games}, {share:.2%} optimal moves"
  )


if __name__ == "__main__":
  cli.run(main)
