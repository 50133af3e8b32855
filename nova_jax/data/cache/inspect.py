"""Looking at a latent cache: what it holds in words and bars, what is damaged, and what its clips look like."""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from nova_jax import media
from nova_jax.autoencoders import Autoencoder
from nova_jax.checkpoints.components import VAE
from nova_jax.checkpoints.hub import parse_id, part_folder
from nova_jax.data.cache.encoders import open_autoencoder
from nova_jax.data.cache.format import Manifest, Shard, shard_problem
from nova_jax.data.cache.records import DamagedRecord, Record, ShardReader, file_sha256
from nova_jax.utils.errors import UserError

_BARS, _BAR_WIDTH = 8, 40
_FRAMES = 8  # Of a clip on a contact sheet.
_SHORT_SIDE = 96  # Pixels that it is made smaller to.
_TITLE = 90  # Characters of a caption above a clip.

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Damage:
  """What is not as it was written.

  Attributes:
    shard: its file.
    index: of the record; None if it is the file as a whole.
    reason: what is wrong.
  """

  shard: str
  index: int | None
  reason: str

  def __str__(self) -> str:
    return f"{self.shard}{'' if self.index is None else f', record {self.index}'}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Survey:
  """What reading records showed; each list has a value for each record that has one."""

  captions: list[int]  # Characters.
  motion: list[float]
  fps: list[float]
  tokens: list[int]  # Of stored embeddings.
  damage: list[Damage]


def describe(manifest: Manifest) -> str:
  """Return what the manifest says, for a person."""
  counts, settings, sizes = manifest.counts, manifest.settings, {}
  for shard in manifest.shards:
    sizes[shard.bucket] = sizes.get(shard.bucket, 0) + shard.bytes
  lines = [
      f"{counts.seen} items seen: {counts.cached} cached, {counts.too_short} skipped as too short, {counts.no_bucket} "
      f"skipped as stills without a bucket, {counts.rejected} rejected",
      f"autoencoder {manifest.autoencoder.kind} {manifest.autoencoder.digest[:12]}, "
      + ("no text embeddings" if manifest.text_encoder is None
         else f"text encoder {manifest.text_encoder.kind} {manifest.text_encoder.digest[:12]}"),
      f"{'every frame' if settings.stride == 1 else f'one frame in {settings.stride}'} of "
      f"{f'{settings.fps:g} a second' if settings.fps else 'the file'}, "
      f"{len(manifest.shards)} shards, {sum(sizes.values()) / 1e6:.1f} MB"]
  for info in manifest.buckets:
    shape, latent = (" x ".join(map(str, sides)) for sides in (info.bucket, info.moments))
    lines.append(f"  {shape:<18} moments {latent:<20} {info.records:>8} records {sizes[info.bucket] / 1e6:>10.1f} MB")
  if manifest.num_cut and manifest.text_encoder is not None:
    lines.append(f"captions of more than the {manifest.text_encoder.max_length} tokens that the text encoder reads, of "
                 f"which only the beginning is embedded: {manifest.num_cut}")
  lines += [f"found in the source and not used: {unused}" for unused in manifest.unused]
  return "\n".join(lines)


def histogram(name: str, values: Sequence[float]) -> str:
  """Return a histogram as lines of text; nothing if there are no values."""
  if not len(values):
    return ""
  counts, edges = np.histogram(values, bins=_BARS if min(values) < max(values) else 1)
  lines = [f"{name}: mean {np.mean(values):.4g}, from {min(values):.4g} to {max(values):.4g}"]
  for count, (low, high) in zip(counts, itertools.pairwise(edges), strict=True):
    bar = "#" * round(_BAR_WIDTH * count / counts.max())
    lines.append(f"  {low:>10.4g} … {high:<10.4g} {bar:<{_BAR_WIDTH}} {count}")
  return "\n".join(lines)


