"""Lists private names of Tunix, Qwix and Orbax that this library relies on.

`missing` returns the names that the installed versions lack or have with other
signatures. The code that uses the names does not import this module.
"""

import importlib
import inspect
from typing import Any, NamedTuple


class Private(NamedTuple):
  """A private name, or a public name that is used in an undocumented way.

  Attributes:
    name: Name as `module:object`; the object may be dotted.
    signature: Names of the parameters, separated by spaces; None to skip the
      check.
    used_by: Module of this library that uses the name.
  """

  name: str
  signature: str | None
  used_by: str


_PEFT = "tunix.sft.peft_trainer:PeftTrainer"

# Signatures of the names by the module that uses them.
_USES: dict[str, dict[str, str | None]] = {
  "trainer": {
    f"{_PEFT}._train_step": "self model optimizer inputs",
    f"{_PEFT}._eval_step": "self model inputs",
    f"{_PEFT}._prepare_inputs": "self input_data",
    f"{_PEFT}._post_process_train_step": "self aux",
    f"{_PEFT}._post_process_eval_step": "self aux",
    f"{_PEFT}._write_train_metrics": "self",
    f"{_PEFT}._log_metrics": "self loss step additional_metrics",
    f"{_PEFT}._run_eval": "self eval_ds eval_step_fn",
    f"{_PEFT}._save_last_checkpoint": "self",
    f"{_PEFT}.clear_jit_cache": "self",
    f"{_PEFT}.create_train_step_fn": "self",
    f"{_PEFT}.create_eval_step_fn": "self",
    "tunix.sft.checkpoint_manager:CheckpointManager.save": (
      "self step model optimizer save_only_lora_params force custom_metadata"
    ),
  },
  "tunix_learner": {
    "tunix.rl.grpo.grpo_learner:GRPOLearner._generate_and_compute_advantage": (
      "self training_input mode"
    ),
  },
  "grpo_loss": {
    "tunix.rl.common:aggregate_loss": (
      "per_token_loss completion_mask loss_agg_mode kwargs"
    ),
    "tunix.rl.common:compute_kl_divergence": (
      "per_token_logps ref_per_token_logps method clamp_value"
    ),
    "tunix.rl.algo_core:masked_mean": "x mask axis",
  },
  "model_policy": {
    "tunix.generate.sampler:Sampler.tokenize": "self input_string",
  },
  "meshes": {
    "tunix.models.gemma.model:shard": "x s",
    "tunix.models.qwen2.model:shard": "x s",
    "tunix.models.qwen3.model:shard": "x s",
    "tunix.utils.sharding_utils:shard": "x s eager",
  },
  "qwen": {
    "tunix.models.qwen3.model:apply_rope": None,
    "tunix.models.qwen3.model:Attention.block": None,
  },
  "gemma": {
    "tunix.models.gemma.model:Attention.block": (
      "self x segment_pos cache attn_mask"
    ),
    "tunix.models.gemma.model:Einsum.__call__": "self x",
  },
  "gemma3": {
    "tunix.models.gemma3.model:Attention.block": (
      "self x segment_pos cache attn_mask"
    ),
    "tunix.models.gemma3.model:RMSNorm.__call__": "self x",
  },
  "specs": {
    "tunix.models.automodel:call_model_config": None,
    "tunix.models.naming:get_model_name_from_model_id": None,
  },
  "lora": {
    "qwix:LoraProvider": None,
    "qwix:apply_lora_to_model": None,
  },
  "run_checkpoints": {
    "orbax.checkpoint:path.atomicity.AtomicRenameTemporaryPath.finalize": (
      "self"
    ),
    "orbax.checkpoint:CheckpointManagerOptions": None,
  },
}
NAMES = tuple(
  Private(name, signature, used_by)
  for used_by, names in _USES.items()
  for name, signature in names.items()
)

# (class, attributes that its constructor sets, module that uses them)
ATTRIBUTES = (
  (
    _PEFT,
    "_lora_enabled _train_steps _mode _buffered_train_metrics"
    " _buffered_eval_metrics _has_aux checkpoint_manager metrics_logger"
    " metrics_prefix",
    "trainer",
  ),
  (
    "tunix.models.gemma3.model:Attention",
    "_query_norm attn_type rope_base_frequency rope_scale_factor",
    "gemma3",
  ),
)


def _find(name: str) -> Any:
  module, _, path = name.partition(":")
  value: Any = importlib.import_module(module)
  for part in path.split("."):
    value = getattr(value, part)
  return value


def missing() -> list[str]:
  """Returns a line for each missing name and each changed signature."""
  lines = []
  for name, signature, used_by in NAMES:
    try:
      value = _find(name)
    except (ImportError, AttributeError):
      lines.append(f"{name}: missing; {used_by} relies on it")
      continue
    if signature is not None:
      parameters = " ".join(inspect.signature(value).parameters)
      if parameters != signature:
        lines.append(
          f"{name}: takes ({parameters}); {used_by} relies on ({signature})"
        )
  for name, attributes, used_by in ATTRIBUTES:
    source = inspect.getsource(_find(name).__init__)
    lines += [
      f"{name}.{attribute}: missing; {used_by} relies on it"
      for attribute in attributes.split()
      if f"self.{attribute}" not in source
    ]
  return lines
