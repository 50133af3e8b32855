"""Flags that have a new name: the old one works for one more release, and a note says the new one."""

from absl import flags

from nova_jax.utils.renamed import tell_new_name


def define_renamed(old: str, new: str, values: flags.FlagValues) -> None:
  """Define `--old` as another name of the flag `--new`, which is defined already."""
  flags.DEFINE_alias(old, new, values)
  values[old].help = f"Old name of --{new}; it works for one more release."
  values[old].renamed_to = new


def tell_renamed(values: flags.FlagValues) -> None:
  """Tell the new names of old ones that a command line gives."""
  for old in values:
    if values[old].present and hasattr(values[old], "renamed_to"):
      tell_new_name(f"--{old}", f"--{values[old].renamed_to}")
