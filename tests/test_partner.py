"""Playing with a model, move by move, as a person and against itself."""

import dataclasses

import jax.numpy as jnp
import pytest
import yaml

from tests import conftest
from tests import players
from tests import test_grpo
from tunix_ttt import config as config_lib
from tunix_ttt.evaluate import partner as partner_lib
from tunix_ttt.games.tictactoe import opponents
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.train import reference_log_probs

SCRIPT = conftest.ROOT / "training" / "play.py"


def settings(**changes):
  play = dataclasses.replace(test_grpo.CONFIG.play, **changes)
  return dataclasses.replace(test_grpo.CONFIG, play=play)


@pytest.fixture(scope="module")
def model():
  return reference_log_probs.base_model(test_grpo.CONFIG, None)


@pytest.mark.parametrize("context", ["board", "full"])
def test_a_model_says_again_what_it_has_said(model, context):
  config = settings(context=context, temperature=1.0)
  partner = partner_lib.Partner(model, config, seed=3, num_games=2)
  first = partner.answer(0, [[], []])
  assert all(answer.is_legal for answer in first)
  # The other side takes the first free cell.
  moves = [[answer.action, int(answer.action == 0)] for answer in first]
  second = partner.answer(0, moves)
  for answer, game in zip(second, moves, strict=True):
    assert answer.is_legal == (answer.action not in game)
  assert partner.answer(0, [[], moves[1]]) == [first[0], second[1]]


@pytest.mark.slow
def test_a_model_against_itself(model):
  greedy = partner_lib.Partner(model, settings(), seed=0, num_games=3)
  played = partner_lib.self_play(greedy, 3)
  assert played.num_different == 1 and sum(played.endings.values()) == 3
  drawn = settings(temperature=1.5)
  partner = partner_lib.Partner(model, drawn, seed=0, num_games=16)
  played = partner_lib.self_play(partner, 16)
  assert played.num_different > 1 and sum(played.endings.values()) == 16
  assert played.num_optimal is not None
  assert 0 < played.num_optimal <= played.num_moves <= 16 * 9
  assert partner_lib.self_play(partner, 16) == played


def test_opponents_that_are_told():
  assert opponents.encode_script([4, 0]) == 5 + 10
  opponent_seed = jnp.uint32(opponents.encode_script([4]))
  taken = jnp.int32(rules.place(rules.EMPTY_BOARD, 4, rules.X))
  assert int(opponents.scripted_from_seed(opponent_seed, taken)) == 0
  assert (
    int(
      opponents.scripted_from_seed(opponent_seed, jnp.int32(rules.EMPTY_BOARD))
    )
    == 4
  )
  with pytest.raises(ValueError, match="five at the most"):
    opponents.encode_script([0] * 6)


class Scripted(partner_lib.Partner):
  """Says what it is told to, whoever it is."""

  def __init__(self, *cells):
    self.cells, self.game, self.seed = cells, players.GAME, 0

  def answer(self, seat, moves):
    (game,) = moves
    position = self.game.position_after(game)
    assert position.to_act == seat
    cell = self.cells[len(game) // 2]
    legal = cell >= 0 and bool(position.legal[cell])
    return [partner_lib.Answer(f"I take {cell}.", cell, legal)]


def play(partner, seat, *lines):
  told, waiting = [], iter(lines)

  def ask(prompt):
    del prompt
    try:
      return next(waiting)
    except StopIteration:
      raise EOFError from None

  ending = partner_lib.play(partner, seat, ask, told.append)
  return ending, "\n".join(told)


def test_a_person_wins_as_x():
  ending, told = play(Scripted(3, 4, 5), "X", "A1", "8", " a3 ")
  assert ending == 1 and "You have won." in told
  # B1 answers a corner badly.
  assert "The model: I take 3.\n  Not optimal: B2 would have been." in told
  assert "  X  | X  | X\n  O  | O  | B3\n  C1 | C2 | C3" in told


def test_a_person_loses_as_o():
  ending, told = play(Scripted(0, 1, 2), "o", "4", "5")
  assert ending == -1 and "You have lost." in told
  assert "  Not optimal: B2 would have been." in told


def test_a_draw():
  ending, told = play(Scripted(0, 1, 6, 5, 8), "o", "5", "9", "4", "2")
  assert (ending, "A draw." in told) == (0, True)


def test_taking_back_and_mistakes():
  ending, told = play(
    Scripted(4, 0), "X", "u", "A1", "u", "A2", "A2", "D7", "10", "q"
  )
  assert ending is None
  assert "There is no move of yours to take back." in told
  for said in ("'a2'", "'d7'", "'10'"):
    assert f"{said} is no legal move. Enter a cell" in told
  assert told.count("The model") == 2
  # Where nothing more is typed, the game ends.
  assert play(Scripted(4), "X", "A1")[0] is None


@pytest.mark.parametrize(
  "cell, reason", [(-1, "is no move"), (0, "is not legal")]
)
def test_what_is_no_move_loses(cell, reason):
  ending, told = play(Scripted(cell), "X", "A1")
  assert ending == 1 and f"That {reason}, so you have won." in told


def test_the_script(run, tmp_path, monkeypatch):
  path = tmp_path / "config.yaml"
  path.write_text(yaml.safe_dump(config_lib.to_dict(test_grpo.CONFIG)))
  flags = ("--model", "base", "--config", path)
  code, out, _ = run(SCRIPT, *flags, "--self-play", "3")
  assert code == 0 and "1 different game, " in out
  monkeypatch.setattr("builtins.input", lambda prompt: "q")
  code, out, _ = run(SCRIPT, *flags, "--as", "o")
  assert code == 0 and out.count("The model: ") == 1
