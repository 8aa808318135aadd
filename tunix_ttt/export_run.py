"""Trained models written for others: weights, tokenizer and model card."""

import dataclasses
import pathlib

from tunix_ttt import config as config_lib
from tunix_ttt import files
from tunix_ttt.evaluate import game_files
from tunix_ttt.models import sources
from tunix_ttt.models.hub import hub_export as export_lib
from tunix_ttt.report import model_card

MAX_SHARD_SIZE = 4 * 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
  """The contents of an exported directory.

  Attributes:
    model: weights, settings and tokenizer.
    model_card: the model card.
  """

  model: export_lib.Export
  model_card: bytes

  def sizes(self) -> dict[str, int]:
    """Returns the bytes of each file; of weights, without their headers."""
    return self.model.sizes() | {model_card.README: len(self.model_card)}

  def write(self, output: pathlib.Path) -> None:
    """Writes the directory, which must not exist, whole or not at all."""
    export_lib.write(self.model, output, {model_card.README: self.model_card})


def prepare(
  name: str,
  title: str,
  *,
  base: str | None = None,
  merge: bool = False,
  max_shard_size: int = MAX_SHARD_SIZE,
  evaluation: pathlib.Path | None = None,
) -> Export:
  """Reads a model and what is known of it; writes nothing.

  Args:
    name: a checkpoint, any model directory, or a hub id.
    title: what it is to be called: a repository or a directory.
    base: directory of an adapter's base, where it is no longer the recorded
      one.
    merge: write adapters and their base as one; else they are alone, for PEFT.
    max_shard_size: bytes of a weight file of a whole model at the most.
    evaluation: a summary of games for the card, in place of those beside the
      run.

  Raises:
    errors.UserError: if there is no such model, or it cannot be written so.
  """
  run = model_card.find_run(name)
  given = None if evaluation is None else game_files.read_summary(evaluation)
  model = sources.open_model(name, config_lib.ModelConfig(base=base))
  if given is None:
    summaries = model_card.find_summaries(model.revision, run)
  else:
    summaries = [given]
  export = export_lib.prepare(model, merge=merge, max_shard_size=max_shard_size)
  text = model_card.render(export, title, run, summaries)
  return Export(model=export, model_card=text.encode())


def export_model(
  name: str | pathlib.Path,
  output: str | pathlib.Path,
  *,
  base: str | pathlib.Path | None = None,
  merge: bool = False,
) -> pathlib.Path:
  """Writes a trained model as PEFT or transformers read it.

  Args:
    name: a run, a checkpoint, or any model directory.
    output: directory to make.
    base: see `prepare`.
    merge: write adapters and their base as one model; else they are alone, for
      PEFT. A model that was trained whole is always written whole.

  Returns:
    The directory.

  Raises:
    errors.UserError: if there is no such model, it cannot be written so, or the
      directory exists.
  """
  output = pathlib.Path(output)
  files.check_absent(output)
  base = None if base is None else str(base)
  export = prepare(str(name), output.absolute().name, base=base, merge=merge)
  export.write(output)
  return output
