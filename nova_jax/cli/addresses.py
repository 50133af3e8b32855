"""Addresses in buckets on the command line: where they can be used, and one line where they can't."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from nova_jax import storage
from nova_jax.utils.errors import UserError

# Flags, and fields of a config, that may be an address in a bucket.
_ALLOWED = frozenset((
    "base", "check", "checkpoint", "compilation_cache", "dataset", "generated", "guide", "image", "json", "lora",
    "mask", "output", "password_file", "prompts", "real", "reproduce", "results", "rewritten", "runs", "sheet",
    "source", "target", "video", "weights", "workdir", "config.autoencoder", "config.data.sources[].path",
    "config.eval.sources[].path", "config.init", "config.text_encoder", "config.train.stages[].sources[].path"))
# Those in which a run, arrays or shards are read or written, which not all kinds of buckets can hold.
_RUNS = frozenset((
    "compilation_cache", "dataset", "runs", "workdir", "config.data.sources[].path", "config.eval.sources[].path",
    "config.train.stages[].sources[].path"))
# Those that can't, of commands whose other paths can.
_LOCAL = {"decode": ("output",), "demo": ("output",)}
_TEXTS = ("prompt", "negative_prompt")  # What a picture may show.


def check_addresses(values: Mapping[str, Any], command: str = "") -> None:
  """See that each address in a bucket is one that can be used, and stands where it can be.

  Args:
    values: flags by name, a config among them.
    command: name of the command's module.

  Raises:
    UserError: one isn't.
  """
  for name, value in values.items():
    for field, text in _texts(name, value) if name not in _TEXTS else ():
      if not storage.is_remote(text):
        continue
      if reason := storage.why_not(text):
        raise UserError(f"--{field}: {text}: {reason}")
      local, kind = _LOCAL.get(command.rpartition(".")[2], ()), re.sub(r"\[\d+\]", "[]", field)
      if name in local or kind not in _ALLOWED:
        raise UserError(f"--{field}: {text} is in a bucket, where this can't be; give a local path")
      if kind in _RUNS and not storage.holds_runs(text):
        raise UserError(f"--{field}: {text} can't hold this; give a local path or a gs:// address")


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
  """Yield the strings that a flag holds, with the names by which they are set."""
  if isinstance(value, str):
    yield name, value
  elif isinstance(value, (ConfigDict, Mapping)):
    for key in value:
      yield from _texts(f"{name}.{key}", value[key])
  elif isinstance(value, (list, tuple)):
    for i, item in enumerate(value):
      yield from _texts(name if isinstance(item, str) else f"{name}[{i}]", item)
