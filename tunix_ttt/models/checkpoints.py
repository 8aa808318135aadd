"""Model directories: a trained model on disk, and the models to start from.

A model directory holds

    model.json        architecture, adapter and base, digests
    tokenizer.model   SentencePiece, or tokenizer/ with Hugging Face's files
    params/           Orbax: every parameter, or the adapter's alone

It is what a run leaves as `checkpoint-final`. An adapter refers to its base
and is refused where that is no longer the same.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import os
import pathlib
from typing import Any, Literal

from flax import nnx
import jax
import numpy as np
import orbax.checkpoint as ocp
import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.language import hugging_face
from tunix_ttt.language import tokenizers
from tunix_ttt.models import lora as lora_lib
from tunix_ttt.models import specs

MODEL_JSON = "model.json"
PARAMS = "params"


class BaseRecord(pydantic.BaseModel):
  """The frozen model under an adapter.

  Attributes:
    path: its directory, None for one made from scratch.
    seed: of its initial values, where it was made from scratch.
    revision: SHA-256 of its parameters.
  """

  model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

  path: str | None
  seed: int
  revision: str


class _ModelJson(pydantic.BaseModel):
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
  """

  module: nnx.Module
  spec: specs.ModelSpec
  tokenizer: tokenizers.Tokenizer
  lora: config_lib.LoraConfig | None = None
  base: BaseRecord | None = None

  @property
  def trainable(self) -> Any:
    """The variable type that training changes."""
    return nnx.Param if self.lora is None else nnx.LoRAParam


def revision(params: dict[str, jax.Array]) -> str:
  """Returns the SHA-256 of parameters: names, types, shapes and values."""
  digest = hashlib.sha256()
  for name in sorted(params):
    value = np.asarray(params[name])
    digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()


def start_from(
  config: config_lib.ModelConfig,
  make_tokenizer: Callable[[], tokenizers.SentencePieceTokenizer],
  seed: int,
) -> Model:
  """Returns the model that a config starts from, without new adapters.

  Args:
    config: which model.
    make_tokenizer: called for a tiny model, which has none of its own.
    seed: of a tiny model's values.

  Raises:
    errors.UserError: if there is no such model, or not of this shape.
  """
  if config.name in specs.TINY_MODELS:
    shape = {**specs.TINY_MODELS[config.name], **config.shape()}
    specs.check_shape(shape)
    tokenizer = make_tokenizer()
    spec = specs.ModelSpec(**shape, vocab_size=tokenizer.vocab_size)
    module = specs.initialize(spec, seed)
    return Model(module=module, spec=spec, tokenizer=tokenizer)
  model = load(_existing(config))
  if shape := config.shape():
    raise errors.UserError(
      f"model.{next(iter(shape))}: the shape of {config.name} is given by its"
      " checkpoint; remove this key"
    )
  return model


def adapt(
  model: Model, config: config_lib.LoraConfig | None, base: str, seed: int
) -> Model:
  """Adds the adapters that a config asks for.

  Args:
    model: the model to start from.
    config: the adapters; None leaves the model whole.
    base: the model's name in the config.
    seed: of the adapters' values and of a base from scratch.

  Raises:
    errors.UserError: if the model has other adapters already.
  """
  if model.lora is not None:
    if model.lora != config:
      raise errors.UserError(
        f"model.name: {base} holds an adapter with lora ="
        f" {config_lib.to_dict(model.lora)}; set the same to train it further"
      )
    return model
  if config is None:
    return model
  record = BaseRecord(
    path=None if base in specs.TINY_MODELS else os.path.abspath(base),
    seed=seed,
    revision=revision(specs.parameters(model.module)),
  )
  module = lora_lib.apply_lora(
    model.module, **config_lib.to_dict(config), seed=seed
  )
  return dataclasses.replace(model, module=module, lora=config, base=record)


def save(model: Model, directory: pathlib.Path) -> None:
  """Writes a model directory, whole or not at all.

  Raises:
    errors.UserError: if it exists.
  """
  params = specs.parameters(model.module, model.trainable)
  description = _ModelJson(
    spec=model.spec,
    tokenizer=model.tokenizer.digest,
    params=revision(params),
    lora=model.lora,
    base=model.base,
  )
  with files.new_directory(directory) as new:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save((new / PARAMS).absolute(), params)
    files.write_all(new, model.tokenizer.files())
    text = description.model_dump_json(indent=2) + "\n"
    files.write_text(new / MODEL_JSON, text)


def load(directory: pathlib.Path) -> Model:
  """Reads a model directory, or the one of a run directory's final checkpoint.

  Raises:
    errors.UserError: if it is none, is damaged, or its base has changed.
  """
  if (directory / "checkpoint-final").is_dir():
    directory = directory / "checkpoint-final"
  description = _describe(directory)
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
  if description.lora is not None:
    params = specs.parameters(module) | params
  return Model(
    module=specs.with_parameters(module, params),
    spec=description.spec,
    tokenizer=tokenizer,
    lora=description.lora,
    base=description.base,
  )


def check_matches(model: Model, config: config_lib.ModelConfig) -> None:
  """Raises a UserError unless `model` has the architecture a config names."""
  if config.name in specs.TINY_MODELS:
    expected = {**specs.TINY_MODELS[config.name], **config.shape()}
  else:
    expected = dataclasses.asdict(_describe(_existing(config)).spec)
  found = dataclasses.asdict(model.spec)
  for field, value in expected.items():
    if found[field] != value:
      raise errors.UserError(
        f"the checkpoint is of another model: its {field} is {found[field]},"
        f" {config.name} of the config has {value}"
      )


def _existing(config: config_lib.ModelConfig) -> pathlib.Path:
  directory = pathlib.Path(config.name)
  if not directory.is_dir():
    raise errors.UserError(
      f"model.name: {config.name!r} is neither the directory of a checkpoint"
      f" nor one of {', '.join(specs.TINY_MODELS)}"
    )
  return directory


def _describe(directory: pathlib.Path) -> _ModelJson:
  if (directory / "checkpoint-final").is_dir():
    directory = directory / "checkpoint-final"
  if not directory.is_dir():
    raise errors.UserError(f"{directory}: no such model directory")
  if not (directory / MODEL_JSON).is_file():
    raise errors.UserError(
      f"{directory}: not a model directory: it has no {MODEL_JSON}"
    )
  path = directory / MODEL_JSON
  try:
    return _ModelJson.model_validate_json(files.read_text(path, "description"))
  except pydantic.ValidationError as error:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    raise errors.UserError(f"{path}: {where}: {first['msg']}") from None


def _adapted(directory: pathlib.Path, description: _ModelJson) -> nnx.Module:
  base = description.base
  assert base is not None and description.lora is not None
  if base.path is None:
    module = specs.initialize(description.spec, base.seed)
  else:
    module = load(pathlib.Path(base.path)).module
  if revision(specs.parameters(module)) != base.revision:
    raise errors.UserError(
      f"{directory}: its adapter was trained on another base than the one now"
      f" at {base.path or 'seed ' + str(base.seed)}"
    )
  settings = config_lib.to_dict(description.lora)
  return lora_lib.apply_lora(module, **settings, seed=base.seed)


def _read_params(
  directory: pathlib.Path, shapes: dict[str, Any]
) -> dict[str, jax.Array]:
  path = (directory / PARAMS).absolute()
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
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