def survey(folder: Path, manifest: Manifest, most: int | None, progress: Progress = lambda done, total: None) -> Survey:
  """Read records and say what they hold and which are damaged.

  Args:
    folder: of the cache.
    manifest: its manifest.
    most: records to read, spread evenly; None reads all, and checks the files as a whole.
    progress: told how many of how many are read.
  """
  found = Survey([], [], [], [], [])
  shapes = {info.bucket: info.moments for info in manifest.buckets}
  picked = spread(manifest, most)
  total, done = sum(len(indices) for _, indices in picked), 0
  for shard, indices in picked:
    if problem := shard_problem(folder, shard):
      found.damage.append(Damage(shard.file, None, problem))
    before = len(found.damage)
    for index, record in _read(folder, shard, indices, found.damage):
      if record.moments.shape != shapes[shard.bucket]:
        found.damage.append(Damage(shard.file, index, f"moments {record.moments.shape}, not {shapes[shard.bucket]}"))
      _note(found, record)
      done += 1
      progress(done, total)
    if most is None and len(found.damage) == before and file_sha256(folder / shard.file) != shard.sha256:
      found.damage.append(Damage(shard.file, None, "its SHA-256 is wrong, though all records are sound"))
  return found


def spread(manifest: Manifest, most: int | None) -> list[tuple[Shard, list[int]]]:
  """Choose at most so many records, evenly spread over all; None takes all."""
  total, picked, start = manifest.counts.cached, [], 0
  wanted = range(total) if most is None or most >= total else [i * total // most for i in range(most)]
  for shard in manifest.shards:
    first, end = (bisect.bisect_left(wanted, number) for number in (start, start + shard.records))
    picked.append((shard, [number - start for number in wanted[first:end]]))
    start += shard.records
  return picked


def _read(folder: Path, shard: Shard, indices: Sequence[int], damage: list[Damage]) -> Iterator[tuple[int, Record]]:
  """Yield sound records, and note the others."""
  try:
    reader = ShardReader(folder / shard.file)
  except ValueError as error:
    damage.append(Damage(shard.file, None, str(error)))
    return
  if len(reader) != shard.records:
    damage.append(Damage(shard.file, None, f"has {len(reader)} records; the manifest says {shard.records}"))
  for index in indices:
    try:
      yield index, reader[index]
    except DamagedRecord as error:
      damage.append(Damage(shard.file, index, str(error)))
  reader.close()


def _note(found: Survey, record: Record) -> None:
  found.captions.append(len(record.caption))
  for values, value in ((found.motion, record.motion_flow), (found.fps, record.fps)):
    if value is not None:
      values.append(value)
  if record.text_embeds is not None:
    found.tokens.append(len(record.text_embeds))


def write_sheet(path: Path, folder: Path, manifest: Manifest, num_clips: int, autoencoder: str = "") -> list[str]:
  """Write a contact sheet of decoded clips, evenly spread over the cache, and return their captions.

  Args:
    path: of the PNG.
    folder: of the cache.
    manifest: its manifest.
    num_clips: how many.
    autoencoder: folder of the one that made the cache; empty looks where the builder found it.

  Raises:
    UserError: another autoencoder, or no sound record.
  """
  name = autoencoder or manifest.settings.autoencoder
  if not autoencoder and parse_id(name):  # A stranger's cache downloads nothing.
    name = str(part_folder(name, VAE, download=False))
  settings = dataclasses.replace(manifest.settings, autoencoder=name)
  decoder, info = open_autoencoder(settings)
  if info.digest != manifest.autoencoder.digest:
    raise UserError(
        f"--autoencoder: {settings.autoencoder} is {info.kind} {info.digest[:12]}, but the cache was made with "
        f"{manifest.autoencoder.kind} {manifest.autoencoder.digest[:12]}")
  records = [
      record for shard, indices in spread(manifest, num_clips) for _, record in _read(folder, shard, indices, [])]
  if not records:
    raise UserError(f"{folder} has no sound record to show")
  clips = [_decode(record, manifest, decoder) for record in records]
  titles = [" ".join(f"{number}: {record.caption}".split()) for number, record in enumerate(records)]
  media.write_sheet(path, clips, [title if len(title) <= _TITLE else title[: _TITLE - 1] + "…" for title in titles])
  return titles


def _decode(record: Record, manifest: Manifest, decoder: Autoencoder) -> np.ndarray:
  pixels = decoder.decode(manifest.autoencoder.latents(record.moments)[None])[0]
  frames = pixels[np.linspace(0, len(pixels) - 1, min(len(pixels), _FRAMES)).round().astype(int)]
  height, width = frames.shape[1:3]
  scale = min(1, _SHORT_SIDE / min(height, width))
  size = round(width * scale), round(height * scale)
  return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], -1) for frame in frames])
