"""Captions that are longer than the model reads: training cuts them, and they are counted before, for a person."""

import itertools
from collections.abc import Iterator, Sequence

from nova_jax.data.cache.records import Record
from nova_jax.data.shards import Cache, Shards
from nova_jax.text import TextEncoder
from nova_jax.text.base import shorten_text
from nova_jax.text.truncation import truncate

COUNTED = 100_000  # Records of a cache that are looked at; more would take hours to read.


def long_captions(caches: Sequence[Cache], encoder: TextEncoder) -> list[str]:
  """Return a line for each cache with captions that `encoder` has to cut."""
  notes = []
  for cache in {cache.path: cache for cache in caches}.values():
    total = sum(info.records for info in cache.manifest.buckets)
    count, longest = 0, ""
    for record in itertools.islice(_records(cache), COUNTED):
      cut = [text for text in (record.caption, record.short_caption) if text and truncate(encoder, text)[1]]
      count += len(cut)
      longest = max([longest, *cut], key=len)
    if count:
      of = f"the first {COUNTED:,} records" if total > COUNTED else f"{total:,} records"
      notes.append(
          f"{cache.path}: {count:,} captions of {of} have more than {encoder.max_length} tokens (model.text_len) and "
          f"are cut, such as {shorten_text(longest)!r}")
  return notes


def _records(cache: Cache) -> Iterator[Record]:
  """Yield the records of a cache that are whole."""
  for info in cache.manifest.buckets:
    shards = Shards.of(cache, info.bucket)
    for number in range(len(shards)):
      try:
        yield shards[number]
      except ValueError:  # Damage is found, and counted, when the record's turn comes.
        continue
