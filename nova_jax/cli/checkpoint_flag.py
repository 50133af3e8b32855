"""The flag that says which model a command uses."""

from absl import flags

from nova_jax import pretrained
from nova_jax.utils.terminal import say


def define_checkpoint(values: flags.FlagValues) -> None:
  """Define --checkpoint."""
  flags.DEFINE_string(
      "checkpoint", None,
      "Model to use: a folder (published, converted, or the workdir of a training run), an id on the Hugging Face hub, "
      f"or the name of one that comes with nova_jax, {' or '.join(pretrained.names())}. Default: {pretrained.DEFAULT}.",
      flag_values=values)


def checkpoint(args: flags.FlagValues) -> str:
  """Return the model that --checkpoint names; if it isn't given, say which model is taken instead."""
  if args.checkpoint:
    return args.checkpoint
  say(f"no --checkpoint is given, so this is the model {pretrained.DEFAULT} that comes with nova_jax, "
      f"in {pretrained.find(pretrained.DEFAULT)}")
  return pretrained.DEFAULT
