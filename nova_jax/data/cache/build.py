"""Building a latent cache: parts of the source, each decoded, encoded and written on its own.

  DIR/parts/plan.json     what is built: a later run continues only the same
  DIR/parts/000012.json   what became of part 12; its shards are complete
  DIR/manifest.json       all of it, written by the host that finds all parts done

Part k is `shard_items` items of the source in a row; host h of n builds parts h, h + n, ….
Invariant: the files depend on source and settings alone, not on hosts, processes, devices of a host or interruptions.
"""

import collections
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nova_jax.config import Bucket, CacheConfig
from nova_jax.data.cache import sources
from nova_jax.data.cache.clips import Clip, Outcome, Rejected, Skipped
from nova_jax.data.cache.encoders import Encoder
from nova_jax.data.cache.format import (
    FORMAT, MANIFEST, REJECTED, SUFFIX, AutoencoderInfo, BucketInfo, Counts, Manifest, Record, Shard,
    TextEncoderInfo, Unused, read_manifest, shard_problem, summarize, write_manifest, write_records)
from nova_jax.data.cache.items import Item
from nova_jax.data.cache.workers import Workers
from nova_jax.fields import from_dict, to_dict
from nova_jax.files import read_json, write_atomically

PARTS, PLAN = "parts", "plan.json"


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a cache is built of and with."""

  settings: CacheConfig
  autoencoder: AutoencoderInfo
  text_encoder: TextEncoderInfo | None
  source_digest: str
  num_items: int


@dataclasses.dataclass(frozen=True)
class Rejection:
  """An item that could not be used, and why."""

  source: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of a part."""

  counts: Counts
  shards: tuple[Shard, ...]
  buckets: tuple[BucketInfo, ...]
  rejected: tuple[Rejection, ...]


def build(
    source: str, output: Path, cfg: CacheConfig, *, host: int = 0, num_hosts: int = 1, num_workers: int = 0,
    progress: Callable[[int, int, Counts], None] = lambda done, total, counts: None,
) -> Manifest | None:
  """Build a cache, or what is missing of it.

  Args:
    source: see `sources`.
    output: the cache's folder, which all hosts see.
    cfg: the settings.
    host: this one.
    num_hosts: how many build it.
    num_workers: processes that decode; 0 decodes in this one.
    progress: told how many of how many items of this host are done, and what became of them.

  Returns:
    The manifest; None if other hosts are still building.

  Raises:
    ValueError: the source or the settings can't be used, or the folder has another cache.
  """
  items = sources.open_source(source, cfg)
  with Encoder(cfg) as encoder:
    plan = Plan(cfg, encoder.autoencoder_info, encoder.text_encoder_info, sources.digest(items), len(items))
    if (output / MANIFEST).is_file():
      return _finished(output, plan)
    _claim(output, plan)
    parts = [items[start : start + cfg.shard_items] for start in range(0, len(items), cfg.shard_items)]
    todo = [number for number in range(host, len(parts), num_hosts) if _read_report(output, number) is None]
    with Workers(num_workers, cfg, encoder.channels) as workers:
      outcomes = workers.outcomes(item for number in todo for item in parts[number])
      total, counts = sum(len(parts[number]) for number in todo), Counts()
      progress(0, total, counts)
      for number in todo:
        for stale in output.glob(f".{number:06}-*{SUFFIX}"):
          stale.unlink()
        show = lambda part, before=counts: progress(before.seen + part.seen, total, before + part)
        report = _build_part(output, number, parts[number], outcomes, encoder, cfg.batch_size, show)
        counts += report.counts
        progress(counts.seen, total, counts)
  return _finish(output, plan, len(parts), items.unused)


def _build_part(
    output: Path, number: int, items: Sequence[Item], outcomes: Iterator[Outcome], encoder: Encoder, batch_size: int,
    show: Callable[[Counts], None],
) -> Report:
  """Encode a part's clips as they come, write its shards, and then its report."""
  results: dict[int, Record | Rejected | Skipped] = {}
  buckets: dict[int, Bucket] = {}
  waiting: dict[Bucket, list[tuple[int, str, Clip]]] = collections.defaultdict(list)
  became: collections.Counter[str] = collections.Counter()
  for place, item in enumerate(items):
    outcome = next(outcomes)
    became[_field(outcome)] += 1
    if isinstance(outcome, Clip):
      buckets[place] = outcome.bucket
      waiting[outcome.bucket].append((place, item.name, outcome))
      if len(waiting[outcome.bucket]) == batch_size:
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
      Rejection(items[place].name, result.reason)
      for place, result in sorted(results.items()) if isinstance(result, Rejected))
  counts = Counts(seen=len(items), **collections.Counter(_field(result) for result in results.values()))
  moments = {bucket: record.moments.shape for bucket, record in records}
  report = Report(counts, shards, summarize(shards, moments), rejected)
  write_atomically(_report_path(output, number), _json(report))
  return report


