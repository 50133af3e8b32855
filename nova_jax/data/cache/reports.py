"""What is kept beside a cache while it is built: the plan of all of it, and a report of each finished part.

  DIR/parts/draft.json    with which settings and encoders, and `Source.fingerprint`: others are refused before the
                          source is listed
  DIR/parts/plan.json     the same and the digest of the source: a later run continues only the same
  DIR/parts/000012.json   what became of part 12, with what was rejected of it; its shards are complete
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nova_jax.config import CacheConfig
from nova_jax.data.cache import sources
from nova_jax.data.cache.claims import alone
from nova_jax.data.cache.clips.preprocess import Rejected
from nova_jax.data.cache.format import (
  FORMAT,
  MANIFEST,
  AutoencoderInfo,
  BucketInfo,
  Counts,
  Manifest,
  Shard,
  TextEncoderInfo,
  shard_problem,
)
from nova_jax.data.cache.items.item import Item
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict, to_dict
from nova_jax.utils.files import read_json, write_atomically

PARTS, PLAN, DRAFT = "parts", "plan.json", "draft.json"
_LONGEST_REASON = 1000  # Characters; some errors quote what they found.
_LONGEST_NAME = 5000  # Characters; no file has a longer path.


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a cache is built of and with; a draft has the fingerprint of its source as the digest, and no items."""

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
    return cls(short_name(item.name), reason)


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


def read_report(output: Path, number: int, sizes: Mapping[str, int] | None = None) -> Report | None:
  """Return what became of a part; None if it is not done, or its files are not what the report says.

  Args:
    output: the cache's folder.
    number: of the part.
    sizes: of the folder's files, if they are known.

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
  return None if any(shard_problem(output, shard, sizes) for shard in report.shards) else report


def short_name(name: str) -> str:
  """Return the name of an item as a rejection has it."""
  return name[:_LONGEST_NAME]


def kept_digest(rows: Iterable[tuple[str, str]], rejected: Sequence[Rejection]) -> str:
  """Return the digest of those items that were not rejected, of which there are names and `sources.line_of`."""
  return sources.digest_of(_kept(rows, rejected))


def kept_digests(parts: Iterable[tuple[Iterable[tuple[str, str]], Report]]) -> str:
  """Return the same of many parts and their reports."""
  return sources.digest_of(line for rows, report in parts for line in _kept(rows, report.rejected))


def _kept(rows: Iterable[tuple[str, str]], rejected: Sequence[Rejection]) -> Iterator[str]:
  names = {row.source for row in rejected}
  return (line for name, line in rows if short_name(name) not in names)


def write_plan(output: Path, plan: Plan, name: str = PLAN) -> None:
  """Write what is built."""
  write_atomically(output / PARTS / name, json.dumps(FORMAT | to_dict(plan), indent=1) + "\n")


def begin(output: Path, draft: Plan) -> None:
  """Write what is to be built into an empty folder, or see that it is what the run before, or another host, has begun.

  Args:
    output: the cache's folder.
    draft: what is to be built, of a source that may not be listed yet.
  """
  if not (output / PARTS / DRAFT).is_file():
    _check_begun(output, draft)
  for _ in alone(output / PARTS, DRAFT.removesuffix(".json")):  # Several may begin in the same moment.
    write_plan(output, draft, DRAFT)
  found = _read_plan(output, DRAFT)
  check_same(output, found if found.source_digest else _of_source(found, draft), draft)


def _check_begun(output: Path, draft: Plan) -> None:
  """Refuse a folder of something else, or a cache of other settings that was begun without a draft."""
  if (output / PARTS / PLAN).is_file():
    check_same(output, _of_source(_read_plan(output, PLAN), draft), draft)
  elif output.exists() and any(file.name != PARTS for file in output.iterdir()) and not (output / MANIFEST).is_file():
    raise UserError(f"--output: {output} is neither empty nor a cache; give another folder")


def _of_source(plan: Plan, other: Plan) -> Plan:
  """Return a plan of the source of another one."""
  return dataclasses.replace(plan, source_digest=other.source_digest, num_items=other.num_items)


def withdraw(output: Path) -> None:
  """Forget the draft of a cache of which no part was begun: the next run may have other settings."""
  if not (output / PARTS / PLAN).is_file():
    (output / PARTS / DRAFT).unlink(missing_ok=True)


def claim(output: Path, plan: Plan, other_source: bool = False) -> None:
  """Write the plan, or see that it is that of the run before.

  Args:
    output: the cache's folder.
    plan: what is to be built.
    other_source: the caller has seen that the source is the one of the run before, whatever its digest is.
  """
  if not (output / PARTS / PLAN).is_file():
    write_plan(output, plan)
  found = _read_plan(output, PLAN)
  check_same(output, dataclasses.replace(found, source_digest=plan.source_digest) if other_source else found, plan)


def _read_plan(output: Path, name: str) -> Plan:
  path = output / PARTS / name
  values = read_json(path)
  if {key: values.pop(key, None) for key in FORMAT} != FORMAT:
    raise UserError(f"--output: {output} was begun by another version; give another folder, or remove it")
  return from_dict(Plan, values, str(path))


def check_same(output: Path, found: Plan, plan: Plan) -> None:
  """Refuse to continue a cache of something else; what changes no byte of a cache does not matter."""
  there, here = (_flat(to_dict(dataclasses.replace(plan, settings=dataclasses.replace(
      plan.settings, autoencoder="", text_encoder="", max_rejected=0.0)))) for plan in (found, plan))
  differing = [f"{name} is {there.get(name)!r} there, {here.get(name)!r} here"
               for name in {**there, **here} if there.get(name) != here.get(name)]
  if differing:
    raise UserError(
        f"--output: {output} is of another source or other settings: {'; '.join(differing)}; give another folder")


def _flat(values: dict, prefix: str = "") -> dict:
  rows = ((f"{prefix}{name}", value) for name, value in values.items())
  return {
      key: row for name, value in rows
      for key, row in (_flat(value, f"{name}.") if isinstance(value, dict) else {name: value}).items()}
