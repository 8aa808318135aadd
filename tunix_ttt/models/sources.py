"""Finds, loads and adapts models for training and evaluation."""

from collections.abc import Callable
import dataclasses
import functools
import os
import pathlib
from typing import NamedTuple, TypeVar

from flax import nnx

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt import requirements
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models.families import specs
from tunix_ttt.models.hub import adapters
from tunix_ttt.models.hub import client
from tunix_ttt.models.hub import hub_config
from tunix_ttt.models.hub import hub_loading
from tunix_ttt.runs import progress
from tunix_ttt.text import hub_tokenizers
from tunix_ttt.text import tokenizers

Tokenizer = tokenizers.Tokenizer
_ONE_DEVICE = config_lib.MeshConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outline:
  """A `checkpoints.Model` without values: `module` has shapes only.

  If the hub cannot be reached, `tokenizer` is None and `note` names the origin
  of the shapes.
  """

  module: nnx.Module
  spec: specs.ModelSpec
  tokenizer: Tokenizer | None
  lora: config_lib.LoraConfig | None = None
  note: str = ""


ModelT = TypeVar("ModelT", Outline, checkpoints.Model)


def start_from(
  config: config_lib.ModelConfig,
  make_tokenizer: Callable[[], Tokenizer],
  seed: int,
  mesh: config_lib.MeshConfig = _ONE_DEVICE,
) -> checkpoints.Model:
  """Returns the model that a config starts from, without new adapters.

  `make_tokenizer` and `seed` make a tiny model's tokenizer and values. Other
  weights are loaded on the mesh, since they may not fit a single device.

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
  if not adapters.is_adapter(directory):
    if not hub_loading.is_model(directory):
      return checkpoints.load(directory, config.base)
    checkpoints.refuse_base(name, config.base)
  # The cheapest checks first, so that mistakes are reported at once.
  parts = _read_parts(location, config)
  base = parts.base
  module, _ = hub_loading.load(
    base.directory, dtype=parts.spec.dtype, mesh=meshes.make(mesh)
  )
  model = checkpoints.Model(
    module=module,
    spec=parts.spec,
    tokenizer=parts.tokenizer,
    revision=hub_loading.revision(base.directory),
    commit=base.commit,
  )
  if parts.adapter is None:
    return model
  model = adapt(model, parts.adapter.lora, parts.base_name)
  module = adapters.fill(model.module, parts.adapter)
  digest = checkpoints.revision(specs.parameters(module, nnx.LoRAParam))
  return dataclasses.replace(
    model, module=module, revision=digest, commit=location.commit
  )


class _Parts(NamedTuple):
  """A Hugging Face model or PEFT adapter without the weights of its base."""

  base_name: str
  base: client.Location
  spec: specs.ModelSpec
  tokenizer: Tokenizer
  adapter: adapters.Adapter | None


def _read_parts(
  location: client.Location,
  config: config_lib.ModelConfig,
  *,
  weights: bool = True,
) -> _Parts:
  """Reads the parts at a location; `weights` downloads the base's weights."""
  name, base, directory = config.name, location, location.directory
  is_adapter = adapters.is_adapter(directory)
  if is_adapter:
    name, base = _find_base(directory, config, weights=weights)
  dtype = config.dtype or hub_loading.default_dtype()
  spec = hub_config.read_spec(base.directory, dtype)
  has_tokenizer = hub_tokenizers.has_tokenizer(directory)
  template = config.chat_template
  tokenizer = hub_tokenizers.HuggingFaceTokenizer.load(
    directory if has_tokenizer else base.directory,
    spec.vocab_size,
    chat_template=None if template is None else pathlib.Path(template),
    enable_thinking=config.enable_thinking,
  )
  adapter = adapters.read(directory, spec) if is_adapter else None
  return _Parts(name, base, spec, tokenizer, adapter)


