"""Completions of single prompts, by Tunix's own sampler."""

from collections.abc import Iterator, Sequence
from typing import Any

from flax import nnx
import numpy as np
from tunix.generate import sampler as sampler_lib

from tunix_ttt.language import tokenizers
from tunix_ttt.models import specs


class _TokenSampler(sampler_lib.Sampler):
  """Tunix's sampler, prompted with ids, which text cannot always spell."""

  def tokenize(self, input_string: Any) -> np.ndarray:
    return np.asarray(input_string, np.int32)


def generate(
  module: nnx.Module,
  spec: specs.ModelSpec,
  tokenizer: tokenizers.SentencePieceTokenizer,
  prompts: Sequence[Sequence[int]],
  *,
  max_new_tokens: int,
  batch_size: int = 64,
  temperature: float = 0.0,
  top_p: float = 1.0,
  seed: int = 0,
) -> Iterator[str]:
  """Yields the completion of each prompt, up to the end of the turn.

  Args:
    module: the model.
    spec: its architecture.
    tokenizer: its tokenizer.
    prompts: token ids, beginning with the bos token.
    max_new_tokens: where a completion is cut.
    batch_size: prompts sampled together.
    temperature: 0 for the most likely token at each step.
    top_p: nucleus, where the temperature is above 0.
    seed: of the samples.
  """
  if not prompts:
    return
  longest = max(map(len, prompts))
  sampler = _TokenSampler(
    module,
    tokenizer,
    sampler_lib.CacheConfig(
      cache_size=longest + max_new_tokens,
      num_layers=spec.num_layers,
      num_kv_heads=spec.num_kv_heads,
      head_dim=spec.head_dim,
    ),
  )
  for start in range(0, len(prompts), batch_size):
    batch = list(prompts[start : start + batch_size])
    # One shape for every batch, so that the sampler compiles once.
    filled: Any = batch + batch[:1] * (batch_size - len(batch))
    output = sampler(
      filled,
      max_generation_steps=max_new_tokens,
      max_prompt_length=longest,
      eos_tokens=[tokenizer.end_of_turn_id, tokenizer.eos_id()],
      # The sampler takes a sampled pad token for padding.
      forbidden_tokens=[tokenizer.pad_id()],
      temperature=temperature,
      # Tunix is greedy where top_p is None, whatever the temperature.
      top_p=top_p if temperature > 0 else None,
      seed=seed + start,
    )
    yield from output.text[: len(batch)]
