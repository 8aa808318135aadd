"""A supervised fine-tuning run, from a config to a trained model on disk."""

import dataclasses
import itertools
import pathlib
import platform
import shutil
from typing import Any

import jax

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import runs
from tunix_ttt.data import datasets
from tunix_ttt.language import tokenizers
from tunix_ttt.models import checkpoints
from tunix_ttt.models import specs
from tunix_ttt.train import recorder as recorder_lib
from tunix_ttt.train import tracking
from tunix_ttt.train import trainer as trainer_lib

# Rows of the data that a tiny model's tokenizer is trained on.
_TOKENIZER_ROWS = 2000

# Settings that change what is written and nothing that is computed.
_FREE_ON_RESUME = ("logging.", "checkpoint.max_to_keep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """All that a run needs, checked and in memory; nothing is written yet.

  Attributes:
    config: the settings.
    source: the rows.
    dataset: the rows as tokens.
    model: what to train.
    record: of the model, for the manifest.
  """

  config: config_lib.SFTConfig
  source: datasets.Source
  dataset: datasets.Dataset
  model: checkpoints.Model
  record: runs.ModelRecord

  def summary(self) -> str:
    """Describes the run in a few lines."""
    training, data, model = self.config.training, self.dataset, self.record
    rows = f"{len(data.train):,} row{'s' if len(data.train) > 1 else ''}"
    epochs = training.max_steps * training.batch_size / len(data.train)
    return (
      f"model    {model.name}: {model.parameters:,} parameters,"
      f" {model.trainable_parameters:,} trained\n"
      f"data     {self.source.key}: {rows} to train on,"
      f" {len(data.eval):,} held out, {data.dropped_too_long:,} dropped as"
      f" longer than {self.config.data.max_seq_length} tokens\n"
      f"steps    {training.max_steps:,} of {training.batch_size} rows, padded"
      f" to {data.length} tokens: {epochs:.1f} epochs"
    )


def base_model(
  config: config_lib.SFTConfig,
  source: datasets.Source | None = None,
  tokenizer: pathlib.Path | None = None,
) -> checkpoints.Model:
  """Returns the model that a config's training starts from.

  Args:
    config: the settings.
    source: the config's rows; read here where a tokenizer needs them.
    tokenizer: a tiny model's tokenizer, where it has been trained already.
  """

  def make_tokenizer() -> tokenizers.SentencePieceTokenizer:
    if tokenizer is not None:
      return tokenizers.SentencePieceTokenizer.load(tokenizer)
    rows = source or datasets.load(config.data, config.seed)
    return tokenizers.train_tokenizer(
      rows.texts(_TOKENIZER_ROWS), config.tokenizer.vocab_size
    )

  return checkpoints.start_from(config.model, make_tokenizer, config.seed)


def plan(
  config: config_lib.SFTConfig, tokenizer: pathlib.Path | None = None
) -> Plan:
  """Reads the data and makes the model; writes nothing.

  Args:
    config: the settings.
    tokenizer: see `base_model`.

  Raises:
    errors.UserError: if anything in the config or its files is wrong.
  """
  tracking.check(config.logging)
  source = datasets.load(config.data, config.seed)
  base = base_model(config, source, tokenizer)
  dataset = datasets.tokenize(source, base.tokenizer, config.data, config.seed)
  revision = checkpoints.revision(specs.parameters(base.module))
  model = checkpoints.adapt(base, config.lora, config.model.name, config.seed)

  def count(kind: Any) -> int:
    values = specs.parameters(model.module, kind).values()
    return sum(value.size for value in values)

  record = runs.ModelRecord(
    name=config.model.name,
    revision=revision,
    tokenizer=base.tokenizer.digest,
    parameters=count(specs.nnx.Param),
    trainable_parameters=count(model.trainable),
  )
  return Plan(
    config=config, source=source, dataset=dataset, model=model, record=record
  )


def train(
  config: config_lib.SFTConfig, output: pathlib.Path | None = None
) -> pathlib.Path:
  """Trains a model in a new run directory.

  Args:
    config: the settings.
    output: the run directory, which must not exist; None makes one under
      `artifacts/training_runs`.

  Returns:
    The run directory; the model is in its `checkpoint-final`.

  Raises:
    errors.UserError: if the input is wrong, before anything is written.
  """
  output = output or runs.RUNS_ROOT / runs.new_run_id(f"sft-{config.seed}")
  files.check_absent(output)
  prepared = plan(config)
  manifest = _manifest(prepared, output)
  with files.new_directory(output) as new:
    manifest.write(new)
    tokenizer = prepared.model.tokenizer.serialize()
    files.write_bytes(new / runs.TOKENIZER, tokenizer)
    files.write_text(new / runs.METRICS, "")
  with runs.hold(output):
    return _run(prepared, manifest, output)


def resume(
  config: config_lib.SFTConfig, run: pathlib.Path, step: int | None = None
) -> pathlib.Path:
  """Goes on with an interrupted run, as if it had not been interrupted.

  Args:
    config: the settings it was started with; only `logging` and
      `checkpoint.max_to_keep` may differ.
    run: its directory.
    step: which of its checkpoints to go on from; None for the latest, or the
      beginning where there is none yet. Later checkpoints are set aside.

  Returns:
    The run directory.

  Raises:
    errors.UserError: if there is no such run or checkpoint, or the config, the
      data, the base or the code's results are not the run's.
  """
  manifest = runs.RunManifest.read(run)
  with runs.hold(run):
    _check_same_config(config, manifest, run)
    if manifest.status == "finished" and step is None:
      return run
    prepared = plan(config, run / runs.TOKENIZER)
    _check_same_inputs(prepared, manifest, run)
    _set_aside_after(run, step)
    return _run(prepared, manifest, run)


def _run(
  prepared: Plan, manifest: runs.RunManifest, run: pathlib.Path
) -> pathlib.Path:
  """Trains from the latest checkpoint to the end and saves the model."""
  config, dataset, model = prepared.config, prepared.dataset, prepared.model
  training, pad_id = config.training, model.tokenizer.pad_id()
  trainer = trainer_lib.SFTTrainer(model.module, config, run)
  session = runs.Session(started_at=runs.now(), from_step=trainer.train_steps)
  manifest = manifest.model_copy(
    update={
      "status": "running",
      "finished_at": None,
      "sessions": [*manifest.sessions, session],
    }
  )
  manifest.write(run)
  recorder = recorder_lib.Recorder(
    run,
    "sft",
    max_steps=training.max_steps,
    log_every_n_steps=config.logging.log_every_n_steps,
    steps_per_epoch=len(dataset.train) / training.batch_size,
    kept=runs.rewind_metrics(run, trainer.train_steps),
  )
  try:
    trainer.fit(
      itertools.islice(
        datasets.train_batches(
          dataset,
          batch_size=training.batch_size,
          gradient_accumulation_steps=training.gradient_accumulation_steps,
          pad_id=pad_id,
          seed=config.seed,
        ),
        training.max_steps * training.gradient_accumulation_steps,
      ),
      datasets.eval_batches(
        dataset, batch_size=training.batch_size, pad_id=pad_id
      ),
      recorder,
    )
  finally:
    recorder.close()
  # There is one if the run was killed between saving it and saying so.
  final = run / runs.FINAL_CHECKPOINT
  shutil.rmtree(final, ignore_errors=True)
  checkpoints.save(dataclasses.replace(model, module=trainer.model), final)
  manifest.model_copy(
    update={
      "status": "finished",
      "finished_at": runs.now(),
      "final_metrics": recorder.summary(),
    }
  ).write(run)
  return run


def _manifest(prepared: Plan, output: pathlib.Path) -> runs.RunManifest:
  config, source, dataset = prepared.config, prepared.source, prepared.dataset
  sha, dirty = runs.git_state()
  return runs.RunManifest(
    run_id=output.name,
    created_at=runs.now(),
    recipe="sft",
    seed=config.seed,
    config=config_lib.to_dict(config),
    dataset=runs.DatasetRecord(
      key=source.key,
      path=source.path,
      digest=source.digest,
      rows=len(source.samples),
      dropped_too_long=dataset.dropped_too_long,
      train_rows=len(dataset.train),
      eval_rows=len(dataset.eval),
    ),
    dataset_key=source.key,
    model=prepared.record,
    versions=runs.versions(),
    platform=platform.platform(),
    devices=[device.device_kind for device in jax.devices()],
    mesh={},
    git_sha=sha,
    git_dirty=dirty,
    artifacts_path=str(output),
  )


def _check_same_config(
  config: config_lib.SFTConfig, manifest: runs.RunManifest, run: pathlib.Path
) -> None:
  path = run / runs.MANIFEST
  try:
    theirs = config_lib.from_dict(config_lib.SFTConfig, manifest.config)
  except ValueError as error:
    raise errors.UserError(f"{path}: config: {error}") from None
  changed = [
    key
    for key in config_lib.differences(config, theirs)
    if not key.startswith(_FREE_ON_RESUME)
  ]
  if changed:
    raise errors.UserError(
      f"{run}: a run is resumed with the config it was started with; these"
      f" keys differ from {path}: {', '.join(changed)}"
    )


def _check_same_inputs(
  prepared: Plan, manifest: runs.RunManifest, run: pathlib.Path
) -> None:
  ours, theirs = prepared.source, manifest.dataset
  if ours.digest != theirs.digest:
    raise errors.UserError(
      f"{run}: the data has changed since this run was started:"
      f" {ours.path or ours.key} has the digest {ours.digest}, the manifest"
      f" has {theirs.digest}"
    )
  if prepared.record != manifest.model:
    raise errors.UserError(
      f"{run}: the model has changed since this run was started: now"
      f" {prepared.record}, in the manifest {manifest.model}"
    )


def _set_aside_after(run: pathlib.Path, step: int | None) -> None:
  """Moves what came after the checkpoint of `step` out of the way."""
  if step is None:
    return
  root = run / runs.CHECKPOINTS
  steps = sorted(int(p.name) for p in root.glob("*") if p.name.isdecimal())
  if step not in steps:
    raise errors.UserError(
      f"{root}: there is no checkpoint of step {step}; there are"
      f" {', '.join(map(str, steps)) or 'none'}"
    )
  later = [root / str(s) for s in steps if s > step]
  aside = run / runs.new_run_id("superseded")
  for path in [*later, run / runs.FINAL_CHECKPOINT]:
    if path.exists():
      aside.mkdir(exist_ok=True)
      path.rename(aside / path.name)
