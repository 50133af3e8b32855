"""Records of latent caches (`cache/format.py`), mixed by weight and sampled anew at every visit.

  latents = (mean + std · noise − shift) · factor,  noise ~ N(0, 1) from (seed, position)

A source's records come in equal shares, whatever buckets they stand in; of several sources each gives its weight's
share. Clips are cut after their first latent frames. A single frame is taken from anywhere in a clip, at random, if its
latents are of one frame each, and is the first one otherwise; stills make batches of their own. The caption of a record
is the number of its class where the model takes classes.
Invariant: a row is a function of (sources, seed, position, settings), on any host and in any process.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import numpy as np

from nova_jax.config import DEFAULT_FPS, DEFAULT_MOTION_FLOW, DataConfig, ModelConfig
from nova_jax.data.cache.format import AutoencoderInfo
from nova_jax.data.cache.records import Record
from nova_jax.data.held_out import Split
from nova_jax.data.loader import Bucket, Rows
from nova_jax.data.shards import Cache, Found, Shards, Whole, shuffled
from nova_jax.storage import is_remote
from nova_jax.text import TextEncoder
from nova_jax.text.truncation import truncate
from nova_jax.utils.errors import UserError

REMOTE_THREADS = 16  # A read from a bucket takes tens of milliseconds, most of them waiting.
Shape = tuple[int, int, int]  # Latent frames, height and width of a sample.


class LatentFeed:
  """Feeds the records of caches; a `Feed`."""

  def __init__(
      self, caches: Sequence[Cache], model: ModelConfig, autoencoder: AutoencoderInfo,
      text_encoder: TextEncoder | None, cfg: DataConfig, *, num_frames: int, seed: int, split: Split | None = None
  ):
    """Check that caches and model fit, and shuffle the records.

    Args:
      caches: of the stage.
      model: that learns from them.
      autoencoder: the model's.
      text_encoder: embeds captions; needed if a cache has no embeddings.
      cfg: which buckets are taken, how often short captions and motion are shown, how many records may be damaged.
      num_frames: latent frames of a sample.
      seed: of all randomness.
      split: which records of each bucket are fed; None feeds all of them.

    Raises:
      UserError: a cache that does not fit; the error names it, and both sides of what differs.
    """
    self._model, self._autoencoder, self._seed = model, autoencoder, seed
    self._num_frames, self._short_captions, self._motion_dropout = num_frames, cfg.short_captions, cfg.motion_dropout
    embedded = model.text_dim is None or have_embeddings(caches)
    self._text_encoder = None if embedded else text_encoder
    if self._text_encoder is None and not embedded:
      names = ", ".join(str(cache.path) for cache in caches if cache.manifest.text_encoder is None)
      raise UserError(f"data.sources: {names} has no text embeddings, and there is no text encoder")
    parts: dict[Shape, list[tuple[float, grain.MapDataset]]] = {}
    for cache in caches:
      _check_encoders(cache, model, autoencoder)
      taken = _taken(cache, model, cfg, num_frames)
      if model.num_classes is not None:  # Whether a cache has classes, its first record tells before training begins.
        class_label(Whole(taken[0][1], cfg.max_damaged + 1)[0].record, model.num_classes)
      if split is not None:
        split_up = ((shape, split.of(source)) for shape, source in taken)
        taken = [(shape, source) for shape, source in split_up if len(source)]
      total = sum(len(source) for _, source in taken)
      for shape, source in taken:
        shuffle = np.random.SeedSequence((seed, sum(map(len, parts.values())))).generate_state(1)[0]
        records = shuffled(Whole(source, cfg.max_damaged + 1), int(shuffle), cfg.shuffle_block)
        parts.setdefault(shape, []).append((cache.weight * len(source) / total, records))
    if not parts:
      raise UserError("eval.fraction: no record can be held out; each bucket of the caches has only one")
    self.num_threads = REMOTE_THREADS if any(is_remote(cache.path) for cache in caches) else 1
    self.buckets = tuple(_mix(parts[shape]) for shape in sorted(parts, reverse=True))

  def make_row(self, found: Found, position: int) -> Mapping[str, Any]:
    """Cut and sample the latents, and choose a caption, or read the class that it names."""
    record, info = found.record, self._autoencoder
    random = np.random.SeedSequence((self._seed, position))
    caption, frame, motion = (int(word) for word in random.generate_state(3))
    moments = record.moments
    if self._num_frames == 1 and info.time_stride == 1:
      moments = moments[frame % len(moments):]
    moments = moments[: min(self._num_frames, len(moments))]
    certain = moments.shape[-1] == info.latent_dim
    noise = None if certain else _normal(random, (*moments.shape[:-1], info.latent_dim))
    short = record.short_caption is not None and caption < self._short_captions * 2**32
    row = {"latents": info.latents(moments, noise), "damaged": "\n".join(found.skipped).encode()}
    if self._model.has_motion:
      shown = motion >= self._motion_dropout * 2**32
      for name, value, default in (
          ("motion_flow", record.motion_flow, DEFAULT_MOTION_FLOW), ("fps", record.fps, DEFAULT_FPS)):
        # A still has neither score nor rate.
        row[name] = np.float32(value if shown and value is not None else default)
    if self._model.num_classes is not None:
      return row | {"labels": class_label(record, self._model.num_classes)}
    if self._text_encoder is not None:
      return row | {"caption": (record.short_caption if short else record.caption).encode()}
    embeds, length = padded_embeds(record, short, self._model)
    return row | {"text_embeds": embeds, "text_lengths": length}

  def collate(self, rows: Rows) -> Rows:
    """Embed captions, cut to the length that the model reads, unless the cache did."""
    batch = {name: value for name, value in rows.items() if name not in ("caption", "position")}
    if self._text_encoder is None:
      return batch  # Embeddings stay float16, half as much to move: the model converts what it reads.
    captions = [truncate(self._text_encoder, caption.decode())[0] for caption in rows["caption"].tolist()]
    embeds, lengths = self._text_encoder.encode(captions)
    return batch | {"text_embeds": embeds, "text_lengths": lengths}


def have_embeddings(caches: Sequence[Cache]) -> bool:
  """Return whether training on these caches needs no text encoder."""
  return all(cache.manifest.text_encoder is not None for cache in caches)


def example_records(caches: Sequence[Cache], count: int, size: tuple[int, int], num_frames: int) -> list[Record]:
  """Return at most `count` records with latents of one size, spread over the caches; stills if there are no clips."""
  found = [(cache, info) for cache in caches for info in cache.manifest.buckets if info.moments[1:3] == tuple(size)]
  clips = [(cache, info) for cache, info in found if info.moments[0] >= num_frames]
  sources = [Whole(Shards.of(cache, info.bucket), info.records) for cache, info in clips or found]
  numbers = [(source, number) for source in sources for number in range(len(source))]
  chosen = [numbers[i * len(numbers) // count] for i in range(count)] if len(numbers) > count else numbers
  return [source[number].record for source, number in chosen]


def class_label(record: Record, num_classes: int) -> np.int32:
  """Return the class of a record, whose caption is its number.

  Raises:
    UserError: the caption is something else.
  """
  text = record.caption.strip()
  if not (text.isascii() and text.isdecimal() and int(text) < num_classes):
    raise UserError(
        f"data.sources: the model takes class labels (model.num_classes), but the caption of {record.source} is "
        f"{text[:60]!r}; expected a number from 0 to {num_classes - 1}")
  return np.int32(text)


def padded_embeds(record: Record, short: bool, model: ModelConfig) -> tuple[np.ndarray, np.int32]:
  """Return a caption's embeddings as float16 [L, E], cut or with zeros behind them, and how many count."""
  embeds = record.short_text_embeds if short else record.text_embeds
  assert embeds is not None and model.text_dim is not None  # See `have_embeddings`.
  embeds = embeds[: model.text_len]
  whole = np.zeros((model.text_len, model.text_dim), np.float16)
  whole[: len(embeds)] = embeds
  return whole, np.int32(len(embeds))


