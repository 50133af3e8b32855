"""Sets of tokens and diffusion steps against scores and time: 16 points.

Launch: `python -m launch.sweep --config configs/sweeps/steps.py --checkpoint runs/digits --output runs/steps`
"""

from nova_jax.tools.sweeps.plan import Plot, Sweep, grid


def get_sweep():
  return Sweep(
      title="Sets and diffusion steps",
      about="What a trained digits model gains from more sets of tokens a frame (autoregressive steps) and more "
            "diffusion steps a set, against the seconds of a clip. A frame has 16 tokens here, released models have "
            "1,024 and more: numbers of sets don't carry over, the shape of the trade may.",
      points=grid(num_inference_steps=(1, 2, 4, 8), num_diffusion_steps=(2, 5, 10, 20)),
      plots=(
          Plot("seconds_per_clip", "retrieval@last", line="num_inference_steps", log=True),
          Plot("seconds_per_clip", "digit", line="num_inference_steps", log=True),
          Plot("num_diffusion_steps", "retrieval@last", line="num_inference_steps")))
