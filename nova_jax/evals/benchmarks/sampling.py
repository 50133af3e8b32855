"""Samples of a benchmark, in the folder that its official scorer reads.

  OUTPUT/manifest.json    settings, digests of the weights, and prompt, text and seeds of every file
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
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from nova_jax.checkpoints.components import TEXT_ENCODER, VAE
from nova_jax.checkpoints.hub import local_folder, pinned
from nova_jax.checkpoints.model_folder import is_trained, open_folder
from nova_jax.checkpoints.store import BEST, find
from nova_jax.diffusion import make_scheduler
from nova_jax.evals.benchmarks.layout import Layout, check_names, seed_for_sample
from nova_jax.evals.benchmarks.making import (
  embedding_path,
  encode_texts,
  make_samples,
  put,
  shared_settings,
  write_real_clips,
)
from nova_jax.evals.benchmarks.settings import Settings
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.presets import EXACT, without_preset
from nova_jax.pipeline.request import DEFAULTS, Request
from nova_jax.storage import as_path, is_remote, names_below
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import to_dict
from nova_jax.utils.files import read_json, write_atomically
from nova_jax.utils.notes import tell
from nova_jax.utils.terminal import command

LONG_SECONDS = 5  # Length from which on VBench asks for VBench-Long.
MANIFEST, CHECKSUMS = "manifest.json", "checksums.json"
_WEIGHTS = ("checkpoint", "weights", "step", "lora", "quantize")  # Where weights are; digests say which.


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
    UserError: `output` was made with other settings or prompts, or the model can't make what the benchmark asks for.
  """
  per_item = len(layout.items[0].samples)
  if settings.batch_size % per_item:
    raise UserError(
        f"--batch_size: a picture of {layout.benchmark} shows {per_item} samples; expected a multiple, got "
        f"{settings.batch_size}")
  if not 0 <= shard[0] < shard[1]:
    raise UserError(f"--shard: expected I/N with I from 0 to N - 1, got {shard[0]}/{shard[1]}")
  settings = _pin(dataclasses.replace(settings, checkpoint=pinned(settings.checkpoint)), _stored(output))
  card = open_folder(settings.checkpoint, settings.weights, settings.step).card
  settings = dataclasses.replace(
      settings, sampling=without_preset(settings.sampling, card.sample, make_scheduler(card.scheduler)))
  manifest = plan(layout, settings)
  if _stored(output, manifest) is None:
    output.mkdir(parents=True, exist_ok=True)
    check_names(layout, output)
  scored = output / layout.benchmark
  per_batch = settings.batch_size // per_item
  batches = [layout.items[start : start + per_batch] for start in range(0, len(layout.items), per_batch)]
  batches = batches[shard[0] :: shard[1]]
  there = _names(scored)
  todo = [batch for batch in batches if not there.issuperset(item.path for item in batch)]
  texts = dict.fromkeys(item.text for batch in todo for item in batch if item.label is None)
  missing = [text for text in texts if not embedding_path(output, text).is_file()]
  pipe = load(
      settings.checkpoint, weights=settings.weights, step=settings.step, dtype=settings.dtype,
      lora=settings.lora, quantize=settings.quantize, guide=settings.guide or None,
      parts=(VAE, TEXT_ENCODER) if missing else (VAE,))
  claim(output, manifest, pipe.digests)
  for path, text in layout.texts.items():
    put(output, shard, scored / path, lambda partial, text=text: write_atomically(partial, text + "\n"))
  if todo:
    _check_model(pipe, layout, settings)
  write_real_clips(pipe, layout, settings, output, shard)
  if todo:
    encode_texts(pipe, output, missing)
    make_samples(pipe, layout, settings, output, shard, todo)
  if not _names(scored).issuperset(layout.paths):
    return False
  if not is_remote(output):
    shutil.rmtree(output / "partial", ignore_errors=True)
  write_atomically(output / CHECKSUMS, _json({path: checksum(scored / path) for path in layout.paths}))
  return True


def plan(layout: Layout, settings: Settings) -> dict[str, Any]:
  """Return the manifest, but for the digests of the weights."""
  images = {image: checksum(as_path(image)) for image in {item.image for item in layout.items if item.image}}
  manifest = {
      "benchmark": layout.benchmark, "settings": settings.stored(),
      "model": to_dict(open_folder(settings.checkpoint, settings.weights, settings.step).card),
      "devices": f"{jax.local_device_count()} {jax.local_devices()[0].device_kind}",
      "files": {
          item.path: {
              "prompt": item.prompt, "text": item.text, **({} if item.label is None else {"label": item.label}),
              **({"image": images[item.image]} if item.image else {}),
              "seeds": [
                  seed_for_sample(layout.benchmark, item.prompt, sample, settings.seed) for sample in item.samples]}
          for item in layout.items},
      "texts": dict(layout.texts)}
  if layout.clips:
    manifest |= {"clips": list(layout.clips), "context_frames": layout.context_frames}
  return json.loads(_json(manifest))


