"""The flags that pick a checkpoint of a training run, and weights in it."""

from absl import flags

from nova_jax.checkpoints.store import BEST
from nova_jax.utils.errors import UserError


def define_step(values: flags.FlagValues) -> None:
  """Define --step."""
  flags.DEFINE_string(
      "step", None,
      f"Step of the checkpoint to use of a training run, or {BEST} for the one with the best evaluation. Default: the "
      "newest checkpoint.", flag_values=values)


def define_weights(values: flags.FlagValues) -> None:
  """Define --weights."""
  flags.DEFINE_string(
      "weights", "ema",
      "Weights to use of a training run: the averaged ones (ema), the last ones (params), or a further average by its "
      "decay, as in ema_0.999 (train.ema_decays).", flag_values=values)


def step(args: flags.FlagValues) -> int | str | None:
  """Return the checkpoint that --step names; None for the newest."""
  if args.step is None or args.step == BEST:
    return args.step
  if not args.step.isdecimal():
    raise UserError(f"--step: expected a number or {BEST}, got {args.step!r}")
  return int(args.step)
