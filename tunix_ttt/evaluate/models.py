"""The models that the scripts are asked to judge."""

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.models import checkpoints
from tunix_ttt.models import sources
from tunix_ttt.train import sft


def load(name: str, config: config_lib.SFTConfig) -> checkpoints.Model:
  """Returns a model by name.

  Args:
    name: `base` for the model that the config starts from, or a model
      directory.
    config: the settings.

  Raises:
    errors.UserError: if there is no such model, or it is another than the
      config's.
  """
  if name == "base":
    return sft.base_model(config)
  model = sources.open_model(name, config.model)
  sources.check_matches(model, config.model)
  if config.lora is not None and model.lora is None:
    raise errors.UserError(
      f"{name}: holds no adapter, and the config has lora; for the model before"
      " training, say --model base, and for one that has its adapter merged in,"
      " --set lora=null"
    )
  return model
