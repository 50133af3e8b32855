"""A task of your own for the trainer: `python examples/task.py [WORKDIR STEPS]` predicts each frame from the last.

The same command continues the run, and `nova-jax status --workdir WORKDIR` says how it is doing.
"""

import logging
import sys

import jax.numpy as jnp
from flax import nnx

import nova_jax
from nova_jax.models.layers import Linear

logging.basicConfig(format="%(message)s")
logging.getLogger("nova_jax").setLevel("INFO")  # Shows the lines that commands print.
workdir, steps = sys.argv[1:] or ("runs/next_frame", 200)
experiment = nova_jax.Experiment(
    model=nova_jax.PRESETS["digits"],  # Sizes of latents and texts, for the data.
    train=nova_jax.TrainConfig(steps=int(steps), stages=(nova_jax.StageConfig(batch_size=32, num_frames=4),)),
    optimizer=nova_jax.OptimizerConfig(learning_rate=1e-3))


class NextFrame(nova_jax.Task):
  def init(self, rngs: nnx.Rngs) -> nnx.Module:
    size = 16 * 16  # Pixels of a frame.
    return Linear((size,), (size,), ("embed", "mlp"), rngs=rngs)  # Axes by name, for the mesh.

  def loss(self, model, batch, keys, traced, static):
    frames = batch.latents.reshape(*batch.latents.shape[:2], -1)  # [batch, time, pixel]
    loss = jnp.square(model(frames[:, :-1]) - frames[:, 1:]).mean()
    return loss, {"loss": loss}


data = nova_jax.DigitData(
    nova_jax.prepare_digits(f"{workdir}/data", experiment.data), experiment, nova_jax.make_autoencoder("pixels"),
    nova_jax.make_text_encoder("words", experiment.model))
callbacks = [nova_jax.StopOnSignal(), nova_jax.SaveCheckpoints(100)]
nova_jax.Trainer(NextFrame(), data, experiment, workdir, callbacks).run()
