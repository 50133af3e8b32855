"""A training run of a toy task, which compiles in a second; `toy_process.py` is a process of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nova_jax.autoencoders import make_autoencoder
from nova_jax.config import PRESETS, DataConfig, Experiment, MeshConfig, OptimizerConfig, StageConfig, TrainConfig
from nova_jax.data.sources import DigitData
from nova_jax.models.layers import MLP, Buffer, Linear, parameter
from nova_jax.parallel.sharding import make_mesh
from nova_jax.text import make_text_encoder
from nova_jax.train.callbacks import Callback, SaveCheckpoints
from nova_jax.train.callbacks.stop import StopOnSignal
from nova_jax.train.task import Task
from nova_jax.train.trainer import Trainer


class Toy(nnx.Module):
  """Has a matrix for Muon, an MLP for AdamW and a buffer."""

  def __init__(self, *, rngs):
    self.mixer = nnx.Dict(proj=Linear((16,), (2, 16), ("embed", None, "mlp"), rngs=rngs))
    self.time_proj = MLP(16, 32, 16, jax.nn.silu, rngs=rngs)
    self.null = parameter(jnp.ones(16), ("embed",), Buffer)


class ToyTask(Task):
  """Its host's number scales the noise that it learns; NaN at the step `fails_at`."""

  def __init__(self, fails_at=None):
    self.fails_at = fails_at

  def init(self, rngs):
    return Toy(rngs=rngs)

  def loss(self, model, batch, keys, traced, static):
    x = batch.latents.mean((1, 3, 4)) + jnp.where(batch.condition.text_lengths[:, None] > 0, 0, model.null[...])
    noise = jax.vmap(lambda key: jax.random.normal(key, (16,)))(keys) * traced
    loss = jnp.square(model.time_proj(x + model.mixer["proj"](x).sum(1)) - noise).mean()
    return loss, {"loss": loss}

  def host_inputs(self, seed, step):
    return np.float32(np.nan if step == self.fails_at else (seed + 3 * step) % 5), None

  def flops(self, batch, traced):
    return 1e6


class Do(Callback):
  """Does something after a step, before the next one."""

  def __init__(self, step, action):
    self._step, self._action = step, action

  def before_step(self, trainer):
    if trainer.step == self._step:
      self._action()


def make_data(experiment):
  rng = np.random.default_rng(0)
  video = lambda: rng.integers(0, 256, (4, 16, 16, 1), np.uint8)
  records = [{"video": video(), "caption": b"the digit one moves left", "digit": i, "turn": 4} for i in range(50)]
  return DigitData(
      {"train": records, "test": records}, experiment, make_autoencoder("pixels"),
      make_text_encoder("words", experiment.model))


def make_experiment(mesh=MeshConfig(1, 1, 1), **fields):
  train = TrainConfig(
      steps=40, stages=(StageConfig("image", 0.4, 8, 1), StageConfig("video", 0.6, 4, 4)),
      log_every=4, save_every=3, ema_decay=0.9)
  return Experiment(
      model=PRESETS["digits"], data=DataConfig(), mesh=mesh, train=dataclasses.replace(train, **fields),
      optimizer=OptimizerConfig(name="muon", learning_rate=1e-2, schedule="cosine", warmup_steps=3))


def one_device():
  return make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])


def make_trainer(experiment, workdir, *callbacks, task=None, data=None, mesh=None):
  """Return the trainer of an experiment, on one device unless it is given a mesh."""
  return Trainer(
      task or ToyTask(), data or make_data(experiment), experiment, workdir,
      [StopOnSignal(), SaveCheckpoints(experiment.train.save_every, experiment.train.save_minutes), *callbacks],
      mesh=mesh or one_device())


def train(experiment, workdir, *callbacks, **options):
  """Run the trainer, and return it."""
  trainer = make_trainer(experiment, workdir, *callbacks, **options)
  trainer.run()
  return trainer
