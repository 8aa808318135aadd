"""Memory of the tables of games for a vocabulary of Qwen's size, and build time.

The tokenizer is a byte-level BPE with Qwen 2.5's split of text into pieces,
trained on the texts of the games. Random printable strings, which no text is
encoded with, fill the vocabulary up; nothing is downloaded.
"""

import argparse
from collections.abc import Iterator, Sequence
import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
import record
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from tunix_ttt import cli
from tunix_ttt.games import catalog
from tunix_ttt.games import definition
from tunix_ttt.games import game as game_lib
from tunix_ttt.games import game_observations
from tunix_ttt.text import answers as answers_lib
from tunix_ttt.text import hub_tokenizers
from tunix_ttt.text import spellings

# Rows of Qwen 2.5's embedding.
VOCAB_SIZE = 151_936
GAMES = (
  "tictactoe",
  "kuhn_poker",
  "leduc_poker",
  "connect_four",
  "hex",
  "othello",
  "high_card_duel",
  "frozen_lake",
)
_PIECES = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEMPLATE = (
  "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' +"
  " message.content + '<|im_end|>' + '\n' }}{%- endfor %}"
  "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def texts(game: definition.Definition) -> Iterator[str]:
  """Yields the rules, answers and observations of some random games."""
  yield game.text.rules
  for names in game.text.actions:
    yield from (spellings.render_answer(name, "") for name in names)
  shows = game_observations.sample_shows(game.game, game.text, 16)
  for show in shows.tolist():
    yield game_lib.observation_text(game.text, show)


def make_tokenizer(
  games: Sequence[definition.Definition], vocab_size: int
) -> hub_tokenizers.HuggingFaceTokenizer:
  """Returns a byte-level BPE of `vocab_size` tokens."""
  trained = tokenizers.Tokenizer(models.BPE())
  split = pre_tokenizers.Split(tokenizers.Regex(_PIECES), "isolated")
  byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  trained.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
  trained.decoder = decoders.ByteLevel()
  special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
  trained.train_from_iterator(
    (text for game in games for text in texts(game)),
    trainers.BpeTrainer(
      vocab_size=vocab_size,
      special_tokens=special,
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  contents = json.loads(trained.to_str())
  vocab = contents["model"]["vocab"]
  rng = np.random.default_rng(0)
  while len(vocab) < vocab_size:
    characters = rng.integers(ord(" "), ord("~") + 1, rng.integers(2, 13))
    text = "".join(map(chr, characters)).replace(" ", "Ġ")
    vocab.setdefault(text, len(vocab))
  settings = {
    "eos_token": special[2],
    "pad_token": special[0],
    "tokenizer_class": "PreTrainedTokenizerFast",
  }
  with tempfile.TemporaryDirectory() as name:
    directory = pathlib.Path(name)
    (directory / "tokenizer.json").write_text(json.dumps(contents))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "chat_template.jinja").write_text(_TEMPLATE)
    return hub_tokenizers.HuggingFaceTokenizer.load(directory, vocab_size)


def measure(
  game: definition.Definition, tokenizer: hub_tokenizers.HuggingFaceTokenizer
) -> dict[str, Any]:
  """Builds the tables of a game; returns a row of the results."""
  start = time.perf_counter()
  answers = jax.block_until_ready(game.answers(tokenizer))
  between = time.perf_counter()
  observations = jax.block_until_ready(game.observations(tokenizer))
  end = time.perf_counter()
  num_states, num_classes = answers.next_state.shape
  return {
    "game": game.name,
    "actions": len(game.text.actions),
    "token_classes": num_classes,
    "answer_states": num_states,
    "tokens_of_any_answer": int(answers.tokens_needed[answers_lib.START]),
    "tokens_of_first_observation": observations.max_begin,
    "answers_bytes": _num_bytes(answers),
    "observations_bytes": _num_bytes(observations),
    "answers_seconds": round(between - start, 2),
    "observations_seconds": round(end - between, 2),
  }


def _num_bytes(tables: Any) -> int:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tables))


def main() -> None:
  """Measures, prints and writes."""
  parser = cli.parser(
    __doc__ or "", "python benchmarks/game_tables.py --games othello"
  )
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--games", nargs="+", default=GAMES)
  parser.add_argument("--vocab-size", type=cli.positive, default=VOCAB_SIZE)
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  games = [catalog.load(name, thoughts=True) for name in flags.games]
  tokenizer = make_tokenizer(games, flags.vocab_size)
  rows = []
  for game in games:
    row = measure(game, tokenizer)
    rows.append(row)
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
  record.write(
    flags.output,
    {"vocab_size": flags.vocab_size, "rows": rows},
  )


if __name__ == "__main__":
  cli.run(main)
