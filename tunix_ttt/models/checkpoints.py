"""Saves and loads model directories.

A model directory, such as a run's `checkpoint-final`, holds

    model.json        architecture, adapter, base and digests
    tokenizer.model   SentencePiece, or tokenizer/ with Hugging Face's files
    params/           Orbax checkpoint of all parameters or only the adapter's
    digests.json      SHA-256 of all these files

An adapter records the digest of its base and the path that the base had.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import os
import pathlib
from typing import Any, Literal

from flax import nnx
import jax
import orbax.checkpoint as ocp
import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.models import meshes
from tunix_ttt.models import model_policy
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import client
from tunix_ttt.models.hub import hub_loading
from tunix_ttt.runs import integrity
from tunix_ttt.runs import processes
from tunix_ttt.text import chat
from tunix_ttt.text import hub_tokenizers
from tunix_ttt.text import tokenizers

MODEL_JSON = "model.json"
PARAMS = "params"


class BaseRecord(pydantic.BaseModel):
  """The frozen base model of an adapter.

  Attributes:
    path: Directory or hub id of the base; None for a tiny model.
    relative: Path of the directory relative to the adapter's directory.
    seed: Random seed of a tiny model's initial values.
    revision: SHA-256 of the base's parameters, or of its files in the case of a
      Hugging Face model.
    commit: Commit of a hub id.
  """

  model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

  path: str | None
  relative: str | None = None
  seed: int
  revision: str
  commit: str | None = None


class Description(pydantic.BaseModel):
  """The contents of `model.json`.

  Attributes:
    format: Format of the directory; the first format has no digests of files.
    spec: Architecture of the model.
    tokenizer: Digest of the tokenizer.
    params: SHA-256 of the parameters in the directory.
    lora: Settings of the adapter; None for a whole model.
    base: Base of the adapter; None for a whole model.
    game: Name of the game that the model was trained on; None in older files.
  """

  model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

  format: Literal["tunix_ttt.model/1", "tunix_ttt.model/2"] = (
    "tunix_ttt.model/2"
  )
  spec: specs.ModelSpec
  tokenizer: str
  params: str
  lora: config_lib.LoraConfig | None
  base: BaseRecord | None
  game: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Model:
  """A model with its tokenizer and its origin.

  Attributes:
    module: Tunix model, with adapters if `lora` is set.
    spec: Architecture of the model.
    tokenizer: Tokenizer of the model.
    lora: Settings of the adapters; None without adapters.
    base: Base of the adapters; None without adapters.
    revision: SHA-256 of the parameters or files that the model was loaded from.
    commit: Commit of the hub id that the model was loaded from.
    game: Name of the game that the model was trained on; None for no game.
  """

  module: nnx.Module
  spec: specs.ModelSpec
  tokenizer: tokenizers.Tokenizer
  lora: config_lib.LoraConfig | None = None
  base: BaseRecord | None = None
  revision: str
  commit: str | None = None
  game: str | None = None

  def __repr__(self) -> str:
    """Returns one line; a module's repr has a line for each parameter."""
    size = sum(x.size for x in specs.parameters(self.module).values())
    layers = self.spec.num_layers
    adapter = "" if self.lora is None else f", lora rank {self.lora.rank}"
    return (
      f"<Model {self.spec.family}: {size:,} parameters, {layers}"
      f" layer{'s' * (layers != 1)}{adapter}, digest {self.revision[:12]}>"
    )

  @property
  def trainable(self) -> Any:
    """The variable type that training changes."""
    return nnx.Param if self.lora is None else nnx.LoRAParam

  def generate(
    self,
    prompts: Sequence[chat.Text],
    *,
    max_new_tokens: int = 256,
    batch_size: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
  ) -> list[str]:
    """Returns the model's answer to each prompt, up to the end of its turn.

    Args:
      prompts: User messages, or conversations as lists of messages that end
        with the user's: `{"role": "user", "content": "..."}`.
      max_new_tokens: Maximum tokens per answer.
      batch_size: Number of prompts sampled together.
      temperature: Sampling temperature; 0 for greedy decoding.
      top_p: Nucleus sampling threshold; ignored by greedy decoding.
      seed: Random seed for sampling.

    Raises:
      ValueError: if a conversation is invalid.
    """
    ids = []
    for prompt in prompts:
      if isinstance(prompt, str):
        prompt = [chat.message("user", prompt)]
      if chat.check_messages(prompt)[-1]["role"] != "user":
        raise ValueError("the last message is not the user's")
      ids.append(chat.encode_chat(prompt, self.tokenizer).ids)
    generator = model_policy.Generator(
      self,
      max_prompt_length=max(map(len, ids), default=0),
      max_new_tokens=max_new_tokens,
      temperature=temperature,
      top_p=top_p,
    )
    batch_size = min(batch_size, max(len(ids), 1))
    return list(generator(ids, batch_size=batch_size, seed=seed))


