"""One of several processes of `toy_run.py`, or the only one: `python toy_process.py --workdir=DIR`."""

import time

from absl import flags

from nova_jax.cli import Command
from nova_jax.cli.entry import fail
from nova_jax.parallel.supervisor import process_spec, supervise
from nova_jax.utils.errors import UserError


def interrupt(process, step, happens):
  """Call `happens` in a process that has done `step` steps; the others wait for it in the next one."""
  import jax

  from nova_jax.train import loop

  real = loop.draw_num_visible

  def draw(seed, done, *args):
    if (jax.process_index(), done) == (process, step):
      happens()
    return real(seed, done, *args)

  loop.draw_num_visible = draw


def break_down():
  raise UserError("the toy is broken")


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
  flags.DEFINE_multi_string("set", [], "A field of TrainConfig and its value.", flag_values=values)
  flags.DEFINE_list("mesh", ["1", "1"], "Sizes of the mesh's axes.", flag_values=values)
  flags.DEFINE_list("pause", [], "Process that sleeps, and after which step.", flag_values=values)
  flags.DEFINE_list("fail", [], "Process that raises an error, and after which step.", flag_values=values)
  flags.DEFINE_float("timeout", 600, "Seconds in which all processes start.", flag_values=values)


def main(args):
  spec = process_spec(None, None, None)
  supervise(spec, args.timeout)
  import toy_run

  from nova_jax.config import MeshConfig
  from nova_jax.parallel.processes import session
  from nova_jax.train import loop

  toy_run.patch(setattr)
  fields = {name: int(value) for name, value in (field.split("=") for field in args.set)}
  if args.pause:
    interrupt(*map(int, args.pause), lambda: time.sleep(1000))
  if args.fail:
    interrupt(*map(int, args.fail), break_down)
  with session(spec, fail, args.timeout):
    loop.train(toy_run.make_experiment(MeshConfig(*map(int, args.mesh)), **fields), args.workdir)


if __name__ == "__main__":
  Command(main, define_flags, required=("workdir",)).run()
