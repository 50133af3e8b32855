"""Samples of a benchmark, in the folder that its official scorer reads.

  OUTPUT/manifest.json    settings, and prompt, text and seeds of every file
  OUTPUT/checksums.json   SHA-256 of every file, written when all are there
  OUTPUT/embeddings/      texts, encoded once
  OUTPUT/partial/         files being written
  OUTPUT/{benchmark}/     the scored folder: what the scorer reads, nothing else

Files are made in batches that depend on the prompt file alone; a shard takes every n-th batch, and a batch with a
missing file is made again as a whole. Texts are encoded one at a time.
Invariant: any number of shards, interrupted anywhere and continued, write the same bytes: a sample's seed derives from
(benchmark, prompt, sample), and what it is computed beside never changes.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nova_jax import media
from nova_jax.checkpoint import latest_step
from nova_jax.config import MeshConfig
from nova_jax.convert.folders import is_trained, open_folder
from nova_jax.convert.parts import TEXT_ENCODER, VAE
from nova_jax.evals.benchmarks.layout import Item, Layout, check_names, seed_of
from nova_jax.fields import to_dict
from nova_jax.files import read_json, write_atomically
from nova_jax.pipeline import Pipeline
from nova_jax.progress import Progress
from nova_jax.sharding import make_mesh, state_shardings

MANIFEST, CHECKSUMS = "manifest.json", "checksums.json"


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the bytes of the samples depend on, beside the prompts; None takes the model's own default."""

  checkpoint: str
  weights: str = "ema"  # Of a training run: "ema" or "params".
  step: int | None = None  # Of the checkpoint of a training run.
  dtype: str = "float32"  # Of activations.
  batch_size: int = 8
  num_frames: int | None = None  # Of a video.
  num_inference_steps: int | None = None
  num_diffusion_steps: int | None = None
  guidance_scale: float | None = None
  motion_flow: float | None = None
  fps: float | None = None
  seed: int = 0


def generate(
    layout: Layout, settings: Settings, output: Path, shard: tuple[int, int] = (0, 1),
    load: Callable[..., Pipeline] = Pipeline.load,
) -> bool:
  """Make what is missing of one shard's files; return whether the folder is complete.

  Args:
    layout: of the folder.
    settings: of the generation; all shards have the same.
    output: folder of the run; all shards see it.
    shard: this one's number, from 0, and how many there are.
    load: opens the checkpoint.

  Raises:
    ValueError: `output` was made with other settings or prompts, or the model can't make what the benchmark asks for.
  """
  per_item = len(layout.items[0].samples)
  if settings.batch_size % per_item:
    raise ValueError(
        f"--batch_size: a picture of {layout.benchmark} shows {per_item} samples; expected a multiple, got "
        f"{settings.batch_size}")
  if not 0 <= shard[0] < shard[1]:
    raise ValueError(f"--shard: expected I/N with I from 0 to N - 1, got {shard[0]}/{shard[1]}")
  settings = claim(layout, settings, output)
  scored = output / layout.benchmark
  per_batch = settings.batch_size // per_item
  batches = [layout.items[start : start + per_batch] for start in range(0, len(layout.items), per_batch)]
  batches = batches[shard[0] :: shard[1]]
  todo = [batch for batch in batches if not all((scored / item.path).is_file() for item in batch)]
  for path, text in layout.texts.items():
    _put(output, shard, scored / path, lambda partial, text=text: write_atomically(partial, text + "\n"))
  if todo:
    _run(layout, settings, output, shard, todo, load)
  if not all((scored / path).is_file() for path in layout.paths):
    return False
  shutil.rmtree(output / "partial", ignore_errors=True)
  write_atomically(output / CHECKSUMS, _json({path: checksum(scored / path) for path in layout.paths}))
  return True


def claim(layout: Layout, settings: Settings, output: Path) -> Settings:
  """Write the manifest, or check that it is there already; return the settings with the checkpoint's step.

  Raises:
    ValueError: the folder belongs to other settings, prompts or devices.
  """
  path = output / MANIFEST
  stored = read_json(path) if path.is_file() else None
  if stored and settings.step is None:  # Training may have gone on since the first shard began.
    settings = dataclasses.replace(settings, step=stored["settings"]["step"])
  settings = _pin(settings)
  manifest = {
      "benchmark": layout.benchmark, "settings": dataclasses.asdict(settings),
      "model": to_dict(open_folder(Path(settings.checkpoint), settings.weights, settings.step).card),
      "devices": f"{jax.local_device_count()} {jax.local_devices()[0].device_kind}",
      "files": {
          item.path: {
              "prompt": item.prompt, "text": item.text,
              "seeds": [seed_of(layout.benchmark, item.prompt, sample, settings.seed) for sample in item.samples]}
          for item in layout.items},
      "texts": dict(layout.texts)}
  text = _json(manifest)
  if stored is None:
    output.mkdir(parents=True, exist_ok=True)
    check_names(layout, output)
    write_atomically(path, text)
  elif stored != json.loads(text):
    raise ValueError(f"{output} holds other samples: {_difference(stored, json.loads(text))}; use another --output")
  return settings


