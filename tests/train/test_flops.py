import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nova_jax.config import PRESETS, ModelConfig, SchedulerConfig, TrainConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.batch import Batch
from nova_jax.diffusion.loss import sample_training_noise, training_loss
from nova_jax.models.condition import Condition
from nova_jax.models.flops import denoiser_parts
from nova_jax.models.nova import NOVA
from nova_jax.train.flops import executed_flops, forward_flops, forward_parts, matmul_peak, train_flops
from nova_jax.train.nova import NovaTask


def test_image_model_by_hand():
  cfg = ModelConfig(
      latent_dim=1, latent_size=(8, 8), patch_size=2, width=32, num_heads=2, temporal_depth=1, spatial_depth=2,
      denoiser_depth=1, denoiser_width=16, num_classes=10)
  # One class token, 4 video and 16 image tokens of 4 values, 3 visible, 2 noised copies.
  temporal = 24 * 32**2 * 5 + 4 * 32 * 25
  spatial = 24 * 32**2 * (7 + 20) + 4 * 32 * (49 + 400)
  copy = 2 * (4 * 16 + 256 * 16 + 16 * 16) + (2 * 3 + 4) * 16**2 + 2 * 2 * 16**2 + 2 * 16 * 4
  denoiser = 16 * (2 * (32 * 16 + 16 * 16) + 2 * copy)
  patches = 2 * 16 * 4 * 32
  assert forward_flops(cfg, 1, 3, 2) == temporal + spatial + denoiser + patches
  assert forward_flops(cfg, 1, 3, 2, num_spared=2) == temporal + spatial + denoiser * 14 / 16 + patches


def test_mask_area_is_counted_exactly():
  cfg = PRESETS["digits"]
  prefix, video = cfg.num_condition_tokens, cfg.num_video_tokens
  frame = np.concatenate([np.zeros(prefix, int), np.repeat(np.arange(3), video)])
  area = int((frame[:, None] >= frame[None]).sum())
  change = [forward_flops(cfg, t, 4, 1) for t in (2, 3)]
  before = frame[: prefix + 2 * video]
  pairs = area - int((before[:, None] >= before[None]).sum())
  one_frame = forward_flops(cfg, 1, 4, 1)
  later = change[1] - change[0]
  # A frame's own cost without attention pairs is the same for frames 1 and 2.
  first_pairs = int((before[:, None] >= before[None]).sum()) - (prefix + video) ** 2
  assert later - (change[0] - one_frame) == cfg.temporal_depth * 4 * cfg.width * (pairs - first_pairs)


SMALL = ModelConfig(
    latent_dim=2, latent_size=(16, 16), patch_size=2, width=64, num_heads=2, temporal_depth=1, spatial_depth=2,
    denoiser_depth=1, denoiser_width=64, text_dim=16, text_len=8, attention="dense")


@pytest.mark.parametrize("num_spared", [0, 16])
def test_close_to_what_xla_counts(num_spared):
  cfg = SMALL  # XLA counts the body of a loop once.
  scheduler, keys = make_scheduler(SchedulerConfig()), jax.random.split(jax.random.key(0), 2)
  graphdef, state = nnx.split(NOVA(cfg, rngs=nnx.Rngs(0)))
  batch = {
      "latents": jnp.zeros((2, 1, 16, 16, 2)), "text_embeds": jnp.zeros((2, 8, 16)),
      "text_lengths": jnp.array([8, 3])}

  def loss(state):
    noise = sample_training_noise(keys, cfg, scheduler, 1, 19, 2, num_spared)
    return training_loss(nnx.merge(graphdef, state), scheduler, batch, noise, 19)[0]

  counted = jax.jit(loss).lower(state).compile().cost_analysis()["flops"]
  formula = 2 * forward_flops(cfg, 1, 19, 2, num_spared)
  # XLA counts activations, norms and random numbers too.
  assert formula == pytest.approx(counted, rel=0.15) and formula < counted


def test_a_task_counts_what_its_program_computes():
  cfg = ModelConfig(latent_dim=1, latent_size=(16, 16), patch_size=1, width=32, num_heads=2, temporal_depth=1,
                    spatial_depth=2, denoiser_depth=1, denoiser_width=16, num_classes=10)
  task = NovaTask(cfg, make_scheduler(SchedulerConfig()), TrainConfig(visible_sizes=4, loss_repeat=2))
  batch = Batch(np.zeros((3, 1, 16, 16, 1), np.float32), Condition())
  assert task.flops(batch, np.int32(38)) == train_flops(cfg, 3, 1, 38, 2, num_spared=16)
  assert task.flops(batch, np.int32(5)) == train_flops(cfg, 3, 1, 5, 2)


def test_a_training_step_is_three_forward_passes():
  assert train_flops(PRESETS["digits"], 32, 4, 3, 4) == 96 * forward_flops(PRESETS["digits"], 4, 3, 4)


def test_what_is_recomputed_counts_as_executed_only():
  cfg = dataclasses.replace(PRESETS["digits"], remat="dots", attention="dense")
  parts, plain = forward_parts(cfg, 4, 3, 4), train_flops(cfg, 8, 4, 3, 4)
  assert executed_flops(cfg, 8, 4, 3, 4) == plain
  block = dataclasses.replace(cfg, remat="block")
  assert executed_flops(block, 8, 4, 3, 4) == plain + 8 * (parts.attention + parts.blocks)
  hidden = dataclasses.replace(cfg, remat="mlp")
  encoders = parts.blocks - 4 * 16 * 4 * denoiser_parts(cfg)[2]
  assert executed_flops(hidden, 8, 4, 3, 4) == pytest.approx(plain + 8 * encoders / 3)
  assert executed_flops(dataclasses.replace(cfg, attention="splash"), 8, 4, 3, 4) == plain + 4 * parts.attention

  # Heads of 32 values, on a matrix unit of 128 and on one that they fill.
  assert executed_flops(cfg, 8, 4, 3, 4, 128) == plain + 8 * 3 * 3 * parts.attention
  assert executed_flops(cfg, 8, 4, 3, 4, 32) == plain


def test_peak_is_measured():
  assert 1e9 < matmul_peak("float32") < 1e15