def _field(outcome: Outcome | Record) -> str:
  """Return the field of `Counts` that counts it."""
  if isinstance(outcome, Skipped):
    return outcome.reason
  return "rejected" if isinstance(outcome, Rejected) else "cached"


def _finish(output: Path, plan: Plan, num_parts: int, unused: tuple[Unused, ...]) -> Manifest | None:
  """Write what a cache has beside its shards if all parts are done; any number of hosts may do so at once."""
  reports = [_read_report(output, number) for number in range(num_parts)]
  if None not in reports:
    try:
      _merge(output, plan, reports, unused)
    except OSError:
      if not (output / MANIFEST).is_file():  # Else another host was faster, and has cleaned up.
        raise
  return _finished(output, plan) if (output / MANIFEST).is_file() else None


def _merge(output: Path, plan: Plan, reports: Sequence[Report], unused: tuple[Unused, ...]) -> None:
  """Write the lists of what was rejected and, last, the manifest."""
  shards = tuple(shard for report in reports for shard in report.shards)
  moments = {info.bucket: info.moments for report in reports for info in report.buckets}
  lines = [json.dumps(to_dict(row), ensure_ascii=False) + "\n" for report in reports for row in report.rejected]
  write_atomically(output / REJECTED, "".join(lines).encode())
  write_manifest(output, Manifest(
      plan.autoencoder, plan.text_encoder, plan.settings, sum((report.counts for report in reports), Counts()),
      summarize(shards, moments), shards, plan.source_digest, unused))


def _finished(output: Path, plan: Plan) -> Manifest:
  """Return the manifest of a finished cache if it is of this plan, and remove what building left."""
  manifest = read_manifest(output)
  found = Plan(
      manifest.settings, manifest.autoencoder, manifest.text_encoder, manifest.source_digest, manifest.counts.seen)
  _check_same(output, found, plan)
  shutil.rmtree(output / PARTS, ignore_errors=True)
  for name in (f".*{SUFFIX}", ".manifest.*", ".rejected.*"):
    for stale in output.glob(name):
      stale.unlink(missing_ok=True)
  return manifest


def _claim(output: Path, plan: Plan) -> None:
  """Write the plan into an empty folder, or see that it is that of the run before."""
  path = output / PARTS / PLAN
  if not path.is_file():
    if output.exists() and any(file.name != PARTS for file in output.iterdir()):
      raise ValueError(f"--output: {output} is neither empty nor a cache; give another folder")
    write_atomically(path, _json(plan))
  values = read_json(path)
  if {key: values.pop(key, None) for key in FORMAT} != FORMAT:
    raise ValueError(f"--output: {output} was begun by another version; give another folder, or remove it")
  _check_same(output, from_dict(Plan, values, str(path)), plan)


def _check_same(output: Path, found: Plan, plan: Plan) -> None:
  """Refuse to continue a cache of something else; where the same encoders lie does not matter."""
  there, here = (_flat(to_dict(dataclasses.replace(
      plan, settings=dataclasses.replace(plan.settings, autoencoder="", text_encoder="")))) for plan in (found, plan))
  differing = [f"{name} is {there.get(name)!r} there, {here.get(name)!r} here"
               for name in {**there, **here} if there.get(name) != here.get(name)]
  if differing:
    raise ValueError(f"--output: {output} is of another source or other settings: {'; '.join(differing)}")


def _flat(values: dict, prefix: str = "") -> dict:
  rows = ((f"{prefix}{name}", value) for name, value in values.items())
  return {
      key: row for name, value in rows
      for key, row in (_flat(value, f"{name}.") if isinstance(value, dict) else {name: value}).items()}


def _read_report(output: Path, number: int) -> Report | None:
  """Return what became of a part; None if it is not done, or its files are not what the report says."""
  path = _report_path(output, number)
  try:
    report = from_dict(Report, read_json(path), str(path))
  except ValueError:
    return None
  return None if any(shard_problem(output, shard) for shard in report.shards) else report


def _report_path(output: Path, number: int) -> Path:
  return output / PARTS / f"{number:06}.json"


def _json(value: Plan | Report) -> str:
  head = FORMAT if isinstance(value, Plan) else {}
  return json.dumps(head | to_dict(value), indent=1) + "\n"
