"""From a data config to batches of token ids."""

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import itertools
import pathlib

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.data import formats
from tunix_ttt.language import chat

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """The rows of a run, before they are tokens.

  Attributes:
    key: a short name.
    path: the data file, None for generated games.
    digest: SHA-256 of the file's bytes, or of the generated rows.
    samples: the rows, in order.
  """

  key: str
  path: str | None
  digest: str
  samples: Sequence[formats.Sample]

  def texts(self, limit: int) -> Iterator[str]:
    """Yields the text of the first `limit` rows, to learn a tokenizer from."""
    for sample in self.samples[:limit]:
      yield from sample.texts()


def load(config: config_lib.DataConfig, seed: int) -> Source:
  """Reads the data file, or generates the games.

  Raises:
    errors.UserError: naming file and line of what is wrong.
  """
  if config.path is None:
    return _generate(config, seed)
  path = pathlib.Path(config.path)
  samples = []
  for number, row in files.read_jsonl(path, "data file"):
    if len(samples) == config.max_samples:
      break
    try:
      samples.append(formats.parse_row(row, config.format))
    except ValueError as error:
      raise errors.UserError(f"{path}:{number}: {error}") from None
  return Source(
    key=path.stem,
    path=str(path),
    digest=hashlib.sha256(path.read_bytes()).hexdigest(),
    samples=samples,
  )


def _generate(config: config_lib.DataConfig, seed: int) -> Source:
  # Here, because a data file needs no JAX.
  from tunix_ttt.data import games

  settings = config.games
  played = games.expert_games(
    seed, settings.num_games, settings.random_starts, settings.mistakes
  )
  if settings.keep == "won":
    played = games.keep_won(played)
  if settings.context == "board":
    share = settings.any_move_positions
    played = games.keep_decisions(played, share, seed)
  conversations = games.conversations(
    played,
    context=settings.context,
    thoughts=settings.thoughts == "template",
  )
  rows = list(itertools.islice(conversations, config.max_samples))
  text = "".join(files.to_json(row) + "\n" for row in rows)
  return Source(
    key="expert-games",
    path=None,
    digest=hashlib.sha256(text.encode()).hexdigest(),
    samples=[formats.Conversation(row) for row in rows],
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """Tokenised rows, ready for training.

  Attributes:
    train: rows to train on.
    eval: rows held out.
    dropped_too_long: rows over the length limit.
    length: what every batch is padded to.
  """

  train: list[chat.Tokens]
  eval: list[chat.Tokens]
  dropped_too_long: int
  length: int


def tokenize(
  source: Source,
  tokenizer: chat.ChatTokenizer,
  config: config_lib.DataConfig,
  seed: int,
) -> Dataset:
  """Encodes every row, drops those that are too long and holds some out.

  Raises:
    errors.UserError: if no row is left.
  """
  rows = [sample.encode(tokenizer) for sample in source.samples]
  kept = [row for row in rows if len(row.ids) <= config.max_seq_length]
  if not kept:
    shortest = min(len(row.ids) for row in rows)
    raise errors.UserError(
      f"{source.path or source.key}: every row is longer than"
      f" data.max_seq_length = {config.max_seq_length} tokens (the shortest"
      f" has {shortest}); raise the limit"
    )
  num_eval = min(int(np.ceil(len(kept) * config.eval_fraction)), len(kept) - 1)
  order = np.random.default_rng([seed, 0]).permutation(len(kept))
  held_out = set(order[:num_eval].tolist())
  return Dataset(
    train=[row for i, row in enumerate(kept) if i not in held_out],
    eval=[kept[i] for i in sorted(held_out)],
    dropped_too_long=len(rows) - len(kept),
    length=max(len(row.ids) for row in kept),
  )


def train_batches(
  dataset: Dataset,
  *,
  batch_size: int,
  gradient_accumulation_steps: int,
  pad_id: int,
  seed: int,
) -> Iterator[Batch]:
  """Yields micro-batches without end, in an order that the seed decides.

  Every epoch has its own order and batches run across epochs, so that each has
  the full size. The micro-batches of one optimizer step share a denominator,
  with which the mean of their losses is the mean over the step's supervised
  tokens, however unevenly these are spread.

  Yields:
    See `make_batch`.
  """
  order = itertools.chain.from_iterable(
    np.random.default_rng([seed, 1, epoch]).permutation(len(dataset.train))
    for epoch in itertools.count()
  )
  micro = batch_size // gradient_accumulation_steps
  while True:
    rows = [dataset.train[i] for i in itertools.islice(order, batch_size)]
    tokens = sum(sum(row.loss_mask[1:]) for row in rows)
    for start in range(0, batch_size, micro):
      yield make_batch(
        rows[start : start + micro],
        batch_size=micro,
        length=dataset.length,
        pad_id=pad_id,
        denominator=tokens / gradient_accumulation_steps,
      )


def eval_batches(
  dataset: Dataset, *, batch_size: int, pad_id: int
) -> list[Batch]:
  """Returns the held-out rows; the mean of the losses is that over all tokens."""
  starts = range(0, len(dataset.eval), batch_size)
  tokens = sum(sum(row.loss_mask[1:]) for row in dataset.eval)
  return [
    make_batch(
      dataset.eval[start : start + batch_size],
      batch_size=batch_size,
      length=dataset.length,
      pad_id=pad_id,
      denominator=tokens / len(starts),
    )
    for start in starts
  ]


def make_batch(
  rows: Sequence[chat.Tokens],
  *,
  batch_size: int,
  length: int,
  pad_id: int,
  denominator: float,
) -> Batch:
  """Pads rows into arrays; missing rows are padding.

  Returns:
    `input_tokens` int32 [B, L]; `input_mask` bool [B, L], True at tokens;
    `loss_mask` bool [B, L], True at tokens to be predicted; `denominator`
    float32 [], what the summed loss is divided by.
  """
  tokens = np.full((batch_size, length), pad_id, np.int32)
  input_mask = np.zeros((batch_size, length), bool)
  loss_mask = np.zeros((batch_size, length), bool)
  for i, row in enumerate(rows):
    tokens[i, : len(row.ids)] = row.ids
    input_mask[i, : len(row.ids)] = True
    loss_mask[i, : len(row.ids)] = row.loss_mask
  return {
    "input_tokens": tokens,
    "input_mask": input_mask,
    "loss_mask": loss_mask,
    "denominator": np.asarray(denominator, np.float32),
  }
