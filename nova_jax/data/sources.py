"""The data of an experiment: what each of its stages is fed, and which records sample grids show.

Invariant: opening caches reads their manifests alone, so that what doesn't fit is found before anything is made.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from nova_jax.autoencoders import Autoencoder
from nova_jax.config import DataConfig, Experiment, StageConfig
from nova_jax.data.cache.format import AutoencoderInfo
from nova_jax.data.cache.identity import describe_autoencoder, manifest_digest
from nova_jax.data.caption_lengths import long_captions
from nova_jax.data.digits import datasets
from nova_jax.data.digits.captions import vocabulary
from nova_jax.data.digits.datasets import BUILDERS
from nova_jax.data.held_out import SEED, Split
from nova_jax.data.latents import LatentFeed, class_label, example_records, have_embeddings, padded_embeds
from nova_jax.data.loader import Feed
from nova_jax.data.shards import Cache, read_caches
from nova_jax.data.videos import Source, VideoFeed
from nova_jax.storage import is_remote
from nova_jax.text import BUILT_IN, TextEncoder
from nova_jax.text.truncation import truncate
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import cache_folder


class Examples(NamedTuple):
  """Records that a sample grid shows: captions, and what the pipeline is given for them."""

  captions: list[str]
  condition: Mapping[str, Any]


def known_words(experiment: Experiment) -> tuple[str, ...]:
  """Return the words that the built-in text encoder meets in training; empty where they aren't known beforehand."""
  data = experiment.data
  if data.name not in BUILDERS or experiment.text_encoder not in BUILT_IN or experiment.init:
    return ()
  return vocabulary(data.paraphrase_fraction > 0, 2 if data.name == "two_digits" else 1)


class Data(Protocol):
  """Data of all stages."""

  def feed(self, stage: StageConfig) -> Feed:
    """Return what a stage learns from; a ValueError if it doesn't fit."""

  def held_out(self, stage: StageConfig) -> Feed:
    """Return what a stage is evaluated on, from which no stage learns; a ValueError if it doesn't fit."""

  def examples(self, stage: StageConfig, count: int) -> Examples:
    """Return at most `count` records to show."""


class DigitData:
  """Moving digits, or records like them: `train` is learned, `test` shown."""

  def __init__(
      self, sources: Mapping[str, Source], experiment: Experiment, autoencoder: Autoencoder,
      text_encoder: TextEncoder | None,
  ):
    self._sources, self._experiment = sources, experiment
    self._autoencoder, self._text_encoder = autoencoder, text_encoder

  def feed(self, stage: StageConfig) -> VideoFeed:
    return VideoFeed(
        self._sources["train"], self._text_encoder, self._autoencoder, num_frames=stage.num_frames,
        seed=self._experiment.seed, mid_clip_fraction=self._experiment.data.mid_clip_fraction,
        single_frames=self._experiment.data.single_frames)

  def held_out(self, stage: StageConfig) -> VideoFeed:
    return VideoFeed(
        self._sources["test"], self._text_encoder, self._autoencoder, num_frames=stage.num_frames, seed=SEED,
        single_frames=self._experiment.data.single_frames)

  def examples(self, stage: StageConfig, count: int) -> Examples:
    # Neighbouring records move alike; every 11th shows another digit in another direction.
    records = self._sources["test"]
    records = [records[11 * i % len(records)] for i in range(count)]
    captions = [record["caption"].decode() for record in records]
    if self._experiment.model.text_dim:
      return Examples(captions, {"prompt": captions})
    return Examples(captions, {"label": [int(record["digit"]) for record in records]})


