"""The flags of `launch.convert` that publish a folder on the Hugging Face hub, and what they do."""

from absl import flags

from nova_jax.checkpoints.hub import card, local_folder, push
from nova_jax.checkpoints.model_folder import is_trained
from nova_jax.storage import as_path, is_remote
from nova_jax.utils.errors import RunFailed, UserError
from nova_jax.utils.terminal import command

_OTHERS = ("private", "revision", "license", "rewrite_card")
_OF_TARGET = ("parts", "dtype", "base", "step", "lora")  # What says how --target is made.


def define_push(values: flags.FlagValues) -> None:
  """Define --push, and what belongs to it."""
  flags.DEFINE_string(
      "push", None, "Name of a model on the Hugging Face hub, ORG/NAME, to upload to; it is made if there is none.",
      flag_values=values)
  flags.DEFINE_bool("private", None, "Whether a model that --push makes is private.", flag_values=values)
  flags.DEFINE_string(
      "revision", None, "Branch to push to; it is made if there is none. Default: the main branch.", flag_values=values)
  flags.DEFINE_string(
      "license", None, "License that the model card names, by its identifier on the hub, such as apache-2.0.",
      flag_values=values)
  flags.DEFINE_bool(
      "rewrite_card", None, f"Whether to write the model card, {card.NAME}, anew if the folder has one.",
      flag_values=values)


def check(args: flags.FlagValues) -> None:
  """Refuse flags that lack --push, a name that can't be on the hub, and a user whom the hub doesn't know."""
  if args.push is not None:
    if is_remote(args.target or args.source or ""):
      raise UserError("--push: what is pushed must be on a disk; give a --target there")
    made = [name for name in _OF_TARGET if getattr(args, name)] + (["weights"] if args.weights != "ema" else [])
    if made and not args.target:
      raise UserError(f"--{made[0]}: --source is pushed as it is; give a --target too, the folder to make and push")
    push.check_may_push(args.push)
  elif lost := [name for name in _OTHERS if getattr(args, name) is not None]:
    raise UserError(f"--{lost[0]} belongs to --push")


def push_folder(args: flags.FlagValues, source: str) -> None:
  """Push --target, which was made of the model `source` just now, or without it --source itself."""
  try:
    _push(args, source)
  except (RunFailed, UserError) as error:
    if not args.target:
      raise
    raise type(error)(
        f"{error}; {args.target} is complete: to push it, {command('convert')} --source={args.target} "
        f"--push={args.push}") from error


def _push(args: flags.FlagValues, source: str) -> None:
  path = as_path(args.target or args.source)
  print(f"checking {path}", flush=True)
  model = push.check_folder(path)
  origin = local_folder(source, ()) if args.target else None
  run = origin if origin is not None and is_trained(origin) else None
  if run is not None:
    push.copy_samples(run, path)
  push.write_readme(path, model, card.About(
      args.push, args.license, origin, None if run is None else card.read_experiment(run), push.pictures(path)),
      rewrite=bool(args.rewrite_card))
  print(f"pushed to {push.upload(path, args.push, private=args.private, revision=args.revision)}")
  place = args.push if args.revision is None else f"{args.push}@{args.revision}"
  print(f"next: {command('sample')} {card.sample_flags(place, model)} --output out")
