"""What a trainer trains: a model, its loss, and the numbers that the loss needs from the host.

A task of your own inherits from `Task` and writes `init` and `loss`; the rest has defaults. NOVA is `NovaTask`, and the
models that it is compared with are in `tools/baselines`.
"""

from collections.abc import Hashable
from typing import Any, Protocol

from flax import nnx
from jaxtyping import Array, Float, Key

from nova_jax.diffusion.batch import Batch
from nova_jax.train.step import Metrics

FIRST_EVAL_STEP = 2**31  # No step of a run: what evaluation draws is drawn for it alone.


class Task(Protocol):
  """A model that can be trained. Its parameters name their axes (`models/layers.py`), so that it fits on any mesh."""

  def init(self, rngs: nnx.Rngs) -> nnx.Module:
    """Create the model."""
    ...

  def loss(
      self, model: Any, batch: Batch, keys: Key[Array, "B"], traced: Any, static: Any
  ) -> tuple[Float[Array, ""], Metrics]:
    """Return the loss of a batch, and the values to report, "loss" among them.

    Equal batches have equal weight: the loss of a batch is the mean of the losses of its halves.

    Args:
      model: model with the step's weights.
      batch: training batch; a share `train.caption_dropout` of its samples has lost its caption or class.
      keys: one random key for each sample, which depends on nothing but the seed, the step and the sample.
      traced: arrays from `host_inputs`.
      static: constant from `host_inputs`.
    """
    ...

  def eval_loss(
      self, model: Any, batch: Batch, keys: Key[Array, "B"], traced: Any, static: Any
  ) -> tuple[Float[Array, ""], Metrics]:
    """Return the loss of held-out records, as `loss`, without what only training adds to a batch."""
    return self.loss(model, batch, keys, traced, static)

  def host_inputs(self, seed: int, step: int) -> tuple[Any, Hashable]:
    """Return what the host contributes to a step: a pytree of arrays, and a constant.

    Both must be functions of the arguments alone, so that a run continues with the same numbers. Each constant is one
    more compilation.

    Args:
      seed: seed of the run.
      step: number of steps done before.
    """
    del seed, step
    return None, None

  def eval_inputs(self, number: int) -> tuple[Any, Hashable]:
    """Return what the host contributes to evaluation, as `host_inputs`, for batch `number` of the held-out records.

    The constant should be the same for all batches, so that evaluation compiles once.
    """
    return self.host_inputs(0, FIRST_EVAL_STEP + number)

  def flops(self, batch: Batch, traced: Any) -> float:
    """Return the floating-point operations of a training step, for the log; 0 if they aren't known."""
    del batch, traced
    return 0.0

  def for_shape(self, shape: tuple[int, ...]) -> "Task":
    """Return the task for latents [B, *shape]; its model must have the same parameters."""
    del shape
    return self

  def initial_weights(self) -> nnx.State | None:
    """Return the weights that a new run starts from; None starts from those of `init`."""
    return None
