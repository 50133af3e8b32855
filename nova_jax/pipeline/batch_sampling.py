"""Batches of clips from settings to files, as `launch.sample` makes them.

Clips are grouped by the shapes of their arrays and generated in batches of a fixed size; the last is filled up with
copies of its last clip. What is there already is not made again.
Invariants: what is in a folder depends neither on what was there before, nor on where an earlier run was killed.
"""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nova_jax import pretrained
from nova_jax.checkpoints.hub import parse_id
from nova_jax.pipeline.given_clips import GivenClips
from nova_jax.pipeline.known_texts import KnownTexts, known_texts
from nova_jax.pipeline.latent_files import is_latents, latents_shape
from nova_jax.pipeline.model_parts import TEMPERATURE
from nova_jax.pipeline.pipeline import Pipeline
from nova_jax.pipeline.prompts import naming
from nova_jax.pipeline.provenance import (
  Provenance,
  digest_files,
  digest_weights,
  growing_outputs,
  output_paths,
  same_weights,
)
from nova_jax.pipeline.request import DEFAULTS, FILES, PER_CLIP, SETTINGS, Request
from nova_jax.pipeline.resolve import check
from nova_jax.pipeline.run import Step
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.notes import tell
from nova_jax.utils.progress import Progress
from nova_jax.utils.writers import remove_unfinished

NOTES = 5  # Lines on what is not used of given videos.
STACK = "sheet.png"  # Contact sheets of all clips, one below the other.


class _Warm(Exception):
  """Ends a generation that was for its programs alone."""


def plan_batches(clips: Sequence[Mapping[str, Any]], batch_size: int) -> Iterator[list[int]]:
  """Yield the clips of each batch, by their places in the list; a batch may be shorter than its rows."""
  groups: dict[str, list[int]] = {}
  for i, clip in enumerate(clips):
    common = {name: value for name, value in clip.items() if name not in PER_CLIP}
    # Latents that are continued together have one length.
    video = latents_shape(clip["video"])[1] if is_latents(clip.get("video")) else "video" in clip
    groups.setdefault(json.dumps([common, "image" in clip, video], sort_keys=True), []).append(i)
  for group in groups.values():
    for start in range(0, len(group), batch_size):
      yield group[start : start + batch_size]


class Work(NamedTuple):
  """Clips that are ready to be made.

  Attributes:
    provenances: how each clip is made.
    batches: clips that are generated together, by their places in the list.
    given: reader of the videos that clips start from; None reads them anew for each batch.
    notes: lines that a person should read.
  """

  provenances: Sequence[Provenance]
  batches: Sequence[Sequence[int]]
  given: GivenClips | None = None
  notes: Sequence[str] = ()


def prepare(
    pipe: Pipeline, checkpoint: str, weights: str, clips: Sequence[Mapping[str, Any]], places: Sequence[str],
    batch_size: int, output: str = "pixels", again: Provenance | None = None,
) -> Work:
  """Check all clips, encode all prompts, read all pictures and videos, and plan the batches.

  Args:
    pipe: model; its text encoder is replaced by the texts it has encoded, unless that was done before.
    checkpoint, weights: folder of the model and which weights of a training run, for provenances.
    clips: settings of each clip.
    places: where errors say that each clip stands.
    batch_size: number of clips that are generated together, at most.
    output: "pixels" or "latent".
    again: provenance of the one clip, if an output is made again.

  Raises:
    UserError: a setting that the model can't do, or a file that can't be read; the text begins with the place.
  """
  for settings, place in zip(clips, places, strict=True):
    with naming(place):
      check(Request.from_settings({**settings, "output": output}), pipe.parts, batch_size)
  if not isinstance(pipe.text_encoder, KnownTexts):
    pipe.text_encoder = known_texts(pipe.text_encoder, clips, places)
  given = GivenClips(pipe.parts)
  clips = given.complete(clips, places)
  notes = [] if pipe.text_encoder is None else list(pipe.text_encoder.told)
  notes += given.notes[:NOTES]
  if len(given.notes) > NOTES:
    notes.append(f"of {len(given.notes) - NOTES} more videos some frames are not used, too")
  if again is not None:
    return Work([again], [[0]], given, notes + check_weights(pipe, again))
  clips = [complete(pipe, clip) for clip in clips]
  batches = list(plan_batches(clips, batch_size))
  return Work(make_provenances(pipe, checkpoint, weights, clips, batches, batch_size), batches, given, notes)


