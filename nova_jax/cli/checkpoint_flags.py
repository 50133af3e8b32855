"""The flags that pick a model, a checkpoint of its training run, and weights in that."""

from absl import flags

from nova_jax import pretrained
from nova_jax.checkpoints.store import BEST
from nova_jax.utils.errors import UserError
from nova_jax.utils.terminal import say


def define_checkpoint(values: flags.FlagValues) -> None:
  """Define --checkpoint."""
  flags.DEFINE_string(
      "checkpoint", None,
      "Model to use: a folder (published, converted, or the workdir of a training run), an id on the Hugging Face hub, "
      f"or the name of one that comes with nova_jax, {' or '.join(pretrained.names())}. Default: {pretrained.DEFAULT}.",
      flag_values=values)


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


def checkpoint(args: flags.FlagValues, default: str = pretrained.DEFAULT) -> str:
  """Return the model that --checkpoint names; if it isn't given, say that `default`, which comes along, is taken."""
  if args.checkpoint:
    return args.checkpoint
  say(f"no --checkpoint is given, so this is the model {default} that comes with nova_jax, "
      f"in {pretrained.find(default)}")
  return default


def step(args: flags.FlagValues) -> int | str | None:
  """Return the checkpoint that --step names; None for the newest."""
  if args.step is None or args.step == BEST:
    return args.step
  if not args.step.isdecimal():
    raise UserError(f"--step: expected a number or {BEST}, got {args.step!r}")
  return int(args.step)
