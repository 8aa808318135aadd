"""Models that a service computes: what of them is here."""

from collections.abc import Sequence
import json
import pathlib
from typing import Any, NamedTuple

import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.models.hub import client
from tunix_ttt.runs import run_directory
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import hub_tokenizers

# File that tells where weights are on a service.
STATE = "service.json"


class State(pydantic.BaseModel):
  """Content of `STATE`.

  Attributes:
    state: Path of weights and optimizer on the service.
    service: Address of the service.
    model: Name of the base model there.
  """

  model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

  state: str
  service: str
  model: str

  @classmethod
  def read(cls, path: pathlib.Path) -> "State":
    """Reads the file; raises a UserError if it is no such file."""
    try:
      return cls.model_validate_json(files.read_text(path, "file of a state"))
    except pydantic.ValidationError:
      raise errors.UserError(f"{path}: is damaged") from None


class ServiceModel(NamedTuple):
  """A model of which only the tokenizer is here; see `checkpoints.Model`.

  Attributes:
    tokenizer: Tokenizer of the model.
    revision: "", since the weights are not here.
    commit: Commit of a base from the hub.
    base: Name of the base model on the service.
    start: Path on the service of the adapter to start from; None for a new one.
    service: Address of the service that has this adapter, if any.
  """

  tokenizer: hub_tokenizers.HuggingFaceTokenizer
  revision: str
  commit: str | None
  base: str
  start: str | None
  service: str | None


def check(config: config_lib.SFTConfig) -> None:
  """Raises a UserError for settings that a service cannot follow."""
  if config.lora is None:
    raise errors.UserError("service: trains adapters only; set lora")
  check_play(config.play, "play")
  refused = [
    ("data.packing", config.data.packing, "must be false"),
    (
      "training.optimizer",
      config.training.optimizer != "adamw",
      "must be adamw",
    ),
    ("distributed", config.distributed is not None, "must be null"),
  ]
  if isinstance(config, config_lib.GRPOConfig):
    rollout, algorithm, episodes = config.rollout, config.grpo, config.episodes
    of_model = [
      name
      for name in ("past_selves", "exploiter")
      if any(config.opponents.shares[name])
    ]
    check_play(rollout, "rollout")
    refused += [
      ("rollout.temperature", rollout.temperature != 1, "must be 1"),
      ("rollout.max_staleness", rollout.max_staleness, "must be 0"),
      ("episodes.try_all", episodes.try_all, "must be false"),
      ("episodes.sampled_mistakes", episodes.sampled_mistakes, "must be 0"),
      ("episodes.agent", episodes.num_agents > 1, "must not be both"),
      (f"opponents.{' and '.join(of_model)}", of_model, "must be 0"),
      ("grpo.beta", algorithm.beta, "must be 0"),
      ("grpo.loss_algo", algorithm.loss_algo != "grpo", "must be grpo"),
      ("grpo.epsilon_c", algorithm.epsilon_c is not None, "must be null"),
    ]
  _refuse(refused)


def check_play(
  play: config_lib.PlayConfig | config_lib.RolloutConfig, section: str
) -> None:
  """Raises a UserError for a section's settings that a service cannot follow."""
  _refuse(
    [
      (f"{section}.constrained", play.constrained, "must be false"),
      (f"{section}.top_k", play.top_k is not None, "must be null"),
      (f"{section}.top_p", play.top_p < 1, "must be 1"),
    ]
  )


def _refuse(settings: Sequence[tuple[str, Any, str]]) -> None:
  for key, is_set, advice in settings:
    if is_set:
      raise errors.UserError(f"{key}: {advice} on a service")


def open_model(
  config: config_lib.SFTConfig, name: str = "base"
) -> ServiceModel:
  """Reads the tokenizer of a model; its weights need not be here.

  Args:
    config: Settings, with the model of the name `base`.
    name: Model directory of a run on a service, or a name that the service has.

  Raises:
    errors.UserError: if there is no such tokenizer.
  """
  settings, start = config.model, None
  name = settings.name if name == "base" else name
  if (pathlib.Path(name) / run_directory.MANIFEST).is_file():
    name = str(pathlib.Path(name) / run_directory.FINAL_CHECKPOINT)
  saved, service = pathlib.Path(name) / STATE, None
  if saved.is_file():
    # The model of a run on a service.
    state = State.read(saved)
    name, start, service = state.model, state.state, state.service
  elif run_directory.of_model(name) is not None:
    raise errors.UserError(
      f"{name}: has no model of a service; --backend local loads a model that was"
      " trained here"
    )
  revision = settings.revision if name == settings.name else None
  location = client.find(name, revision, weights=False)
  path = location.directory / "config.json"
  try:
    content = json.loads(files.read_text(path, "config of a model"))
    content = content.get("text_config", content)
    size = int(content["vocab_size"])
  except (ValueError, KeyError, TypeError, AttributeError):
    raise errors.UserError(f"{path}: has no vocab_size") from None
  template = settings.chat_template
  tokenizer = hub_tokenizers.HuggingFaceTokenizer.load(
    location.directory,
    size,
    chat_template=None if template is None else pathlib.Path(template),
    enable_thinking=settings.enable_thinking,
  )
  # The weights are the service's, whatever lies here.
  return ServiceModel(tokenizer, "", location.commit, name, start, service)


def record(
  config: config_lib.SFTConfig, model: ServiceModel
) -> run_manifest.ModelRecord:
  """Returns the manifest's record of a model."""
  return run_manifest.ModelRecord(
    name=config.model.name,
    revision=model.revision,
    commit=model.commit,
    tokenizer=model.tokenizer.digest,
    # Known to the service alone.
    parameters=0,
    trainable_parameters=0,
  )
