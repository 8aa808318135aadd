"""Tables of games against a greedy policy, followed next to the games."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import nim_games
from tests import players
from tests import toy_games
from tunix_ttt import files
from tunix_ttt.evaluate import game_files
from tunix_ttt.evaluate import recorded_games
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.games import game as game_lib
from tunix_ttt.games.tictactoe import board_records
from tunix_ttt.games.tictactoe import board_text
from tunix_ttt.games.tictactoe import judged_boards
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.games.tictactoe import tictactoe_game
from tunix_ttt.games.tictactoe import tictactoe_text
from tunix_ttt.report import play_table

# Without the board and the tables of its own definition.
GAME = definition.Definition(
  name="tictactoe",
  game=tictactoe_game.TicTacToe(),
  text=tictactoe_text.TicTacToeText(),
)


@pytest.fixture(scope="module")
def nim():
  return nim_games.define()


def tabulate(game, policy):
  table, reason = play_table.build(game, policy)
  assert reason == "" and table is not None
  # The page reads it from JSON.
  assert files.to_json(table)
  return table


def follow(rules, table, node, solution, human, state):
  """Yields the plies of every game in a table, each compared with the rules."""
  shown = table["nodes"][node]
  stones, to_act = int(state.stones), int(rules.to_act(state))
  seen = nim_games.observe(stones, is_turn=to_act == human)
  assert table["texts"][shown["text"]] == seen
  if to_act == game_lib.OVER:
    value = int(rules.returns(state)[human])
    words = {
      1: "You win: your return is 1.",
      -1: "The model wins: your return is -1.",
    }
    assert shown == {"text": shown["text"], "ending": words[value]}
    yield ["loss" if value == 1 else "win"]
    return
  assert shown["best"] == np.flatnonzero(solution.best(state)).tolist()
  legal = np.flatnonzero(rules.legal(state)).tolist()
  if to_act == human:
    assert shown.keys() == {"text", "best", "moves"}
    assert [*map(int, shown["moves"])] == legal
    for action in legal:
      after = rules.step(state, jnp.int32(action))
      next_node = shown["moves"][str(action)]
      for rest in follow(rules, table, next_node, solution, human, after):
        yield [(stones, action + 1), *rest]
    return
  words, taken = nim_games.answer(nim_games.SEATS[to_act], stones)
  assert table["texts"][shown["response"]] == words
  assert shown["move"] == (-1 if taken is None else taken - 1)
  if shown["move"] in legal:
    assert shown.keys() == {"text", "best", "response", "move", "next"}
    after = rules.step(state, jnp.int32(shown["move"]))
    for rest in follow(rules, table, shown["next"], solution, human, after):
      yield [(stones, taken), *rest]
  else:
    assert "next" not in shown and shown["ending"].endswith("you win.")
    yield [(stones, taken), "parse_error" if taken is None else "illegal"]


@pytest.mark.parametrize("human", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_every_game_of_the_table_is_one_of_the_game(nim, human):
  table, rules = tabulate(nim, nim_games.policy()), nim.game
  assert table["seats"] == ["first", "second"] and table["plies"] == 9
  assert table["labels"] == ["1", "2", "3"]
  with jax.disable_jit():
    games = follow(rules, table, human, nim.solution, human, rules.init(None))
    played = sorted(map(str, games))
  model = nim_games.SEATS[1 - human]
  assert played == sorted(map(str, nim_games.lines(model)))


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
  """Games of tic-tac-toe on every line, and its table of answers."""
  path = tmp_path_factory.mktemp("games") / "games.jsonl"
  players.write(players.matches(players.FIRST_LEGAL), path)
  return recorded_games.read_games(path)


def policy_of(games):
  """Returns the answers of games, and of no other position."""
  policy = {"X": {}, "O": {}}
  for game in games:
    for turn in game.turns:
      seen = text_formats.render_observation(
        turn.board, board_records.MARKS[game.agent], turn.opponent_move
      )
      move = text_formats.coordinate(turn.move)
      policy[game.agent][seen] = game_files.Answer(seen, turn.response, move)
  return {mark: [*answers.values()] for mark, answers in policy.items()}


def test_tictactoe_has_the_answers_of_its_own_table(boards):
  table = tabulate(GAME, policy_of(boards))
  expected = judged_boards.policy_table(boards)
  nodes, texts = table["nodes"], table["texts"]
  assert expected["first"] == mask(nodes[0]["best"])
  for human, mark in enumerate("OX"):
    assert len(expected["answers"][mark]) > 50
    for key, (words, cell, best, then) in expected["answers"][mark].items():
      node = nodes[human]
      for move in key:
        # The model's turn may come first.
        node = nodes[node["next"]] if "next" in node else node
        node = nodes[node["moves"][move]]
      assert texts[node["response"]] == expected["says"][words]
      assert (node["move"], mask(node["best"])) == (cell, best)
      assert mask(nodes[node["next"]].get("best", [])) == then


def mask(actions):
  return sum(1 << action for action in actions)


def test_the_end_is_put_into_the_words_of_the_human(boards):
  table = tabulate(GAME, policy_of(boards))
  endings = {node["ending"] for node in table["nodes"] if "ending" in node}
  assert endings == {
    "You win: your return is 1.",
    "Draw: your return is 0.",
    "The model wins: your return is -1.",
  }
  assert table["seats"] == ["X", "O"]
  first = table["texts"][table["nodes"][0]["text"]]
  empty = board_text.from_text("." * 9)
  assert first == text_formats.render_observation(empty, rules.X, None)


class _OpenText(toy_games.NimText):
  """The text of a toy game of any number of seats."""

  def __init__(self, game):
    super().__init__(game)
    self.seats = tuple(f"seat {n}" for n in range(game.num_seats))


class _VisibleCards(toy_games.Nim):
  """A game with chance whose seats see everything."""

  def observe(self, state, seat):
    return state


class _HiddenMove(toy_games.Nim):
  """A game whose first action is a secret of the first seat."""

  def step(self, state, action):
    after = super().step(state, action)
    is_first = state.plies == 0
    return after.replace(cards=jnp.where(is_first, action, state.cards))

  def observe(self, state, seat):
    stones = jnp.where((state.plies == 1) & (seat == 1), 0, state.stones)
    hidden = jnp.where(seat == 1, 0, state.cards)
    return {"stones": stones, "move": hidden, "plies": state.plies}


@pytest.mark.parametrize(
  "rules, reason",
  [
    (toy_games.Nim(num_seats=1), "The game has one seat, "),
    (toy_games.Nim(num_seats=3), "The game has 3 seats, "),
    (toy_games.Nim(cards=True), "The game hides information, "),
    (_HiddenMove(), "The game hides information, "),
    (_VisibleCards(cards=True), "The game has chance, "),
    (toy_games.Dice(), "The game has chance, "),
  ],
  ids=["one seat", "three seats", "cards", "secret", "chance", "dice"],
)
def test_a_game_that_does_not_fit_has_a_reason(rules, reason):
  game = definition.Definition(name="toy", game=rules, text=_OpenText(rules))
  play = play_table.build(game, {})
  assert play.table is None and play.reason.startswith(reason)
  assert play.reason.count(".") == 1 and play.reason.endswith(".")


@pytest.mark.parametrize(
  "name, reason",
  [
    ("kuhn_poker", play_table._HIDDEN),
    ("frozen_lake", "The game has one seat, and the model sits in it."),
    ("tests.nim_games:define", ""),
    ("tests.nim_games:absent", play_table._UNKNOWN),
    ("no_such_game", play_table._UNKNOWN),
  ],
)
def test_a_game_is_loaded_by_its_name(name, reason):
  play = play_table.load(name, {}, nim_games.policy())
  assert play.reason == reason and (play.table is None) == bool(reason)


def test_connect_four_has_too_many_positions():
  pytest.importorskip("pgx")
  play = play_table.build(catalog.load("connect_four"), {})
  assert play == (None, play_table._MANY)


@pytest.mark.parametrize(
  "limit, value",
  [("MAX_STATES", 16_000), ("MAX_NODES", 400), ("MAX_BYTES", 90_000)],
)
def test_a_table_that_is_too_large_has_a_reason(
  boards, monkeypatch, limit, value
):
  monkeypatch.setattr(play_table, limit, value)
  play = play_table.build(GAME, policy_of(boards))
  assert play == (None, play_table._MANY)


def test_answers_must_be_known_for_each_position(nim):
  def reason(change):
    policy = nim_games.policy()
    change(policy["second"])
    return play_table.build(nim, policy).reason

  def change(number, **fields):
    return lambda answers: answers.append(answers[number]._replace(**fields))

  assert reason(change(3)) == ""
  assert reason(change(3, response="another")) == play_table._SEVERAL
  assert reason(change(3, move="4")) == play_table._OTHER
  # Only the first player meets nine stones.
  assert reason(lambda answers: answers.pop()) == ""
  assert reason(lambda answers: answers.pop(7)) == play_table._MISSING
  assert play_table.build(nim, {}).reason == play_table._MISSING
