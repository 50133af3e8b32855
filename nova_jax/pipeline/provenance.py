"""How one output was made: its settings, seed, model and versions, as the text that every output carries.

  {"format": "nova_jax sample", "version": 1, "checkpoint": …, "weights": …, "settings": {…}, "files": {…},
   "batch": [row, size], "space_tile": …, "versions": {…}}

Invariants: all of it is known before anything is generated, so that an output's name, which ends in a digest of it,
tells whether it has been made; a provenance made again gives the same file.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nova_jax import media
from nova_jax.checkpoints.choice import WEIGHTS
from nova_jax.config import LARGEST
from nova_jax.models.quantization import KINDS, TARGETS
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.file_settings import check_settings, to_stored
from nova_jax.pipeline.request import FILES
from nova_jax.storage import local_copy
from nova_jax.utils import limits
from nova_jax.utils.digests import digest_values
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_regular, write_atomically
from nova_jax.utils.text_files import parse_json

FORMAT = {"format": "nova_jax sample", "version": 1}
LATENTS = ".safetensors"
FORMATS = ("mp4", "gif", "webp", "png", "sheet", "latents")
_WHOLE = "sha256:"  # Begins a digest of all weights.
_OPTIONAL = ("lora", "quantize", "guide")  # What the model is made of beside its folder, if anything.
_VERSIONED = ("jax", "jaxlib", "flax", "numpy", "av", "pillow")


@dataclasses.dataclass(frozen=True)
class Provenance:
  """How one clip is made.

  Attributes:
    checkpoint: folder of the model, or name of one that comes with the package.
    weights: weights of a training run, one of `choice.WEIGHTS`, and a digest of them.
    dtype: precision of activations.
    settings: settings of `Request`, the model's own included (`batch_sampling.complete`).
    files: digests of the files that settings name.
    batch: row of the clip, and number of rows generated together: sums of another size round differently.
    space_tile: side of the tiles that frames were decoded in; None for whole frames.
    lora: weights of the LoRAs that were added to the model, by folder, or by id and commit on the hub.
    quantize: numbers in 8 bits that matrices were stored in, by part.
    guide: model that guided in place of unconditional passes, or weights of the same run; empty for none.
  """

  checkpoint: str
  weights: str
  dtype: str
  settings: Mapping[str, Any]
  files: Mapping[str, str]
  batch: tuple[int, int]
  space_tile: int | None = None
  lora: Mapping[str, float] = dataclasses.field(default_factory=dict)
  quantize: Mapping[str, str] = dataclasses.field(default_factory=dict)
  guide: str = ""

  def text(self) -> str:
    """Return the provenance as JSON in ASCII, with the versions at hand."""
    versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
    stored = self._fields() | {"settings": to_stored(self.settings)}
    return json.dumps(FORMAT | stored | {"versions": versions}, sort_keys=True)

  def _fields(self) -> dict[str, Any]:
    """Return the fields by name; what is left out of older provenances is left out if it is empty."""
    values = dataclasses.asdict(self)
    return {name: value for name, value in values.items() if name not in _OPTIONAL or value}

  def name(self, index: int) -> str:
    """Return the file name of output `index`, without its ending."""
    title = re.sub(r"[\W_]+", "-", clip_title(self.settings).lower()).strip("-")
    title = title.encode()[:60].decode(errors="ignore")  # File systems count bytes.
    # Where the model and pictures lie doesn't matter; what they are does.
    what = self._fields() | {"checkpoint": "", "settings": {**to_stored(self.settings), **self.files}}
    for name in _OPTIONAL:
      what.pop(name, None)  # The digest of the weights tells.
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    return "-".join(part for part in (f"{index:03}", title, digest) if part)


def clip_title(settings: Mapping[str, Any]) -> str:
  """Return what a person calls a clip."""
  return settings["prompt"] if "prompt" in settings else f"class {settings['label']}"


def read_provenance(path: Path) -> Provenance:
  """Read the provenance that a file carries.

  Raises:
    UserError: the file carries none, or one that this version can't read.
  """
  if path.suffix == LATENTS:
    try:
      with safe_open(local_copy(check_regular(path)), "numpy") as file:
        text = (file.metadata() or {}).get(media.NOTE, "")
    except (OSError, SafetensorError) as error:
      raise UserError(f"{path} can't be read: {error}") from None
  else:
    text = media.read_note(path)
  if len(text) > limits.NOTE_BYTES:
    raise UserError(f"{path}: what it says of how it was made is longer than NOTE_BYTES, {limits.NOTE_BYTES:,}")
  try:
    return parse(text)
  except ValueError as error:
    raise UserError(
        f"{path}: what it says of how it was made is not of {FORMAT}, or damaged: {error}") from None


def parse(text: str) -> Provenance:
  """Read a provenance, which a stranger may have written: no name in it has been looked up when this returns.

  Raises:
    UserError: it isn't one, or a field is not what it must be.
  """
  values = parse_json(text, "its text")
  if not isinstance(values, dict) or {name: values.pop(name, None) for name in FORMAT} != FORMAT:
    raise UserError("it is something else")
  values.pop("versions", None)
  fields = [field.name for field in dataclasses.fields(Provenance)]
  if unknown := [name for name in values if name not in fields]:
    raise UserError(f"{unknown[0][:60]!r} is not a field of it")
  for name, (expected, is_good) in _FIELDS.items():
    if not is_good(values.get(name)):
      raise UserError(f"{name}: expected {expected}, got {str(values.get(name))[:80]!r}")
  settings = check_settings(values["settings"])
  if "num_samples" in settings or "seed" not in settings:
    raise UserError("settings: expected a seed and no num_samples, as of one clip")
  named = {name for name in FILES if isinstance(settings.get(name), str)}
  if values["files"].keys() != named:
    raise UserError(f"files: expected digests of {', '.join(sorted(named)) or 'nothing'}, got {list(values['files'])}")
  return Provenance(**values | {"settings": settings, "batch": tuple(values["batch"])})


def _is_text(pattern: str) -> Callable[[Any], bool]:
  return lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None


def _is_batch(value: Any) -> bool:
  return isinstance(value, list) and [type(x) for x in value] == [int, int] and 0 <= value[0] < value[1] <= limits.BATCH


# What each field of a provenance must be, in words and as a test.
_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "checkpoint": ("the path of a folder", _is_text(r"[^\0]+")),
    "weights": (f"{WEIGHTS} and a digest", _is_text(r"(ema|params|ema_[0-9.e-]+) (sha256:)?[0-9a-f]{16,64}")),
    "dtype": ("float32 or bfloat16", _is_text("float32|bfloat16")),
    "settings": ("settings by name", lambda value: isinstance(value, dict)),
    "files": ("digests by setting", lambda value: isinstance(value, dict) and all(
        map(_is_text("[0-9a-f]{16}"), value.values()))),
    "batch": (f"a row and how many there are, at most {limits.BATCH:,}", _is_batch),
    "space_tile": ("nothing, or a number from 4 up", lambda value: value is None or (
        type(value) is int and 4 <= value <= LARGEST)),
    "lora": ("weights by folder", lambda value: value is None or (isinstance(value, dict) and all(
        _is_text(r"[^\0]+")(path) and type(weight) is float for path, weight in value.items()))),
    "quantize": ("kinds by part", lambda value: value is None or (isinstance(value, dict) and all(
        part in TARGETS and kind in KINDS for part, kind in value.items()))),
    "guide": ("the path of a folder", lambda value: value is None or _is_text(r"[^\0]+")(value))}


def digest_files(settings: Mapping[str, Any]) -> dict[str, str]:
  """Return digests of the files that settings name.

  Raises:
    UserError: one can't be read.
  """
  digests = {}
  for name in FILES:
    if isinstance(settings.get(name), str):
      try:
        with check_regular(settings[name]).open("rb") as file:
          digests[name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
      except UserError as error:
        raise UserError(f"{name}: {error}") from None
      except OSError as error:
        raise UserError(f"{name}: {settings[name]}: {error.strerror}") from None
  return digests


def digest_weights(pipe: Pipeline) -> str:
  """Return a digest of all weights of a model's parts, and of what else it is: any bit of them tells two apart."""
  return f"{_WHOLE}{digest_values(pipe.digests)}"


