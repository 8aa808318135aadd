"""Steps that leave frozen weights where they are."""

from collections.abc import Callable
import functools
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh
from tunix.sft import peft_trainer

from tunix_ttt.models import meshes


class LeanSteps(peft_trainer.PeftTrainer):
  """A `PeftTrainer` whose compiled steps return only what they train.

  The parent's step takes and returns the whole model, so that every weight is
  there twice while it runs, and frozen ones are new arrays afterwards, no
  longer those that others share. Train with `skip_jit=True`: these steps are
  compiled already.
  """

  _steps: tuple[Callable[..., Any], ...] | None = None

  @functools.cached_property
  def mesh(self) -> Mesh | None:
    """The devices that the model is on; None for a single one."""
    return meshes.of(self.model)

  def clear_jit_cache(self) -> None:
    """See the parent."""
    super().clear_jit_cache()
    self._steps = None

  def create_train_step_fn(self) -> Callable[..., Any]:
    """Returns the step that updates the model and the optimizer in place."""
    return self._compiled()[0]

  def create_eval_step_fn(self) -> Callable[..., Any]:
    """Returns the step that computes the loss alone."""
    return self._compiled()[1]

  def lower_train_step(self, inputs: Any) -> jax.stages.Lowered:
    """Returns the program of the step that updates, which is not taken."""
    return self._compiled()[2](inputs)

  def _compiled(self) -> tuple[Callable[..., Any], ...]:
    if self._steps is None:
      self._steps = self._make_steps()
    return self._steps

  def _make_steps(self) -> tuple[Callable[..., Any], ...]:
    trained = nnx.LoRAParam if self._lora_enabled else nnx.Param
    # What a step returns stays on its devices for good; what it is first given
    # must too, or the second step is compiled anew.
    meshes.place(self.optimizer, self.mesh)
    for node in (self.model, self.optimizer):
      nnx.update(node, jax.tree.map(_committed, nnx.state(node)))
    held = tuple(
      jax.tree.map(lambda value: value.sharding, state)
      for state in (nnx.state(self.model, trained), nnx.state(self.optimizer))
    )
    # The graph of a model with adapters is not hashable: it is closed over.
    graph, *_ = nnx.split(self.model, trained, ...)
    optimizer_graph, _ = nnx.split(self.optimizer)

    def update(values: Any, moments: Any, frozen: Any, inputs: Any) -> Any:
      model = nnx.merge(graph, values, frozen)
      optimizer = nnx.merge(optimizer_graph, moments)
      result = self._train_step(model, optimizer, inputs)
      return nnx.state(model, trained), nnx.state(optimizer), result

    def evaluate(values: Any, frozen: Any, inputs: Any) -> Any:
      return self._eval_step(nnx.merge(graph, values, frozen), inputs)

    # Each array stays where it is.
    jitted_update = jax.jit(
      update, donate_argnums=1, out_shardings=(*held, None)
    )
    jitted_evaluate = jax.jit(evaluate)

    def arguments(inputs: Any) -> Any:
      _, values, frozen = nnx.split(self.model, trained, ...)
      _, moments = nnx.split(self.optimizer)
      return values, moments, frozen, inputs

    def train_step(inputs: Any) -> Any:
      values, moments, result = jitted_update(*arguments(inputs))
      nnx.update(self.model, values)
      nnx.update(self.optimizer, moments)
      return result

    def eval_step(inputs: Any) -> Any:
      _, values, frozen = nnx.split(self.model, trained, ...)
      return jitted_evaluate(values, frozen, inputs)

    def lower(inputs: Any) -> jax.stages.Lowered:
      return jitted_update.lower(*arguments(inputs))

    return train_step, eval_step, lower


def _committed(value: jax.Array) -> jax.Array:
  return jax.device_put(value, value.sharding)
