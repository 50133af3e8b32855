"""How one output was made: its settings, seed, model and versions, as the text that every output carries.

  {"format": "nova_jax sample", "version": 1, "checkpoint": …, "weights": …, "settings": {…}, "files": {…},
   "batch": [row, size], "space_tile": …, "versions": {…}}

Invariants: all of it is known before anything is generated, so that an output's name, which ends in a digest of it,
tells whether it has been made; a recipe made again gives the same file.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nova_jax import media
from nova_jax.fields import to_dict
from nova_jax.files import check_regular, write_atomically
from nova_jax.pipeline import Pipeline

FORMAT = {"format": "nova_jax sample", "version": 1}
LATENTS = ".safetensors"
FORMATS = ("mp4", "gif", "webp", "png", "sheet", "latents")
FILES = ("image", "video", "mask")  # Settings that name files.
_VERSIONED = ("jax", "jaxlib", "flax", "numpy", "av", "pillow")


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How to make one clip; `settings` are those of `Request`, the model's own included (`jobs.complete`)."""

  checkpoint: str
  weights: str  # "ema" or "params" of a training run, and a digest of them.
  dtype: str
  settings: Mapping[str, Any]
  files: Mapping[str, str]  # Digests of the files that settings name.
  batch: tuple[int, int]  # The clip's row, and the rows generated together: sums of another size round differently.
  space_tile: int | None = None  # Side of the tiles that frames were decoded in.

  def text(self) -> str:
    """Return it as JSON in ASCII, with the versions at hand."""
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
    return json.dumps(FORMAT | dataclasses.asdict(self) | {"versions": versions}, sort_keys=True)

  def name(self, index: int) -> str:
    """Return the file name of output `index`, without its ending."""
    title = re.sub(r"[\W_]+", "-", title_of(self.settings).lower()).strip("-")
    title = title.encode()[:60].decode(errors="ignore")  # File systems count bytes.
    # Where the model and pictures lie doesn't matter; what they are does.
    what = dataclasses.asdict(self) | {"checkpoint": "", "settings": {**self.settings, **self.files}}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    return "-".join(part for part in (f"{index:03}", title, digest) if part)


def title_of(settings: Mapping[str, Any]) -> str:
  """Return what a person calls a clip."""
  return settings["prompt"] if "prompt" in settings else f"class {settings['label']}"


def read_recipe(path: Path) -> Recipe:
  """Read the recipe that a file carries.

  Raises:
    ValueError: the file carries none, or one that this version can't read.
  """
  if path.suffix == LATENTS:
    try:
      with safe_open(check_regular(path), "numpy") as file:
        text = (file.metadata() or {}).get(media.NOTE, "")
    except (OSError, SafetensorError) as error:
      raise ValueError(f"{path} can't be read: {error}") from None
  else:
    text = media.read_note(path)
  try:
    values = json.loads(text)
    if {name: values.pop(name) for name in FORMAT} != FORMAT:
      raise ValueError
    values.pop("versions")
    values["settings"] = restore(values["settings"])
    return Recipe(**values | {"batch": tuple(values["batch"])})
  except (AttributeError, KeyError, TypeError, ValueError):
    raise ValueError(f"{path}: what it says of how it was made is not of {FORMAT}") from None


def restore(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Undo what JSON does to settings: keys become texts."""
  later = settings.get("later_prompts")
  if not isinstance(later, dict):
    return dict(settings)
  whole = lambda frame: int(frame) if frame.isdecimal() else frame
  return {**settings, "later_prompts": {whole(frame): text for frame, text in later.items()}}


def digest_files(settings: Mapping[str, Any]) -> dict[str, str]:
  """Return digests of the files that settings name.

  Raises:
    ValueError: one can't be read.
  """
  digests = {}
  for name in FILES:
    if isinstance(settings.get(name), str):
      try:
        with check_regular(settings[name]).open("rb") as file:
          digests[name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
      except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
      except OSError as error:
        raise ValueError(f"{name}: {settings[name]}: {error.strerror}") from None
  return digests


def digest_weights(pipe: Pipeline) -> str:
  """Return a digest of some values of every weight, and of what else a model is: it tells two apart, in no time."""
  card = pipe.card
  what = [to_dict(card.scheduler), card.text_encoder, card.autoencoder, card.num_frames]
  digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(pipe.model.state):
    values = np.asarray(leaf.reshape(-1)[:: max(1, leaf.size // 64)])
    digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode() + values.tobytes())
  return digest.hexdigest()[:16]


def write_outputs(folder: Path, name: str, recipe: Recipe, formats: tuple[str, ...], clip, fps: float) -> None:
  """Write a clip, pixels or latents, in all formats that fit it; see `paths_of`."""
  with growing_outputs(folder, name, recipe, formats, len(clip), fps) as add:
    add(clip)


@contextlib.contextmanager
def growing_outputs(
    folder: Path, name: str, recipe: Recipe, formats: tuple[str, ...], num_frames: int, fps: float
) -> Iterator[Callable[[np.ndarray], None]]:
  """Open the files of a clip; yield a function that takes its frames, pixels or latents, as they are finished.

  An mp4 grows with them. Other formats are written at the end, and frames are kept for them alone.
  """
  note, kept, paths = recipe.text(), [], paths_of(folder, name, formats, num_frames)
  with contextlib.ExitStack() as stack:
    video = paths.pop("mp4", None)
    append = stack.enter_context(media.growing_mp4(video, fps, note=note)) if video else None

    def add(frames: np.ndarray) -> None:
      if append is not None:
        append(frames)
      if paths:
        kept.append(frames)

    yield add
    for kind, path in paths.items():
      clip = np.concatenate(kept)
      if kind == "latents":
        write_atomically(path, save({"latents": np.ascontiguousarray(clip)}, metadata={media.NOTE: note}))
      elif kind == "sheet":
        media.write_sheet(path, [clip], [title_of(recipe.settings)], note=note)
      elif kind == "png":
        media.write_png(path, clip[0], note=note)
      else:
        {"gif": media.write_gif, "webp": media.write_webp}[kind](path, clip, fps, note=note)


def paths_of(folder: Path, name: str, formats: tuple[str, ...], num_frames: int) -> dict[str, Path]:
  """Return the files of a clip: single pictures are PNG instead of mp4 and GIF, clips are no PNG."""
  moving = [kind for kind in formats if kind != "png"] or ["mp4"]
  still = dict.fromkeys("png" if kind in ("mp4", "gif") else kind for kind in formats)
  endings = {"sheet": "-sheet.png", "latents": LATENTS}
  return {kind: folder / (name + endings.get(kind, f".{kind}")) for kind in (moving if num_frames > 1 else still)}
