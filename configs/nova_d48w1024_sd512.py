"""Text to image at 512 x 512, 0.6 B parameters.

32 x 32 tokens a picture; the published code has no config for it: steps as for 1024 x 1024, twice the batch.

Needs, launch and compile commands: see `released.py`.
"""

from nova_jax.config import StageConfig
from nova_jax.configs.released import released


def get_config(chip: str = "v5e"):
  return released(
      "nova-d48w1024-sd512", chip, steps=30000, stages=(StageConfig(name="image", batch_size=2048, num_frames=1),))
