"""The format of a latent cache: what its files hold, how they are written, read and checked.

  DIR/manifest.json        `Manifest`: what the cache was made of and with, its buckets, shards and counts
  DIR/NAME.array_record    a shard: records of one bucket, readable in any order (ArrayRecord, one record a group)
  DIR/rejected.jsonl       a line for each item that could not be used: {"source": …, "reason": …}

A bucket is (frames, height, width) in pixels; all its records have moments of one shape, so that a batch of one bucket
stacks. What a record is, `records` says.
Invariant: a folder without a manifest is no cache, and one with it is whole.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from nova_jax.autoencoders.moments import mean_and_std
from nova_jax.config import Bucket, CacheConfig
from nova_jax.data.cache.records import Record, encode_record, write_shard
from nova_jax.storage import RemotePath, as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict, to_dict
from nova_jax.utils.files import read_json, write_atomically
from nova_jax.utils.terminal import command

MANIFEST, REJECTED, SUFFIX = "manifest.json", "rejected.jsonl", ".array_record"
_FEW = 1024  # Shards on a disk whose sizes are asked for one by one.
FORMAT = {"format": "nova_jax latent cache", "version": 1}


@dataclasses.dataclass(frozen=True)
class AutoencoderInfo:
  """Which autoencoder made the moments.

  Attributes:
    kind: name of a built-in one, or the class of a published one.
    digest: of a published one's weights, in whichever form (`convert.digest.Digest`); of a built-in one's constants.
    latent_dim: C.
    spatial_stride: pixels a latent spans, each way.
    time_stride: frames a latent spans, after the first.
    shift: one value, or one a channel.
    factor: the same.
  """

  kind: str
  digest: str
  latent_dim: int
  spatial_stride: int
  time_stride: int
  shift: tuple[float, ...]
  factor: tuple[float, ...]

  def latents(
      self, moments: Float[np.ndarray, "... M"], noise: Float[np.ndarray, "... C"] | None = None
  ) -> Float[np.ndarray, "... C"]:
    """Return latents as a model expects them: the means, or samples if there is standard normal noise."""
    mean, std = mean_and_std(np.asarray(moments, np.float32), self.latent_dim)
    z = mean if noise is None else mean + std * noise
    return (z - np.asarray(self.shift, np.float32)) * np.asarray(self.factor, np.float32)


@dataclasses.dataclass(frozen=True)
class TextEncoderInfo:
  """Which text encoder made the embeddings."""

  kind: str
  digest: str  # As of an autoencoder.
  dim: int  # E.
  max_length: int  # Most tokens of a text.


@dataclasses.dataclass(frozen=True)
class Shard:
  """A file of records."""

  file: str
  bucket: Bucket
  records: int
  bytes: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class BucketInfo:
  """What all shards of a bucket hold together."""

  bucket: Bucket
  moments: tuple[int, int, int, int]  # T, h, w, M of each record.
  records: int


@dataclasses.dataclass(frozen=True)
class Counts:
  """What became of the items of the source: seen = cached + too_short + no_bucket + rejected."""

  seen: int = 0
  cached: int = 0
  too_short: int = 0  # Skipped: a scene of fewer frames than the shortest bucket.
  no_bucket: int = 0  # Skipped: a still, where no bucket has one frame.
  rejected: int = 0  # Unusable: each has a line in rejected.jsonl.

  def __post_init__(self):
    parts = self.cached + self.too_short + self.no_bucket + self.rejected
    if self.seen != parts or min(dataclasses.astuple(self)) < 0:
      raise UserError(f"counts: {self.seen} were seen, but {parts} cached, skipped and rejected")

  def __add__(self, other: "Counts") -> "Counts":
    return Counts(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


@dataclasses.dataclass(frozen=True)
class Unused:
  """Files of one kind that were found in a source and not used.

  Attributes:
    kind: what they are, in the plural: "captions without a clip or picture".
    count: how many.
    examples: names of the first few.
  """

  kind: str
  count: int
  examples: tuple[str, ...] = ()

  def __str__(self) -> str:
    more = ", …" if self.count > len(self.examples) else ""
    return f"{self.kind}: {self.count}" + (f" ({', '.join(self.examples)}{more})" if self.examples else "")


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What a cache holds."""

  autoencoder: AutoencoderInfo
  text_encoder: TextEncoderInfo | None
  settings: CacheConfig  # Of the builder.
  counts: Counts
  buckets: tuple[BucketInfo, ...]
  shards: tuple[Shard, ...]
  source_digest: str = ""  # SHA-256 of the list of the source's items; empty if there is none.
  unused: tuple[Unused, ...] = ()  # What the source holds beside its items.
  kept_digest: str = ""  # That of the items which were not rejected; empty if none was.
  num_cut: int = 0  # Captions, short ones included, of which the text encoder read only the beginning.

  def __post_init__(self):
    known = [info.bucket for info in self.buckets]
    for shard in self.shards:
      if shard.file != PurePosixPath(shard.file).name or shard.records < 1 or known.count(shard.bucket) != 1:
        raise UserError(f"expected a shard in this folder, of one of the buckets, with a record or more, got {shard}")
    for info in self.buckets:
      channels = info.moments[-1] in (self.autoencoder.latent_dim, 2 * self.autoencoder.latent_dim)
      if info.records < 1 or min(*info.bucket, *info.moments) < 1 or not channels:
        raise UserError(f"expected a bucket of records with moments of the autoencoder, got {info}")
      records = sum(shard.records for shard in self.shards if shard.bucket == info.bucket)
      if records != info.records:
        raise UserError(f"bucket {info.bucket} has {info.records} records, its shards {records}")
    if self.counts.cached != sum(shard.records for shard in self.shards):
      raise UserError(f"counts: {self.counts.cached} were cached, but shards hold another number")


