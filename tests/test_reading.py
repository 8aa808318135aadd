"""Rows from files of every kind, from built datasets and from the hub."""

import csv
import json

import datasets as hub_datasets
from datasets import exceptions
import pyarrow
import pytest

from tunix_ttt import errors
from tunix_ttt.data import reading

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]


@pytest.fixture(autouse=True)
def quiet():
  hub_datasets.disable_progress_bars()


def rows_of(path, split="train"):
  rows = reading.find(str(path), split)
  return [line.row for line in rows.lines()]


def write_table(path):
  table = pyarrow.Table.from_pylist(ROWS)
  if path.suffix == ".parquet":
    hub_datasets.Dataset(table).to_parquet(path)
  elif path.suffix == ".arrow":
    with (
      pyarrow.OSFile(str(path), "wb") as file,
      pyarrow.ipc.new_file(file, table.schema) as writer,
    ):
      writer.write_table(table)
  else:
    with path.open("w", newline="") as file:
      writer = csv.DictWriter(file, ROWS[0])
      writer.writeheader()
      writer.writerows(ROWS)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "arrow"])
def test_tables(tmp_path, suffix):
  path = tmp_path / f"rows.{suffix}"
  write_table(path)
  assert rows_of(path) == ROWS
  assert len(reading.find(str(path)).digest()) == 64


def test_what_a_table_lacks_is_no_field(tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text("prompt,completion,chosen,score\na,b,,1\nc,d,,\n")
  assert rows_of(path) == [{**ROWS[0], "score": 1.0}, ROWS[1]]


def test_tables_that_are_none(tmp_path):
  with pytest.raises(errors.UserError, match="none.csv: no such data file"):
    rows_of(tmp_path / "none.csv")
  path = tmp_path / "rows.parquet"
  path.write_text("junk")
  with pytest.raises(errors.UserError, match="rows.parquet: cannot be read"):
    rows_of(path)


def test_hub_ids(monkeypatch):
  calls = []

  def load_dataset(name, **settings):
    calls.append((name, settings))
    return hub_datasets.Dataset.from_list(ROWS)

  monkeypatch.setattr(hub_datasets, "load_dataset", load_dataset)
  rows = reading.find("owner/name", "test")
  assert [line.row for line in rows.lines()] == ROWS
  assert calls == [("owner/name", {"split": "test"})]
  assert rows.key == "owner/name[test]"
  assert rows.digest() == rows.digest()


@pytest.mark.parametrize(
  "raised, message",
  [
    (ConnectionError("x"), "owner/name: .*hub cannot be reached"),
    (
      exceptions.DatasetNotFoundError("x"),
      "owner/name: .*no such dataset on the Hugging Face hub",
    ),
    (ValueError("Unknown split 'x'.\nmore"), "as rows: Unknown split 'x'.$"),
  ],
)
def test_hub_ids_that_cannot_be_read(monkeypatch, raised, message):
  def load_dataset(name, **settings):
    raise raised

  monkeypatch.setattr(hub_datasets, "load_dataset", load_dataset)
  with pytest.raises(errors.UserError, match=message):
    rows_of("owner/name")


@pytest.mark.parametrize("name", ["none", "runs/rows.jsonl", "a/b/c", "x y/z"])
def test_what_has_no_form_of_a_hub_id_is_a_file(name):
  with pytest.raises(errors.UserError, match=f"{name}: no such data file"):
    rows_of(name)


def test_json_lines_are_numbered_as_in_the_file(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text(f"\n{json.dumps(ROWS[0])}\n\n{json.dumps(ROWS[1])}\n")
  lines = list(reading.find(str(path)).lines())
  assert [line.number for line in lines] == [2, 4]
