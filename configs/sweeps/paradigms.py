"""NOVA, NOVA in one block, a quantised raster model and full-clip diffusion on one digit: four trainings.

Launch: `python -m launch.sweep --config configs/sweeps/paradigms.py --output runs/paradigms`
"""

from nova_jax.tools.baselines.run import PARADIGMS
from nova_jax.tools.sweeps.plan import Bars, Sweep, grid


def get_sweep():
  return Sweep(
      title="Paradigms",
      about="Equal compute and size. Each is guided at the best of a few scales, chosen on clips of other seeds. "
            "Training is counted by formula, seconds are this machine's.",
      config="configs/ablation.py",
      # As when the results of docs/ablations.md were made.
      points=grid(
          paradigm=PARADIGMS, config__train__steps=(1300,), config__train__ema_decay=(0.99,),
          config__optimizer__warmup_steps=(30,), config__data__mid_clip_fraction=(0.0,)),
      plots=(Bars("paradigm"),))
