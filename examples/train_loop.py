"""A training loop of your own: `python examples/train_loop.py [FOLDER STEPS]` learns moving digits on one device."""

import sys

import jax
import optax
from flax import nnx

import nova_jax

folder, steps = sys.argv[1:] or ("digits_data", 100)
cfg, scheduler = nova_jax.PRESETS["digits"], nova_jax.FlowMatching()
model = nnx.jit(lambda: nova_jax.NOVA(cfg, rngs=nnx.Rngs(0)))()
optimizer = nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)
source = nova_jax.prepare_digits(folder, nova_jax.DataConfig())["train"]
text_encoder, autoencoder = nova_jax.make_text_encoder("words", cfg), nova_jax.make_autoencoder("pixels")
batches = nova_jax.Loader(
    nova_jax.VideoFeed(source, text_encoder, autoencoder, num_frames=4, seed=0), batch_size=32)


@nnx.jit
def train_step(model, optimizer, batch, key):
  (loss, _), grads = nnx.value_and_grad(nova_jax.loss, has_aux=True)(model, scheduler, batch, key)
  optimizer.update(model, grads)
  return loss


for step in range(int(steps)):
  loss = train_step(model, optimizer, next(batches), jax.random.key(step))
  print(f"step {step}: loss {loss:.3f}")
