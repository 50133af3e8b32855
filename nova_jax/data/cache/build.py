"""Building a latent cache: parts of the source, each decoded, encoded and written on its own.

  DIR/parts/…             plan, list of the source, claims and reports: see `reports`, `listing` and `claims`
  DIR/manifest.json       all of it, written by the host that finds all parts done

Part k is `shard_items` items of the source in a row. Hosts claim parts, and come and go as they like.
Invariant: the files depend on source and settings alone, not on hosts, processes, devices of a host or interruptions.
"""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nova_jax.config import Bucket, CacheConfig
from nova_jax.data.cache import reports, retry, sources
from nova_jax.data.cache.claims import Claims
from nova_jax.data.cache.clips.failures import Lost, Watch
from nova_jax.data.cache.clips.preprocess import Clip, Outcome, Rejected, Skipped
from nova_jax.data.cache.clips.workers import Workers
from nova_jax.data.cache.encoders import Encoder
from nova_jax.data.cache.finish import finish, finished
from nova_jax.data.cache.format import (
  MANIFEST,
  SUFFIX,
  Counts,
  Manifest,
  read_manifest,
  summarize,
  write_records,
)
from nova_jax.data.cache.records import Record
from nova_jax.data.cache.reports import PARTS, Plan, Rejection, Report
from nova_jax.data.cache.sources.listing import Index, list_source
from nova_jax.data.cache.sources.stored_items import Listed
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_folder
from nova_jax.utils.writers import remove_unfinished

Show = Callable[[int, int, Counts], None]


def build(
    source: str, output: str | Path, cfg: CacheConfig, *, host: int = 0, num_hosts: int = 1, num_workers: int = 0,
    retry_rejected: bool = False, progress: Show = lambda done, total, counts: None,
) -> Manifest:
  """Build a cache, or what is missing of it, together with all hosts that do the same; returns when it is finished.

  Args:
    source: folder, archive, table or dataset of clips and captions; see `sources`.
    output: folder of the cache, which all hosts see.
    cfg: settings of the cache.
    host: number of this host, of hosts that begin together: each begins in another place.
    num_hosts: number of hosts that begin together.
    num_workers: number of processes that decode; 0 decodes in this one.
    retry_rejected: whether to try again what earlier runs rejected, also in a finished cache.
    progress: function that is called with how many items this host has done, how many there are but for those that
      others were found to have done, and what became of this host's.

  Raises:
    UserError: the source or the settings can't be used, or the folder has another cache.
    RunFailed, OSError: storage fails, or too many items are rejected; the cache is not finished.
  """
  output = as_path(output)
  if retry_rejected or not (output / MANIFEST).is_file():
    check_folder("output", output)
  found = sources.find_source(source)._replace(without=output)
  with Encoder(cfg) as encoder:
    draft = Plan(cfg, encoder.autoencoder_info, encoder.text_encoder_info, found.fingerprint(), 0)
    with retry.reopened(output, draft, found) if retry_rejected else contextlib.nullcontext():
      if (output / MANIFEST).is_file():
        digest, count = sources.survey(found, cfg)
        return finished(output, dataclasses.replace(draft, source_digest=digest, num_items=count))
      reports.begin(output, draft)
      try:
        index = list_source(output / PARTS, found, cfg, host, num_hosts)
      except UserError:
        reports.withdraw(output)
        raise
      if index is None:
        return _finished_by_others(output, draft)
      plan = dataclasses.replace(draft, source_digest=index.digest, num_items=len(index))
      reports.claim(output, plan)
      with Workers(num_workers, cfg, encoder.channels) as workers:
        try:
          return _Builder(output, plan, index, found, encoder, workers, progress).run(host / num_hosts)
        except FileNotFoundError:
          if (output / MANIFEST).is_file():  # Others took this one for dead, and are done.
            return finished(output, plan)
          raise


def _finished_by_others(output: Path, draft: Plan) -> Manifest:
  """Return the manifest of a cache that other hosts have finished since this one has seen its settings."""
  manifest = read_manifest(output, check_shards=False)
  return finished(output, dataclasses.replace(
      draft, source_digest=manifest.source_digest, num_items=manifest.counts.seen))


