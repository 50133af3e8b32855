"""What is kept beside a cache while it is built: the plan of all of it, and a report of each finished part.

  DIR/parts/plan.json     what is built: a later run continues only the same
  DIR/parts/000012.json   what became of part 12; its shards are complete
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from nova_jax.config import CacheConfig
from nova_jax.data.cache import sources
from nova_jax.data.cache.format import (
  FORMAT,
  AutoencoderInfo,
  BucketInfo,
  Counts,
  Manifest,
  Shard,
  TextEncoderInfo,
  shard_problem,
)
from nova_jax.data.cache.items import Item
from nova_jax.data.cache.preprocess import Rejected
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict, to_dict
from nova_jax.utils.files import read_json, write_atomically

PARTS, PLAN = "parts", "plan.json"
_LONGEST_REASON = 1000  # Characters; some errors quote what they found.
_LONGEST_NAME = 5000  # Characters; no file has a longer path.


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a cache is built of and with."""

  settings: CacheConfig
  autoencoder: AutoencoderInfo
  text_encoder: TextEncoderInfo | None
  source_digest: str
  num_items: int

  @classmethod
  def of(cls, manifest: Manifest) -> "Plan":
    """Return the plan of a finished cache."""
    return cls(
        manifest.settings, manifest.autoencoder, manifest.text_encoder, manifest.source_digest, manifest.counts.seen)


@dataclasses.dataclass(frozen=True)
class Rejection:
  """An item that could not be used, and why."""

  source: str
  reason: str

  @classmethod
  def of(cls, item: Item, rejected: Rejected) -> "Rejection":
    """Return an item's rejection, as text that can be written."""
    reason = rejected.reason.encode("utf-8", "backslashreplace").decode()
    if len(reason) > _LONGEST_REASON:
      reason = reason[: _LONGEST_REASON - 1] + "…"
    return cls(item.name[:_LONGEST_NAME], reason)


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of a part.

  Attributes:
    counts: of its items.
    shards: that were written of it.
    buckets: that these are of.
    rejected: each item that could not be used.
    kept_digest: `sources.digest` of the others.
    num_lost: how many of those rejected may be the fault of storage; the next run tries them again.
    num_cut: captions, short ones included, of which the text encoder read only the beginning.
  """

  counts: Counts
  shards: tuple[Shard, ...]
  buckets: tuple[BucketInfo, ...]
  rejected: tuple[Rejection, ...]
  kept_digest: str
  num_lost: int = 0
  num_cut: int = 0


def report_path(output: Path, number: int) -> Path:
  """Return the path of a part's report."""
  return output / PARTS / f"{number:06}.json"


def write_report(output: Path, number: int, report: Report) -> None:
  """Say that a part is done, after its shards are written."""
  write_atomically(report_path(output, number), json.dumps(to_dict(report), indent=1) + "\n")


def read_report(output: Path, number: int) -> Report | None:
  """Return what became of a part; None if it is not done, or its files are not what the report says.

  Raises:
    OSError: storage fails, which says nothing of the part.
  """
  path = report_path(output, number)
  try:
    report = from_dict(Report, read_json(path), str(path))
  except ValueError as error:
    failed = error.__context__
    if isinstance(failed, OSError) and not isinstance(failed, (FileNotFoundError, NotADirectoryError)):
      raise failed from None
    return None
  return None if any(shard_problem(output, shard) for shard in report.shards) else report


def kept_digest(items: Sequence[Item], rejected: Sequence[Rejection]) -> str:
  """Return the digest of those items that were not rejected."""
  return sources.digest(item for item, was in zip(items, find(items, rejected), strict=True) if not was)


def find(items: Sequence[Item], rejected: Sequence[Rejection]) -> list[bool]:
  """Say of each item whether it was rejected."""
  names = {row.source for row in rejected}
  return [item.name[:_LONGEST_NAME] in names for item in items]


def write_plan(output: Path, plan: Plan) -> None:
  """Write what is built."""
  write_atomically(output / PARTS / PLAN, json.dumps(FORMAT | to_dict(plan), indent=1) + "\n")


def claim(output: Path, plan: Plan, other_source: bool = False) -> None:
  """Write the plan into an empty folder, or see that it is that of the run before.

  Args:
    output: the cache's folder.
    plan: what is to be built.
    other_source: the caller has seen that the source is the one of the run before, whatever its digest is.
  """
  path = output / PARTS / PLAN
  if not path.is_file():
    if output.exists() and any(file.name != PARTS for file in output.iterdir()):
      raise UserError(f"--output: {output} is neither empty nor a cache; give another folder")
    write_plan(output, plan)
  values = read_json(path)
  if {key: values.pop(key, None) for key in FORMAT} != FORMAT:
    raise UserError(f"--output: {output} was begun by another version; give another folder, or remove it")
  found = from_dict(Plan, values, str(path))
  check_same(output, dataclasses.replace(found, source_digest=plan.source_digest) if other_source else found, plan)


def check_same(output: Path, found: Plan, plan: Plan) -> None:
  """Refuse to continue a cache of something else; what changes no byte of a cache does not matter."""
  there, here = (_flat(to_dict(dataclasses.replace(plan, settings=dataclasses.replace(
      plan.settings, autoencoder="", text_encoder="", max_rejected=0.0)))) for plan in (found, plan))
  differing = [f"{name} is {there.get(name)!r} there, {here.get(name)!r} here"
               for name in {**there, **here} if there.get(name) != here.get(name)]
  if differing:
    raise UserError(f"--output: {output} is of another source or other settings: {'; '.join(differing)}")


def _flat(values: dict, prefix: str = "") -> dict:
  rows = ((f"{prefix}{name}", value) for name, value in values.items())
  return {
      key: row for name, value in rows
      for key, row in (_flat(value, f"{name}.") if isinstance(value, dict) else {name: value}).items()}
