"""Trying again what a build rejected: parts with rejected items are built anew, from a source that was mended.

Of several hosts that are told to do so together, one opens the parts again, and the others wait for it.
Invariant: the cache becomes what it would be, had these items been sound from the start; all others must be unchanged.
"""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from nova_jax.data.cache import reports
from nova_jax.data.cache.claims import Claims
from nova_jax.data.cache.format import MANIFEST, REJECTED, Counts, Manifest, Shard, read_manifest, summarize
from nova_jax.data.cache.reports import PARTS, Plan, Report
from nova_jax.data.cache.sources import Source, line_of
from nova_jax.data.cache.sources.found import Ranked
from nova_jax.data.cache.sources.listing import UNITS
from nova_jax.data.cache.sources.units import listed
from nova_jax.storage import RemotePath
from nova_jax.utils.errors import UserError

_OPEN = "retry"
Row = tuple[str, str]  # Name and line of an item.


@contextlib.contextmanager
def reopened(output: Path, draft: Plan, source: Source) -> Generator[None]:
  """Make what is to be tried again undone: of a finished cache, or of the parts of an unfinished one.

  Args:
    output: the cache's folder.
    draft: settings and encoders of this run.
    source: as it is now.

  Raises:
    UserError: other items have changed as well, or the settings.
  """
  if not any((output / name).is_file() for name in (MANIFEST, f"{PARTS}/{reports.PLAN}", f"{PARTS}/{reports.DRAFT}")):
    yield  # Nothing was begun, or this is no cache.
    return
  with Claims(output / PARTS, [_OPEN]) as tasks:
    done = tasks.path(0)
    while not tasks.claim(0, again=True):
      if done.is_file():  # Another host builds what it has reopened.
        yield
        return
      time.sleep(1)
    done.unlink(missing_ok=True)
    _reopen(output, draft, source)
    reports.write_plan(output, draft, done.name)
    try:
      yield
    finally:
      done.unlink(missing_ok=True)


def _reopen(output: Path, draft: Plan, source: Source) -> None:
  if (output / MANIFEST).is_file():
    _reopen_finished(output, draft, source)
  elif (output / PARTS / reports.PLAN).is_file():
    _reopen_unfinished(output, draft, source)
  remove_folder(output / PARTS / UNITS)
  (output / PARTS / reports.DRAFT).unlink(missing_ok=True)  # Its source may be a table that was mended.


class _Parts:
  """Names and lines of a source's items as it is now, part by part; knows the plan when all were asked for."""

  def __init__(self, draft: Plan, source: Source):
    self._draft, self._source = draft, source
    self._digest, self._num = hashlib.sha256(), 0

  def __iter__(self) -> Iterator[list[Row]]:
    items = listed(self._source.walk(self._draft.settings, Ranked()), self._draft.settings, [])
    while part := [(item.name, line_of(item)) for item in itertools.islice(items, self._draft.settings.shard_items)]:
      for _, line in part:
        self._digest.update(line.encode("utf-8", "backslashreplace"))
      self._num += len(part)
      yield part

  @property
  def plan(self) -> Plan:
    return dataclasses.replace(self._draft, source_digest=self._digest.hexdigest(), num_items=self._num)


def _reopen_unfinished(output: Path, draft: Plan, source: Source) -> None:
  parts, rejected = _Parts(draft, source), []
  for number, part in enumerate(parts):
    report = reports.read_report(output, number)
    if report is not None and reports.kept_digest(part, report.rejected) != report.kept_digest:
      raise _changed(output)
    if report is not None and report.rejected:
      rejected.append(number)
  reports.claim(output, parts.plan, other_source=True)
  reports.write_plan(output, parts.plan)
  for number in rejected:
    reports.report_path(output, number).unlink(missing_ok=True)


def _reopen_finished(output: Path, draft: Plan, source: Source) -> None:
  """Write reports of parts without rejected items, so that the others are built anew."""
  manifest = read_manifest(output)
  found, shards = Plan.of(manifest), collections.defaultdict(list)
  for shard in manifest.shards:
    shards[int(shard.file.partition("-")[0])].append(shard)
  parts, kept, names = _Parts(draft, source), hashlib.sha256(), _rejected_names(output)
  rejected = next(names, None)
  any_rejected, same = rejected is not None, False
  try:
    for number, part in enumerate(parts):
      before = rejected
      for name, line in part:
        if reports.short_name(name) == rejected:
          rejected = next(names, None)
        else:
          kept.update(line.encode("utf-8", "backslashreplace"))
      report = _report_of(manifest, shards[number], part)
      if any_rejected and rejected == before and report is not None:
        reports.write_report(output, number, report)
    reports.check_same(output, dataclasses.replace(found, source_digest=parts.plan.source_digest), parts.plan)
    if found.source_digest != parts.plan.source_digest and kept.hexdigest() != manifest.kept_digest:
      raise _changed(output)
    same = True
  finally:
    if not same:
      remove_folder(output / PARTS)
  if any_rejected:
    reports.write_plan(output, parts.plan)
    (output / MANIFEST).unlink()  # From here on the cache is an unfinished one.


def _rejected_names(output: Path) -> Iterator[str]:
  with (output / REJECTED).open(encoding="utf-8", newline="\n") as file:
    for line in file:
      yield json.loads(line)["source"]


def _report_of(manifest: Manifest, shards: Sequence[Shard], part: Sequence[Row]) -> Report | None:
  """Return the report of a part without rejected items; None if the manifest doesn't say enough."""
  moments = {info.bucket: info.moments for info in manifest.buckets}
  cached = sum(shard.records for shard in shards)
  skipped = len(part) - cached
  if manifest.num_cut or skipped and manifest.counts.too_short and manifest.counts.no_bucket or skipped < 0:
    return None
  kind = "too_short" if manifest.counts.too_short else "no_bucket"
  counts = Counts(seen=len(part), cached=cached, **{kind: skipped})
  return Report(counts, tuple(shards), summarize(shards, moments), (), reports.kept_digest(part, ()))


def remove_folder(folder: Path) -> None:
  """Remove a folder and all that is in it, as far as it is there."""
  folder.rmtree(missing_ok=True) if isinstance(folder, RemotePath) else shutil.rmtree(folder, ignore_errors=True)


def _changed(output: Path) -> UserError:
  return UserError(
      f"--output: {output} is of another source: more has changed in it than what was rejected; give another folder")
