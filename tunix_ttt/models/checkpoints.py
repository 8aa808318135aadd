"""Model directories: a trained model on disk.

A model directory holds

    model.json        architecture, adapter and base, digests
    tokenizer.model   SentencePiece, or tokenizer/ with Hugging Face's files
    params/           Orbax: every parameter, or the adapter's alone
    digests.json      SHA-256 of all these files

It is what a run leaves as `checkpoint-final`. An adapter refers to its base
and is refused where that is no longer the same.
"""

import dataclasses
import hashlib
import pathlib
from typing import Any, Literal

from flax import nnx
import jax
import orbax.checkpoint as ocp
import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import integrity
from tunix_ttt import processes
from tunix_ttt.language import hugging_face
from tunix_ttt.language import tokenizers
from tunix_ttt.models import hub
from tunix_ttt.models import lora as lora_lib
from tunix_ttt.models import meshes
from tunix_ttt.models import specs
from tunix_ttt.models.hugging_face import loading

MODEL_JSON = "model.json"
PARAMS = "params"


class BaseRecord(pydantic.BaseModel):
  """The frozen model under an adapter.

  Attributes:
    path: its directory or hub id, None for one made from scratch.
    seed: of its initial values, where it was made from scratch.
    revision: SHA-256 of its parameters, or of its files if they are Hugging
      Face's.
    commit: of a hub id.
  """

  model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

  path: str | None
  seed: int
  revision: str
  commit: str | None = None


class Description(pydantic.BaseModel):
  """What `model.json` says.

  Attributes:
    format: of the directory.
    spec: the architecture.
    tokenizer: its digest.
    params: SHA-256 of the parameters that are in the directory.
    lora: the adapter, where its parameters are all that is there.
    base: what the adapter sits on.
  """

  model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

  format: Literal["tunix_ttt.model/1"] = "tunix_ttt.model/1"
  spec: specs.ModelSpec
  tokenizer: str
  params: str
  lora: config_lib.LoraConfig | None
  base: BaseRecord | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """A model and all that goes with it.

  Attributes:
    module: Tunix's model, with adapters if `lora` is set.
    spec: its architecture.
    tokenizer: its tokenizer.
    lora: its adapters' settings, None without adapters.
    base: what the adapters sit on, None without adapters.
    revision: SHA-256 of what it was loaded from.
    commit: of the hub id that it was loaded from.
  """

  module: nnx.Module
  spec: specs.ModelSpec
  tokenizer: tokenizers.Tokenizer
  lora: config_lib.LoraConfig | None = None
  base: BaseRecord | None = None
  revision: str
  commit: str | None = None

  @property
  def trainable(self) -> Any:
    """The variable type that training changes."""
    return nnx.Param if self.lora is None else nnx.LoRAParam


def revision(params: dict[str, jax.Array]) -> str:
  """Returns the SHA-256 of parameters: names, types, shapes and values."""
  digest = hashlib.sha256()
  for name in sorted(params):
    value = meshes.fetch(params[name])
    digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()


def save(model: Model, directory: pathlib.Path) -> None:
  """Writes a model directory, whole or not at all.

  Raises:
    errors.UserError: if it exists.
  """
  params = specs.parameters(model.module, model.trainable)
  description = Description(
    spec=model.spec,
    tokenizer=model.tokenizer.digest,
    params=revision(params),
    lora=model.lora,
    base=model.base,
  )
  with processes.new_directory(directory) as new:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save((new / PARAMS).absolute(), params)
    if processes.is_first():
      files.write_all(new, model.tokenizer.files())
      text = description.model_dump_json(indent=2) + "\n"
      files.write_text(new / MODEL_JSON, text)
      integrity.write(new)


