"""Text to image at 1024 x 1024, 0.6 B parameters.

64 x 64 tokens a picture; 30,000 steps of 1,024 pictures, as published.
Needs pictures of 1024 x 1024 with captions, and a folder with the released model's autoencoder and text encoder,
nova-d48w1024-sdxl1024 here (`--config.autoencoder`, `--config.text_encoder`). No dataset of this kind is built in
yet; compiling needs neither.
Launch, on all hosts of a pod:
  `python -m launch.train --config configs/nova_d48w1024_sdxl1024.py:v5e --workdir runs/d48w1024_sdxl1024`
Compile: `python -m launch.compile --config configs/nova_d48w1024_sdxl1024.py:v5e --topology v5e:16x16`
"""

import dataclasses

from nova_jax.aot.pods import recipe
from nova_jax.config import (
    PRESETS, Experiment, OptimizerConfig, SampleConfig, SchedulerConfig, StageConfig, TrainConfig, to_config_dict)

NAME = "nova-d48w1024-sdxl1024"


def get_config(chip: str = "v5e"):
  """Return the config for a chip, "v4", "v5e", "v5p" or "v6e", which `--config FILE:CHIP` picks."""
  how = recipe(chip)
  return to_config_dict(Experiment(
      model=dataclasses.replace(PRESETS[NAME], dtype="bfloat16", remat=how.remat),
      autoencoder=NAME,
      text_encoder=NAME,
      scheduler=SchedulerConfig(name="flow_matching", shift=1.0),
      train=TrainConfig(
          steps=30000,
          stages=(StageConfig(name="image", batch_size=1024, num_frames=1),),
          accumulation=how.accumulation, ema_decay=0.99, log_every=20, save_every=1000),
      optimizer=OptimizerConfig(learning_rate=1e-4, b1=0.9, b2=0.95, weight_decay=0.02),
      mesh=how.mesh,
      # As the paper evaluates.
      sample=SampleConfig(num_inference_steps=128, num_diffusion_steps=100, guidance_scale=7.0)))
