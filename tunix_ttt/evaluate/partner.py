"""Plays against a model one move at a time: a person, or the model itself."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import streams
from tunix_ttt.evaluate import model_player
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import replays
from tunix_ttt.models import checkpoints


class Answer(NamedTuple):
  """A model's answer in a position, and its action, -1 if it is unreadable."""

  response: str
  action: int
  is_legal: bool


class Partner:
  """A model that plays a batch of games, one move at a time.

  Each answer replays the game from its beginning with the other seats' moves
  and the same random keys, if the game's `replay` does so. The model repeats its
  earlier answers exactly, and its context is the context of training.

  Attributes:
    game: Game that the model plays.
    seed: Random seed of the model's tokens and of chance.
  """

  def __init__(
    self,
    model: checkpoints.Model,
    config: config_lib.SFTConfig | config_lib.Settings,
    *,
    seed: int | None = None,
    num_games: int = 1,
  ):
    """Builds the player; `play.opponent` is ignored.

    Raises:
      errors.UserError: If the model cannot play with this config.
    """
    config = config_lib.load_any(config)
    self.game = catalog.of(config)
    env = self.game.replaying_environment(config.play.context)
    self._player = model_player.Player(model, config, env)
    self._decode = model.tokenizer.decode
    self.seed = config.seed if seed is None else seed
    self._num_games = num_games

  def answer(self, seat: int, moves: Sequence[Sequence[int]]) -> list[Answer]:
    """Returns the model's next answer in each game, in which it has the seat.

    `moves` has all plies of each game so far, outcomes of chance included. If it
    is not the model's turn, or the game is over, the answer is the model's last
    one, or an unreadable one if there is none.
    """
    numbers, stream = jnp.arange(self._num_games), streams.Stream.PARTNER_TOKENS
    # Seats are counted from 1 in streams.
    keys = streams.keys(self.seed, stream, seat + 1, last=numbers)
    games = self._player(keys, self.game.replay(seat, moves))
    answers = []
    for number, plies in enumerate(moves):
      turn = self.game.replayed_turn(games, number, seat, plies)
      if turn is None:
        # The game ended before the model's first turn.
        answers.append(Answer("", -1, False))
        continue
      tokens = games.actions[number, turn][games.action_mask[number, turn]]
      action = int(games.moves[number, turn])
      legal = self.game.position_after(plies).legal
      is_legal = action >= 0 and bool(legal[action])
      answers.append(Answer(self._decode(tokens.tolist()), action, is_legal))
    return answers


def _draw(rng: np.random.Generator, position: replays.Position) -> int:
  odds = np.asarray(position.chance, np.float64)
  return int(rng.choice(len(odds), p=odds / odds.sum()))


def play(
  partner: Partner,
  seat: str,
  ask: Callable[[str], str] | None = None,
  tell: Callable[[str], None] = print,
) -> float | None:
  """Plays a game against a model until it ends or the person quits.

  Args:
    partner: Model to play against.
    seat: Name of the person's seat.
    ask: Returns a line of input for a prompt and raises EOFError at the end of
      the input; None for the current `input`, which notebooks replace.
    tell: Prints lines.

  Returns:
    The person's return; None if the person quits.

  Raises:
    errors.UserError: If there is no such seat.
  """
  ask, game = ask or input, partner.game
  person = game.seat_number(seat, "seat")
  chance = streams.generator(partner.seed, streams.Stream.CHANCE_OUTCOMES)
  plies: list[int] = []
  tell(game.move_help())
  while True:
    position = game.position_after(plies)
    state, turn = position.state, int(position.to_act)
    if turn == game_lib.CHANCE:
      plies.append(_draw(chance, position))
      continue
    if turn == game_lib.OVER:
      tell(f"\n{game.draw(state, person)}")
      value = float(position.returns[person])
      tell(_ending(game, value))
      return value
    if turn != person:
      (answer,) = partner.answer(turn, [plies])
      tell(f"The model: {answer.response}")
      action = answer.action
      if not answer.is_legal:
        reason = "is no move" if action < 0 else "is not legal"
        tell(f"That {reason}, so you have won.")
        return game.high
    else:
      tell(f"\n{game.draw(state, person)}")
      try:
        line = ask("your move: ").strip().lower()
      except EOFError:
        line = "q"
      if line == "q":
        return None
      if line == "u":
        _take_back(game, plies, person, tell)
        continue
      action = game.read_move(line)
      if action is None or not position.legal[action]:
        tell(f"{line!r} is no legal move. {game.move_help()}")
        continue
    best = game.best_actions(state)
    if best and action not in best:
      names = " or ".join(str(game.spell(each)) for each in best)
      tell(f"  Not optimal: {names} would have been.")
    plies.append(action)


def _ending(game: definition.Definition, value: float) -> str:
  if (game.low, game.high) != (-1, 1):
    return f"The game is over; your return is {value:g}."
  return {1: "You have won.", -1: "You have lost."}.get(int(value), "A draw.")


def _take_back(
  game: definition.Definition,
  plies: list[int],
  person: int,
  tell: Callable[[str], None],
) -> None:
  """Removes the plies from the person's last move on."""
  seats = [
    int(game.position_after(plies[:number]).to_act)
    for number in range(len(plies))
  ]
  if person not in seats:
    tell("There is no move of yours to take back.")
    return
  del plies[len(seats) - 1 - seats[::-1].index(person) :]


class SelfPlay(NamedTuple):
  """Counts of a model's games against itself.

  The endings are `SEAT wins`, `draw`, or a seat and `illegal` or `unreadable`.
  The number of optimal moves is None for games without an exact solver.
  """

  endings: Counter[str]
  num_different: int
  num_moves: int
  num_optimal: int | None


def self_play(partner: Partner, num_games: int) -> SelfPlay:
  """Plays a model against itself, for a partner with as many games."""
  game = partner.game
  chance = streams.generator(partner.seed, streams.Stream.CHANCE_OUTCOMES)
  plies: list[list[int]] = [[] for _ in range(num_games)]
  endings: dict[int, str] = {}
  num_moves = num_optimal = 0
  while len(endings) < num_games:
    positions = [game.position_after(each) for each in plies]
    turns = [int(position.to_act) for position in positions]
    answers = {
      seat: partner.answer(seat, plies)
      for seat in sorted({*turns})
      if seat >= 0
    }
    for number, (position, turn) in enumerate(
      zip(positions, turns, strict=True)
    ):
      if number in endings:
        continue
      if turn == game_lib.OVER:
        winner = int(position.returns.argmax())
        is_draw = position.returns[winner] <= 0
        endings[number] = "draw" if is_draw else f"{game.seats[winner]} wins"
        continue
      if turn == game_lib.CHANCE:
        plies[number].append(_draw(chance, position))
        continue
      answer = answers[turn][number]
      if not answer.is_legal:
        fault = "unreadable" if answer.action < 0 else "illegal"
        endings[number] = f"{game.seats[turn]} {fault}"
        continue
      num_moves += 1
      num_optimal += answer.action in game.best_actions(position.state)
      plies[number].append(answer.action)
  return SelfPlay(
    endings=Counter(endings.values()),
    num_different=len({tuple(each) for each in plies}),
    num_moves=num_moves,
    num_optimal=None if game.unsolved else num_optimal,
  )