def make_provenances(
    pipe: Pipeline, checkpoint: str, weights: str, clips: Sequence[Mapping[str, Any]], batches: Sequence[Sequence[int]],
    batch_size: int,
) -> list[Provenance]:
  """Return how each clip is made."""
  digest, tile, provenances = digest_weights(pipe), getattr(pipe.autoencoder, "space_tile", None), {}
  place = pretrained.name_of(checkpoint) or (
      checkpoint if parse_id(checkpoint) else str(as_path(checkpoint).absolute()))
  for batch in batches:
    for row, i in enumerate(batch):
      settings = complete(pipe, clips[i])
      provenances[i] = Provenance(
          place, f"{weights} {digest}", pipe.cfg.dtype, settings, digest_files(settings), (row, batch_size), tile,
          pipe.lora, pipe.quantize, pipe.guide_place)
  return [provenances[i] for i in range(len(clips))]


def complete(pipe: Pipeline, settings: Mapping[str, Any]) -> dict[str, Any]:
  """Return settings so that they say the same anywhere: with the model's own, and the whole path of each file.

  What is left out and what is stated thus gives one provenance, as do 2 and 2.0, two paths of one file, and values of
  settings that are not used; and a provenance holds when the model's card changes.
  """
  own = pipe.parts.defaults
  request = pipe.parts.with_preset(Request.from_settings(settings))
  if request.is_edit:
    own.pop("num_frames")  # As many as there are.
  given = {name: getattr(request, name) for name in SETTINGS}
  given = {name: value for name, value in given.items() if name == "seed" or value != DEFAULTS[name]}
  given |= {name: float(value) for name, value in given.items() if SETTINGS[name].kind is float}
  given |= {name: str(as_path(given[name]).resolve()) for name in FILES if isinstance(given.get(name), str)}
  given |= {name: [int(side) for side in given[name]] for name in ("mask", "outpaint_box") if isinstance(
      given.get(name), (list, tuple))}
  whole = own | given
  for name, value in pipe.parts.implied(whole).items():
    if whole.get(name, value) == value:
      whole.pop(name, None)
  if whole["guidance_scale"] <= 1:  # There is no guidance.
    whole |= {"guidance_scale": 1.0}
    for name in ("min_guidance_scale", "guidance_trunc", "guidance_start", "guidance_every", "guidance_renorm",
                 "negative_prompt"):
      whole.pop(name, None)
  if not whole.get("later_prompts"):
    whole.pop("later_prompts", None)
    whole.pop("later_context", None)
  return whole


def check_files(provenance: Provenance) -> None:
  """Refuse to reproduce with other files than a provenance names."""
  changed = [name for name, digest in digest_files(provenance.settings).items() if digest != provenance.files[name]]
  if changed:
    raise UserError(f"--reproduce: {changed[0]} {provenance.settings[changed[0]]} is not what it was")


def check_weights(pipe: Pipeline, provenance: Provenance) -> list[str]:
  """Refuse to reproduce with other weights than a provenance names; return what a person should know."""
  same = same_weights(pipe, provenance.weights.split()[1])
  if same is None:
    return ["the file was written by an earlier version, whose digest is not of all weights: whether this model is the "
            "one that made it can't be told"]
  if not same:
    raise UserError("--reproduce: the model's weights are not those that the output was made with")
  return []