def _normal(random: np.random.SeedSequence, shape: tuple[int, ...]) -> np.ndarray:
  (child,) = random.spawn(1)
  return np.random.Generator(np.random.Philox(child)).standard_normal(shape, np.float32)


def _check_encoders(cache: Cache, model: ModelConfig, autoencoder: AutoencoderInfo) -> None:
  theirs = cache.manifest.autoencoder
  differing = [
      f"{field.name} is {getattr(theirs, field.name)!r} there, {getattr(autoencoder, field.name)!r} here"
      for field in dataclasses.fields(AutoencoderInfo)
      if getattr(theirs, field.name) != getattr(autoencoder, field.name)]
  if differing:
    raise UserError(
        f"{cache.path} was made with another autoencoder ({theirs.kind}) than the model's ({autoencoder.kind}): "
        f"{'; '.join(differing)}; make the cache anew with the model's")
  text = cache.manifest.text_encoder
  if text is not None and model.text_dim is not None and text.dim != model.text_dim:
    raise UserError(
        f"{cache.path} has text embeddings of {text.dim} values ({text.kind}), but the model takes "
        f"model.text_dim={model.text_dim}")


def _taken(
    cache: Cache, model: ModelConfig, cfg: DataConfig, num_frames: int
) -> list[tuple[Shape, Shards]]:
  """Return the buckets of a cache that a stage takes: the shape of its samples and its records."""
  taken, sizes = [], cfg.buckets
  for info in cache.manifest.buckets:
    frames, height, width, _ = info.moments
    size = height, width
    if size not in (sizes or (model.latent_size,)):
      if sizes:
        continue
      raise UserError(
          f"{cache.path} has latents of {_by(size)} (bucket {_by(info.bucket)}), but the model has "
          f"model.latent_size={_by(model.latent_size)}; name all sizes to train on in data.buckets")
    if any(side % (2 * model.patch_size) for side in size):
      raise UserError(
          f"{cache.path} has latents of {_by(size)}, which don't divide into video patches of {2 * model.patch_size} "
          f"(model.patch_size={model.patch_size})")
    if 1 < frames < num_frames:
      raise UserError(
          f"{cache.path} has clips of {frames} latent frames (bucket {_by(info.bucket)}), but a stage takes "
          f"{num_frames}")
    taken.append(((min(frames, num_frames), *size), Shards.of(cache, info.bucket, cfg.shuffle_block)))
  if not cache.manifest.buckets:
    counts = cache.manifest.counts
    raise UserError(
        f"{cache.path} has no records: of {counts.seen} items, {counts.rejected} were rejected (rejected.jsonl there "
        f"says why), {counts.too_short} were too short for a bucket, and {counts.no_bucket} were stills without a "
        "bucket of one frame; make a cache of other clips, or with other buckets")
  if not taken:
    raise UserError(f"{cache.path} has no records of the sizes in data.buckets: {', '.join(map(_by, sizes))}")
  return taken


def _mix(parts: Sequence[tuple[float, grain.MapDataset]]) -> Bucket:
  weights = [weight for weight, _ in parts]
  return Bucket(grain.MapDataset.mix([records for _, records in parts], weights), sum(weights))


def _by(sizes: Sequence[int]) -> str:
  return " x ".join(map(str, sizes))
