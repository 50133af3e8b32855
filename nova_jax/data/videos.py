"""Records of raw pixels, encoded as they are read: how the moving digits are fed to training.

Longer clips are cut after their first frames. Single frames are taken from anywhere in them, at random, or by choice
from their beginning, since that is what a model begins its own clips with. By choice a fraction of the clips is cut
from later frames: a model that has seen these can go on beyond its trained length. Videos don't begin there, so the
first frames of such a clip are marked as given, and no loss is taken of them. Where the digit of a record turns, such a
clip shows the turn, or what comes after it. The caption is the one of the way that is learned; what is seen before the
turn is given.
Invariant: a row is a function of (source, seed, position, num_frames, mid_clip_fraction, single_frames).
"""

from collections.abc import Mapping
from typing import Any, Protocol

import grain
import numpy as np

from nova_jax.autoencoders import Autoencoder
from nova_jax.config import SINGLE_FRAMES
from nova_jax.data.digits import one_digit
from nova_jax.data.loader import Bucket, Rows
from nova_jax.text import TextEncoder
from nova_jax.text.truncation import truncate
from nova_jax.utils.errors import UserError

_CACHE_BYTES = 256 * 2**20  # Sources up to this size are decoded once and kept.
_GIVEN = 2  # Frames that tell what moves and which way, at most.


class Source(Protocol):
  """Random-access records."""

  def __len__(self) -> int: ...

  def __getitem__(self, number: int, /) -> Mapping[str, Any]: ...


class VideoFeed:
  """Feeds records of `one_digit.Clip`'s fields; a `Feed` of one bucket."""

  def __init__(
      self, source: Source, text_encoder: TextEncoder | None, autoencoder: Autoencoder, *, num_frames: int, seed: int,
      mid_clip_fraction: float = 0.0, single_frames: str = "any",
  ):
    """Shuffle the records.

    Args:
      source: random-access records.
      text_encoder: embeds the captions; None for a class-conditional model, which gets digits as labels.
      autoencoder: encodes the clips.
      num_frames: latent frames of a sample.
      seed: of the shuffle and of where clips are cut.
      mid_clip_fraction: fraction of clips that are cut from later frames, in a record that turns from where its turn
        is seen.
      single_frames: what is learned if `num_frames` is 1: "any" frame before a turn, or the "first" of each clip.

    Raises:
      UserError: no records, or too short ones.
    """
    if not len(source):
      raise UserError("data: the source has no records")
    self._num_pixel_frames = autoencoder.num_frames(num_frames)
    video = source[0]["video"]
    if len(video) < self._num_pixel_frames:
      raise UserError(
          f"num_frames: {num_frames} latent frames need clips of {self._num_pixel_frames} frames, but the records have"
          f" {len(video)}: store longer ones (data.num_frames)")
    self._text_encoder, self._autoencoder, self._seed = text_encoder, autoencoder, seed
    check_single_frames(single_frames)
    self._mid_clip_fraction = mid_clip_fraction if num_frames > 1 else 0.0
    self._any_frame = num_frames == 1 and single_frames == "any"
    if self._mid_clip_fraction:
      check_mid_clips(mid_clip_fraction, len(video), num_frames, autoencoder)
    if video.nbytes * len(source) <= _CACHE_BYTES:
      source = _Remembering(source)
    records = grain.MapDataset.source(source)  # ty: ignore[invalid-argument-type] (a number is an int)
    self.buckets = (Bucket(records.seed(seed).shuffle().repeat()),)

  def make_row(self, record: Mapping[str, Any], position: int) -> Mapping[str, Any]:
    """Cut the clip to the length asked for."""
    video, length = record["video"], self._num_pixel_frames
    place, choice = (int(word) for word in np.random.SeedSequence((self._seed, position)).generate_state(2))
    first, row = 0, {"caption": record["caption"], "digit": record["digit"]}
    if self._any_frame:
      first = place % min(len(video), record["turn"])
    elif self._mid_clip_fraction:
      if choice < self._mid_clip_fraction * 2**32:
        # A digit that turns is seldom where others are, so no clip of it is spent on the way there.
        earliest = 1 if record["turn"] >= len(video) else max(1, record["turn"] - length + 2)
        first = earliest + place % (len(video) - length + 1 - earliest)
      row["caption"], row["given"] = _told(record, first, length)
    return {**row, "video": video[first : first + length]}

  def collate(self, rows: Rows) -> Rows:
    """Encode clips, and captions unless the model takes labels."""
    batch = {"latents": np.asarray(self._autoencoder.encode(rows["video"]))}
    if self._mid_clip_fraction:
      batch["given"] = rows["given"]
    if self._text_encoder is None:
      batch["labels"] = rows["digit"].astype(np.int32)
    else:
      captions = [truncate(self._text_encoder, caption.decode())[0] for caption in rows["caption"].tolist()]
      batch["text_embeds"], batch["text_lengths"] = self._text_encoder.encode(captions)
    return batch


def _told(record: Mapping[str, Any], first: int, length: int) -> tuple[bytes, np.int32]:
  """Return the caption of a clip that begins at frame `first`, and how many of its frames are given."""
  turn, caption, wall = 0, record["caption"], record["wall"]
  if not first:
    return caption, np.int32(0)
  if record["turn"] <= first + length - 2:  # It is seen, and something is left to learn.
    turn, caption, wall = record["turn"], record["later_caption"], record["later_wall"]
  seen = max(first, turn)  # The first frame from which it goes as the caption says.
  # As long as the caption tells which way it goes, one frame is enough.
  return caption, np.int32(max(seen - first + 1, 1 if seen < wall else _GIVEN))


def check_single_frames(single_frames: str) -> None:
  """Refuse a name that is none of `SINGLE_FRAMES`."""
  if single_frames not in SINGLE_FRAMES:
    raise UserError(f"data.single_frames: expected {' or '.join(map(repr, SINGLE_FRAMES))}, got {single_frames!r}")


def check_mid_clips(
    mid_clip_fraction: float, stored: int, num_frames: int, autoencoder: Autoencoder, turning_fraction: float = 0.0
) -> None:
  """Refuse clips from the middle where records of `stored` frames have none of `num_frames` latent ones."""
  if not 0 <= mid_clip_fraction <= 1:
    raise UserError(f"data.mid_clip_fraction: expected 0 to 1, got {mid_clip_fraction}")
  if autoencoder.num_frames(2) != 2:
    raise UserError(
        "data.mid_clip_fraction: this autoencoder joins frames and encodes the first apart: clips must begin with it")
  if num_frames <= _GIVEN:
    raise UserError(f"data.mid_clip_fraction: {_GIVEN} frames are given, which leaves none to learn of {num_frames}")
  if stored <= num_frames:
    raise UserError(
        f"data.mid_clip_fraction: records of {stored} frames have no clip of {num_frames} in their middle; store "
        "longer ones (data.num_frames)")
  if turning_fraction and num_frames > one_digit.MOVES_TO_TURN[0] + 1:
    raise UserError(
        f"data.turning_fraction: a clip that begins a video ends before its digit turns, so it has at most "
        f"{one_digit.MOVES_TO_TURN[0] + 1} frames, got {num_frames}")


class _Remembering:
  """A source that decodes each record once and keeps it."""

  def __init__(self, source: Source):
    self._source = source
    self._records: list[Mapping[str, Any] | None] = [None] * len(source)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, number: int) -> Mapping[str, Any]:
    record = self._records[number]
    if record is None:
      record = self._records[number] = self._source[number]
    return record
