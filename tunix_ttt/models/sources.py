"""Finds, loads and adapts models for training and evaluation."""

from collections.abc import Callable
import dataclasses
import os
import pathlib
from typing import Any

from flax import nnx

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import requirements
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models.families import specs
from tunix_ttt.models.families import specs as lora_lib
from tunix_ttt.models.hub import adapters
from tunix_ttt.models.hub import client
from tunix_ttt.models.hub import hub_config as hf_config
from tunix_ttt.models.hub import hub_loading
from tunix_ttt.runs import progress
from tunix_ttt.text import hub_tokenizers
from tunix_ttt.text import tokenizers

Tokenizer = tokenizers.Tokenizer
_ONE_DEVICE = config_lib.MeshConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outline:
  """A model without values.

  Attributes:
    module: Tunix model from `nnx.eval_shape`, with adapters if `lora` is set.
    spec: Architecture of the model.
    tokenizer: Tokenizer of the model; None if the hub cannot be reached.
    lora: Settings of the adapters; None without adapters.
    note: Origin of the shapes if it is not the model itself.
  """

  module: nnx.Module
  spec: specs.ModelSpec
  tokenizer: Tokenizer | None
  lora: config_lib.LoraConfig | None
  note: str = ""


def start_from(
  config: config_lib.ModelConfig,
  make_tokenizer: Callable[[], Tokenizer],
  seed: int,
  mesh: config_lib.MeshConfig = _ONE_DEVICE,
) -> checkpoints.Model:
  """Returns the model that a config starts from, without new adapters.

  Args:
    config: Settings of the model.
    make_tokenizer: Makes the tokenizer of a tiny model.
    seed: Random seed of a tiny model's values.
    mesh: Mesh to load the weights of a Hugging Face model on, since they may
      not fit a single device.

  Raises:
    errors.UserError: if there is no such model, or its sizes are inconsistent.
  """
  _check(config)
  if config.name in specs.TINY_MODELS:
    tokenizer = make_tokenizer()
    spec = _tiny_spec(config, tokenizer.vocab_size)
    advice = "model.embed_dim, model.hidden_dim or the other sizes"
    requirements.check_fits(spec.weight_bytes(), "the model", advice)
    module = specs.initialize(spec, seed)
    return checkpoints.Model(
      module=module,
      spec=spec,
      tokenizer=tokenizer,
      revision=checkpoints.revision(specs.parameters(module)),
    )
  return open_model(config.name, config, mesh)


@progress.stage("loading the model")
def open_model(
  name: str,
  config: config_lib.ModelConfig,
  mesh: config_lib.MeshConfig = _ONE_DEVICE,
) -> checkpoints.Model:
  """Loads a model from a directory or from the hub.

  The base of a PEFT adapter is `config.base`, or else the base in its own
  config. If that is a path that does not exist here, the base is the model of
  `config`.

  Args:
    name: Model directory, Hugging Face or PEFT directory, or hub id.
    config: Settings for reading a Hugging Face model, and an adapter's base.
    mesh: Mesh to load the weights of a Hugging Face model on.

  Raises:
    errors.UserError: if there is no such model, or it cannot be read.
  """
  location = _find(name, config)
  directory = location.directory
  if adapters.is_adapter(directory):
    return _open_adapter(location, config, mesh)
  if not hub_loading.is_model(directory):
    return checkpoints.load(directory, config.base)
  checkpoints.refuse_base(name, config.base)
  # The cheapest checks first, so that mistakes are reported at once.
  dtype = config.dtype or hub_loading.default_dtype()
  spec = hf_config.read_spec(directory, dtype)
  tokenizer = _read_tokenizer(directory, spec, config)
  module, _ = hub_loading.load(directory, dtype=dtype, mesh=meshes.make(mesh))
  return checkpoints.Model(
    module=module,
    spec=spec,
    tokenizer=tokenizer,
    revision=hub_loading.revision(directory),
    commit=location.commit,
  )


def _open_adapter(
  location: client.Location,
  config: config_lib.ModelConfig,
  mesh: config_lib.MeshConfig,
) -> checkpoints.Model:
  """Loads a PEFT adapter on its base."""
  name, base = _find_base(location.directory, config)
  module, spec = hub_loading.load(
    base.directory, dtype=config.dtype, mesh=meshes.make(mesh)
  )
  adapter = adapters.read(location.directory, spec)
  settings = config_lib.to_dict(adapter.lora)
  module = adapters.fill(
    lora_lib.apply_lora(module, **settings, seed=0), adapter
  )
  return checkpoints.Model(
    module=module,
    spec=spec,
    tokenizer=_adapter_tokenizer(
      location.directory, base.directory, spec, config
    ),
    lora=adapter.lora,
    base=_record(name, 0, hub_loading.revision(base.directory), base.commit),
    revision=checkpoints.revision(specs.parameters(module, nnx.LoRAParam)),
    commit=location.commit,
  )