def load(directory: pathlib.Path) -> Model:
  """Reads a model directory, or the one of a run directory's final checkpoint.

  Raises:
    errors.UserError: if it is none, is damaged, or its base has changed.
  """
  directory = final(directory)
  description = describe(directory)
  vocab_size = description.spec.vocab_size
  tokenizer = hugging_face.load_saved(directory, vocab_size)
  if tokenizer.digest != description.tokenizer:
    raise errors.UserError(
      f"{directory}: the tokenizer is not the one this model was saved with"
    )
  if description.lora is None:
    module = nnx.eval_shape(description.spec.build)
    shapes = specs.parameters(module)
  else:
    module = _adapted(directory, description)
    shapes = specs.parameters(module, nnx.LoRAParam)
  params = _read_params(directory, shapes)
  if revision(params) != description.params:
    raise errors.UserError(
      f"{directory / PARAMS}: the parameters are not those that were saved"
    )
  # Last, because the checks above have more to say of damage.
  fault = integrity.damage(directory)
  if fault:
    raise errors.UserError(fault)
  if description.lora is not None:
    params = specs.parameters(module) | params
  return Model(
    module=specs.with_parameters(module, params),
    spec=description.spec,
    tokenizer=tokenizer,
    lora=description.lora,
    base=description.base,
    revision=description.params,
  )


def final(directory: pathlib.Path) -> pathlib.Path:
  """Returns a run directory's final checkpoint; other directories as they are."""
  last = directory / "checkpoint-final"
  return last if last.is_dir() else directory


def describe(directory: pathlib.Path) -> Description:
  """Reads what a model directory says of itself, without its parameters.

  Raises:
    errors.UserError: if it is none.
  """
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


def _adapted(directory: pathlib.Path, description: Description) -> nnx.Module:
  base = description.base
  assert base is not None and description.lora is not None
  if base.path is None:
    module = specs.initialize(description.spec, base.seed)
    found = revision(specs.parameters(module))
  else:
    module, found = _base(base, description.spec)
  if found != base.revision:
    raise errors.UserError(
      f"{directory}: its adapter was trained on another base than the one now"
      f" at {base.path or 'seed ' + str(base.seed)}"
    )
  settings = config_lib.to_dict(description.lora)
  return lora_lib.apply_lora(module, **settings, seed=base.seed)


def _base(record: BaseRecord, spec: specs.ModelSpec) -> tuple[nnx.Module, str]:
  """Returns the model that an adapter sits on, and its revision."""
  assert record.path is not None
  directory = hub.find(record.path, record.commit).directory
  if not loading.is_model(directory):
    model = load(directory)
    return model.module, model.revision
  module, _ = loading.load(directory, dtype=spec.dtype)
  return module, loading.revision(directory)


def _read_params(
  directory: pathlib.Path, shapes: dict[str, Any]
) -> dict[str, jax.Array]:
  path = (directory / PARAMS).absolute()
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=device)
    for name, value in shapes.items()
  }
  with ocp.StandardCheckpointer() as checkpointer:
    try:
      metadata = checkpointer.metadata(path).item_metadata
      found = {} if metadata is None else dict(metadata)
      _compare(path, target, found)
      return checkpointer.restore(path, target)
    except errors.UserError:
      raise
    except Exception as error:
      # Orbax and TensorStore report damage in many types of their own.
      reason = str(error).splitlines()[0][:200]
      raise errors.UserError(
        f"{path}: cannot read this checkpoint: {reason}"
      ) from None


def _compare(
  path: pathlib.Path, target: dict[str, Any], found: dict[str, Any]
) -> None:
  for name in sorted(target.keys() | found.keys()):
    if name not in found:
      raise errors.UserError(f"{path}: the parameter {name} is missing")
    if name not in target:
      raise errors.UserError(f"{path}: the parameter {name} is unknown")
    for what, ours, theirs in (
      ("shape", tuple(found[name].shape), tuple(target[name].shape)),
      ("type", str(found[name].dtype), str(target[name].dtype)),
    ):
      if ours != theirs:
        raise errors.UserError(
          f"{path}: the parameter {name} has {what} {ours}, the model needs"
          f" {theirs}"
        )
