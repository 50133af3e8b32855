"""Makes the files of a scored folder, batch by batch.

Invariant: a file appears in the scored folder whole, and what it holds depends on its batch alone.
"""

import functools
import hashlib
import itertools
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nova_jax import media
from nova_jax.config import MeshConfig
from nova_jax.evals.benchmarks.layout import Item, Layout, seed_for_sample
from nova_jax.evals.benchmarks.settings import Settings
from nova_jax.media import readers
from nova_jax.media.lossless import write_avi
from nova_jax.parallel.sharding import make_mesh, state_shardings
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.conditions import encode
from nova_jax.storage import as_path, is_remote
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import write_atomically
from nova_jax.utils.notes import tell
from nova_jax.utils.progress import Progress


def embedding_path(output: Path, text: str) -> Path:
  """Return where the embedding of a text is kept."""
  return output / "embeddings" / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"


def shared_settings(layout: Layout, settings: Settings) -> dict[str, Any]:
  """Return the settings that all samples share."""
  return dict(settings.sampling) if layout.is_video else {**settings.sampling, "num_frames": 1}


def encode_texts(pipe: Pipeline, output: Path, texts: Sequence[str]) -> None:
  """Keep the embeddings of texts, one at a time, and drop the encoder."""
  if not texts:
    return
  encoder, notes = pipe.text_encoder, []
  if encoder is None:
    raise UserError("--checkpoint: the model was loaded without a text encoder, which prompts need")
  with Progress("text", len(texts)) as progress:
    for done, text in enumerate(texts):
      embeds, lengths = encode(encoder, [text])
      notes += encoder.notes(text)
      write_atomically(embedding_path(output, text), functools.partial(_save, embeds[0, : lengths[0]]))
      progress.show(done + 1, what="encoding")
  if notes:
    tell(f"of {len(notes)} of {len(texts)} prompts the model doesn't read all, for example: {notes[0]}")
  pipe.text_encoder = None  # The largest part, and no longer needed.


def write_real_clips(
    pipe: Pipeline, layout: Layout, settings: Settings, output: Path, shard: tuple[int, int]
) -> None:
  """Write a shard's real clips, as the model sees them.

  Raises:
    UserError: a clip can't be read, or has too few frames.
  """
  fps = settings.sampling.get("fps") or pipe.card.sample.fps
  for path, source in [*layout.clips.items()][shard[0] :: shard[1]]:
    target = output / layout.benchmark / path
    if source is not None and not target.is_file():
      clip = _read_clip(pipe, source, settings.sampling["num_frames"])
      put(output, shard, target, functools.partial(write_avi, clip=clip, fps=fps))


def make_samples(
    pipe: Pipeline, layout: Layout, settings: Settings, output: Path, shard: tuple[int, int],
    todo: Sequence[Sequence[Item]],
) -> None:
  """Make batches of files.

  Args:
    pipe: model, whose batches are spread over the devices of this process.
    layout: of the folder.
    settings: of the generation.
    output: folder of the run, which has the embeddings of all texts.
    shard: this one's number, and how many there are.
    todo: items of each batch.
  """
  spread(pipe)
  fps = settings.sampling.get("fps") or pipe.card.sample.fps
  samples = sum(len(item.samples) for batch in todo for item in batch)
  with Progress("sample", samples) as progress:
    done = 0
    for batch in todo:
      pairs = [(item, sample) for item in batch for sample in item.samples]
      # The last batch is filled up: every batch is one program, whose rounding is always the same.
      full = list(itertools.islice(itertools.cycle(pairs), settings.batch_size))
      items = [item for item, _ in full]
      clips = pipe(
          **_conditions(output, items), **_given(pipe, layout, settings, items), **shared_settings(layout, settings),
          seed=[seed_for_sample(layout.benchmark, item.prompt, sample, settings.seed) for item, sample in full])
      for item in batch:
        own = [clip for (other, _), clip in zip(pairs, clips, strict=False) if other is item]
        put(output, shard, output / layout.benchmark / item.path, functools.partial(_write, item, own, fps))
      done += len(pairs)
      progress.show(done, what="generating")


def _conditions(output: Path, items: Sequence[Item]) -> dict[str, Any]:
  """Return what each sample shows: the class, or the text's embedding."""
  if items[0].label is not None:
    return {"label": [item.label for item in items]}
  return {"text_embeds": [_read_embedding(embedding_path(output, item.text)) for item in items]}


def _given(pipe: Pipeline, layout: Layout, settings: Settings, items: Sequence[Item]) -> dict[str, Any]:
  """Return the frames that each sample begins with, if they are given."""
  if items[0].image:
    return {"image": [item.image for item in items]}
  if not layout.context_frames:
    return {}
  num_frames = settings.sampling["num_frames"]
  clips = {video: _read_clip(pipe, as_path(video), num_frames) for video in {item.video for item in items}}
  return {"video": [clips[item.video][: layout.context_frames] for item in items]}


def _read_clip(pipe: Pipeline, source: Path, num_frames: int) -> np.ndarray:
  """Return the first frames of a real clip in the model's size, uint8 [T, height, width, c]."""
  parts = pipe.parts
  clip = readers.open_clip(source, parts.frame_size, parts.require_autoencoder("video").channels, first=num_frames)
  if len(clip.frames) < num_frames:
    raise UserError(f"{source} has {len(clip.frames)} frames; expected {num_frames} or more (--num_frames)")
  return clip.frames


def spread(pipe: Pipeline) -> None:
  """Spread batches over the devices of this process, each of which holds the whole transformer."""
  if jax.local_device_count() > 1:
    mesh = make_mesh(MeshConfig(data=-1, fsdp=1), jax.local_devices())
    pipe.model = pipe.model._replace(state=jax.device_put(pipe.model.state, state_shardings(mesh, pipe.model.state)))


def _write(item: Item, clips: Sequence[np.ndarray], fps: float, path: Path) -> None:
  """Write a video, a picture, or four as a grid, pixel by pixel as the model made them."""
  if path.suffix == ".mp4":
    media.write_mp4(path, clips[0], fps, short_side=1)
    return
  if path.suffix == ".avi":
    write_avi(path, clips[0], fps)
    return
  frames = [clip[0] for clip in clips]
  if len(frames) > 1:
    frames = [np.concatenate([np.concatenate(frames[:2], axis=1), np.concatenate(frames[2:], axis=1)])]
  media.write_png(path, frames[0], short_side=1)


def put(output: Path, shard: tuple[int, int], path: Path, write: Callable[[Path], None]) -> None:
  """Write a file beside the scored folder, and move it there: that folder never holds a part of one."""
  if path.is_file():
    return
  if is_remote(path):  # Where a file appears whole.
    write(path)
    return
  partial = output / "partial" / f"{shard[0]}-of-{shard[1]}.{secrets.token_hex(6)}{path.suffix}"
  write(partial)
  path.parent.mkdir(parents=True, exist_ok=True)
  os.replace(partial, path)


def _read_embedding(path: Path) -> np.ndarray:
  with path.open("rb") as file:
    return np.load(file)


def _save(array: np.ndarray, path: Path) -> None:
  np.save(path, array)
