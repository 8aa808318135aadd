"""TRL's side of `benchmarks/grpo.py`; runs in an environment of its own.

It takes the shapes as JSON in its first argument and prints the seconds of each
step, generation included, as JSON.
"""

# pyright: reportMissingImports=false

import argparse
import itertools
import json
import random
import tempfile
import time
from typing import Any


def make_model(shapes: dict) -> Any:
  """Returns a Qwen2 with random weights in float32."""
  import transformers

  config = transformers.Qwen2Config(
    vocab_size=shapes["vocab_size"],
    hidden_size=shapes["embed_dim"],
    intermediate_size=shapes["hidden_dim"],
    num_hidden_layers=shapes["num_layers"],
    num_attention_heads=shapes["num_heads"],
    num_key_value_heads=shapes["num_kv_heads"],
    tie_word_embeddings=True,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=3,
  )
  return transformers.Qwen2ForCausalLM(config).float()


def make_tokenizer(vocab_size: int) -> Any:
  """Returns a tokenizer of words, so that prompts have a length."""
  import tokenizers
  import transformers

  words = ["<pad>", "<unk>", "<bos>", "<eos>"]
  words += [f"w{n}" for n in range(len(words), vocab_size)]
  model = tokenizers.models.WordLevel(
    {word: n for n, word in enumerate(words)}, unk_token="<unk>"
  )
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token="<pad>",
    unk_token="<unk>",
    bos_token="<bos>",
    eos_token="<eos>",
  )


def train(shapes: dict) -> dict[str, Any]:
  """Trains for the steps of the shapes; returns what each step took."""
  import datasets
  import torch
  import transformers
  import trl

  ended = [time.perf_counter()]

  class Times(transformers.TrainerCallback):
    def on_step_end(self, *arguments: Any, **settings: Any) -> None:
      del arguments, settings
      ended.append(time.perf_counter())

  words = random.Random(0)

  def prompt() -> str:
    numbers = (words.randrange(4, shapes["vocab_size"]) for _ in range(24))
    return " ".join(f"w{n}" for n in numbers)

  with tempfile.TemporaryDirectory() as directory:
    trainer = trl.GRPOTrainer(
      model=make_model(shapes),
      reward_funcs=lambda completions, **_: [
        words.random() for _ in completions
      ],
      args=trl.GRPOConfig(
        output_dir=directory,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=shapes["batch_size"],
        num_generations=shapes["num_generations"],
        max_completion_length=shapes["completion"],
        # Completions are as long as the limit, as they are on the other side.
        generation_kwargs={"min_new_tokens": shapes["completion"]},
        max_steps=shapes["steps"],
        learning_rate=1e-3,
        beta=0.0,
        temperature=1.0,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
      ),
      train_dataset=datasets.Dataset.from_dict(
        {"prompt": [prompt() for _ in range(256)]}
      ),
      processing_class=make_tokenizer(shapes["vocab_size"]),
      callbacks=[Times()],
    )
    trainer.train()
  return {
    "trl": trl.__version__,
    "torch": torch.__version__,
    "threads": torch.get_num_threads(),
    "seconds": [b - a for a, b in itertools.pairwise(ended)],
  }


def main() -> None:
  """Trains and prints."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("shapes", type=json.loads, help="shapes as JSON")
  # TRL is imported only now, so that --help needs none.
  print(json.dumps(train(parser.parse_args().shapes)))


if __name__ == "__main__":
  main()
