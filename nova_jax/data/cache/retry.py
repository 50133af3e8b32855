"""Trying again what a build rejected: parts with rejected items are built anew, from a source that was mended.

Invariant: the cache becomes what it would be, had these items been sound from the start; all others must be unchanged.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from nova_jax.data.cache import reports
from nova_jax.data.cache.format import MANIFEST, REJECTED, Counts, Manifest, Shard, read_manifest, summarize
from nova_jax.data.cache.items import Item
from nova_jax.data.cache.reports import Plan, Rejection, Report


def reopen(output: Path, plan: Plan, items: Sequence[Item], host: int, num_hosts: int) -> None:
  """Make what is to be tried again undone: of a finished cache, or of the parts of an unfinished one.

  Args:
    output: the cache's folder.
    plan: of this run.
    items: of the source, as it is now.
    host: this one; it looks at its own parts.
    num_hosts: how many there are.

  Raises:
    UserError: other items have changed as well, or the settings.
  """
  size = plan.settings.shard_items
  parts = [items[start : start + size] for start in range(0, len(items), size)]
  if (output / MANIFEST).is_file():
    _reopen_finished(output, plan, items, parts)
  elif (output / reports.PARTS / reports.PLAN).is_file():
    found = {number: report for number in range(len(parts)) if (report := reports.read_report(output, number))}
    for number, report in found.items():
      if reports.kept_digest(parts[number], report.rejected) != report.kept_digest:
        raise _changed(output)
    reports.claim(output, plan, other_source=True)
    reports.write_plan(output, plan)
    for number, report in found.items():
      if report.rejected and number % num_hosts == host:
        reports.report_path(output, number).unlink(missing_ok=True)


def _reopen_finished(output: Path, plan: Plan, items: Sequence[Item], parts: Sequence[Sequence[Item]]) -> None:
  manifest = read_manifest(output)
  found = Plan.of(manifest)
  reports.check_same(output, dataclasses.replace(found, source_digest=plan.source_digest), plan)
  lines = (output / REJECTED).read_text(encoding="utf-8").split("\n")
  rejected = [Rejection(**json.loads(line)) for line in lines if line]
  same = manifest.source_digest == plan.source_digest
  if not same and reports.kept_digest(items, rejected) != manifest.kept_digest:
    raise _changed(output)
  if not rejected:
    return
  reports.write_plan(output, plan)
  for number, part in enumerate(parts):
    report = _report_of(manifest, number, part)
    if report is not None and not any(reports.find(part, rejected)):
      reports.write_report(output, number, report)
  (output / MANIFEST).unlink()  # From here on the cache is an unfinished one.


def _report_of(manifest: Manifest, number: int, part: Sequence[Item]) -> Report | None:
  """Return the report of a part without rejected items; None if the manifest doesn't say enough."""
  shards: tuple[Shard, ...] = tuple(s for s in manifest.shards if s.file.startswith(f"{number:06}-"))
  moments = {info.bucket: info.moments for info in manifest.buckets}
  cached = sum(shard.records for shard in shards)
  skipped = len(part) - cached
  if manifest.num_cut or skipped and manifest.counts.too_short and manifest.counts.no_bucket:
    return None
  kind = "too_short" if manifest.counts.too_short else "no_bucket"
  counts = Counts(seen=len(part), cached=cached, **{kind: skipped})
  return Report(counts, shards, summarize(shards, moments), (), reports.kept_digest(part, ()))


def _changed(output: Path) -> ValueError:
  return ValueError(
      f"--output: {output} is of another source: more has changed in it than what was rejected; give another folder")