def same_weights(pipe: Pipeline, digest: str) -> bool | None:
  """Return whether a digest is that of a model's weights; None if it can't be told."""
  # Until 2026 a digest was of 64 values of each array of the transformer.
  return digest == digest_weights(pipe) if digest.startswith(_WHOLE) else None


def write_outputs(folder: Path, name: str, provenance: Provenance, formats: tuple[str, ...], clip, fps: float) -> None:
  """Write a clip, pixels or latents, in all formats that fit it; see `output_paths`."""
  with growing_outputs(folder, name, provenance, formats, len(clip), fps) as add:
    add(clip)


@contextlib.contextmanager
def growing_outputs(
    folder: Path, name: str, provenance: Provenance, formats: tuple[str, ...], num_frames: int, fps: float
) -> Generator[Callable[[np.ndarray], None]]:
  """Open the files of a clip; yield a function that takes its frames, pixels or latents, as they are finished.

  An mp4 grows with them. Other formats are written at the end, and frames are kept for them alone.
  """
  note, kept, paths = provenance.text(), [], output_paths(folder, name, formats, num_frames)
  with contextlib.ExitStack() as stack:
    video = paths.pop("mp4", None)
    append = stack.enter_context(media.growing_mp4(video, fps, note=note)) if video else None

    def add(frames: np.ndarray) -> None:
      if append is not None:
        append(frames)
      if paths:
        kept.append(frames)

    yield add
    if not paths:
      return
    clip = np.concatenate(kept)
    kept.clear()
    for kind, path in paths.items():
      if kind == "latents":
        write_atomically(path, save({"latents": np.ascontiguousarray(clip)}, metadata={media.NOTE: note}))
      elif kind == "sheet":
        media.write_sheet(path, [clip], [clip_title(provenance.settings)], note=note)
      elif kind == "png":
        media.write_png(path, clip[0], note=note)
      else:
        {"gif": media.write_gif, "webp": media.write_webp}[kind](path, clip, fps, note=note)


def output_paths(folder: Path, name: str, formats: tuple[str, ...], num_frames: int) -> dict[str, Path]:
  """Return the files of a clip: single pictures are PNG instead of mp4 and GIF, clips are no PNG.

  Raises:
    UserError: PNG is the only format, and the clip has several frames.
  """
  moving = [kind for kind in formats if kind != "png"]
  if num_frames > 1 and not moving:
    raise UserError(
        f"formats: png holds a single picture, got a clip of {num_frames} frames; add mp4, gif, webp or sheet (all "
        "frames side by side), or ask for one frame (num_frames)")
  still = dict.fromkeys("png" if kind in ("mp4", "gif") else kind for kind in formats)
  endings = {"sheet": "-sheet.png", "latents": LATENTS}
  return {kind: folder / (name + endings.get(kind, f".{kind}")) for kind in (moving if num_frames > 1 else still)}
