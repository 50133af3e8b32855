"""Text to video, 33 frames of 768 x 480, 0.6 B parameters.

Pictures first, then clips of 9 latent frames with 30 x 48 tokens each. The published code trains on 384 clips a step,
which don't spread over 256 chips: here it is 512. The released checkpoint's scheduler is DDPM as diffusers defines
it, here with diffusers' defaults.
Needs clips of 33 frames of 768 x 480 with captions, and a folder with the released model's autoencoder and text
encoder, nova-d48w1024-osp480 here (`--config.autoencoder`, `--config.text_encoder`). No dataset of this kind is built
in yet; compiling needs neither.
Launch, on all hosts of a pod:
  `python -m launch.train --config configs/nova_d48w1024_osp480.py:v5e --workdir runs/d48w1024_osp480`
Compile: `python -m launch.compile --config configs/nova_d48w1024_osp480.py:v5e --topology v5e:16x16`
"""

import dataclasses

from nova_jax.aot.pods import recipe
from nova_jax.config import (
    PRESETS, Experiment, OptimizerConfig, SampleConfig, SchedulerConfig, StageConfig, TrainConfig, to_config_dict)

NAME = "nova-d48w1024-osp480"


def get_config(chip: str = "v5e"):
  """Return the config for a chip, "v4", "v5e", "v5p" or "v6e", which `--config FILE:CHIP` picks."""
  how = recipe(chip)
  return to_config_dict(Experiment(
      model=dataclasses.replace(PRESETS[NAME], dtype="bfloat16", remat=how.remat),
      autoencoder=NAME,
      text_encoder=NAME,
      scheduler=SchedulerConfig(name="diffusers_ddpm"),
      train=TrainConfig(
          steps=60000,
          stages=(
              StageConfig(name="image", share=0.25, batch_size=1024, num_frames=1),
              StageConfig(name="video", share=0.75, batch_size=512, num_frames=9)),
          accumulation=how.accumulation, ema_decay=0.99, log_every=20, save_every=1000),
      optimizer=OptimizerConfig(learning_rate=1e-4, b1=0.9, b2=0.95, weight_decay=0.02),
      mesh=how.mesh,
      # As the paper evaluates.
      sample=SampleConfig(num_inference_steps=128, num_diffusion_steps=100, guidance_scale=7.0)))
