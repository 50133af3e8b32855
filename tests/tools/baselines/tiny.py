"""Rivals small enough to compile in seconds, in which nothing is zero."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nova_jax.config import ModelConfig, SchedulerConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.models.condition import Condition
from nova_jax.tools.baselines.backbone import clip_model
from nova_jax.tools.baselines.full_clip import FullClip
from nova_jax.tools.baselines.one_block import OneBlock, block_model
from nova_jax.tools.baselines.quantized import Quantized

NOVA = ModelConfig(
    latent_dim=1, latent_size=(8, 8), patch_size=4, width=32, num_heads=2, temporal_depth=3, spatial_depth=2,
    denoiser_depth=1, denoiser_width=16, base_frames=3, text_dim=8, text_len=3, mixer_rank=4,
    attention="dense")
CFG = clip_model(NOVA, depth=2)
NUM_FRAMES = 3
NUM_TOKENS = 12  # Of a clip: four a frame, of 4 x 4 values.
CODEBOOK = np.random.default_rng(1).standard_normal((10, 16), np.float32)
QUANTIZED = Quantized(CFG, CODEBOOK)
FULL_CLIP = FullClip(CFG, make_scheduler(SchedulerConfig()), num_steps=4)
ONE_BLOCK = OneBlock(
    block_model(NOVA, NUM_FRAMES), make_scheduler(SchedulerConfig()), num_sets=3, num_steps=4, loss_repeat=2)


def make(baseline, noise=0.1):
  model = baseline.init(nnx.Rngs(0))
  rng = np.random.default_rng(0)  # NumPy's: each shape would be a program to compile for JAX's.
  noisy = lambda p: jnp.asarray(np.asarray(p) + np.float32(noise) * rng.standard_normal(p.shape, np.float32))
  nnx.update(model, jax.tree.map(noisy, nnx.state(model, nnx.Param)))
  return model


def inputs(batch=2):
  """Return latents and a condition."""
  rng = np.random.default_rng(0)
  latents = rng.standard_normal((batch, NUM_FRAMES, 8, 8, 1), np.float32)
  return jnp.asarray(latents), Condition(
      text_embeds=rng.standard_normal((batch, 3, 8), np.float32),
      text_lengths=np.array([2, 3, 1, 3][:batch], np.int32))
