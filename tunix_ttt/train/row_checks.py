"""Checks of SFT and DPO steps for mistakes that raise no error.

They look at the trained tokens of a batch and at those around them, by the rules of the
chat template. `docs/silent_failures.md` has a section on each, by its name.
"""

from collections.abc import Callable, Mapping, Sequence
import itertools

import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt.data import batches
from tunix_ttt.text import chat
from tunix_ttt.train import step_checks

NAMES = ("mask", "truncation", "prompt", "reference")
# Largest mean difference of an answer's log-probability in two programs, in nats.
_ROUNDING, _ROUNDING_OF_BFLOAT16 = 0.01, 0.5


class RowChecks:
  """Warns once of what each check finds in a run on rows.

  Attributes:
    reporter: What was wrong so far.
  """

  def __init__(
    self,
    config: config_lib.SFTConfig,
    tokenizer: chat.ChatTokenizer,
    dtype: str | None,
    warn: Callable[[str], None],
  ):
    """Takes the type of the model's computation, None for a service's."""
    template = tokenizer.template
    ends = {template.end_of_turn_id, *tokenizer.end_ids, tokenizer.eos_id()}
    system = itertools.chain(*(template.system or ()))
    parts = (*template.begin, *system, *template.answer, *template.follow)
    ids = {part for part in parts if isinstance(part, int)}
    self._ends = np.array([*ends])
    self._template_ids = np.array([*(ids - ends)], np.int64)
    self._beta = None
    if isinstance(config, config_lib.DPOConfig):
      # ORPO has no reference.
      self._beta = config.dpo.beta if config.dpo.algorithm == "dpo" else None
    is_float32 = dtype == "float32"
    self._rounding = _ROUNDING if is_float32 else _ROUNDING_OF_BFLOAT16
    self.reporter = step_checks.Reporter(warn)

  def batch(self, step: int, batch: batches.Batch) -> None:
    """Checks a micro-batch of `batches.make_batch`; steps are counted from 1."""
    predicted = np.zeros(batch["input_tokens"].shape, bool)
    np.put_along_axis(predicted, batch["places"], True, axis=1)
    # Place 0 fills the places up.
    predicted[:, 0] = False
    segments = batch.get("segment_ids", batch["input_mask"])
    self._rows(step, batch["input_tokens"], segments, predicted)

  def sequences(self, step: int, sequences: Sequence[chat.Tokens]) -> None:
    """Checks the sequences of a batch; steps are counted from 1."""
    # All in one row, one after another.
    tokens = np.concatenate([row.ids for row in sequences])
    lengths = [len(row.ids) for row in sequences]
    segments = np.repeat(np.arange(len(lengths)), lengths)
    predicted = [np.asarray([False, *row.loss_mask[1:]]) for row in sequences]
    self._rows(
      step, tokens[None], segments[None], np.concatenate(predicted)[None]
    )

  def _rows(
    self,
    step: int,
    tokens: np.ndarray,
    segments: np.ndarray,
    predicted: np.ndarray,
  ) -> None:
    """Checks R rows of L tokens.

    `segments` are the numbers of the tokens' sequences, int [R, L], and `predicted` is a
    mask of the trained tokens, bool [R, L].
    """
    is_same = segments[:, 1:] == segments[:, :-1]
    is_template = predicted & np.isin(tokens, self._template_ids)
    # Whether the next token continues the answer of a token.
    continues = np.zeros_like(predicted)
    continues[:, :-1] = predicted[:, 1:] & is_same
    is_cut = predicted & ~continues & ~np.isin(tokens, self._ends)
    # Nothing predicts the first token of a sequence, so training starts at the second.
    is_first = np.ones_like(predicted)
    is_first[:, 1:] = ~is_same
    is_unprompted = predicted[:, 1:] & is_first[:, :-1] & is_same
    # Plain text may have no prompt; in a conversation a header is before an answer.
    for row, column in np.argwhere(is_unprompted).tolist():
      is_own = segments[row] == segments[row, column]
      is_header = np.isin(tokens[row], self._template_ids)
      # Plain text may begin with a control token, too.
      is_header[column] = False
      is_unprompted[row, column] = (is_own & is_header).any()
    faults = {
      "mask": (is_template, "trained tokens of the chat template"),
      "truncation": (
        is_cut,
        "trained answers without an end; was text cut off?",
      ),
      "prompt": (is_unprompted, "conversations that begin with an answer"),
    }
    self.reporter(
      step,
      {
        name: f"{int(mask.sum()):,} {text}"
        for name, (mask, text) in faults.items()
        if mask.any()
      },
    )

  def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
    """Checks the metrics of a step.

    In the first step of DPO the policy is the reference, and the implicit rewards,
    beta times a difference of log-probabilities, are 0.
    """
    if step != 1 or self._beta is None:
      return
    names = "rewards/chosen", "rewards/rejected"
    worst = max(abs(metrics[name]) for name in names) / self._beta
    if worst > self._rounding:
      text = (
        "before the first update the policy is the reference, and their"
        f" log-probabilities of an answer differ by {worst:.2g} nats"
      )
      self.reporter(step, {"reference": text})