def _find_base(
  directory: pathlib.Path, config: config_lib.ModelConfig, *, weights: bool
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
  stated = (
    f"{directory / adapters.CONFIG}: base_model_name_or_path is"
    f" {description.base}"
  )
  if not _exists(name):
    raise errors.UserError(
      f"{stated}, which is not here; give its directory: --base DIR"
    )
  location = client.find(name, revision, weights=weights)
  if adapters.is_adapter(location.directory) or not hub_loading.is_model(
    location.directory
  ):
    raise errors.UserError(
      f"{stated}; the base must be a whole Hugging Face model, which {name} is"
      " not"
    )
  return name, location


def _exists(name: str) -> bool:
  """Returns whether a name is a directory or a hub id."""
  return os.path.isdir(name) or files.is_hub_id(name)


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
      location = _find(config.name, config, weights=False)
      if adapters.is_adapter(location.directory):
        # An adapter's weights are small; the outline depends on their names.
        location = _find(config.name, config)
    except errors.UserError:
      published = specs.published(config.name, config.dtype or "bfloat16")
      if published is None:
        raise
      spec, tokenizer = published, None
      note = "shapes from Tunix's configs; the hub cannot be reached"
    else:
      directory = location.directory
      if adapters.is_adapter(directory) or hub_loading.is_model(directory):
        parts = _read_parts(location, config, weights=False)
        spec, tokenizer = parts.spec, parts.tokenizer
        lora = parts.adapter and parts.adapter.lora
      else:
        description = checkpoints.describe(directory)
        spec, lora = description.spec, description.lora
        tokenizer = hub_tokenizers.load_saved(
          checkpoints.final(directory), spec.vocab_size
        )
  module = nnx.eval_shape(spec.build)
  model = Outline(module=module, spec=spec, tokenizer=tokenizer, note=note)
  return adapt(model, lora, config.name)


def adapt(
  model: ModelT, config: config_lib.LoraConfig | None, base: str, seed: int = 0
) -> ModelT:
  """Adds new adapters to a model or outline that `base` names.

  The seed also made the base if it is a tiny model.

  Raises:
    errors.UserError: if the model has adapters of other settings.
  """
  if model.lora is not None:
    if model.lora != config:
      settings = files.to_json(config_lib.to_dict(model.lora))
      raise errors.UserError(
        f"model.name: {base} holds an adapter; to train it further, write in"
        f" the config: lora: {settings}"
      )
    return model
  if config is None:
    return model
  add = functools.partial(
    specs.apply_lora, **config_lib.to_dict(config), seed=seed
  )
  if isinstance(model, Outline):
    module = nnx.eval_shape(add, model.module)
    return dataclasses.replace(model, module=module, lora=config)
  path: str | None = base if model.commit else os.path.abspath(base)
  record = checkpoints.BaseRecord(
    path=None if base in specs.TINY_MODELS else path,
    seed=seed,
    revision=model.revision,
    commit=model.commit,
  )
  return dataclasses.replace(
    model, module=add(model.module), lora=config, base=record
  )


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


def check_game(model: checkpoints.Model, config: config_lib.SFTConfig) -> None:
  """Raises a UserError if `model` was trained on another game than the config's."""
  if model.game not in (None, config.game.name):
    raise errors.UserError(
      f"{config.model.name}: this model was trained on {model.game}, but game.name"
      f" is {config.game.name}; choose a model of this game, or change game.name"
    )


def _check(config: config_lib.ModelConfig) -> None:
  """Refuses settings that do not apply to the model."""
  name = config.name
  is_tiny = name in specs.TINY_MODELS
  if is_tiny:
    checkpoints.refuse_base(name, config.base)
  else:
    _check_name(name)
    if shape := config.shape():
      raise errors.UserError(
        f"model.{next(iter(shape))}: the shape of {name} is given by its files;"
        " remove this key"
      )
  if config.revision is not None and (is_tiny or os.path.isdir(name)):
    raise errors.UserError(
      f"model.revision: {name} is no hub id; remove this key"
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
