"""Whole games by the jitted sampler beside Tunix's own, driven from the host.

Both play the same games with the same model: the same observations, the same
limit of tokens, greedy decoding, the same random opponent. Tunix's sampler is
called once a turn on the conversation so far, as one would without this
library; its answers are parsed and the games stepped on the host.
"""

import argparse
from collections.abc import Callable
import pathlib
import resource
import statistics
import time
from typing import Any, cast

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import record
from tunix.generate import sampler as tunix_sampler

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.evaluate import model_player
from tunix_ttt.games.tictactoe import board_tables
from tunix_ttt.games.tictactoe import env as env_lib
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.models import checkpoints
from tunix_ttt.text import spellings
from tunix_ttt.train import reference_log_probs

ENV = env_lib.TicTacToe()
MAX_TURNS = 5


def start(batch_size: int) -> env_lib.State:
  """Returns games that are about to begin, X and O in turn."""
  opponent_seed = jax.random.bits(jax.random.key(0), (batch_size,))
  marks = env_lib.starting_marks("mixed", batch_size)
  return jax.vmap(ENV.init)(opponent_seed, marks)


class TokenSampler(tunix_sampler.Sampler):
  """Tunix's sampler for prompts of token ids."""

  def tokenize(self, input_string: Any) -> np.ndarray:
    """Returns the token ids, unchanged."""
    return np.asarray(input_string, np.int32)


def with_tunix_attention(module: nnx.Module) -> Any:
  """Returns a copy of a model with Tunix's attention, which is replaced here."""
  module = nnx.clone(module)
  for layer in cast(Any, module).layers:
    (layer.attn.__class__,) = type(layer.attn).__bases__
  return module


class Generator:
  """Tunix's sampler, greedily, with this library's arguments."""

  def __init__(
    self, model: checkpoints.Model, longest: int, max_new_tokens: int
  ):
    """Takes a model and the maximum length of prompts and of answers."""
    spec, self._tokenizer = model.spec, model.tokenizer
    self._longest, self._max_new_tokens = longest, max_new_tokens
    if spec.family != "qwen2.5":
      # This library's changes to the others are in their attention.
      raise errors.UserError(f"--model: {spec.family}; use one of Qwen 2.5")
    self._sampler = TokenSampler(
      with_tunix_attention(model.module),
      model.tokenizer,
      tunix_sampler.CacheConfig(
        cache_size=longest + max_new_tokens,
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
      ),
    )

  def __call__(self, prompts: list[list[int]]) -> list[str]:
    """Returns the answers to prompts of token ids."""
    tokenizer = self._tokenizer
    ends = {*tokenizer.end_ids, tokenizer.eos_id()}
    output = self._sampler(
      cast(Any, prompts),
      max_generation_steps=self._max_new_tokens,
      max_prompt_length=self._longest,
      eos_tokens=[*ends],
      # The sampler takes a sampled pad token for padding.
      forbidden_tokens=[*({tokenizer.pad_id()} - ends)] or None,
      temperature=0.0,
    )
    return output.text


class HostDriven:
  """Tunix's sampler, called once a turn."""

  def __init__(self, model: checkpoints.Model, config: config_lib.SFTConfig):
    """Takes a model and the settings of its play."""
    self._model, self._play = model, config.play
    self._step = jax.jit(jax.vmap(ENV.step))
    self.num_tokens = 0
    longest = _longest_prompt(model, config.play)
    self._generate = Generator(model, longest, config.play.max_new_tokens)

  def __call__(self, states: env_lib.State) -> None:
    """Plays games to their end."""
    count = len(states.board)
    tokenizer, text_format = self._model.tokenizer, text_formats.GridFormat()
    texts: list[list[int]] = [[] for _ in range(count)]
    for turn in range(MAX_TURNS):
      ongoing = np.asarray(states.outcome) == env_lib.Outcome.ONGOING
      if not ongoing.any():
        break
      for n in np.flatnonzero(ongoing):
        last = int(states.last_move[n])
        text = text_format.observation(
          int(states.board[n]), None if last < 0 else last
        )
        if turn == 0 or self._play.context == "board":
          texts[n] = text_format.begin(text, tokenizer)
        else:
          texts[n] = texts[n] + text_format.follow(text, tokenizer)
      answers = self._generate(texts)
      cells = np.full(count, -1)
      for n in np.flatnonzero(ongoing):
        answer = text_formats.parse_answer(answers[n])
        self.num_tokens += len(tokenizer.encode(answers[n]))
        if answer is not None:
          cells[n] = answer.cell
        if self._play.context == "full":
          texts[n] = texts[n] + tokenizer.encode(answers[n])
        elif self._play.context == "truncated":
          texts[n] = texts[n] + text_format.answer(
            None if answer is None else answer.cell,
            spellings.TRUNCATED,
            tokenizer,
          )
      states = self._step(states, jnp.asarray(cells))


