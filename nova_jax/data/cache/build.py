"""Building a latent cache: parts of the source, each decoded, encoded and written on its own.

  DIR/parts/…             plan and reports, see `reports`
  DIR/manifest.json       all of it, written by the host that finds all parts done

Part k is `shard_items` items of the source in a row; host h of n builds parts h, h + n, ….
Invariant: the files depend on source and settings alone, not on hosts, processes, devices of a host or interruptions.
"""

import collections
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nova_jax.config import Bucket, CacheConfig
from nova_jax.data.cache import reports, retry, sources
from nova_jax.data.cache.encoders import Encoder
from nova_jax.data.cache.format import (
  MANIFEST,
  REJECTED,
  SUFFIX,
  Counts,
  Manifest,
  read_manifest,
  shard_file,
  summarize,
  write_manifest,
  write_records,
)
from nova_jax.data.cache.items import Item
from nova_jax.data.cache.preprocess import Clip, Outcome, Rejected, Skipped
from nova_jax.data.cache.records import Record
from nova_jax.data.cache.reports import PARTS, Plan, Rejection, Report, read_report
from nova_jax.data.cache.sources import Listing
from nova_jax.data.cache.storage import Lost, Watch
from nova_jax.data.cache.workers import Workers
from nova_jax.storage import RemotePath, as_path
from nova_jax.utils.errors import RunFailed
from nova_jax.utils.fields import to_dict
from nova_jax.utils.files import check_folder, write_atomically
from nova_jax.utils.writers import remove_unfinished

_FEW = 20  # Items of which any share may be rejected.
_REASONS = 3  # Commonest ones that are shown.


def build(
    source: str, output: str | Path, cfg: CacheConfig, *, host: int = 0, num_hosts: int = 1, num_workers: int = 0,
    retry_rejected: bool = False, progress: Callable[[int, int, Counts], None] = lambda done, total, counts: None,
) -> Manifest | None:
  """Build a cache, or what is missing of it.

  Args:
    source: folder, archive, table or dataset of clips and captions; see `sources`.
    output: folder of the cache, which all hosts see.
    cfg: settings of the cache.
    host: number of this host.
    num_hosts: number of hosts that build it.
    num_workers: number of processes that decode; 0 decodes in this one.
    retry_rejected: whether to try again what earlier runs rejected, also in a finished cache.
    progress: function that is called with how many of how many items of this host are done, and what became of them.

  Returns:
    The manifest; None if other hosts are still building.

  Raises:
    UserError: the source or the settings can't be used, or the folder has another cache.
    RunFailed, OSError: storage fails, or too many items are rejected; the cache is not finished.
  """
  output = as_path(output)
  if retry_rejected or not (output / MANIFEST).is_file():
    check_folder("output", output)
  items = sources.open_source(source, cfg)
  with Encoder(cfg) as encoder:
    plan = Plan(cfg, encoder.autoencoder_info, encoder.text_encoder_info, sources.digest(items), len(items))
    if retry_rejected:
      retry.reopen(output, plan, items, host, num_hosts)
    if (output / MANIFEST).is_file():
      return _finished(output, plan)
    reports.claim(output, plan)
    parts = [items[start : start + cfg.shard_items] for start in range(0, len(items), cfg.shard_items)]
    done = {number: read_report(output, number) for number in range(host, len(parts), num_hosts)}
    todo = [number for number, report in done.items() if report is None or report.num_lost]
    watch = Watch(source, items)
    with Workers(num_workers, cfg, encoder.channels) as workers:
      outcomes = workers.outcomes(item for number in todo for item in parts[number])
      total, counts = sum(len(parts[number]) for number in todo), Counts()
      progress(0, total, counts)
      remove_unfinished(output, {shard_file(f"{number:06}", bucket) for number in todo for bucket in cfg.buckets})
      for number in todo:
        show = lambda part, before=counts: progress(before.seen + part.seen, total, before + part)
        report = _build_part(output, number, parts[number], outcomes, watch, encoder, show)
        counts += report.counts
        progress(counts.seen, total, counts)
  gone = [number for number in done if read_report(output, number) is None]
  if gone and not (output / MANIFEST).is_file():  # Else another host was faster, and has cleaned up.
    raise RunFailed(
        f"{reports.report_path(output, gone[0])} was written and is gone: is the folder still mounted? The cache is "
        "not finished, and the same command continues it")
  return _finish(output, plan, items, len(parts))


