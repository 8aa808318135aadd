"""Completions of single prompts, by Tunix's own sampler."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from flax import nnx
import numpy as np
from tunix.generate import sampler as sampler_lib

from tunix_ttt import streams
from tunix_ttt.models.families import specs
from tunix_ttt.text import tokenizers


class _TokenSampler(sampler_lib.Sampler):
  """Tunix's sampler, prompted with ids, which text cannot always spell."""

  def tokenize(self, input_string: Any) -> np.ndarray:
    return np.asarray(input_string, np.int32)


class Generator:
  """Tunix's sampler on token ids, compiled once for each batch size."""

  def __init__(
    self,
    module: nnx.Module,
    spec: specs.ModelSpec,
    tokenizer: tokenizers.Tokenizer,
    *,
    max_prompt_length: int,
    max_new_tokens: int,
  ):
    """Takes a model, its architecture, its tokenizer and the limits."""
    self._tokenizer = tokenizer
    self._max_prompt_length = max_prompt_length
    self._max_new_tokens = max_new_tokens
    self._sampler = _TokenSampler(
      module,
      tokenizer,
      sampler_lib.CacheConfig(
        cache_size=max_prompt_length + max_new_tokens,
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
      ),
    )

  def __call__(
    self,
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch: int = 0,
  ) -> list[str]:
    """Returns the completion of each prompt, up to the end of the turn.

    Args:
      prompts: token ids, beginning with the bos token.
      temperature: 0 for the most likely token at each step.
      top_p: nucleus, where the temperature is above 0.
      seed: Random seed for sampling.
      batch: Number of this batch among those sampled with the seed.
    """
    tokenizer, given = self._tokenizer, cast(Any, list(prompts))
    # Tunix asks for a number, and takes a key as it is.
    key = cast(Any, streams.key(seed, streams.Stream.COMPLETIONS, batch))
    ends = {*tokenizer.end_ids, tokenizer.eos_id()}
    output = self._sampler(
      given,
      max_generation_steps=self._max_new_tokens,
      max_prompt_length=self._max_prompt_length,
      eos_tokens=[*ends],
      # The sampler takes a sampled pad token for padding.
      forbidden_tokens=[*({tokenizer.pad_id()} - ends)] or None,
      temperature=temperature,
      # Tunix is greedy where top_p is None, whatever the temperature.
      top_p=top_p if temperature > 0 else None,
      seed=key,
    )
    return output.text


def generate(
  module: nnx.Module,
  spec: specs.ModelSpec,
  tokenizer: tokenizers.Tokenizer,
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
    seed: Random seed for sampling.
  """
  if not prompts:
    return
  generator = Generator(
    module,
    spec,
    tokenizer,
    max_prompt_length=max(map(len, prompts)),
    max_new_tokens=max_new_tokens,
  )
  for number, start in enumerate(range(0, len(prompts), batch_size)):
    batch = list(prompts[start : start + batch_size])
    # One shape for every batch, so that the sampler compiles once.
    filled = batch + batch[:1] * (batch_size - len(batch))
    completions = generator(
      filled, temperature=temperature, top_p=top_p, seed=seed, batch=number
    )
    yield from completions[: len(batch)]
