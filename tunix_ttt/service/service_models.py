"""Models that a service computes: what of them is here."""

import json
import pathlib
from typing import NamedTuple

import pydantic

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.games import catalog
from tunix_ttt.models.hub import client
from tunix_ttt.models.hub import hub_loading
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
    revision: SHA-256 of the base model's files, if they are here, or "".
    commit: Commit of a base from the hub.
    base: Name of the base model on the service.
    start: Path on the service of the adapter to start from; None for a new one.
  """

  tokenizer: hub_tokenizers.HuggingFaceTokenizer
  revision: str
  commit: str | None
  base: str
  start: str | None


def _refuse(key: str, reason: str) -> errors.UserError:
  return errors.UserError(f"{key}: {reason}, which a service cannot do")


def check(config: config_lib.SFTConfig) -> None:
  """Raises a UserError for settings that need the model on local devices."""
  if config.lora is None:
    raise errors.UserError("service: trains adapters only; set lora")
  if config.data.packing:
    raise _refuse("data.packing", "packs several sequences into a row")
  if config.training.optimizer != "adamw":
    raise _refuse("training.optimizer", "is not adamw")
  if config.play.constrained:
    raise _refuse("play.constrained", "needs the probabilities of all tokens")
  if not isinstance(config, config_lib.GRPOConfig):
    return
  rollout, algorithm = config.rollout, config.grpo
  for key, is_set, reason in (
    ("rollout.constrained", rollout.constrained, "limits tokens"),
    ("rollout.top_k", rollout.top_k is not None, "limits tokens"),
    ("rollout.top_p", rollout.top_p < 1, "limits tokens"),
    (
      "rollout.temperature",
      rollout.temperature != 1,
      "is not 1, for which log-probabilities are",
    ),
    ("rollout.max_staleness", rollout.max_staleness, "samples ahead"),
    ("episodes.try_all", config.episodes.try_all, "chooses tokens"),
    (
      "episodes.sampled_mistakes",
      config.episodes.sampled_mistakes,
      "answers many positions",
    ),
    ("episodes.agent", config.episodes.num_agents > 1, "trains two seats"),
    (
      "opponents",
      any(
        any(config.opponents.shares[name])
        for name in ("past_selves", "exploiter")
      ),
      "has opponents made of the model",
    ),
    ("grpo.beta", algorithm.beta, "compares with a second model"),
    ("grpo.loss_algo", algorithm.loss_algo != "grpo", "is not grpo"),
    ("grpo.epsilon_c", algorithm.epsilon_c is not None, "bounds ratios twice"),
  ):
    if is_set:
      raise _refuse(key, reason)
  game, play = catalog.of(config), config.play
  if config.exhaustive_eval and (game.lines is None or play.temperature):
    raise errors.UserError(
      "exhaustive_eval: on a service only greedy play of a game whose lines can be"
      " listed is judged exactly; set it to false"
    )


def open_model(config: config_lib.SFTConfig) -> ServiceModel:
  """Reads the tokenizer of a config's model; its weights need not be here.

  Raises:
    errors.UserError: if there is no such tokenizer.
  """
  settings, name, start = config.model, config.model.name, None
  saved = pathlib.Path(name) / STATE
  if saved.is_file():
    # The model of a run on a service.
    state = State.read(saved)
    name, start = state.model, state.state
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
  revision = ""
  if hub_loading.is_model(location.directory):
    revision = hub_loading.revision(location.directory)
  return ServiceModel(tokenizer, revision, location.commit, name, start)


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
