"""Model directories: a trained model on disk.

A model directory holds

    model.json        architecture, adapter and base, digests
    tokenizer.model   SentencePiece, or tokenizer/ with Hugging Face's files
    params/           Orbax: every parameter, or the adapter's alone
    digests.json      SHA-256 of all these files

It is what a run leaves as `checkpoint-final`. A whole model needs nothing else.
An adapter names its base by digest, and by where it was when it was saved.
"""

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
from tunix_ttt.models import lora as lora_lib
from tunix_ttt.models import meshes
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import client
from tunix_ttt.models.hub import hub_loading
from tunix_ttt.runs import integrity
from tunix_ttt.runs import processes
from tunix_ttt.text import hub_tokenizers
from tunix_ttt.text import tokenizers

MODEL_JSON = "model.json"
PARAMS = "params"


class BaseRecord(pydantic.BaseModel):
  """The frozen model under an adapter.

  Attributes:
    path: its directory or hub id, None for one made from scratch.
    relative: the directory, from the one that the adapter is in.
    seed: Random seed of its initial values, if made from scratch.
    revision: SHA-256 of its parameters, or of its files if they are Hugging
      Face's.
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
    format: Format of the directory; the first has no digests of its files.
    spec: the architecture.
    tokenizer: its digest.
    params: SHA-256 of the parameters that are in the directory.
    lora: the adapter, where its parameters are all that is there.
    base: what the adapter sits on.
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

  @property
  def has_digests(self) -> bool:
    """Whether the directory has digests of its files."""
    return self.format != "tunix_ttt.model/1"


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Model:
  """A model and all that goes with it.

  Attributes:
    module: Tunix's model, with adapters if `lora` is set.
    spec: its architecture.
    tokenizer: its tokenizer.
    lora: its adapters' settings, None without adapters.
    base: what the adapters sit on, None without adapters.
    revision: SHA-256 of what it was loaded from.
    commit: Commit of the hub id that it was loaded from.
  """

  module: nnx.Module
  spec: specs.ModelSpec
  tokenizer: tokenizers.Tokenizer
  lora: config_lib.LoraConfig | None = None
  base: BaseRecord | None = None
  revision: str
  commit: str | None = None

  def __repr__(self) -> str:
    """Returns a line; the module's own is one of every parameter."""
    spec, values = self.spec, specs.parameters(self.module).values()
    adapter = "" if self.lora is None else f", lora rank {self.lora.rank}"
    return (
      f"<Model {spec.family}: {sum(v.size for v in values):,} parameters,"
      f" {spec.num_layers} layers{adapter}, digest {self.revision[:12]}>"
    )

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
    base=model.base and _relative_to(directory, model.base),
  )
  with processes.new_directory(directory) as new:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save((new / PARAMS).absolute(), params)
    if processes.is_first():
      files.write_all(new, model.tokenizer.files())
      text = description.model_dump_json(indent=2) + "\n"
      files.write_text(new / MODEL_JSON, text)
      integrity.write(new)


def _relative_to(directory: pathlib.Path, base: BaseRecord) -> BaseRecord:
  """Adds the way from an adapter's directory to its base's, if it has one."""
  if base.path is None or base.commit is not None:
    return base
  relative = os.path.relpath(base.path, directory)
  return base.model_copy(update={"relative": relative})


def load(
  directory: pathlib.Path, base: str | pathlib.Path | None = None
) -> Model:
  """Reads a model directory, or the one of a run directory's final checkpoint.

  Args:
    directory: the model directory or run directory.
    base: an adapter's base, where it is not where the adapter says.

  Raises:
    errors.UserError: if it is none, is damaged, or its base is not to be found
      or another one.
  """
  directory = final(directory)
  description = describe(directory)
  # First: Orbax's threads print tracebacks of their own at damaged files.
  if description.has_digests and (fault := integrity.damage(directory)):
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
    shapes = specs.parameters(module)
  else:
    module, record = _adapted(directory, description, base)
    shapes = specs.parameters(module, nnx.LoRAParam)
  params = _read_params(directory, shapes)
  if revision(params) != description.params:
    raise errors.UserError(
      f"{directory / PARAMS}: the parameters are not those that were saved"
    )
  if description.lora is not None:
    params = specs.parameters(module) | params
  return Model(
    module=specs.with_parameters(module, params),
    spec=description.spec,
    tokenizer=tokenizer,
    lora=description.lora,
    base=record,
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


def refuse_base(name: str | pathlib.Path, base: Any) -> None:
  """Raises a UserError if a base is given for a model that has none."""
  if base is not None:
    raise errors.UserError(
      f"--base {base}: {name} is no adapter on a base; leave --base"
      " (model.base) out"
    )


def is_model(directory: pathlib.Path) -> bool:
  """Returns whether a directory is of a model: ours, a run's, a whole one."""
  return (
    hub_loading.is_model(directory) or (final(directory) / MODEL_JSON).is_file()
  )


def digest(directory: pathlib.Path) -> str:
  """Returns what `Model.revision` would be, without loading the model.

  Args:
    directory: a model or run directory, or a whole model of Hugging Face's.
  """
  if hub_loading.is_model(directory):
    return hub_loading.revision(directory)
  return describe(directory).params


def _adapted(
  directory: pathlib.Path,
  description: Description,
  given: str | pathlib.Path | None,
) -> tuple[nnx.Module, BaseRecord]:
  """Returns an adapter's model, its own values not yet read, and its base."""
  record = description.base
  assert record is not None and description.lora is not None
  if record.path is None:
    refuse_base(directory, given)
    module = specs.initialize(description.spec, record.seed)
    if revision(specs.parameters(module)) != record.revision:
      raise errors.UserError(
        f"{directory}: its adapter was trained on another base than the one"
        f" made now from seed {record.seed}"
      )
  else:
    found = _find_base(directory, record, given)
    if hub_loading.is_model(found):
      module, _ = hub_loading.load(found, dtype=description.spec.dtype)
    else:
      module = load(found).module
    if record.commit is None or given is not None:
      record = record.model_copy(
        update={"path": os.path.abspath(found), "commit": None}
      )
  settings = config_lib.to_dict(description.lora)
  return lora_lib.apply_lora(module, **settings, seed=record.seed), record


def _find_base(
  directory: pathlib.Path,
  record: BaseRecord,
  given: str | pathlib.Path | None,
) -> pathlib.Path:
  """Returns where an adapter's base is now, its digest checked."""
  assert record.path is not None
  if given is not None:
    places = [pathlib.Path(given)]
  elif record.commit is not None:
    places = [client.find(record.path, record.commit).directory]
  else:
    places = [pathlib.Path(record.path)]
    if record.relative is not None:
      beside = os.path.normpath(directory.absolute() / record.relative)
      places.append(pathlib.Path(beside))
  places = [place for place in dict.fromkeys(places) if is_model(place)]
  for place in places:
    if digest(place) == record.revision:
      return place
  wanted = f"where the model with the digest {record.revision} is: --base DIR"
  if places:
    raise errors.UserError(
      f"{directory}: its adapter was trained on another base than the one now"
      f" at {places[0]}, which has the digest {digest(places[0])}; say {wanted}"
    )
  raise errors.UserError(
    f"{directory}: its adapter's base is not at {given or record.path}; say"
    f" {wanted}"
  )


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
