"""Each way to generate faster, alone and together in presets, against scores, time and operations.

Launch: `python -m launch.sweep --config configs/sweeps/speed.py --checkpoint runs/digits --output runs/speed`
"""

from nova_jax.tools.sweeps.plan import Front, Sweep


def _together(num_diffusion_steps, **settings):
  return {"num_diffusion_steps": num_diffusion_steps, "solver": "ab2", "diffusion_grid": "full", **settings}


def get_sweep():
  alone = [
      *({"num_inference_steps": number} for number in (4, 2)),
      {"later_inference_steps": 4},
      {"num_inference_steps": 4, "token_order": "halton"},
      {"num_inference_steps": 4, "token_order": "checkerboard", "set_schedule": "two_stage"},
      {"later_inference_steps": 4, "later_token_order": "still_first"},
      *({"refresh_every": number} for number in (2, 4)),
      *({"guidance_every": number} for number in (2, 4)),
      {"guidance_start": 900.0, "guidance_trunc": 300.0},
      {"num_diffusion_steps": 5, "diffusion_grid": "full"},
      *(_together(number) for number in (5, 3)),
      {"last_set_diffusion_steps": 5},
  ]
  together = [
      _together(5, guidance_every=4, later_inference_steps=4),
      _together(5, guidance_every=4, later_inference_steps=4, refresh_every=2),
      _together(5, guidance_every=4, refresh_every=4),
      _together(5, guidance_every=8, refresh_every=2),
      _together(4, guidance_every=4, refresh_every=2),
      _together(3, guidance_every=4, later_inference_steps=4, refresh_every=4),
      _together(3, guidance_every=4, later_inference_steps=2, refresh_every=2),
      _together(3, guidance_every=4, num_inference_steps=4, refresh_every=4)]
  return Sweep(
      title="Ways to generate faster",
      about="What each way to save operations saves, and what it costs in scores, alone and together. The digits have "
            "16 tokens a frame, of which fewer sets save little; released models have 1,024 and more.",
      points=[{}, {"preset": "fast"}, {"preset": "faster"}, *alone, *together],
      plots=(Front("spatial_gflops", "retrieval@last"), Front("spatial_gflops", "same_digit"),
             Front("seconds_per_clip", "retrieval@last")))
