"""Memory of each GPU in GRPO runs of published models, in GiB.

Estimated as by the scripts' --dry-run, in shapes as Tunix knows them: no device
of the meshes is needed, and nothing is downloaded.
"""

import argparse
import dataclasses
import pathlib
from typing import Any

from flax import nnx
import record

from tunix_ttt import cli
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.models import memory
from tunix_ttt.models import meshes
from tunix_ttt.models import sources
from tunix_ttt.models.families import specs
from tunix_ttt.train import grpo_plan

MODELS = (
  "Qwen/Qwen2.5-0.5B",
  "Qwen/Qwen3-0.6B",
  "google/gemma-3-1b-it",
  "Qwen/Qwen2.5-1.5B",
  "Qwen/Qwen3-1.7B",
  "google/gemma-2-2b-it",
  "Qwen/Qwen2.5-3B",
  "Qwen/Qwen3-4B",
  "google/gemma-3-4b-it",
  "Qwen/Qwen2.5-7B",
)
# By what is trained and on how many GPUs; of 16, on two hosts.
MESHES: dict[str, dict[str, dict[str, Any]]] = {
  "LoRA": {
    "1": {},
    "2": {"fsdp": 2},
    "1 + 1": {"layout": "split"},
    "8": {"fsdp": 8},
    "16": {"fsdp": 16},
  },
  "whole": {"1": {}, "2": {"fsdp": 2}, "8": {"fsdp": 8}, "16": {"fsdp": 16}},
}


def outline(name: str) -> sources.Outline:
  """Returns a published model in shapes.

  Raises:
    errors.UserError: if Tunix does not know it.
  """
  spec = specs.published(name, "bfloat16")
  if spec is None:
    raise errors.UserError(f"--models: {name} is not known to Tunix")
  module = nnx.eval_shape(spec.build)
  return sources.Outline(module=module, spec=spec, tokenizer=None, lora=None)


def settings(flags: argparse.Namespace) -> config_lib.GRPOConfig:
  """Returns a run of adapters on one device."""
  return config_lib.load(
    config_lib.GRPOConfig,
    {
      "model": {"dtype": "bfloat16", "remat": "decoder"},
      "lora": {"rank": flags.rank},
      "data": {"max_seq_length": flags.board_tokens},
      "training": {
        "batch_size": flags.games,
        "gradient_accumulation_steps": flags.parts,
      },
      "play": {"max_new_tokens": flags.new_tokens},
    },
  )


def row(name: str, config: config_lib.GRPOConfig) -> dict[str, Any]:
  """Returns the GiB of a device, by what is trained, GPUs and role."""
  base = outline(name)
  sizes: dict[str, Any] = {}
  for trained, shapes in MESHES.items():
    lora = config.lora if trained == "LoRA" else None
    model = sources.adapt(base, lora, name)
    for mesh, shape in shapes.items():
      changed = dataclasses.replace(
        config, lora=lora, mesh=config_lib.MeshConfig(**shape)
      )
      meshes.check(changed, model.spec)
      _, rows, length = grpo_plan.describe(model, changed, None)
      estimates = memory.of_run(model, changed, rows, length)
      sizes.setdefault(trained, {})[mesh] = {
        role: round(estimate.total / 2**30, 1)
        for role, estimate in estimates.items()
      }
  parameters = specs.parameters(base.module).values()
  return {
    "model": name,
    "parameters": sum(value.size for value in parameters),
    **sizes,
  }


def main() -> None:
  """Computes, prints and writes."""
  parser = cli.parser(__doc__ or "", "python benchmarks/memory_tables.py")
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument("--models", nargs="+", default=MODELS)
  for name, default in (
    ("games", 128),
    ("parts", 8),
    ("board-tokens", 512),
    ("new-tokens", 64),
    ("rank", 16),
  ):
    parser.add_argument(f"--{name}", type=cli.positive, default=default)
  parser.add_argument("--output", type=pathlib.Path, help="JSON to write")
  flags = parser.parse_args()
  cli.require_tunix()
  config = settings(flags)
  columns = [(trained, mesh) for trained in MESHES for mesh in MESHES[trained]]
  heads = [f"{trained}, {mesh}" for trained, mesh in columns]
  print(f"| | {' | '.join(heads)} |")
  print(f"|---|{'---:|' * len(heads)}")
  rows = []
  for name in flags.models:
    result = row(name, config)
    rows.append(result)
    cells = [
      " + ".join(f"{size:.1f}" for size in result[trained][mesh].values())
      for trained, mesh in columns
    ]
    print(f"| {name.split('/')[-1]} | {' | '.join(cells)} |", flush=True)
  values = {k: v for k, v in vars(flags).items() if k != "output"}
  record.write(flags.output, {"settings": values, "rows": rows})


if __name__ == "__main__":
  cli.run(main)
