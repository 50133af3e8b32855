"""A canvas or none on two digits that cross, by the number of sets: two trainings.

Launch: `python -m launch.sweep --config configs/sweeps/two_digits_canvas.py --output runs/two_canvas \
    --runs runs/trainings --results docs/ablations/two_digits`
"""

from nova_jax.tools.sweeps.plan import Plot, Sweep, grid


def get_sweep():
  return Sweep(
      title="A canvas, two digits",
      about="A blurred prediction of each frame is added to its mask tokens, or not. If it tells the tokens of one set "
            "of each other, scores fall later when sets get fewer.",
      config="configs/two_digits_ablation.py",
      task="two_digits",
      num_prompts=240,
      points=grid(config__model__canvas=(False, True), num_inference_steps=(2, 4, 8, 16)),
      plots=tuple(
          Plot("num_inference_steps", score, line="config.model.canvas", log=True)
          for score in ("digits", "same_digits", "retrieval@last")))
