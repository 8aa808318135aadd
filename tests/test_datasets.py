"""From files to batches: reading, limits, order and padding."""

import itertools
import json

import numpy as np
import pytest

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import testing
from tunix_ttt.data import batches as batches_lib
from tunix_ttt.data import datasets
from tunix_ttt.data import row_formats
from tunix_ttt.text import chat

CHARACTERS = testing.CharacterTokenizer()


def write(path, rows, newline="\n", encoding="utf-8"):
  text = newline.join(json.dumps(row) for row in rows) + newline
  path.write_bytes(text.encode(encoding))
  return str(path)


def load(path, **settings):
  return datasets.load(config_lib.DataConfig(path=path, **settings), seed=0)


def rows_of(texts):
  samples = [row_formats.PlainText("", text) for text in texts]
  return datasets.Source(key="x", path="x.jsonl", digest="", samples=samples)


def test_a_byte_order_mark_and_crlf_are_read(tmp_path):
  rows = [{"text": "a"}, {"text": "b\r\nc"}]
  plain = load(write(tmp_path / "a.jsonl", rows))
  windows = load(write(tmp_path / "b.jsonl", rows, "\r\n", "utf-8-sig"))
  assert plain.samples == windows.samples
  assert plain.samples[1] == row_formats.PlainText("", "b\r\nc")


def test_rows_may_be_of_different_formats_and_lines_blank(tmp_path):
  path = tmp_path / "mixed.jsonl"
  path.write_text('{"text": "a"}\n\n{"prompt": "b", "completion": "c"}\n')
  assert [type(s) for s in load(str(path)).samples] == [
    row_formats.PlainText
  ] * 2


def test_max_samples_reads_no_further(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text('{"text": "a"}\n{"text": "b"}\n{"wrong": 1}\n')
  assert len(load(str(path), max_samples=2).samples) == 2
  games = config_lib.GamesConfig(num_games=20)
  config = config_lib.DataConfig(games=games, max_samples=7)
  assert len(datasets.load(config, seed=0).samples) == 7


@pytest.mark.parametrize(
  "content, message",
  [
    (b"", "this data file has no rows"),
    (b"\n \n", "this data file has no rows"),
    (b'{"text": "a"}\n{"text": \n', ":2: not valid JSON"),
    (b'{"text": "a"}\n[1]\n', ":2: expected a JSON object, found list"),
    (b'{"text": NaN}\n', ":1: not valid JSON: NaN is not JSON"),
    (b'{"text": "a"}\n{"txt": "b"}\n', ":2: found the fields txt"),
    (b'{"text": "a"}\n{"text": "\xff"}\n', ":2: this data file is not UTF-8"),
  ],
)
def test_bad_files(tmp_path, content, message):
  path = tmp_path / "rows.jsonl"
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match=message):
    load(str(path))


def test_missing_file(tmp_path):
  with pytest.raises(errors.UserError, match="none.jsonl: no such data file"):
    load(str(tmp_path / "none.jsonl"))
  with pytest.raises(errors.UserError, match="no such dataset manifest"):
    load(str(tmp_path))


def test_every_bad_row_is_told_and_may_be_skipped(tmp_path):
  path = tmp_path / "rows.jsonl"
  bad = ['{"txt": "b"}', "[1]", '{"text": ""}', "{", '{"prompt": "a"}']
  path.write_text("\n".join(['{"text": "a"}', *bad, '{"text": "c"}']))
  with pytest.raises(errors.UserError) as caught:
    load(str(path))
  lines = str(caught.value).splitlines()
  for number, line in enumerate(lines, start=2):
    assert line.startswith(f"{path}:{number}: ")
  assert len(lines) == 5 and lines[-1].endswith("by --skip-bad-rows)")
  source = load(str(path), skip_bad_rows=True)
  assert source.samples == [row_formats.PlainText("", text) for text in "ac"]
  assert source.skipped.rows == 5
  assert source.skipped.first[0].startswith(f"{path}:2: found the fields txt")


def test_many_bad_rows_are_counted(tmp_path):
  path = write(tmp_path / "rows.jsonl", [{"a": 1}] * 30)
  with pytest.raises(errors.UserError) as caught:
    load(path)
  lines = str(caught.value).splitlines()
  assert len(lines) == 21 and lines[-1].startswith("and 10 more bad rows")
  with pytest.raises(errors.UserError, match="no good row is left"):
    load(path, skip_bad_rows=True)


def test_pairs_are_loaded_apart(tmp_path):
  row = {"prompt": "a", "chosen": "b", "rejected": "c", "id": 7}
  path = write(tmp_path / "pairs.jsonl", [row])
  pairs = datasets.load_pairs(config_lib.DataConfig(path=path))
  assert pairs.samples == [row_formats.Preference("a", "b", "c")]
  assert pairs.key == "pairs" and len(pairs.digest) == 64
  with pytest.raises(errors.UserError, match=":1: this is a preference pair"):
    load(path)
  texts = write(tmp_path / "texts.jsonl", [{"text": "a"}])
  with pytest.raises(errors.UserError, match=":1: this is not a preference"):
    datasets.load_pairs(config_lib.DataConfig(path=texts))
  with pytest.raises(
    errors.UserError, match="data.path: DPO needs a file of preference"
  ):
    datasets.load_pairs(config_lib.DataConfig())