def revision(params: dict[str, jax.Array]) -> str:
  """Returns the SHA-256 of parameters: names, types, shapes and values."""
  digest = hashlib.sha256()
  for name in sorted(params):
    value = meshes.fetch(params[name])
    digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()


def save(model: Model, directory: pathlib.Path) -> None:
  """Writes a new model directory atomically."""
  params = specs.parameters(model.module, model.trainable)
  base = model.base
  if base is not None and base.path is not None and base.commit is None:
    relative = os.path.relpath(base.path, directory)
    base = base.model_copy(update={"relative": relative})
  description = Description(
    spec=model.spec,
    tokenizer=model.tokenizer.digest,
    params=revision(params),
    lora=model.lora,
    base=base,
    game=model.game,
  )
  with processes.new_directory(directory) as new:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save((new / PARAMS).absolute(), params)
    if processes.is_first():
      files.write_all(new, model.tokenizer.files())
      text = description.model_dump_json(indent=2) + "\n"
      files.write_text(new / MODEL_JSON, text)
      integrity.write(new)


def load(
  directory: pathlib.Path, base: str | pathlib.Path | None = None
) -> Model:
  """Loads a model directory, or the final checkpoint of a run directory.

  Args:
    directory: Model directory or run directory.
    base: Directory of an adapter's base; None for the path in its record.

  Raises:
    errors.UserError: if the directory is no model directory or is damaged, or
      the base is missing or has another digest.
  """
  directory = final(directory)
  description = describe(directory)
  # Checked first: Orbax's threads print tracebacks for damaged files.
  has_digests = description.format != "tunix_ttt.model/1"
  if has_digests and (fault := integrity.damage(directory)):
    raise errors.UserError(fault)
  vocab_size = description.spec.vocab_size
  tokenizer = hub_tokenizers.load_saved(directory, vocab_size)
  if tokenizer.digest != description.tokenizer:
    raise errors.UserError(
      f"{directory}: the tokenizer is not the one this model was saved with"
    )
  record = description.base
  if description.lora is None:
    refuse_base(directory, base)
    module = nnx.eval_shape(description.spec.build)
  else:
    module, record = _adapted(directory, description, base)
  values = specs.parameters(module)
  saved = values
  if description.lora is not None:
    saved = specs.parameters(module, nnx.LoRAParam)
  params = read_params(directory, saved)
  if revision(params) != description.params:
    raise errors.UserError(
      f"{directory / PARAMS}: the parameters are not those that were saved"
    )
  return Model(
    module=specs.with_parameters(module, values | params),
    spec=description.spec,
    tokenizer=tokenizer,
    lora=description.lora,
    base=record,
    revision=description.params,
    game=description.game,
  )


def final(directory: pathlib.Path) -> pathlib.Path:
  """Returns a run directory's final checkpoint, or the directory itself."""
  checkpoint = directory / "checkpoint-final"
  return checkpoint if checkpoint.is_dir() else directory


def describe(directory: pathlib.Path) -> Description:
  """Reads the description in a model or run directory, or raises a UserError."""
  directory = final(directory)
  if not directory.is_dir():
    raise errors.UserError(f"{directory}: no such model directory")
  if not (directory / MODEL_JSON).is_file():
    raise errors.UserError(
      f"{directory}: not a model directory: it has neither {MODEL_JSON} nor"
      " config.json"
    )
  path = directory / MODEL_JSON
  try:
    return Description.model_validate_json(files.read_text(path, "description"))
  except pydantic.ValidationError as error:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    raise errors.UserError(f"{path}: {where}: {first['msg']}") from None


