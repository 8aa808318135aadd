"""Checks of SFT and DPO steps: what they name, and that clean runs have no warning."""

import pathlib
from typing import Any

import pytest

from tests import test_dpo
from tunix_ttt import config as config_lib
from tunix_ttt import recipes
from tunix_ttt import testing
from tunix_ttt.data import batches
from tunix_ttt.data import row_formats
from tunix_ttt.text import chat
from tunix_ttt.train import dpo
from tunix_ttt.train import reference_log_probs
from tunix_ttt.train import row_checks

CHARACTERS = testing.CharacterTokenizer()
PLAIN = row_formats.PlainText("prompt", "answer")
CONVERSATION = row_formats.Conversation(
  [
    chat.message("system", "rules"),
    chat.message("user", "board"),
    chat.message("assistant", "move"),
    chat.message("user", "board"),
    chat.message("assistant", "last move"),
  ]
)


def text_log(run: pathlib.Path) -> str:
  (path,) = run.glob("*_training_logs_*.txt")
  return path.read_text()


def everything(row: chat.Tokens) -> chat.Tokens:
  return chat.Tokens(row.ids, [True] * len(row.ids))


def shifted(row: chat.Tokens) -> chat.Tokens:
  return chat.Tokens(row.ids, [*row.loss_mask[1:], False])


def cut(row: chat.Tokens) -> chat.Tokens:
  return chat.Tokens(row.ids[:-1], row.loss_mask[:-1])


def unprompted(row: chat.Tokens) -> chat.Tokens:
  start = row.loss_mask.index(True)
  return chat.Tokens(row.ids[start:], row.loss_mask[start:])


# What a change of the rows must be called, of a conversation and of plain text.
MISTAKES = {
  everything: ({"mask", "prompt"}, set()),
  shifted: ({"truncation"}, {"truncation"}),
  cut: ({"truncation"}, {"truncation"}),
  unprompted: ({"prompt"}, set()),
  chat.Tokens._make: (set(), set()),
}


def as_padded(checks, rows):
  count = max(sum(row.loss_mask[1:]) for row in rows)
  length = 3 + max(len(row.ids) for row in rows)
  layout = batches.Layout(rows=len(rows) + 1, length=length, predicted=count)
  batch = batches.make_batch(
    rows, layout=layout, pad_id=CHARACTERS.pad_id(), denominator=1
  )
  checks.batch(3, batch)


def as_packed(checks, rows):
  count = sum(sum(row.loss_mask[1:]) for row in rows)
  length = 3 + 2 * max(len(row.ids) for row in rows)
  layout = batches.Layout(rows=2, length=length, predicted=count)
  batch = batches.make_batch(
    rows,
    layout=layout,
    pad_id=CHARACTERS.pad_id(),
    denominator=1,
    is_packed=True,
  )
  checks.batch(3, batch)


def as_sequences(checks, rows):
  checks.sequences(3, rows)


@pytest.mark.parametrize("feed", [as_padded, as_packed, as_sequences])
@pytest.mark.parametrize("change", MISTAKES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("sample", [CONVERSATION, PLAIN], ids=["chat", "plain"])
def test_mistakes_in_rows_are_named(sample, change, feed):
  config, warnings = config_lib.SFTConfig(), []
  checks = row_checks.RowChecks(config, CHARACTERS, "float32", warnings.append)
  row = sample.encode(CHARACTERS)
  # The changed row is last, and in `as_sequences` nothing follows it.
  feed(checks, [row, change(row)])
  assert set(checks.reporter.faults) == MISTAKES[change][sample is PLAIN]
  assert len(warnings) == len(checks.reporter.faults)
  assert all("step 3" in warning for warning in warnings)


class WithoutBOS(testing.CharacterTokenizer):
  """A tokenizer whose plain text begins with text."""

  def bos_id(self) -> Any:
    return None


# Rows as files have them.
ROWS = [
  {"text": "all of it is trained on"},
  {"prompt": "", "completion": "an answer"},
  {"prompt": "2", "completion": "an answer"},
  {"messages": CONVERSATION.messages},
  {"messages": CONVERSATION.messages[1:3]},
  {"text": "<start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb"},
]


@pytest.mark.parametrize("feed", [as_padded, as_packed, as_sequences])
@pytest.mark.parametrize("number", range(3))
def test_rows_of_all_formats_have_no_warning(tokenizer, number, feed):
  used = [tokenizer, CHARACTERS, WithoutBOS()][number]
  samples = [
    sample for row in ROWS for sample in row_formats.parse_trained(row, "auto")
  ]
  assert len({type(sample) for sample in samples}) == 2
  checks = row_checks.RowChecks(config_lib.SFTConfig(), used, "float32", print)
  feed(checks, [sample.encode(used) for sample in samples])
  assert checks.reporter.faults == {}


@pytest.mark.parametrize("name", ["sft_run", "sft_lora_run"])
def test_clean_runs_have_no_warning(name, request):
  run = request.getfixturevalue(name)
  assert "WARNING" not in text_log(run)


pairs = test_dpo.pairs


@pytest.mark.parametrize("is_wrong", [False, True])
def test_another_reference_is_named(pairs, tmp_path, monkeypatch, is_wrong):
  attach = reference_log_probs.attach
  if is_wrong:
    monkeypatch.setattr(
      dpo.reference_log_probs,
      "attach",
      lambda made, log_probs: attach(made, log_probs - 1),
    )
  run = recipes.train_dpo(test_dpo.make(pairs), tmp_path / "run")
  log = text_log(run)
  assert ("WARNING: step 1: reference: " in log) == is_wrong
  assert log.count("WARNING") == is_wrong
