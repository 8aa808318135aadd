"""Private names of Tunix, Qwix and Orbax are there as this library uses them.

A name is `module:object`; the object may be dotted.
"""

import importlib
import inspect
from typing import Any

PEFT = "tunix.sft.peft_trainer:PeftTrainer"

# Names of the parameters, by the module of this library that uses the function;
# None to skip the check.
FUNCTIONS: dict[str, dict[str, str | None]] = {
  "trainer": {
    f"{PEFT}._train_step": "self model optimizer inputs",
    f"{PEFT}._eval_step": "self model inputs",
    f"{PEFT}._prepare_inputs": "self input_data",
    f"{PEFT}._post_process_train_step": "self aux",
    f"{PEFT}._post_process_eval_step": "self aux",
    f"{PEFT}._write_train_metrics": "self",
    f"{PEFT}._log_metrics": "self loss step additional_metrics",
    f"{PEFT}._run_eval": "self eval_ds eval_step_fn",
    f"{PEFT}._save_last_checkpoint": "self",
    f"{PEFT}.clear_jit_cache": "self",
    f"{PEFT}.create_train_step_fn": "self",
    f"{PEFT}.create_eval_step_fn": "self",
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
  "meshes": {
    "tunix.models.gemma.model:shard": "x s",
    "tunix.models.qwen2.model:shard": "x s",
    "tunix.models.qwen3.model:shard": "x s",
    "tunix.utils.sharding_utils:shard": "x s eager",
  },
  "qwen": {
    "tunix.models.qwen2.model:apply_rotary_embedding": "x sin cos",
    "tunix.models.qwen2.model:Attention.block": (
      "self x cache attn_mask sin cos segment_ids"
    ),
    "tunix.models.qwen3.model:apply_rope": None,
    "tunix.models.qwen3.model:Attention.block": (
      "self x segment_pos cache attn_mask segment_ids"
    ),
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
    "qwix:LoraProvider": None,
    "qwix:apply_lora_to_model": None,
  },
  "resume_checks": {
    "orbax.checkpoint:path.atomicity.AtomicRenameTemporaryPath.finalize": (
      "self"
    ),
    "orbax.checkpoint:CheckpointManagerOptions": None,
  },
}
# Attributes that the constructor of a class sets.
ATTRIBUTES: dict[str, dict[str, str]] = {
  "trainer": {
    PEFT: (
      "_lora_enabled _train_steps _mode _buffered_train_metrics"
      " _buffered_eval_metrics _has_aux checkpoint_manager metrics_logger"
      " metrics_prefix"
    ),
  },
  "gemma3": {
    "tunix.models.gemma3.model:Attention": (
      "_query_norm _key_norm rope_base_frequency rope_scale_factor"
    ),
  },
}


def find(name: str) -> Any:
  module, _, path = name.partition(":")
  value: Any = importlib.import_module(module)
  for part in path.split("."):
    value = getattr(value, part)
  return value


def missing(functions: Any, attributes: Any) -> list[str]:
  """Returns a line for each missing name and each changed signature."""
  lines = []
  for used_by, names in functions.items():
    for name, signature in names.items():
      try:
        value = find(name)
      except (ImportError, AttributeError):
        lines.append(f"{name}: missing; {used_by} relies on it")
        continue
      if signature is not None:
        found = " ".join(inspect.signature(value).parameters)
        if found != signature:
          lines.append(
            f"{name}: takes ({found}); {used_by} relies on ({signature})"
          )
  for used_by, names in attributes.items():
    for name, expected in names.items():
      source = inspect.getsource(find(name).__init__)
      lines += [
        f"{name}.{attribute}: missing; {used_by} relies on it"
        for attribute in expected.split()
        if f"self.{attribute}" not in source
      ]
  return lines


def test_all_private_names_are_there():
  assert missing(FUNCTIONS, ATTRIBUTES) == []


def test_a_missing_name_is_named():
  functions = {
    "grpo_loss": {
      "tunix.rl.common:no_such": None,
      "tunix.rl.algo_core:masked_mean": "x",
    }
  }
  first, second, third = missing(functions, {"trainer": {PEFT: "_none"}})
  assert first.startswith("tunix.rl.common:no_such: missing; grpo_loss relies")
  assert second.startswith("tunix.rl.algo_core:masked_mean: takes (x mask")
  assert third.endswith("PeftTrainer._none: missing; trainer relies on it")
