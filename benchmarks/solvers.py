"""How far solvers are from where they converge: `python -m benchmarks.solvers --checkpoint runs/digits`.

Makes a few clips of a flow-matching model by each solver, grid and number of evaluations, and prints the mean distance
of their pixels, of 255, to those by 200 steps of Euler's, with the same noise.
"""

import numpy as np
from absl import flags

from nova_jax import Pipeline
from nova_jax.cli import Command

PROMPTS = [f"the digit {digit} moves {way}" for digit, way in zip(
    ("zero", "one", "two", "three", "four", "five", "six", "seven"), 2 * ("left", "right", "up", "down"), strict=True)]


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string("checkpoint", "runs/digits", "Folder of the model.", flag_values=values)
  flags.DEFINE_multi_integer(
      "num_diffusion_steps", [2, 3, 5, 8, 10, 20], "Evaluations; repeat the flag for several.", flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Generate and print."""
  pipe = Pipeline.load(args.checkpoint)

  def make(num_steps: int, solver: str, grid: str) -> np.ndarray:
    return pipe(PROMPTS, seed=3, num_diffusion_steps=num_steps, solver=solver, diffusion_grid=grid).astype(float)

  converged = make(200, "euler", "full")
  for num_steps in args.num_diffusion_steps:
    for solver, grid in (("euler", "published"), ("euler", "full"), ("ab2", "full")):
      distance = np.abs(make(num_steps, solver, grid) - converged).mean()
      print(f"{num_steps} evaluations, {solver}, {grid} grid: {distance:.2f}", flush=True)


if __name__ == "__main__":
  Command(main, define_flags).run()
