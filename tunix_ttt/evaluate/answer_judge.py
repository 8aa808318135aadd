"""Judges any player exactly by its answers to the observations of a game.

A greedy player that sees the present observation alone is asked once for each
observation that its earlier answers, opponents and chance can lead to. Its answers
then play every line.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.evaluate import decisions as decisions_lib
from tunix_ttt.evaluate import exact_play
from tunix_ttt.evaluate import matches
from tunix_ttt.evaluate import rates as rates_lib
from tunix_ttt.evaluate import replies as replies_lib
from tunix_ttt.evaluate import turn_player
from tunix_ttt.games import catalog
from tunix_ttt.games import game as game_lib
from tunix_ttt.rollout import trajectory as trajectory_lib
from tunix_ttt.text import chat
from tunix_ttt.text import spellings

Ending = trajectory_lib.Ending
Reply = replies_lib.Reply
# Function from observations to the answers.
Answers = Callable[[Sequence[str]], Sequence[Reply]]
_TAGS = "<think>", "</think>"
# Characters in a token of English text.
_TOKEN = 4


class Estimate(NamedTuple):
  """Estimated size of a judgement.

  Attributes:
    requests: Number of observations without an answer that a player of random
      moves is asked for.
    most: Number of observations that any player can be asked for.
    prompt_tokens: Number of tokens in the prompts, a token per four characters.
    answer_tokens: Maximum number of tokens in the answers.
  """

  requests: int
  most: int
  prompt_tokens: int
  answer_tokens: int

  def describe(
    self, price_in: float | None = None, price_out: float | None = None
  ) -> str:
    """Formats the estimate, with prices of a million tokens, as lines of text."""
    lines = [
      f"requests  about {self.requests:,}, as for random moves; at most"
      f" {self.most:,}",
      f"tokens    about {self.prompt_tokens:,} of prompts, at most"
      f" {self.answer_tokens:,} of answers",
      "decoding  greedy (temperature 0); each observation is asked for once",
    ]
    if price_in is not None or price_out is not None:
      cost = self.prompt_tokens * (price_in or 0)
      cost += self.answer_tokens * (price_out or 0)
      lines.append(f"cost      at most about {cost / 1e6:,.2f}")
    return "\n".join(lines)


def recorded(path: pathlib.Path) -> Answers:
  """Returns the answers of a JSONL file of observations and responses."""
  replies = replies_lib.read(path)

  def answer(observations: Sequence[str]) -> list[Reply]:
    missing = [each for each in observations if each not in replies]
    if missing:
      raise errors.UserError(
        f"{path}: lacks answers to {len(missing)} observations that follow from"
        f" its others; add them, the first to {errors.quote(missing[0])}"
      )
    return [replies[each] for each in observations]

  return answer


class AnswerJudge:
  """Judges answers to the observations of a game, whose states are listed once.

  An answer is read as in an evalset: in the format of the game's rules, with or
  without a thought, as some servers remove thoughts.

  Attributes:
    game: Game.
    replies: Answers that the last judgement asked for, by observation.
  """

  def __init__(self, config: config_lib.SFTConfig):
    """Lists the states of the config's game.

    Raises:
      errors.UserError: If there are too many.
    """
    self.game = game = catalog.of(config)
    # The settings by which the examples are played.
    play = dataclasses.replace(
      config.play,
      context="board",
      opponent="random",
      temperature=0.0,
      num_games=matches.NUM_EXAMPLES,
    )
    self._config = dataclasses.replace(config, play=play)
    self._exact = exact_play.ExactPlay(game)
    seats = range(len(game.seats))
    self._num_turns = max(map(self._exact.most_turns, seats))
    self._automata = [
      spellings.build(
        game.text.actions,
        opening="<move>",
        closing="</move>",
        thought_tags=tags,
      )
      for tags in (None, _TAGS)
    ]
    self.replies: dict[str, Reply] = {}

  def prompt(self, observation: str) -> list[chat.Message]:
    """Returns the rules and an observation as messages."""
    return [
      chat.message("system", self.game.text.rules),
      chat.message("user", observation),
    ]

  def read(self, reply: Reply) -> tuple[int, Ending]:
    """Returns the action of an answer, -1 for none, and how it ends the game."""
    if reply.truncated:
      return -1, Ending.LENGTH
    action = max(each.read(reply.response) for each in self._automata)
    return action, Ending.ONGOING if action >= 0 else Ending.PARSE_ERROR

  def estimate(
    self, cached: Callable[[str], Reply | None], max_tokens: int
  ) -> Estimate:
    """Estimates the requests for the answers that are not `cached`.

    An answer has at most `max_tokens` tokens.
    """
    lengths: list[int] = []
    for seat in range(len(self.game.seats)):
      stream = streams.Stream.ESTIMATED_ANSWERS
      rng = streams.generator(0, stream, seat)
      legal = self._exact.legal_actions(seat)

      def act(
        numbers: np.ndarray,
        seat: int = seat,
        rng: np.random.Generator = rng,
        legal: np.ndarray = legal,
      ) -> list[int]:
        actions = []
        for number, text in zip(
          numbers, self._texts(seat, numbers), strict=True
        ):
          reply = cached(text)
          if reply is None:
            prompt = self.prompt(text)
            lengths.append(sum(len(each["content"]) for each in prompt))
            actions.append(int(rng.choice(np.flatnonzero(legal[number]))))
          else:
            actions.append(self.read(reply)[0])
        return actions

      self._exact.explore(seat, act)
    most = sum(map(len, self._exact.decisions))
    count = len(lengths)
    return Estimate(count, most, sum(lengths) // _TOKEN, count * max_tokens)

  def __call__(self, answer: Answers) -> list[matches.Match]:
    """Asks for all answers that matter; returns the games in each seat.

    As in `matches.play_all_lines`, a game without `lines` is judged by its states,
    and its games are examples.
    """
    self.replies, reached = {}, []
    for seat in range(len(self.game.seats)):

      def act(numbers: np.ndarray, seat: int = seat) -> list[int]:
        texts = self._texts(seat, numbers)
        replies = answer(texts)
        self.replies |= zip(texts, replies, strict=True)
        return [self.read(reply)[0] for reply in replies]

      reached.append(self._exact.explore(seat, act))
    game, play = self.game, self._config.play
    respond, decode = self._by_state(), self.decoder()
    player = turn_player.TurnPlayer(
      game, respond, decode, num_turns=self._num_turns
    )
    if game.lines is not None:
      return list(matches.exact_matches(player, game, None, decode=decode))
    examples = matches.sampled_matches(player, play, self._config.seed)
    single = turn_player.TurnPlayer(
      game, respond, decode, num_turns=1, env=decisions_lib.SingleTurn()
    )
    result = []
    for seat, match in enumerate(examples):
      rows, listed = reached[seat], self._exact.decisions[seat]
      states = jax.tree.map(
        lambda leaf, rows=rows: leaf[rows], listed.view_states()
      )
      # Decisions that are not reached do not matter.
      actions = np.full(len(listed), -1)
      endings = np.full(len(listed), Ending.PARSE_ERROR)
      for row, text in zip(rows, self._texts(seat, rows), strict=True):
        actions[row], endings[row] = self.read(self.replies[text])
      policy = decisions_lib.deterministic(
        actions, endings, game.game.num_actions
      )
      verdict = rates_lib.exact_of_states(self._exact.judge(seat, policy))
      answers = single(None, states)
      result.append(match._replace(result=verdict, answers=answers))
    return result

  def write(
    self, played: Sequence[matches.Match], output: pathlib.Path, name: str
  ) -> str:
    """Writes games and summary, as `matches.write` does; returns the results.

    `name` is the name of the model in the summary.

    Raises:
      errors.UserError: If one of the files exists.
    """
    every = [*self.replies.values()]
    play = config_lib.to_dict(self._config)["play"]
    matches.write_games(
      output,
      played,
      self.decoder(),
      {"model": name, "play": play},
    )
    unreadable = [each for each in every if self.read(each)[0] < 0]
    text = f"answers: {len(every)}, {len(unreadable)} unreadable"
    if unreadable:
      text += f", such as {errors.quote(unreadable[0].response)}"
    return f"{matches.table(played)}\n{text}"

  def decoder(self) -> Callable[[list[int]], str]:
    """Returns the text of a turn's one token, the number of the response."""
    every = [*self.replies.values()]
    return lambda ids: every[ids[0]].response

  def _by_state(self) -> Callable[[Any], turn_player.Answers]:
    """Returns the function from states to answers that were asked for.

    The one token of an answer is the number of the response.
    """
    numbers = {text: number for number, text in enumerate(self.replies)}
    read = [self.read(reply) for reply in self.replies.values()]
    moves, faults = np.array(read, np.int32).reshape(-1, 2).T

    def answer(states: Any) -> turn_player.Answers:
      texts = self.game.observation_texts(states)
      rows = np.array([numbers[text] for text in texts], np.int32)
      tokens = rows[:, None]
      return turn_player.Answers(
        moves[rows],
        faults[rows],
        tokens,
        np.ones(tokens.shape, bool),
        np.zeros(tokens.shape, np.float32),
      )

    return answer

  def _texts(self, seat: int, numbers: np.ndarray) -> list[str]:
    shows = self._exact.decisions[seat].shows[numbers].tolist()
    return [game_lib.observation_text(self.game.text, show) for show in shows]
