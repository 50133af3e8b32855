"""Ways to generate faster on two digits that cross, whose frames have 64 tokens: each alone and together.

Launch: `python -m launch.sweep --config configs/sweeps/two_digits_speed.py --checkpoint two_digits \
    --output runs/two_speed --results docs/ablations/two_digits`
"""

import dataclasses

from nova_jax.configs.sweeps import speed
from nova_jax.tools.sweeps.plan import Front


def get_sweep():
  return dataclasses.replace(
      speed.get_sweep(),
      title="Ways to generate faster, two digits",
      about="What each way to save operations saves, and what it costs in scores, alone and together, with 64 tokens a "
            "frame.",
      task="two_digits",
      plots=tuple(Front("spatial_gflops", score) for score in ("digits", "same_digits", "retrieval@last")))
