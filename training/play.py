"""Plays against a model in the terminal, or a model against itself."""

import argparse

from tunix_ttt import cli


def _parse() -> argparse.Namespace:
  parser = cli.parser(
    __doc__ or "",
    "python training/play.py --model RUN/checkpoint-final --as o",
  )
  cli.add_model(parser)
  who = parser.add_mutually_exclusive_group()
  who.add_argument(
    "--as",
    dest="seat",
    help="your seat by the game's name, such as x or o (default: the first)",
  )
  who.add_argument(
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
  from tunix_ttt.games import catalog
  from tunix_ttt.train import reference_log_probs

  if flags.seat is not None:
    catalog.of(config).seat_number(flags.seat, "--as")
  model = reference_log_probs.load(flags.model, config)
  count = flags.self_play or 1
  partner = partner_lib.Partner(model, config, seed=flags.seed, num_games=count)
  if flags.self_play is None:
    partner_lib.play(partner, flags.seat or partner.game.seats[0])
    return
  played = partner_lib.self_play(partner, count)
  for ending, number in played.endings.most_common():
    print(f"{ending:14} {number:6,}  {number / count:7.2%}")
  games = "game" if played.num_different == 1 else "games"
  text = f"{played.num_different:,} different {games}"
  if played.num_optimal is not None:
    share = played.num_optimal / max(played.num_moves, 1)
    text += f", {share:.2%} optimal moves"
  print(text)


if __name__ == "__main__":
  cli.run(main)
