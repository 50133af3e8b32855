"""Text to image at 1024 x 1024, 0.3 B parameters.

64 x 64 tokens a picture; 30,000 steps of 1,024 pictures, as published.

Needs, launch and compile commands: see `released.py`.
"""

from nova_jax.config import StageConfig
from nova_jax.configs.released import released


def get_config(chip: str = "v5e"):
  return released(
      "nova-d48w768-sdxl1024", chip, steps=30000, stages=(StageConfig(name="image", batch_size=1024, num_frames=1),))