def test_rows_over_the_limit_are_dropped_and_counted():
  config = config_lib.DataConfig(max_seq_length=5, eval_fraction=0.0)
  # A row of n characters has n + 2 tokens.
  source = rows_of(["a", "abc", "abcd", "abcdefg"])
  dataset = datasets.tokenize(source, CHARACTERS, config, 0)
  assert [len(row.ids) for row in dataset.train] == [3, 5]
  assert (dataset.dropped_too_long, dataset.length) == (2, 5)
  with pytest.raises(errors.UserError, match="the shortest has 9"):
    datasets.tokenize(rows_of(["abcdefg"]), CHARACTERS, config, 0)


def test_held_out_rows_are_not_trained_on():
  config = config_lib.DataConfig(eval_fraction=0.25)
  source = rows_of([chr(65 + i) for i in range(20)])
  dataset = datasets.tokenize(source, CHARACTERS, config, 0)
  train, held = (
    {r.ids[1] for r in rows} for rows in (dataset.train, dataset.eval)
  )
  assert len(held) == 5 and len(train) == 15 and not train & held
  single = datasets.tokenize(rows_of(["a"]), CHARACTERS, config, 0)
  assert (len(single.train), len(single.eval)) == (1, 0)


def batches(dataset, **settings):
  defaults = {"batch_size": 4, "gradient_accumulation_steps": 1, "seed": 0}
  settings = {**defaults, **settings}
  parts = batches_lib.train_parts(dataset, **settings)
  size = settings["batch_size"] // settings["gradient_accumulation_steps"]
  return filled(parts, dataset, size)


def filled(parts, dataset, size):
  layout = batches_lib.Layout(
    rows=size, length=dataset.length, predicted=dataset.length - 1
  )
  for part in parts:
    yield batches_lib.make_batch(
      part.sequences, layout=layout, pad_id=0, denominator=part.denominator
    )


def eval_batches(dataset):
  parts = batches_lib.ordered_parts(dataset.eval, 2)
  return list(filled(parts, dataset, 2))


@pytest.fixture
def dataset():
  tokens = [chat.encode_text("", "a" * n, CHARACTERS) for n in range(1, 7)]
  return datasets.Dataset(
    train=tokens, eval=tokens[:3], dropped_too_long=0, length=8
  )


def test_every_epoch_has_every_row_once_in_an_order_of_its_own(dataset):
  lengths = [
    row.sum()
    for batch in itertools.islice(batches(dataset), 6)
    for row in batch["input_mask"]
  ]
  epochs = [lengths[i : i + 6] for i in range(0, 24, 6)]
  assert all(sorted(epoch) == [3, 4, 5, 6, 7, 8] for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_pad_and_mask(dataset):
  batch = next(batches(dataset))
  for tokens, mask, places in zip(
    batch["input_tokens"], batch["input_mask"], batch["places"], strict=True
  ):
    n = mask.sum()
    assert mask.tolist() == [True] * n + [False] * (8 - n)
    assert (tokens[n:] == 0).all() and (tokens[:n] != 0).all()
    assert places.tolist() == [*range(1, n)] + [0] * (8 - n)
  assert batch["denominator"] == (batch["places"] > 0).sum()


def test_accumulation_splits_a_batch_and_shares_its_denominator(dataset):
  whole = next(batches(dataset))
  parts = list(
    itertools.islice(batches(dataset, gradient_accumulation_steps=2), 2)
  )
  joined = np.concatenate([p["input_tokens"] for p in parts])
  assert np.array_equal(joined, whole["input_tokens"])
  assert [p["denominator"] for p in parts] == [whole["denominator"] / 2] * 2


def test_eval_batches_cover_the_held_out_rows_once(dataset):
  held_out = eval_batches(dataset)
  assert [b["input_mask"].sum() for b in held_out] == [3 + 4, 5]
  assert all(b["input_tokens"].shape == (2, 8) for b in held_out)
  tokens = sum(sum(row.loss_mask) for row in dataset.eval)
  assert all(b["denominator"] == tokens / 2 for b in held_out)
  empty = datasets.Dataset(
    train=dataset.train, eval=[], dropped_too_long=0, length=8
  )
  assert eval_batches(empty) == []


def test_the_digest_is_the_files_and_the_games(tmp_path):
  path = write(tmp_path / "a.jsonl", [{"text": "a"}])
  assert load(path).digest == load(path).digest
  games = config_lib.GamesConfig(num_games=10)
  config = config_lib.DataConfig(games=games)
  digests = [datasets.load(config, seed).digest for seed in (0, 0, 1)]
  assert digests[0] == digests[1] != digests[2]
