"""One of several processes of `toy_run.py`, or the only one: `python toy_process.py --workdir=DIR`."""

import dataclasses
import time

from absl import flags

from nova_jax.cli import Command
from nova_jax.cli.endings import fail
from nova_jax.parallel.supervisor import process_spec, supervise
from nova_jax.utils.errors import UserError


def break_down():
  raise UserError("the toy is broken")


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
  flags.DEFINE_multi_string("set", [], "A field of TrainConfig and its value.", flag_values=values)
  flags.DEFINE_list("mesh", ["1", "1"], "Sizes of the mesh's axes.", flag_values=values)
  flags.DEFINE_list("pause", [], "Process that sleeps, and after which step.", flag_values=values)
  flags.DEFINE_list("fail", [], "Process that raises an error, and after which step.", flag_values=values)
  flags.DEFINE_integer("evaluate", 0, "Steps between evaluations.", flag_values=values)
  flags.DEFINE_float("timeout", 600, "Seconds in which all processes start.", flag_values=values)


def main(args):
  spec = process_spec(None, None, None)
  supervise(spec, args.timeout)
  import jax
  import toy_run

  from nova_jax.config import EvalConfig, MeshConfig
  from nova_jax.parallel.processes import exchange_host_names, session
  from nova_jax.parallel.sharding import make_mesh
  from nova_jax.train.callbacks.evaluation import HeldOutLoss

  fields = {name: int(value) for name, value in (field.split("=") for field in args.set)}
  mesh = MeshConfig(*map(int, args.mesh))
  with session(spec, fail, args.timeout):
    actions = ((args.pause, lambda: time.sleep(1000)), (args.fail, break_down))
    # The others wait for the process in the step that it does not take.
    callbacks = [
        toy_run.Do(int(step), action) for (process, step), action in ((at, do) for at, do in actions if at)
        if int(process) == jax.process_index()]
    exchange_host_names()
    cfg = EvalConfig(every=args.evaluate, batches=2) if args.evaluate else EvalConfig()
    experiment = dataclasses.replace(toy_run.make_experiment(mesh, **fields), eval=cfg)
    toy_run.train(experiment, args.workdir, HeldOutLoss(cfg), *callbacks, mesh=make_mesh(mesh))


if __name__ == "__main__":
  Command(main, define_flags, required=("workdir",)).run()