def claim(output: Path, manifest: Mapping[str, Any], digests: Mapping[str, str]) -> None:
  """Write the manifest, or check that the weights are those of the run that it is of.

  Args:
    output: folder of the run.
    manifest: without digests.
    digests: of the weights of the parts that are loaded.

  Raises:
    UserError: the weights are others.
  """
  stored = _stored(output, manifest) or manifest  # Another shard may have begun meanwhile.
  known = stored.get("weights", {})
  if stored is not manifest and not known:
    tell(f"{output / MANIFEST} is of an earlier version, which didn't record the weights: they are taken to be "
         "the same")
  others = [part for part, digest in digests.items() if known.get(part, digest) != digest]
  if others:
    raise UserError(
        f"{output} holds samples of another model: the weights of the {' and the '.join(others)} differ; use another "
        "--output")
  if not digests.keys() <= known.keys():
    write_atomically(output / MANIFEST, _json({**stored, "weights": {**known, **digests}}))


def checksum(path: Path) -> str:
  """Return the SHA-256 of a file."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _names(scored: Path) -> set[str]:
  """Return the names of all files of the scored folder, which may not be there yet."""
  return set(names_below(scored)) if scored.is_dir() else set()


def _stored(output: Path, manifest: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
  """Return the manifest of a run, if there is one, which must be of the same samples as `manifest`."""
  path = output / MANIFEST
  if not path.is_file():
    return None
  stored = read_json(path)
  if not {"benchmark", "settings", "model", "files", "texts"} <= stored.keys():
    raise UserError(f"{path} is not one that {command('evaluate')} wrote; use another --output")
  if manifest is not None and (difference := _difference(stored, manifest)):
    raise UserError(f"{output} holds other samples: {difference}; use another --output")
  return stored


def _pin(settings: Settings, stored: Mapping[str, Any] | None) -> Settings:
  """Name the checkpoint of a training run by its step: that of the run so far, since training may have gone on."""
  folder = local_folder(settings.checkpoint)
  if settings.step not in (None, BEST) or not is_trained(folder):
    return settings
  step = stored["settings"]["step"] if stored else None
  if step is None:
    step = int(find(folder / "checkpoints", settings.weights, settings.step).name)
  return dataclasses.replace(settings, step=step)


def _check_model(pipe: Pipeline, layout: Layout, settings: Settings) -> None:
  """Refuse a model that can't make what a benchmark asks for, before anything is made."""
  by_class = layout.items[0].label is not None
  if bool(pipe.cfg.num_classes) != by_class:
    takes, needs = ("text", "classes") if by_class else ("class labels", "text")
    raise UserError(f"--checkpoint: {settings.checkpoint} takes {takes}; {layout.benchmark} needs {needs}")
  condition: dict[str, Any] = {"label": layout.items[0].label} if by_class else {"text_embeds": []}
  if image := layout.items[0].image:
    condition["image"] = image
  request = Request(**shared_settings(layout, settings), **condition)
  pipe.check(request, settings.batch_size)
  if layout.context_frames:
    autoencoder = pipe.parts.require_autoencoder("video")
    latents = autoencoder.num_latent_frames(layout.context_frames)
    if autoencoder.num_frames(latents) != layout.context_frames or latents > pipe.parts.max_given(request):
      can = [autoencoder.num_frames(number + 1) for number in range(pipe.parts.max_given(request))]
      raise UserError(
          f"--context_frames: {layout.benchmark} gives {layout.context_frames} frames; this model's latents can stand "
          f"for {', '.join(map(str, can)) or 'none'} of them")
  if layout.is_video and pipe.parts.num_latent_frames(settings.sampling.get("num_frames")) == 1:
    raise UserError(f"{layout.benchmark} judges videos; this model was asked for one frame (--num_frames)")
  if layout.benchmark in ("vbench", "vbench_long"):
    frames = settings.sampling.get("num_frames") or pipe.parts.num_shown_frames(pipe.parts.num_latent_frames(None))
    seconds = frames / (settings.sampling.get("fps") or pipe.card.sample.fps)
    if (seconds >= LONG_SECONDS) != (layout.benchmark == "vbench_long"):
      tell(f"clips have {seconds:.1f} s: VBench's rule is vbench_long for {LONG_SECONDS} s or more, and vbench below")
  height, width = pipe.cfg.latent_size
  if layout.benchmark == "dpg" and height != width:
    raise UserError(f"dpg cuts its pictures into squares; this model's latents are {width} x {height}")


def _json(value: Any) -> str:
  return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _difference(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  """Say in which settings two manifests differ, or else in what; "" if they are of the same samples.

  Whether the model is the same, the digests of its weights tell, and not where it lies.
  """
  # A setting that is left out stands for the model's own.
  defaults = {**DEFAULTS, **EXACT}
  before, after = (
      {name: manifest["model"]["sample"].get(name, defaults.get(name)) if value is None else value
       for name, value in manifest["settings"].items()} for manifest in (stored, now))
  fields = [
      f"{name} was {stored['settings'].get(name)!r}, now {now['settings'].get(name)!r}" for name in before | after
      if name not in _WEIGHTS and before.get(name, defaults.get(name)) != after.get(name, defaults.get(name))]
  others = [
      f"{name} was {stored.get(name)!r}, now {now.get(name)!r}"
      if name in ("benchmark", "devices", "context_frames") else f"{name} differ"
      for name in ("benchmark", "devices", "files", "texts", "clips", "context_frames")
      if stored.get(name) != now.get(name)]
  return "; ".join(fields or others)
