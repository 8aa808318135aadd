"""Selects the training curves in `metrics.jsonl`, in the order of a page.

Results and rewards come first, then the diagnostics of training, the loss last.
"""

from collections.abc import Mapping, Sequence
import re
from typing import Any, NamedTuple

import numpy as np

# (steps, values) of a curve.
Line = tuple[np.ndarray, np.ndarray]

# Panels by name: the title, and what to look for. `play` is a panel for each
# seat and opponent.
PANELS = {
  "lines_lost": (
    "Lost lines",
    "Falls to 0: a player that loses no line cannot be beaten.",
  ),
  "rewards": (
    "Mean reward of a game",
    "Rises. Its level depends on how the reward is defined.",
  ),
  "optimal_moves": (
    "Optimal moves in training games",
    "Rises toward 100%, whatever the reward is.",
  ),
  "play": (
    "As {seat} against {opponent}",
    "Wins rise and losses fall; a perfect opponent allows the value of the game.",
  ),
  "endings": (
    "Endings of training games",
    "Answers that are no move become rare first, then losses.",
  ),
  "true_thoughts": (
    "True thoughts",
    "Falls where moves are rewarded and thoughts are not.",
  ),
  "preference_accuracy": (
    "Preference accuracy",
    "Rises above 50%: the chosen answer gained more than the rejected one.",
  ),
  "preference_rewards": (
    "Rewards of answers",
    "The margin grows; the chosen answer may become less likely, too.",
  ),
  "token_accuracy": (
    "Token accuracy",
    "Rises. If only training rises, the model memorizes.",
  ),
  "tokens_per_turn": (
    "Tokens per turn",
    "Stays level; growth toward the limit ends in truncated answers.",
  ),
  "turns": ("Turns per game", "Grows as fewer games end at a bad answer."),
  "entropy": (
    "Token entropy",
    "Falls slowly; near 0 the model tries nothing new.",
  ),
  "kl": (
    "KL divergence to the reference",
    "Grows slowly; a jump means that the policy broke away.",
  ),
  "grad_norm": (
    "Gradient norm",
    "Has no spikes; larger values than training.max_grad_norm are clipped.",
  ),
  "learning_rate": ("Learning rate", "Follows the schedule of the config."),
  "loss": (
    "Loss",
    "Falls in supervised training. In GRPO its level says nothing.",
  ),
}
# Panels whose values are shares from 0 to 1.
_SHARES = {
  "optimal_moves",
  "play",
  "endings",
  "true_thoughts",
  "preference_accuracy",
  "token_accuracy",
}
# Key of a share of games won, by seat and opponent.
_PLAY = re.compile(r"([^/]+)/(.+)/win_rate")
_ENDINGS = ("win", "draw", "loss", "illegal", "parse_error")


class Panel(NamedTuple):
  """Curves of one figure, by label.

  Attributes:
    name: File name of the figure without suffix.
    title: Title of the figure.
    lines: Curves by label.
    share: Whether values are shares from 0 to 1.
    kind: Key of `PANELS`.
  """

  name: str
  title: str
  lines: Mapping[str, Line]
  share: bool = False
  kind: str = ""

  @property
  def hint(self) -> str:
    """A sentence on what to look for."""
    return PANELS[self.kind][1] if self.kind else ""


def panels(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
  """Returns the training curves in rows of `metrics.jsonl`."""
  names = [*dict.fromkeys(key for row in rows for key in row)]

  def lines(keys: Mapping[str, str], split: str = "train") -> dict[str, Line]:
    """Returns the curves of the keys that have values, by label."""
    curves = {}
    for label, key in keys.items():
      points = [
        (row["step"], row[key])
        for row in rows
        if row["split"] == split and key in row
      ]
      if points:
        steps, values = zip(*points, strict=True)
        curves[label] = np.asarray(steps), np.asarray(values, float)
    return curves

  def both(key: str) -> dict[str, Line]:
    return lines({"training": key}) | lines({"evaluation": key}, "eval")

  def by_seat(end: str) -> dict[str, Line]:
    keys = {
      f"as {name.removesuffix(end)}": name
      for name in names
      if name.endswith(end)
    }
    return lines(keys, "eval")

  rewards = {
    key.removeprefix("reward/"): key
    for key in sorted(names)
    if key.startswith("reward/")
  }
  parts = f": {next(iter(rewards))}" if len(rewards) == 1 else ", by its parts"
  if len(rewards) != 1:
    rewards = {"all": "reward"} | rewards
  preferences = {n: f"rewards/{n}" for n in ("chosen", "rejected", "margin")}
  curves = {
    "lines_lost": by_seat("/lines_lost"),
    "rewards": lines(rewards),
    "optimal_moves": lines({"optimal moves": "optimal_move_rate"}),
    "endings": lines({n.replace("_", " "): f"{n}_rate" for n in _ENDINGS}),
    "true_thoughts": by_seat("/thought_true_rate"),
    "preference_accuracy": both("rewards/accuracy"),
    "preference_rewards": lines(preferences),
    "token_accuracy": both("token_accuracy"),
    "tokens_per_turn": lines({"tokens": "tokens_per_turn"}),
    "turns": lines({"turns": "turns"}),
    "entropy": lines({"entropy": "entropy"}),
    "kl": lines({"KL": "kl"}),
    "grad_norm": lines({"norm": "grad_norm"}),
    "learning_rate": lines({"rate": "learning_rate"}),
    "loss": both("loss"),
  }
  result = []
  for kind, (title, _) in PANELS.items():
    share = kind in _SHARES
    if kind == "play":
      for seat, opponent in (
        m.groups() for m in map(_PLAY.fullmatch, names) if m
      ):
        article = "an" if opponent[:1] in "aeiou" else "a"
        name = f"{article} {opponent} player"
        if opponent == "worst":
          # It is worst for the model.
          name = "the strongest opponent"
        rates = {n: f"{seat}/{opponent}/{n}_rate" for n in _ENDINGS[:-1]}
        result.append(
          Panel(
            f"play_{seat}_{opponent}",
            title.format(seat=seat, opponent=name),
            lines(rates, "eval"),
            share,
            kind,
          )
        )
    elif curves[kind]:
      title += parts if kind == "rewards" else ""
      result.append(Panel(kind, title, curves[kind], share, kind))
  return result
