"""The end of building a cache: its parts are looked through once more, and become one by a manifest.

Invariant: reports are read a few at a time, and what was rejected is copied from them line by line.
"""

import collections
import errno
import functools
import itertools
import json
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from nova_jax.data.cache import reports
from nova_jax.data.cache.claims import alone
from nova_jax.data.cache.format import (
  MANIFEST,
  REJECTED,
  SUFFIX,
  Counts,
  Manifest,
  Shard,
  read_manifest,
  summarize,
  write_manifest,
)
from nova_jax.data.cache.reports import PARTS, Plan, Report
from nova_jax.data.cache.sources.listing import Index, in_order
from nova_jax.storage import RemotePath
from nova_jax.utils.errors import RunFailed
from nova_jax.utils.fields import to_dict
from nova_jax.utils.files import replacing

_FEW = 20  # Items of which any share may be rejected.
_REASONS = 3  # Commonest ones that are shown.
_MOST_REASONS = 10_000  # Different ones that are counted.
_BLOCK = 1000  # Parts whose shards are looked up at once.


def finish(output: Path, plan: Plan, index: Index, num_parts: int, own: Collection[int]) -> Manifest | None:
  """Write what a cache has beside its shards, or wait until another host has.

  Args:
    output: the cache's folder.
    plan: of the cache.
    index: of the source.
    num_parts: number of parts, which all had a report.
    own: parts that this run has built.

  Returns:
    The manifest; None if a part has to be built again.

  Raises:
    RunFailed: so much was rejected that something else must be wrong.
    FileNotFoundError: reports vanish meanwhile: storage fails, or other hosts have finished the cache.
  """
  for _ in alone(output / PARTS, "finish", output / MANIFEST):
    if not (output / PARTS / reports.PLAN).is_file():
      raise RunFailed(
          f"{output / PARTS / reports.PLAN} was written and is gone: is the folder still mounted? The cache is not "
          "finished, and the same command continues it")
    wrong = [
        number for number, report in enumerate(_reports(output, num_parts))
        if report is None or report.num_lost and number not in own]  # What storage lost in an earlier run.
    for number in wrong:
      reports.report_path(output, number).unlink(missing_ok=True)
    if wrong:
      return None
    _merge(output, plan, index, functools.partial(_whole, output, num_parts))
    break
  return finished(output, plan)


def _reports(output: Path, num_parts: int) -> Iterator[Report | None]:
  """Yield the reports of all parts in their order; None for one that is missing, or whose shards are."""
  for start in range(0, num_parts, _BLOCK):
    numbers = range(start, min(start + _BLOCK, num_parts))
    sizes = None
    if isinstance(output, RemotePath):  # A bucket is asked once for many of them.
      sizes = {path.name: path.known_size for path in output.named(f"{start // _BLOCK:03}")}
    yield from in_order(functools.partial(reports.read_report, output, sizes=sizes), numbers)


def _whole(output: Path, num_parts: int) -> Iterator[Report]:
  """Yield the same where all were there; a FileNotFoundError if one is gone."""
  for report in _reports(output, num_parts):
    if report is None:
      raise FileNotFoundError(errno.ENOENT, "a report or a shard that was there is gone", str(output))
    yield report


def _merge(output: Path, plan: Plan, index: Index, read: Callable[[], Iterator[Report]]) -> None:
  """Write the list of what was rejected and, last, the manifest."""
  shards: list[Shard] = []
  moments, counts, num_cut = {}, Counts(), 0
  reasons: collections.Counter[str] = collections.Counter()
  any_lost = False
  with replacing(output / REJECTED) as path:
    with path.open("w", encoding="utf-8", newline="") as file:
      for report in read():
        shards += report.shards
        moments |= {info.bucket: info.moments for info in report.buckets}
        counts, num_cut, any_lost = counts + report.counts, num_cut + report.num_cut, any_lost or report.num_lost > 0
        for row in report.rejected:
          file.write(json.dumps(to_dict(row), ensure_ascii=False) + "\n")
          if row.reason in reasons or len(reasons) < _MOST_REASONS:
            reasons[row.reason] += 1
    _check_rejected(output, plan, counts, reasons, any_lost)
  write_manifest(output, Manifest(
      plan.autoencoder, plan.text_encoder, plan.settings, counts, summarize(shards, moments), tuple(shards),
      plan.source_digest, index.unused, _kept_digest(index, plan, read) if counts.rejected else "", num_cut))


def _kept_digest(index: Index, plan: Plan, read: Callable[[], Iterator[Report]]) -> str:
  """Return the digest of all items that were not rejected."""
  lines = index.lines()
  rows = ((row, report) for report in read()
          for row in [list(itertools.islice(lines, plan.settings.shard_items))])
  return reports.kept_digests(rows)


def _check_rejected(
    output: Path, plan: Plan, counts: Counts, reasons: collections.Counter[str], any_lost: bool
) -> None:
  """Refuse to call a cache finished that lacks so much that something else must be wrong."""
  most = plan.settings.max_rejected
  nothing = not counts.cached and any_lost
  if not nothing and (counts.seen < _FEW or counts.rejected <= most * counts.seen):
    return
  shown = "; ".join(f"{count} times: {reason[:200]}" for reason, count in reasons.most_common(_REASONS))
  raise RunFailed(
      f"{output} is not finished: {counts.rejected} of {counts.seen} items were rejected, and max_rejected allows a "
      f"share of {most:g} ({shown}). Mend the source and add --retry_rejected, or raise --config.max_rejected")


def finished(output: Path, plan: Plan) -> Manifest:
  """Return the manifest of a finished cache if it is of this plan, and remove what building left."""
  manifest = read_manifest(output)
  reports.check_same(output, Plan.of(manifest), plan)
  if isinstance(output, RemotePath):
    (output / PARTS).rmtree(missing_ok=True)
    return manifest
  shutil.rmtree(output / PARTS, ignore_errors=True)
  for name in (f".*{SUFFIX}", ".manifest.*", ".rejected.*"):
    for stale in output.glob(name):
      stale.unlink(missing_ok=True)
  return manifest
