"""Text to video, 33 frames of 768 x 480, 0.6 B parameters.

Pictures first, then clips of 9 latent frames with 30 x 48 tokens each. The published code trains on 384 clips a step,
which don't spread over 256 chips: here it is 512. The released checkpoint's scheduler is DDPM as diffusers defines
it, here with diffusers' defaults.
Needs, launch and compile commands: see `released.py`.
"""

from nova_jax.config import SchedulerConfig, StageConfig
from nova_jax.configs.released import released


def get_config(chip: str = "v5e"):
  return released(
      "nova-d48w1024-osp480", chip, steps=60000, scheduler=SchedulerConfig(name="diffusers_ddpm"),
      remat="mlp" if chip == "v5e" else None,  # Else the clip that a chip trains on would not fit in its memory.
      stages=(
          StageConfig(name="image", fraction=0.25, batch_size=1024, num_frames=1),
          StageConfig(name="video", fraction=0.75, batch_size=512, num_frames=9)))