def _longest_prompt(
  model: checkpoints.Model, play: config_lib.PlayConfig
) -> int:
  """Returns a bound that is no looser than the jitted sampler's own."""
  observations = board_tables.build(text_formats.GridFormat(), model.tokenizer)
  begin, follow = (
    chunks.ids.shape[1] for chunks in (observations.begin, observations.follow)
  )
  replies = {
    "board": None,
    "full": play.max_new_tokens,
    "truncated": observations.answers.ids.shape[1],
  }[play.context]
  return (
    begin if replies is None else begin + (MAX_TURNS - 1) * (replies + follow)
  )


def timed(play: Callable[[Any], Any], states: Any) -> float:
  """Returns the seconds that games take."""
  started = time.perf_counter()
  jax.block_until_ready(play(states))
  return time.perf_counter() - started


def measure(
  model: checkpoints.Model,
  config: config_lib.SFTConfig,
  batch_size: int,
  repeats: int,
) -> dict[str, Any]:
  """Plays the same games both ways."""
  states = start(batch_size)
  keys = jax.random.split(jax.random.key(1), batch_size)
  rollout = model_player.Player(model, config, ENV)
  host = HostDriven(model, config)

  def jitted(states: env_lib.State) -> Any:
    return rollout(keys, states)

  row: dict[str, Any] = {
    "context": config.play.context,
    "batch_size": batch_size,
    "first_result_seconds": round(timed(jitted, states), 2),
    "peer_first_result_seconds": round(timed(host, states), 2),
  }
  # Taken in turn, so that a change in the machine's speed meets both.
  seconds = [
    (timed(jitted, states), timed(host, states)) for _ in range(repeats)
  ]
  ours = statistics.median(pair[0] for pair in seconds)
  peer_seconds = statistics.median(pair[1] for pair in seconds)
  played = jax.device_get(rollout(keys, states))
  program: Any = jax.jit(jitted).lower(states).compile()
  temporary = program.memory_analysis().temp_size_in_bytes
  return row | {
    # Of the games: parameters and tables are there for any batch.
    "temporary_mib": round(temporary / 2**20, 1),
    "turns_per_episode": round(played.turn_mask.sum() / batch_size, 2),
    "episodes_per_second": round(batch_size / ours, 1),
    "peer_episodes_per_second": round(batch_size / peer_seconds, 1),
    "tokens_per_second": round(played.action_mask.sum() / ours),
    "peer_tokens_per_second": round(
      host.num_tokens / (repeats + 1) / peer_seconds
    ),
    "ratio": round(peer_seconds / ours, 1),
  }


def main() -> None:
  """Measures, prints and writes."""
  parser = cli.parser(
    __doc__ or "",
    "python benchmarks/sampler.py --model RUN/checkpoint-final --config"
    " configs/sft_tiny.yaml --contexts board",
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  cli.add_model(parser)
  parser.add_argument("--contexts", nargs="+", default=["board"])
  parser.add_argument(
    "--batch-sizes", type=cli.positive, nargs="+", default=[16, 64, 256]
  )
  parser.add_argument("--repeats", type=cli.positive, default=5)
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  rows = []
  for context in flags.contexts:
    settings = [*flags.set, f"play.context={context}"]
    config = cli.config_of_model(flags, settings)
    model = reference_log_probs.load(flags.model, config)
    for batch_size in flags.batch_sizes:
      row = measure(model, config, batch_size, flags.repeats)
      rows.append(row)
      print("  ".join(f"{name} {value}" for name, value in row.items()))
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  results = {
    "peak_memory_mib": round(peak),
    "rows": rows,
  }
  record.write(flags.output, results)


if __name__ == "__main__":
  cli.run(main)
