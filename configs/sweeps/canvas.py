"""A canvas or none, by the number of sets: two trainings of the digits model.

Launch: `python -m launch.sweep --config configs/sweeps/canvas.py --output runs/canvas --runs runs/trainings \
    --results docs/ablations/digits`
"""

from nova_jax.tools.sweeps.plan import Plot, Sweep, grid


def get_sweep():
  return Sweep(
      title="A canvas",
      about="A blurred prediction of each frame is added to its mask tokens, or not. If it tells the tokens of one set "
            "of each other, scores fall later when sets get fewer.",
      config="configs/ablation.py",
      points=grid(config__model__canvas=(False, True), num_inference_steps=(1, 2, 4, 8), guidance_scale=(1.5,)),
      plots=(
          Plot("num_inference_steps", "same_digit", line="config.model.canvas", log=True),
          Plot("num_inference_steps", "retrieval@last", line="config.model.canvas", log=True)))