def write_manifest(folder: Path, manifest: Manifest) -> None:
  """Write the manifest of a cache whose other files are complete."""
  values = to_dict(manifest)
  del values["settings"]["max_rejected"]  # Which says when to give up, and nothing of what is in a cache.
  for name in ("unused", "kept_digest", "num_cut"):  # Else it is, byte for byte, what older versions wrote.
    if not values[name]:
      del values[name]
  write_atomically(folder / MANIFEST, json.dumps(FORMAT | values, indent=1) + "\n")


def read_manifest(folder: str | Path, check_shards: bool = True) -> Manifest:
  """Read the manifest of a cache, and see that its shards are there and of the size it says.

  Args:
    folder: of the cache.
    check_shards: False leaves the shards to the caller.

  Raises:
    UserError: the folder is no cache, an unfinished one, or one that this version does not read.
  """
  folder = as_path(folder)
  if not folder.is_dir():
    raise UserError(f"there is no folder {folder}; expected a latent cache, as {command('cache')} writes it")
  if not (folder / MANIFEST).is_file():
    raise UserError(f"{folder} has no {MANIFEST}; expected a finished cache: run {command('cache')} to its end")
  values = read_json(folder / MANIFEST)
  found = {key: values.pop(key, None) for key in FORMAT}
  if found != FORMAT:
    raise UserError(f"{folder / MANIFEST}: expected {FORMAT}, got {found}")
  try:
    manifest = from_dict(Manifest, values, str(folder / MANIFEST))
  except ValueError as error:
    named = str(error).startswith(str(folder / MANIFEST))
    raise UserError(str(error) if named else f"{folder / MANIFEST}: {error}") from None
  # Storage is asked once for all of them: a bucket says sizes, too; on a disk, or on a bucket that is mounted like one,
  # each of these is another question, and a file of many that was cut shows when it is read.
  sizes = None
  if check_shards and isinstance(folder, RemotePath):
    sizes = {path.name: path.known_size for path in folder.iterdir()}
  elif check_shards and len(manifest.shards) > _FEW:
    said = {shard.file: shard.bytes for shard in manifest.shards}
    sizes = {name: said[name] for name in os.listdir(folder) if name in said}
  for shard in manifest.shards if check_shards else ():
    if problem := shard_problem(folder, shard, sizes):
      raise UserError(f"{folder / shard.file} {problem}: restore it, or make the cache anew in another folder")
  return manifest


def shard_problem(folder: Path, shard: Shard, sizes: Mapping[str, int] | None = None) -> str:
  """Return what is wrong with the file of a shard at a glance, or nothing.

  Args:
    folder: of the cache.
    shard: as the manifest describes it.
    sizes: of the folder's files, if they are known.
  """
  path = folder / shard.file
  if shard.file not in sizes if sizes is not None else not path.is_file():
    return f"does not exist; {MANIFEST} says {shard.bytes} bytes"
  size = path.stat().st_size if sizes is None else sizes[shard.file]
  return f"has {size} bytes; {MANIFEST} says {shard.bytes} bytes" if size != shard.bytes else ""


def summarize(shards: Iterable[Shard], moments: Mapping[Bucket, Sequence[int]]) -> tuple[BucketInfo, ...]:
  """Return what the buckets of some shards hold; `moments` says of each bucket what shape its moments have."""
  records: dict[Bucket, int] = {}
  for shard in shards:
    records[shard.bucket] = records.get(shard.bucket, 0) + shard.records
  found = []
  for bucket, count in sorted(records.items()):
    time, height, width, channels = moments[bucket]
    found.append(BucketInfo(bucket, (time, height, width, channels), count))
  return tuple(found)


def shard_file(name: str, bucket: Bucket) -> str:
  """Return the name of the file that holds a part's records of a bucket."""
  return f"{name}-{'x'.join(map(str, bucket))}{SUFFIX}"


def write_records(folder: Path, name: str, records: Iterable[tuple[Bucket, Record]]) -> list[Shard]:
  """Write records as shards, one for each bucket, `NAME-FxHxW.array_record`, each in the order given."""
  encoded: dict[Bucket, list[bytes]] = {}
  for bucket, record in records:
    encoded.setdefault(bucket, []).append(encode_record(record))
  shards = []
  for bucket, rows in sorted(encoded.items()):
    file = shard_file(name, bucket)
    shards.append(Shard(file, bucket, len(rows), *write_shard(folder / file, rows)))
  return shards


def write_cache(
    folder: str | Path,
    records: Iterable[tuple[Bucket, Record]],
    autoencoder: AutoencoderInfo,
    text_encoder: TextEncoderInfo | None = None,
    settings: CacheConfig = CacheConfig(),
) -> Manifest:
  """Write a whole cache of records in memory, each `settings.shard_items` in a row making one shard a bucket."""
  folder, records = as_path(folder), list(records)
  folder.mkdir(parents=True, exist_ok=True)
  shards = []
  for part, start in enumerate(range(0, len(records), settings.shard_items)):
    shards += write_records(folder, f"{part:06}", records[start : start + settings.shard_items])
  moments = {bucket: record.moments.shape for bucket, record in records}
  counts = Counts(seen=len(records), cached=len(records))
  manifest = Manifest(autoencoder, text_encoder, settings, counts, summarize(shards, moments), tuple(shards))
  write_atomically(folder / REJECTED, "")
  write_manifest(folder, manifest)
  return manifest