class _Builder:
  """Builds parts that this host claims, as long as there are any."""

  def __init__(
      self, output: Path, plan: Plan, index: Index, source: sources.Source, encoder: Encoder, workers: Workers,
      progress: Show
  ):
    self._output, self._plan, self._index, self._encoder = output, plan, index, encoder
    self._workers, self._progress, self._watch = workers, progress, Watch(source.path)
    self._counts, self._total = Counts(), len(index)
    self._built: set[int] = set()

  def run(self, begin: float) -> Manifest:
    """Build until the cache is finished, by this host or another one.

    Args:
      begin: place of the first part to claim, as a fraction of all.
    """
    size, total = self._plan.settings.shard_items, len(self._index)
    num_parts = -(-total // size)
    with Claims(
        self._output / PARTS, num_parts, self._output / MANIFEST, first=int(begin * num_parts)) as tasks:
      self._progress(0, total, self._counts)
      remove_unfinished(self._output, lambda name: name.endswith(SUFFIX))
      while True:
        for free in tasks.rounds():
          self._build(tasks, free, size)
        manifest = finish(self._output, self._plan, self._index, num_parts, self._built)
        if manifest is not None:
          return manifest
        tasks.reopen()

  def _build(self, tasks: Claims, numbers: Iterator[int], size: int) -> None:
    """Build parts while the items of the next ones are decoded."""
    begun: collections.deque[tuple[int, list[Listed]]] = collections.deque()

    def items() -> Iterator[Listed]:
      for number in numbers:
        begun.append((number, self._index.items(number * size, (number + 1) * size)))
        self._total = max(len(self._index) - size * tasks.num_elsewhere, self._counts.seen)
        yield from begun[-1][1]

    outcomes = self._workers.outcomes(each.item for each in items())
    for first in outcomes:
      number, part = begun.popleft()
      report = self._build_part(number, part, itertools.chain([first], outcomes))
      self._counts += report.counts
      self._built.add(number)
      tasks.release(number)
      self._progress(self._counts.seen, self._total, self._counts)

  def _build_part(self, number: int, part: Sequence[Listed], outcomes: Iterator[Outcome | Lost]) -> Report:
    """Encode a part's clips as they come, write its shards, and then its report."""
    results: dict[int, Record | Rejected | Skipped] = {}
    buckets: dict[int, Bucket] = {}
    waiting: dict[Bucket, list[tuple[int, str, Clip]]] = collections.defaultdict(list)
    became: collections.Counter[str] = collections.Counter()
    num_lost = 0
    for place, (item, _, readable) in enumerate(part):
      outcome, lost = self._watch.judge(item, next(outcomes), readable)
      num_lost += lost
      became[_field(outcome)] += 1
      if isinstance(outcome, Clip):
        buckets[place] = outcome.bucket
        waiting[outcome.bucket].append((place, item.name, outcome))
        if len(waiting[outcome.bucket]) == self._encoder.group_size:
          results.update(self._encoder.encode(waiting.pop(outcome.bucket)))
      else:
        results[place] = outcome
      counts = self._counts + Counts(seen=place + 1, **became)
      self._progress(counts.seen, self._total, counts)
    for _, batch in sorted(waiting.items()):
      results.update(self._encoder.encode(batch))
    results.update(self._encoder.finish())
    records = [(buckets[place], result) for place, result in sorted(results.items()) if isinstance(result, Record)]
    shards = tuple(write_records(self._output, f"{number:06}", records))
    rejected = tuple(
        Rejection.of(part[place].item, result) for place, result in sorted(results.items())
        if isinstance(result, Rejected))
    counts = Counts(seen=len(part), **collections.Counter(_field(result) for result in results.values()))
    moments = {bucket: record.moments.shape for bucket, record in records}
    kept = reports.kept_digest(((item.name, line) for item, line, _ in part), rejected)
    report = Report(
        counts, shards, summarize(shards, moments), rejected, kept, num_lost, self._encoder.take_num_cut())
    reports.write_report(self._output, number, report)
    return report


def _field(outcome: Outcome | Record) -> str:
  """Return the field of `Counts` that counts it."""
  if isinstance(outcome, Skipped):
    return outcome.reason
  return "rejected" if isinstance(outcome, Rejected) else "cached"
