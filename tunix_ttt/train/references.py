"""What the model that training starts from thinks of preference pairs.

Its log-probabilities are computed once, before the first step, so that there is
never a second model in memory, and a run that goes on computes the same again.
"""

from collections.abc import Iterable, Iterator
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from tunix.rl import common
from tunix.sft.dpo import dpo_trainer

from tunix_ttt.data import preferences
from tunix_ttt.train import preference_loss


@dataclasses.dataclass(frozen=True)
class Batch:
  """A batch as the trainer takes it.

  Attributes:
    pairs: B pairs.
    ref_chosen_logps: float32 [B], None without a reference.
    ref_rejected_logps: float32 [B], None without a reference.
  """

  pairs: preferences.PairBatch
  ref_chosen_logps: np.ndarray | None
  ref_rejected_logps: np.ndarray | None

  @property
  def num_tokens(self) -> int:
    """Tokens that the model reads: each prompt twice."""
    pairs = self.pairs
    return int(
      2 * pairs.prompt_mask.sum()
      + pairs.chosen_mask.sum()
      + pairs.rejected_mask.sum()
    )

  def training_input(self) -> dpo_trainer.TrainingInput:
    """Returns Tunix's form of it."""
    fields = dataclasses.asdict(self.pairs)
    del fields["rows"]
    make: Any = dpo_trainer.TrainingInput
    return make(**fields)


class References:
  """The log-probabilities of all pairs.

  Attributes:
    train: float32 [2, N], of the chosen and the rejected answers.
    eval: float32 [2, M].
  """

  def __init__(
    self,
    module: nnx.Module,
    dataset: preferences.PairDataset,
    batch_size: int,
    pad_id: int,
  ):
    """Computes them, `batch_size` pairs at a time."""
    graph, state = nnx.split(module)

    @jax.jit
    def log_probs(state: Any, example: Any) -> Any:
      return preference_loss.sequence_log_probs(
        nnx.merge(graph, state), example
      )

    def compute(pairs: list[preferences.Pair]) -> np.ndarray:
      found = np.zeros((2, len(pairs)), np.float32)
      for start in range(0, len(pairs), batch_size):
        # Filled up, so that there is one shape.
        rows = [(start + i) % len(pairs) for i in range(batch_size)]
        batch = preferences.make_batch(dataset, pairs, rows, pad_id)
        found[:, rows] = log_probs(state, train_example(batch))
      return found

    self.train = compute(dataset.train)
    self.eval = compute(dataset.eval)


def train_example(
  pairs: preferences.PairBatch,
) -> dpo_trainer.TrainExample:
  """Returns what Tunix's trainer makes of a batch, without a reference."""
  prompts = np.concatenate([pairs.prompt_ids] * 2)
  answers = np.concatenate([pairs.chosen_ids, pairs.rejected_ids])
  there = np.concatenate([pairs.chosen_mask, pairs.rejected_mask])
  asked = np.concatenate([pairs.prompt_mask] * 2)
  mask = jnp.concatenate([asked, there], axis=1)
  make: Any = dpo_trainer.TrainExample
  return make(
    input_ids=np.concatenate([prompts, answers], axis=1),
    positions=common.build_positions_from_mask(mask),
    attention_mask=common.make_causal_attn_mask(mask),
    ref_chosen_logps=None,
    ref_rejected_logps=None,
    completion_mask=there,
    logits_to_keep=answers.shape[1],
  )


def attach(
  batches: Iterable[preferences.PairBatch], found: np.ndarray | None
) -> Iterator[Batch]:
  """Yields batches with the reference's log-probabilities, if there are any."""
  for pairs in batches:
    chosen, rejected = (None, None) if found is None else found[:, pairs.rows]
    yield Batch(pairs, chosen, rejected)