def run(
    pipe: Pipeline, work: Work, output: Path, formats: tuple[str, ...], progress: Progress,
    share: tuple[int, int] = (0, 1),
) -> list[list[Path]]:
  """Make all clips that aren't there, or every n-th batch of them; return every clip's files.

  Args:
    pipe: model.
    work: clips to make.
    output: folder of the files.
    formats: formats to write.
    progress: display of how much is done.
    share: number of this host, from 0, and how many make the batches in turn.
  """
  provenances, own = work.provenances, work.batches[share[0] :: share[1]]
  files, waiting = [[] for _ in provenances], []
  length = lambda provenance: provenance.settings.get("num_frames", pipe.card.num_frames)
  for batch in work.batches:
    for i in batch:
      files[i] = list(output_paths(output, provenances[i].name(i), formats, length(provenances[i])).values())
  for batch in own:
    if not all(path.exists() for i in batch for path in files[i]):
      waiting.append(batch)
  if kept := sum(map(len, own)) - sum(map(len, waiting)):
    tell(f"{kept} of {len(provenances)} clips were made before, and stay as they are")
  remove_unfinished(output, {STACK, *(path.name for paths in files for path in paths)}.__contains__)

  def show(number: int, batch: Sequence[int], step: Step) -> None:
    done, each = step.frame * step.num_sets + step.index + 1, step.num_frames * step.num_sets
    what = (f"clip {batch[0] + 1}-{batch[-1] + 1}/{len(provenances)}, frame {step.frame + 1}/{step.num_frames}, "
            f"set {step.index + 1}/{step.num_sets}")
    progress.show(number * each + done, len(waiting) * each, what)

  for number, batch in enumerate(waiting):
    with contextlib.ExitStack() as stack:
      growing = {
          i: stack.enter_context(growing_outputs(
              output, provenances[i].name(i), provenances[i], formats, length(provenances[i]),
              provenances[i].settings.get("fps", pipe.card.sample.fps)))
          for i in batch if not all(path.exists() for path in files[i])}
      kind = "latent" if formats == ("latents",) else "pixels"
      for pieces in make(
          pipe, [provenances[i] for i in batch], kind, functools.partial(show, number, batch), work.given):
        for i, piece in zip(batch, pieces, strict=True):
          if i in growing:
            growing[i](piece)
  return files


def make(
    pipe: Pipeline, provenances: Sequence[Provenance], output: str, on_set=None, given: GivenClips | None = None
) -> Iterator[list[np.ndarray]]:
  """Generate the clips of one batch, each in the row that its provenance names; other rows are copies.

  Yields the next frames of each clip, as soon as they are finished.
  """
  rows: list[Provenance | None] = [None] * provenances[0].batch[1]
  for provenance in provenances:
    rows[provenance.batch[0]] = provenance
  clips = [(row or provenances[-1]).settings for row in rows]
  settings: dict[str, Any] = {"temperature": TEMPERATURE}
  settings |= {name: value for name, value in clips[0].items() if name not in PER_CLIP}
  for name in PER_CLIP:
    if any(name in clip for clip in clips):
      # No negative prompt is the same as an empty one.
      settings[name] = [clip.get(name, "") if name == "negative_prompt" else clip[name] for clip in clips]
  if given is not None and "video" in settings and not is_latents(clips[0]["video"]):
    settings["video"] = [given.read(clip).frames for clip in clips]
  for made in pipe.stream(**settings, output=output, on_set=on_set):
    yield [made[provenance.batch[0]] for provenance in provenances]


def warm_up(pipe: Pipeline, work: Work) -> None:
  """Compile what the batches need, by generating the first frames of one of each kind."""
  seen = set()
  for batch in work.batches:
    provenance = work.provenances[batch[0]]
    common = {name: value for name, value in provenance.settings.items() if name not in PER_CLIP}
    kind = json.dumps(common, sort_keys=True)
    if kind in seen:
      continue
    seen.add(kind)
    new = 0

    def count(step: Step) -> None:
      nonlocal new
      new += step.index + 1 == step.num_sets
      if new == 2:  # Later frames run the same programs.
        raise _Warm

    try:
      list(make(pipe, [provenance], "latent", count))
    except _Warm:
      pass
    num_frames = pipe.parts.num_latent_frames(provenance.settings.get("num_frames"))
    latents = np.zeros((1, num_frames, *pipe.cfg.latent_size, pipe.cfg.latent_dim), np.float32)
    assert pipe.autoencoder is not None
    for size in {tile.stop - tile.start for tile in pipe.autoencoder.latent_tiles(num_frames)}:
      pipe.autoencoder.decode(latents[:, :size])
