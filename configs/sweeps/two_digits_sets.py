"""Sets of tokens and diffusion steps for two digits that cross: twelve points of one model.

Launch: `python -m launch.sweep --config configs/sweeps/two_digits_sets.py --checkpoint runs/two_digits \
    --output runs/two_sets`
"""

from nova_jax.tools.sweeps.plan import Plot, Sweep, grid


def get_sweep():
  return Sweep(
      title="Sets and diffusion steps, two digits",
      about="With 64 tokens a frame, how many sets and diffusion steps are enough, and what do they cost?",
      task="two_digits",
      points=grid(num_inference_steps=(1, 4, 8, 16), num_diffusion_steps=(5, 10, 20)),
      plots=tuple(
          Plot("seconds_per_clip", score, line="num_diffusion_steps", log=True)
          for score in ("digits", "same_digits", "retrieval@last")))