def checksum(path: Path) -> str:
  """Return the SHA-256 of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _pin(settings: Settings) -> Settings:
  """Name the newest checkpoint of a training run by its step."""
  folder = Path(settings.checkpoint)
  if settings.step is not None or not is_trained(folder):
    return settings
  return dataclasses.replace(settings, step=latest_step(folder / "checkpoints"))


def _run(layout, settings, output, shard, todo, load) -> None:
  """Make batches of files."""
  texts = list(dict.fromkeys(item.text for batch in todo for item in batch))
  place = lambda text: output / "embeddings" / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"
  missing = [text for text in texts if not place(text).is_file()]
  pipe = load(
      settings.checkpoint, weights=settings.weights, step=settings.step, dtype=settings.dtype,
      parts=(VAE, TEXT_ENCODER) if missing else (VAE,))
  if pipe.cfg.num_classes:
    raise ValueError(f"--checkpoint: {settings.checkpoint} takes class labels; {layout.benchmark} needs text")
  num_frames = settings.num_frames if layout.is_video else 1
  with Progress("text", len(missing)) as progress:
    for done, text in enumerate(missing):
      embeds, lengths = pipe.text_encoder.encode([text])
      content = functools.partial(_save, embeds[0, : lengths[0]])
      write_atomically(place(text), content)
      progress.show(done + 1, what="encoding")
  pipe.text_encoder = None  # The largest part, and no longer needed.
  spread(pipe)
  fps = settings.fps or pipe.card.sample.fps
  samples = sum(len(item.samples) for batch in todo for item in batch)
  with Progress("sample", samples) as progress:
    done = 0
    for batch in todo:
      pairs = [(item, sample) for item in batch for sample in item.samples]
      # The last batch is filled up: every batch is one program, whose rounding is always the same.
      full = list(itertools.islice(itertools.cycle(pairs), settings.batch_size))
      clips = pipe(
          text_embeds=[np.load(place(item.text)) for item, _ in full], num_frames=num_frames,
          seed=[seed_of(layout.benchmark, item.prompt, sample, settings.seed) for item, sample in full],
          num_inference_steps=settings.num_inference_steps, num_diffusion_steps=settings.num_diffusion_steps,
          guidance_scale=settings.guidance_scale, motion_flow=settings.motion_flow, fps=settings.fps)
      if layout.is_video and clips.shape[1] == 1:
        raise ValueError(f"{layout.benchmark} judges videos; this model was asked for one frame (--num_frames)")
      for item in batch:
        own = [clip for (other, _), clip in zip(pairs, clips) if other is item]
        _put(output, shard, output / layout.benchmark / item.path, functools.partial(_write, item, own, fps))
      done += len(pairs)
      progress.show(done, what="generating")


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
  frames = [clip[0] for clip in clips]
  if len(frames) > 1:
    height, width = frames[0].shape[:2]
    if height != width:
      raise ValueError(f"dpg cuts its pictures into squares; this model's are {width} x {height}")
    frames = [np.concatenate([np.concatenate(frames[:2], axis=1), np.concatenate(frames[2:], axis=1)])]
  media.write_png(path, frames[0], short_side=1)


def _put(output: Path, shard: tuple[int, int], path: Path, write: Callable[[Path], None]) -> None:
  """Write a file beside the scored folder, and move it there: that folder never holds a part of one."""
  if path.is_file():
    return
  partial = output / "partial" / f"{shard[0]}-of-{shard[1]}.{os.getpid()}{path.suffix}"
  write(partial)
  path.parent.mkdir(parents=True, exist_ok=True)
  os.replace(partial, path)


def _save(array: np.ndarray, path: Path) -> None:
  np.save(path, array)


def _json(value: Any) -> str:
  return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _difference(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  """Say in which settings two manifests differ, or else in what."""
  fields = [
      f"{name} was {value!r}, now {now['settings'].get(name)!r}" for name, value in stored["settings"].items()
      if now["settings"].get(name) != value]
  others = [
      f"{name} was {stored[name]!r}, now {now[name]!r}" if name in ("benchmark", "devices") else f"{name} differ"
      for name in now if name != "settings" and stored.get(name) != now[name]]
  return "; ".join(fields or others)