class CacheData:
  """Latent caches; what is shown is some of what is learned."""

  def __init__(self, experiment: Experiment, autoencoder: AutoencoderInfo, text_encoder: TextEncoder | None):
    self._experiment, self._autoencoder, self._text_encoder = experiment, autoencoder, text_encoder
    caches = [cache for stage in experiment.train.stages for cache in _caches(experiment, stage)]
    known = {info.moments[1:3] for cache in caches for info in cache.manifest.buckets}
    if experiment.eval.sources:
      learned = {manifest_digest(cache.path) for cache in caches}
      for cache in _held_out_caches(experiment):
        if manifest_digest(cache.path) in learned:
          raise UserError(f"eval.sources: {cache.path} has the records of a cache that is learned from")
        caches.append(cache)
    for cache in caches:
      theirs, ours = cache.manifest.text_encoder, experiment.text_encoder
      if theirs is not None and theirs.kind != ours and {theirs.kind, ours} & set(BUILT_IN):
        raise UserError(
            f"{cache.path} has text embeddings of another text encoder ({theirs.kind}) than the model's ({ours})")
    missing = [size for size in experiment.data.buckets if size not in known]
    if missing:
      raise UserError(f"data.buckets: no cache has latents of {missing[0]}; there are {sorted(known)}")

  def feed(self, stage: StageConfig) -> LatentFeed:
    experiment, fraction = self._experiment, self._experiment.eval.fraction
    return LatentFeed(
        _caches(experiment, stage), experiment.model, self._autoencoder, self._text_encoder, experiment.data,
        num_frames=stage.num_frames, seed=experiment.seed, split=Split(fraction, held_out=False) if fraction else None)

  def held_out(self, stage: StageConfig) -> LatentFeed:
    experiment, own = self._experiment, bool(self._experiment.eval.sources)
    return LatentFeed(
        _held_out_caches(experiment) if own else _caches(experiment, stage), experiment.model, self._autoencoder,
        self._text_encoder, dataclasses.replace(experiment.data, motion_dropout=0.0), num_frames=stage.num_frames,
        seed=SEED, split=None if own else Split(experiment.eval.fraction, held_out=True))

  def examples(self, stage: StageConfig, count: int) -> Examples:
    caches, model, sample = _caches(self._experiment, stage), self._experiment.model, self._experiment.sample
    records = example_records(caches, count, model.latent_size, stage.num_frames)
    captions = [record.caption for record in records]
    condition: dict[str, Any]
    if model.num_classes is not None:
      condition = {"label": [int(class_label(record, model.num_classes)) for record in records]}
    elif have_embeddings(caches):
      embeds = [padded_embeds(record, False, model) for record in records]
      condition = {"text_embeds": [embed[:length].astype(np.float32) for embed, length in embeds]}
    else:
      assert self._text_encoder is not None  # `LatentFeed` refuses captions that nothing embeds.
      condition = {"prompt": [truncate(self._text_encoder, caption)[0] for caption in captions]}
    if model.has_motion:
      condition |= {
          "motion_flow": [sample.motion_flow if r.motion_flow is None else r.motion_flow for r in records],
          "fps": [sample.fps if r.fps is None else r.fps for r in records]}
    return Examples(captions, condition)


  def notes(self) -> list[str]:
    """Return what a person should know of the captions that are embedded in training; reads them all."""
    if self._text_encoder is None:
      return []
    embedded = [
        cache for stage in self._experiment.train.stages for caches in [_caches(self._experiment, stage)]
        if not have_embeddings(caches) for cache in caches]
    return long_captions(embedded, self._text_encoder)


def needs_text_encoder(experiment: Experiment) -> bool:
  """Return whether a stage or its evaluation has to embed captions."""
  if experiment.data.name != "caches":
    return True
  if experiment.model.num_classes is not None:
    return False
  lists = [_caches(experiment, stage) for stage in experiment.train.stages]
  if experiment.eval.sources:
    lists.append(_held_out_caches(experiment))
  return not all(map(have_embeddings, lists))


def open_digits(
    experiment: Experiment, workdir: Path, autoencoder: Autoencoder, text_encoder: TextEncoder | None
) -> DigitData:
  """Open the moving digits, drawing them first if need be."""
  return DigitData(digit_records(experiment.data, workdir), experiment, autoencoder, text_encoder)


def digit_records(data: DataConfig, workdir: Path) -> Mapping[str, Source]:
  """Return the records of each split, drawn first if need be: beside a run in a bucket, each machine has its own."""
  folder = data.data_dir or (cache_folder() if is_remote(workdir) else workdir) / "data"
  return datasets.prepare(folder, data)


def open_caches(
    experiment: Experiment, autoencoder: Autoencoder, text_encoder: TextEncoder | None
) -> CacheData | None:
  """Open the caches of an experiment; None if it has other data."""
  if experiment.data.name != "caches":
    return None
  return CacheData(experiment, describe_autoencoder(experiment.autoencoder, autoencoder), text_encoder)


def _caches(experiment: Experiment, stage: StageConfig) -> tuple[Cache, ...]:
  if not stage.sources:
    return read_caches(experiment.data.sources)
  index = [each.name for each in experiment.train.stages].index(stage.name)
  return read_caches(stage.sources, f"train.stages[{index}].sources")


def _held_out_caches(experiment: Experiment) -> tuple[Cache, ...]:
  return read_caches(experiment.eval.sources, "eval.sources")
