"""A training run with a stand-in for NOVA that compiles in a second; `toy_process.py` is a process of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nova_jax.config import PRESETS, DataConfig, Experiment, MeshConfig, OptimizerConfig, StageConfig, TrainConfig
from nova_jax.data.sources import DigitData
from nova_jax.models.layers import MLP, Buffer, Linear, parameter
from nova_jax.train import loop


class Toy(nnx.Module):
  """Has a matrix for Muon, an MLP for AdamW and a buffer."""

  def __init__(self, cfg, *, rngs):
    self.cfg = cfg
    self.mixer = nnx.Dict(proj=Linear((16,), (2, 16), ("embed", None, "mlp"), rngs=rngs))
    self.time_proj = MLP(16, 32, 16, jax.nn.silu, rngs=rngs)
    self.null = parameter(jnp.ones(16), ("embed",), Buffer)


def make_loss(experiment, num_frames):
  def loss_fn(model, batch, keys, padded_size, num_visible):
    x = batch["latents"].mean((1, 3, 4)) + jnp.where(batch["text_lengths"][:, None] > 0, 0, model.null[...])
    noise = jax.vmap(lambda key: jax.random.normal(key, (16,)))(keys) * num_visible
    loss = jnp.square(model.time_proj(x + model.mixer["proj"](x).sum(1)) - noise).mean()
    return loss, {"loss": loss}

  return loss_fn


def open_digits(experiment, workdir, autoencoder, text_encoder):
  rng = np.random.default_rng(0)
  video = lambda: rng.integers(0, 256, (4, 16, 16, 1), np.uint8)
  records = [{"video": video(), "caption": b"the digit one moves left", "digit": i, "turn": 4} for i in range(50)]
  return DigitData({"train": records, "test": records}, experiment, autoencoder, text_encoder)


def make_experiment(mesh=MeshConfig(1, 1, 1), **fields):
  train = TrainConfig(
      steps=40, stages=(StageConfig("image", 0.4, 8, 1), StageConfig("video", 0.6, 4, 4)),
      log_every=4, save_every=3, ema_decay=0.9)
  return Experiment(
      model=PRESETS["digits"], data=DataConfig(), mesh=mesh, train=dataclasses.replace(train, **fields),
      optimizer=OptimizerConfig(name="muon", learning_rate=1e-2, schedule="cosine", warmup_steps=3))


def patch(setattr):
  """Put the stand-ins in place of the real parts."""
  for name, value in (("NOVA", Toy), ("make_loss", make_loss), ("open_digits", open_digits)):
    setattr(loop, name, value)
  setattr(loop, "matmul_peak", lambda dtype: 1e12)
