"""Each way to generate faster, alone and together, against scores, time and operations: 28 points.

Launch: `python -m launch.sweep --config configs/sweeps/speed.py --checkpoint runs/digits --output runs/speed`
"""

from nova_jax.tools.sweeps.plan import Plot, Sweep, grid

EXACT = {}
TOGETHER = {
    "num_inference_steps": 4, "refresh_every": 2, "guidance_every": 4, "num_diffusion_steps": 5, "solver": "ab2",
    "diffusion_grid": "full"}


def get_sweep():
  alone = [
      *({"num_inference_steps": number} for number in (4, 2)),
      *({"later_inference_steps": number} for number in (4, 2)),
      *grid(num_inference_steps=(4, 2), token_order=("halton", "checkerboard")),
      {"num_inference_steps": 4, "token_order": "checkerboard", "set_schedule": "two_stage"},
      {"later_inference_steps": 4, "later_token_order": "still_first"},
      *({"refresh_every": number} for number in (2, 4)),
      *({"guidance_every": number} for number in (2, 4)),
      *({"guidance_start": 900.0, "guidance_trunc": time} for time in (100.0, 300.0)),
      *({"num_diffusion_steps": number, "diffusion_grid": "full"} for number in (10, 5)),
      *({"num_diffusion_steps": number, "diffusion_grid": "full", "solver": "ab2"} for number in (10, 5, 3)),
      *({"last_set_diffusion_steps": number} for number in (10, 5)),
  ]
  together = [
      TOGETHER, TOGETHER | {"token_order": "checkerboard"}, TOGETHER | {"num_inference_steps": 2, "guidance_every": 2},
      TOGETHER | {"num_diffusion_steps": 10, "last_set_diffusion_steps": 3}]
  return Sweep(
      title="Ways to generate faster",
      about="What each way to save operations saves, and what it costs in scores, alone and together. The digits have "
            "16 tokens a frame, of which fewer sets save little; released models have 1,024 and more.",
      points=[EXACT, *alone, *together],
      plots=(Plot("spatial_gflops", "retrieval@last", log=True), Plot("spatial_gflops", "same_digit", log=True),
             Plot("seconds_per_clip", "retrieval@last", log=True)))