def _build_part(
    output: Path, number: int, items: Sequence[Item], outcomes: Iterator[Outcome | Lost], watch: Watch,
    encoder: Encoder, show: Callable[[Counts], None],
) -> Report:
  """Encode a part's clips as they come, write its shards, and then its report."""
  results: dict[int, Record | Rejected | Skipped] = {}
  buckets: dict[int, Bucket] = {}
  waiting: dict[Bucket, list[tuple[int, str, Clip]]] = collections.defaultdict(list)
  became: collections.Counter[str] = collections.Counter()
  num_lost = 0
  for place, item in enumerate(items):
    outcome, lost = watch.judge(item, next(outcomes))
    num_lost += lost
    became[_field(outcome)] += 1
    if isinstance(outcome, Clip):
      buckets[place] = outcome.bucket
      waiting[outcome.bucket].append((place, item.name, outcome))
      if len(waiting[outcome.bucket]) == encoder.group_size:
        results.update(encoder.encode(waiting.pop(outcome.bucket)))
    else:
      results[place] = outcome
    show(Counts(seen=place + 1, **became))
  for _, batch in sorted(waiting.items()):
    results.update(encoder.encode(batch))
  results.update(encoder.finish())
  records = [(buckets[place], result) for place, result in sorted(results.items()) if isinstance(result, Record)]
  shards = tuple(write_records(output, f"{number:06}", records))
  rejected = tuple(
      Rejection.of(items[place], result) for place, result in sorted(results.items()) if isinstance(result, Rejected))
  counts = Counts(seen=len(items), **collections.Counter(_field(result) for result in results.values()))
  moments = {bucket: record.moments.shape for bucket, record in records}
  report = Report(
      counts, shards, summarize(shards, moments), rejected, reports.kept_digest(items, rejected), num_lost,
      encoder.take_num_cut())
  reports.write_report(output, number, report)
  return report


def _field(outcome: Outcome | Record) -> str:
  """Return the field of `Counts` that counts it."""
  if isinstance(outcome, Skipped):
    return outcome.reason
  return "rejected" if isinstance(outcome, Rejected) else "cached"


def _finish(output: Path, plan: Plan, items: Listing, num_parts: int) -> Manifest | None:
  """Write what a cache has beside its shards if all parts are done; any number of hosts may do so at once."""
  found = [report for number in range(num_parts) if (report := read_report(output, number)) is not None]
  if len(found) == num_parts:
    _check_rejected(output, plan, found)
    try:
      _merge(output, plan, items, found)
    except OSError:
      if not (output / MANIFEST).is_file():  # Else another host was faster, and has cleaned up.
        raise
  return _finished(output, plan) if (output / MANIFEST).is_file() else None


def _check_rejected(output: Path, plan: Plan, found: Sequence[Report]) -> None:
  """Refuse to call a cache finished that lacks so much that something else must be wrong."""
  counts, most = sum((report.counts for report in found), Counts()), plan.settings.max_rejected
  nothing = not counts.cached and any(report.num_lost for report in found)
  if not nothing and (counts.seen < _FEW or counts.rejected <= most * counts.seen):
    return
  reasons = collections.Counter(row.reason for report in found for row in report.rejected)
  shown = "; ".join(f"{count} times: {reason[:200]}" for reason, count in reasons.most_common(_REASONS))
  raise RunFailed(
      f"{output} is not finished: {counts.rejected} of {counts.seen} items were rejected, and max_rejected allows a "
      f"share of {most:g} ({shown}). Mend the source and add --retry_rejected, or raise --config.max_rejected")


def _merge(output: Path, plan: Plan, items: Listing, found: Sequence[Report]) -> None:
  """Write the list of what was rejected and, last, the manifest."""
  shards = tuple(shard for report in found for shard in report.shards)
  moments = {info.bucket: info.moments for report in found for info in report.buckets}
  rejected = [row for report in found for row in report.rejected]
  lines = [json.dumps(to_dict(row), ensure_ascii=False) + "\n" for row in rejected]
  write_atomically(output / REJECTED, "".join(lines).encode())
  write_manifest(output, Manifest(
      plan.autoencoder, plan.text_encoder, plan.settings, sum((report.counts for report in found), Counts()),
      summarize(shards, moments), shards, plan.source_digest, items.unused,
      reports.kept_digest(items, rejected) if rejected else "", sum(report.num_cut for report in found)))


def _finished(output: Path, plan: Plan) -> Manifest:
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
