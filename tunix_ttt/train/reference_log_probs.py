"""Log-probabilities of games and answers by the reference or the policy."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import itertools
import pathlib
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from tunix.sft import sharding_utils

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.algorithms import grpo_loss
from tunix_ttt.algorithms import losses
from tunix_ttt.data import datasets
from tunix_ttt.data import row_formats
from tunix_ttt.games import catalog
from tunix_ttt.models import checkpoints
from tunix_ttt.models import meshes
from tunix_ttt.models import sources
from tunix_ttt.models.families import specs
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_manifest
from tunix_ttt.text import tokenizers

# (tokens int [N, L], mask bool [N, L], mask of sampled tokens bool [N, L]) ->
# log-probabilities float32 [N, L] of the sampled tokens, 0 for others.
Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def of_policy(
  module: nnx.Module, config: config_lib.GRPOConfig, prefix: Sequence[int] = ()
) -> Scorer:
  """Returns a scorer that reads a model's weights at each call.

  See `grpo_loss.log_probs` for `prefix`.
  """
  score = _make(nnx.split(module)[0], meshes.of(module), config, prefix)
  return lambda *rows: score(nnx.state(module), *rows)


def of_reference(
  model: checkpoints.Model,
  config: config_lib.GRPOConfig,
  prefix: Sequence[int] = (),
) -> Scorer:
  """Returns a scorer by the reference of the KL divergence.

  Only the trained parameters are copied, so call it before a checkpoint is
  restored. The reference `base` of a model with adapters is the trained model
  without adapters, which needs no copy.
  """
  module = model.module
  if model.lora is not None and config.grpo.reference == "base":
    graph, _ = nnx.split(nnx.eval_shape(model.spec.build))
    score = _make(graph, meshes.of(module), config, prefix)
    base = nnx.filterlib.Not(nnx.LoRAParam)
    return lambda *rows: score(nnx.state(module, base), *rows)
  frozen = nnx.filterlib.Not(model.trainable)
  score = _make(nnx.split(module)[0], meshes.of(module), config, prefix)
  start = jax.tree.map(jnp.copy, nnx.state(module, model.trainable))
  return lambda *rows: score(
    nnx.merge_state(nnx.state(module, frozen), start), *rows
  )


def starts_from_adapters(model: checkpoints.Model) -> bool:
  """Returns whether a model's adapters change its outputs."""
  adapters = specs.parameters(model.module, nnx.LoRAParam)
  # The second factor of a new adapter is 0.
  return any(
    bool(value.any()) for name, value in adapters.items() if "lora_b" in name
  )


def _make(
  graph: Any,
  mesh: Any,
  config: config_lib.GRPOConfig,
  prefix: Sequence[int],
) -> Callable[..., np.ndarray]:
  temperature, most = config.rollout.temperature, config.max_sequence_tokens
  size = meshes.rows_at_once(config)

  @jax.jit
  def run(
    state: Any, tokens: jax.Array, mask: jax.Array, is_sampled: jax.Array
  ) -> jax.Array:
    tokens, mask, is_sampled = meshes.constrain(
      (tokens, mask, is_sampled), mesh, meshes.FSDP
    )
    module = nnx.merge(graph, state)
    # Tunix reads the mesh of the thread that traces.
    with meshes.use(mesh):
      scores = grpo_loss.log_probs(
        module, tokens, mask, is_sampled, most, temperature, prefix
      )
    return jnp.pad(scores.log_probs, ((0, 0), (1, 0)))

  def score(
    state: Any, tokens: np.ndarray, mask: np.ndarray, is_sampled: np.ndarray
  ) -> np.ndarray:
    # The chunks of training, up to the last that is not padding.
    used = np.flatnonzero(mask.any(axis=1)).max(initial=-1) + 1
    starts = range(0, int(used), size)
    scores = [
      run(state, *(rows[i : i + size] for rows in (tokens, mask, is_sampled)))
      for i in starts
    ]
    result = np.zeros(tokens.shape, np.float32)
    for i, values in zip(starts, meshes.fetch(scores), strict=True):
      result[i : i + size] = values
    return result

  return score