def _find_base(
  directory: pathlib.Path,
  config: config_lib.ModelConfig,
  *,
  weights: bool = True,
) -> tuple[str, client.Location]:
  """Returns the name and the location of a PEFT adapter's base."""
  description = adapters.describe(directory)
  name, revision = description.base, description.revision
  if config.base is not None:
    if not hub_loading.is_model(pathlib.Path(config.base)):
      raise errors.UserError(
        f"--base {config.base}: not the directory of a Hugging Face model"
      )
    name, revision = config.base, None
  elif not _exists(name) and config.name not in specs.TINY_MODELS:
    name, revision = config.name, config.revision
  path = directory / adapters.CONFIG
  if not _exists(name):
    raise errors.UserError(
      f"{path}: base_model_name_or_path is {description.base}, which is not here;"
      " give its directory: --base DIR"
    )
  location = client.find(name, revision, weights=weights)
  if adapters.is_adapter(location.directory) or not hub_loading.is_model(
    location.directory
  ):
    raise errors.UserError(
      f"{path}: base_model_name_or_path is {description.base}; the base must be"
      f" a whole Hugging Face model, which {name} is not"
    )
  return name, location


def _exists(name: str) -> bool:
  """Returns whether a name is a directory or a hub id."""
  return os.path.isdir(name) or files.is_hub_id(name)


def _adapter_tokenizer(
  directory: pathlib.Path,
  base: pathlib.Path,
  spec: specs.ModelSpec,
  config: config_lib.ModelConfig,
) -> Tokenizer:
  """Reads the tokenizer in an adapter's directory, or else its base's."""
  has_tokenizer = hub_tokenizers.has_tokenizer(directory)
  return _read_tokenizer(directory if has_tokenizer else base, spec, config)


def _record(
  name: str, seed: int, revision: str, commit: str | None
) -> checkpoints.BaseRecord:
  """Returns the record of an adapter's base, with an absolute path."""
  path: str | None = name
  if name in specs.TINY_MODELS:
    path = None
  elif commit is None:
    path = os.path.abspath(name)
  return checkpoints.BaseRecord(
    path=path, seed=seed, revision=revision, commit=commit
  )


def outline(
  config: config_lib.ModelConfig,
  make_tokenizer: Callable[[], Tokenizer],
) -> Outline:
  """Does what `start_from` does without reading weights.

  If the hub cannot be reached, the shapes come from Tunix's own configs.

  Raises:
    errors.UserError: if there is no such model, or its sizes are inconsistent.
  """
  _check(config)
  tokenizer: Tokenizer | None
  lora, note = None, ""
  if config.name in specs.TINY_MODELS:
    tokenizer = make_tokenizer()
    spec = _tiny_spec(config, tokenizer.vocab_size)
  else:
    try:
      directory = _find(config.name, config, weights=False).directory
      if adapters.is_adapter(directory):
        # An adapter's weights are small; the outline depends on their names.
        directory = _find(config.name, config).directory
    except errors.UserError:
      published = specs.published(config.name, config.dtype or "bfloat16")
      if published is None:
        raise
      spec, tokenizer = published, None
      note = "shapes from Tunix's configs; the hub cannot be reached"
    else:
      dtype = config.dtype or hub_loading.default_dtype()
      if adapters.is_adapter(directory):
        base = _find_base(directory, config, weights=False)[1].directory
        spec = hf_config.read_spec(base, dtype)
        lora = adapters.read(directory, spec).lora
        tokenizer = _adapter_tokenizer(directory, base, spec, config)
      elif hub_loading.is_model(directory):
        spec = hf_config.read_spec(directory, dtype)
        tokenizer = _read_tokenizer(directory, spec, config)
      else:
        description = checkpoints.describe(directory)
        spec, lora = description.spec, description.lora
        tokenizer = hub_tokenizers.load_saved(
          checkpoints.final(directory), spec.vocab_size
        )

  def build() -> nnx.Module:
    module = spec.build()
    if lora is None:
      return module
    return lora_lib.apply_lora(module, **config_lib.to_dict(lora), seed=0)

  return Outline(
    module=nnx.eval_shape(build),
    spec=spec,
    tokenizer=tokenizer,
    lora=lora,
    note=note,
  )


