"""NOVA, a quantised raster model and full-clip diffusion on two digits that cross, at two sizes: eighteen trainings.

Launch: `python -m launch.sweep --config configs/sweeps/two_digits_paradigms.py --output runs/two_paradigms \
    --runs runs/trainings --results docs/ablations/two_digits`
"""

from nova_jax.tools.sweeps.plan import Bars, Sweep

WIDTHS = (64, 128)  # NOVA has 0.5 M parameters then, or 2.0 M.
HEAD_DIM = 32


def get_sweep():
  return Sweep(
      title="Paradigms, two digits",
      about="Equal compute and parameters within each of two widths, with three seeds each. Each is guided at the best "
            "of a few scales, chosen on clips of other seeds.",
      config="configs/two_digits_ablation.py",
      task="two_digits",
      num_prompts=120,
      batch_size=40,
      points=[
          {"paradigm": paradigm, "config.model.width": width, "config.model.num_heads": width // HEAD_DIM,
           "config.model.denoiser_width": width, "config.seed": seed}
          for width in WIDTHS for seed in (0, 1, 2) for paradigm in ("nova", "quantized", "full_clip")],
      plots=(Bars("paradigm", over="config.seed", panel="config.model.width"),))