def refuse_base(name: str | pathlib.Path, base: Any) -> None:
  """Raises a UserError if `base` is set for a model without a base."""
  if base is not None:
    raise errors.UserError(
      f"--base {base}: {name} is no adapter on a base; remove --base"
      " (model.base)"
    )


def is_model(directory: pathlib.Path) -> bool:
  """Returns whether a directory holds a model that can be a base."""
  return (
    hub_loading.is_model(directory) or (final(directory) / MODEL_JSON).is_file()
  )


def digest(directory: pathlib.Path) -> str:
  """Returns the `Model.revision` of a directory without loading the model."""
  if hub_loading.is_model(directory):
    return hub_loading.revision(directory)
  return describe(directory).params


def _adapted(
  directory: pathlib.Path,
  description: Description,
  base: str | pathlib.Path | None,
) -> tuple[nnx.Module, BaseRecord]:
  """Returns a base with new adapters, and the base's record."""
  record = description.base
  assert record is not None and description.lora is not None
  if record.path is None:
    refuse_base(directory, base)
    module = specs.initialize(description.spec, record.seed)
    if revision(specs.parameters(module)) != record.revision:
      raise errors.UserError(
        f"{directory}: its adapter was trained on another base than the one"
        f" that seed {record.seed} gives now"
      )
  else:
    path = _find_base(directory, record, base)
    if hub_loading.is_model(path):
      module, _ = hub_loading.load(path, dtype=description.spec.dtype)
    else:
      module = load(path).module
    if record.commit is None or base is not None:
      record = record.model_copy(
        update={"path": os.path.abspath(path), "commit": None}
      )
  settings = config_lib.to_dict(description.lora)
  return specs.apply_lora(module, **settings, seed=record.seed), record


def _find_base(
  directory: pathlib.Path,
  record: BaseRecord,
  base: str | pathlib.Path | None,
) -> pathlib.Path:
  """Returns the directory of an adapter's base after checking its digest."""
  assert record.path is not None
  if base is not None:
    places = [pathlib.Path(base)]
  elif record.commit is not None:
    places = [client.find(record.path, record.commit).directory]
  else:
    places = [pathlib.Path(record.path)]
    if record.relative is not None:
      moved = os.path.normpath(directory.absolute() / record.relative)
      places.append(pathlib.Path(moved))
  places = [place for place in dict.fromkeys(places) if is_model(place)]
  for place in places:
    if digest(place) == record.revision:
      return place
  advice = f"give the model with the digest {record.revision}: --base DIR"
  if places:
    raise errors.UserError(
      f"{directory}: its adapter was trained on another base than the one now"
      f" at {places[0]}, which has the digest {digest(places[0])}; {advice}"
    )
  raise errors.UserError(
    f"{directory}: its adapter's base is not at {base or record.path}; {advice}"
  )


def read_params(
  directory: pathlib.Path, shapes: dict[str, Any]
) -> dict[str, jax.Array]:
  """Reads the parameters in a model directory, onto one device.

  Args:
    directory: Model directory.
    shapes: Arrays or shapes by name, of all parameters or only the adapter's.

  Raises:
    errors.UserError: if the directory has other parameters or cannot be read.
  """
  path = (directory / PARAMS).absolute()
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=device)
    for name, value in shapes.items()
  }
  with ocp.StandardCheckpointer() as checkpointer:
    try:
      saved = checkpointer.metadata(path).item_metadata
      _compare(path, target, {} if saved is None else dict(saved))
      return checkpointer.restore(path, target)
    except errors.UserError:
      raise
    except Exception as error:
      # Orbax and TensorStore report damage with many error types.
      reason = str(error).splitlines()[0][:200]
      raise errors.UserError(
        f"{path}: cannot read this checkpoint: {reason}"
      ) from None


def _compare(
  path: pathlib.Path, target: dict[str, Any], saved: dict[str, Any]
) -> None:
  for name in sorted(target.keys() | saved.keys()):
    where = f"{path}: the parameter {name}"
    if name not in saved:
      raise errors.UserError(f"{where} is missing")
    if name not in target:
      raise errors.UserError(f"{where} is unknown")
    for word, kind in (("shape", "shape"), ("type", "dtype")):
      actual, expected = (str(getattr(x[name], kind)) for x in (saved, target))
      if actual != expected:
        raise errors.UserError(
          f"{where} has {word} {actual}, the model needs {expected}"
        )