def adapt(
  model: checkpoints.Model,
  config: config_lib.LoraConfig | None,
  base: str,
  seed: int,
) -> checkpoints.Model:
  """Adds new adapters to a model that `base` names.

  The seed also made the base if it is a tiny model.

  Raises:
    errors.UserError: if the model has adapters of other settings.
  """
  if _has_adapters(model.lora, config, base) or config is None:
    return model
  record = _record(base, seed, model.revision, model.commit)
  module = lora_lib.apply_lora(
    model.module, **config_lib.to_dict(config), seed=seed
  )
  return dataclasses.replace(model, module=module, lora=config, base=record)


def adapt_outline(
  model: Outline, config: config_lib.LoraConfig | None, base: str
) -> Outline:
  """Does what `adapt` does for a model without values."""
  if _has_adapters(model.lora, config, base) or config is None:
    return model
  graph, state = nnx.split(model.module)

  def build(state: Any) -> nnx.Module:
    module = nnx.merge(graph, state)
    return lora_lib.apply_lora(module, **config_lib.to_dict(config), seed=0)

  module = nnx.eval_shape(build, state)
  return dataclasses.replace(model, module=module, lora=config)


def check_matches(
  model: checkpoints.Model, config: config_lib.ModelConfig
) -> None:
  """Raises a UserError unless `model` has the sizes of a tiny model's config.

  Configs of other models have no sizes, and their files need not exist here.
  """
  if config.name not in specs.TINY_MODELS:
    return
  expected = {**specs.TINY_MODELS[config.name], **config.shape()}
  actual = dataclasses.asdict(model.spec)
  for field, value in expected.items():
    if actual[field] != value:
      raise errors.UserError(
        f"the checkpoint is of another model: its {field} is {actual[field]},"
        f" {config.name} of the config has {value}"
      )


def _check(config: config_lib.ModelConfig) -> None:
  """Refuses settings that do not apply to the model."""
  is_tiny = config.name in specs.TINY_MODELS
  if is_tiny:
    checkpoints.refuse_base(config.name, config.base)
  else:
    _check_name(config.name)
  if (shape := config.shape()) and not is_tiny:
    raise errors.UserError(
      f"model.{next(iter(shape))}: the shape of {config.name} is given by its"
      " files; remove this key"
    )
  is_local = is_tiny or os.path.isdir(config.name)
  if config.revision is not None and is_local:
    raise errors.UserError(
      f"model.revision: {config.name} is no hub id; remove this key"
    )


def _tiny_spec(
  config: config_lib.ModelConfig, vocab_size: int
) -> specs.ModelSpec:
  shape = {**specs.TINY_MODELS[config.name], **config.shape()}
  specs.check_shape(shape)
  return specs.ModelSpec(**shape, vocab_size=vocab_size)


def _find(
  name: str, config: config_lib.ModelConfig, *, weights: bool = True
) -> client.Location:
  _check_name(name)
  revision = config.revision if name == config.name else None
  try:
    return client.find(name, revision, weights=weights)
  except errors.UserError as error:
    if specs.published(name, "float32") is not None:
      raise
    families = ", ".join(specs.FAMILIES)
    raise errors.UserError(
      f"{error}; supported model families: {families}"
    ) from None


def _check_name(name: str) -> None:
  if not _exists(name):
    raise errors.UserError(
      f"{name}: no such model: neither a directory, nor an id of the Hugging Face"
      f" hub, nor one of {', '.join(specs.TINY_MODELS)}"
    )


def _read_tokenizer(
  directory: pathlib.Path,
  spec: specs.ModelSpec,
  config: config_lib.ModelConfig,
) -> Tokenizer:
  template = config.chat_template
  return hub_tokenizers.HuggingFaceTokenizer.load(
    directory,
    spec.vocab_size,
    chat_template=None if template is None else pathlib.Path(template),
    enable_thinking=config.enable_thinking,
  )


def _has_adapters(
  current: config_lib.LoraConfig | None,
  config: config_lib.LoraConfig | None,
  name: str,
) -> bool:
  if current is not None and current != config:
    settings = files.to_json(config_lib.to_dict(current))
    raise errors.UserError(
      f"model.name: {name} holds an adapter; to train it further, write in the"
      f" config: lora: {settings}"
    )
  return current is not None