def log_probs(
  module: nnx.Module, batches: Iterable[datasets.Batch], num_pairs: int
) -> np.ndarray:
  """Returns the log-probabilities of answers, chosen and rejected.

  `batches` are of all N pairs, as `batches.in_order` yields them; the result is
  float32 [2, N].
  """
  graph, state = nnx.split(module)

  @jax.jit
  def run(state: Any, batch: losses.Batch) -> Any:
    return losses.pair_log_probs(nnx.merge(graph, state), batch)

  results = np.zeros((2, num_pairs), np.float32)
  mesh = meshes.of(module)
  bar = progress.bar(total=num_pairs, desc="reference", unit="pair")
  stage = progress.stage("computing reference log-probabilities", has_bar=True)
  with bar, stage, meshes.use(mesh):
    for batch in batches:
      is_pair = batch["pairs"] >= 0
      rows: Any = meshes.feed(batch, mesh)
      shards: Any = sharding_utils.shard_input(rows, (meshes.FSDP,))
      values = meshes.fetch(run(state, shards))
      results[:, batch["pairs"][is_pair]] = values[:, is_pair]
      bar.update(int(is_pair.sum()))
  return results


def attach(
  batches: Iterable[datasets.Batch], log_probs: np.ndarray
) -> Iterator[datasets.Batch]:
  """Adds log-probabilities [2, N] to batches as `reference` float32 [B, 2]."""
  for batch in batches:
    yield {**batch, "reference": log_probs[:, batch["pairs"]].T}


# Number of rows that a tiny model's tokenizer is trained on.
TOKENIZER_ROWS = 2000


def tokenizer_maker(
  config: config_lib.SFTConfig,
  samples: Iterable[row_formats.Sample] | None = None,
  tokenizer: pathlib.Path | None = None,
) -> Callable[[], tokenizers.SentencePieceTokenizer]:
  """Returns a function that trains or loads a tiny model's tokenizer.

  It loads the file `tokenizer`, or trains on `samples` or the config's rows.
  """

  def make_tokenizer() -> tokenizers.SentencePieceTokenizer:
    if tokenizer is not None:
      return tokenizers.SentencePieceTokenizer.load(tokenizer)
    rows = samples
    if rows is None:
      rows = datasets.load(config.data, config.seed, config.game).samples
    first = itertools.islice(rows, TOKENIZER_ROWS)
    texts = (text for sample in first for text in sample.texts())
    settings = config.tokenizer
    return tokenizers.train_tokenizer(
      texts,
      settings.vocab_size,
      catalog.of(config).symbols(settings.vocab_size),
      split_by_whitespace=settings.split_by_whitespace,
    )

  return make_tokenizer


def base_model(
  config: config_lib.SFTConfig,
  source: datasets.Origin | None = None,
  tokenizer: pathlib.Path | None = None,
) -> checkpoints.Model:
  """Returns the model that training starts from; see `tokenizer_maker`."""
  samples = source and source.samples
  make_tokenizer = tokenizer_maker(config, samples, tokenizer)
  return sources.start_from(
    config.model, make_tokenizer, config.seed, config.mesh
  )


def load(
  name: str | pathlib.Path,
  config: config_lib.SFTConfig | config_lib.Settings | None = None,
  *,
  base: str | pathlib.Path | None = None,
) -> checkpoints.Model:
  """Loads a model by name.

  Args:
    name: Model directory, run directory, or `base` for the model that the
      config starts from.
    config: Config of the model, or a YAML file or dictionary of its keys; None
      for the config of its run.
    base: Directory of an adapter's base model, in place of `model.base`.

  Raises:
    errors.UserError: if the model does not exist or does not match the config.
  """
  progress.hush()
  name = str(name)
  if config is None:
    config = run_manifest.config_of_model(name)
  if config is None:
    raise errors.UserError(
      f"{name}: is not in a run, so its settings are unknown; give a config"
    )
  config = config_lib.load_any(config)
  if base is not None:
    settings = dataclasses.replace(config.model, base=str(base))
    config = dataclasses.replace(config, model=settings)
  if name == "base":
    model = base_model(config)
  else:
    model = sources.open_model(name, config.model, config.mesh)
    sources.check_matches(model, config.model)
    sources.check_game(model, config)
    if config.lora is not None and model.lora is None:
      raise errors.UserError(
        f"{name}: has no adapter, but the config has lora; use --model base for"
        " the model before training, or --set lora=null for a merged model"
      )
  meshes.check(config, model.spec)
  meshes.place(model.module, meshes.make(config.mesh))
  return model


def tokenizer(
  config: config_lib.SFTConfig, samples: Iterable[row_formats.Sample]
) -> tokenizers.Tokenizer:
  """Returns the tokenizer of a config's model, without reading weights.

  A tiny model's tokenizer is trained on `samples`.

  Raises:
    errors.UserError: if the model or its tokenizer is unavailable.
  """
  maker = tokenizer_maker(config, samples)
  result = sources.outline(config.model, maker).tokenizer
  if result is None:
    raise errors.UserError(
      f"{config.model.name}: its tokenizer is not in the local cache, and the"
      " Hugging Face hub cannot be reached; give a directory"
    )
  return result
