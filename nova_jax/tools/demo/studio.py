"""One generation of the browser demo, from a form's values to the file that `launch.sample` would write.

A generation runs in a thread of its own, one at a time, and tells how far it is after each set of tokens.
Invariants: the file is equal, bit for bit, to that of `Studio.command`; what is cancelled ends with the set it is at,
and leaves no file.
"""

import dataclasses
import hashlib
import queue
import shlex
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from nova_jax.media import readers
from nova_jax.pipeline.batch_sampling import make_provenances
from nova_jax.pipeline.pipeline import Pipeline
from nova_jax.pipeline.provenance import output_paths, write_outputs
from nova_jax.pipeline.request import SETTINGS
from nova_jax.pipeline.run import Step
from nova_jax.tools.demo.space import INPUTS, make_room
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import write_atomically
from nova_jax.utils.terminal import command

PREVIEW_SECONDS = 0.25  # Between two pictures of an unfinished frame: each has to be decoded.
FORMATS = ("mp4",)  # A PNG, for a single frame.

Frame = UInt8[np.ndarray, "height width C"]


class News(NamedTuple):
  """How far a generation is."""

  frames: tuple[Frame, ...]  # Finished ones.
  making: Frame | None  # The next one, as far as it is written.
  done: float  # Of 1.
  what: str
  path: Path | None = None  # The file, at the end.


class _Cancelled(Exception):
  """Ends a generation that nobody waits for any more."""


@dataclasses.dataclass(frozen=True)
class Bounds:
  """How much of the machine the demo gives away.

  Attributes:
    frames: of the longest clip.
    seconds: that a generation may take; then it ends without a file.
    waiting: generations that are wanted at once, the running one included.
    each: those of one user among them.
    bytes: of all clips and uploads on the disk; the oldest go.
  """

  frames: int = 256
  seconds: float = 900.0
  waiting: int = 16
  each: int = 4
  bytes: int = 10 << 30


@dataclasses.dataclass(frozen=True)
class Studio:
  """A loaded model, and where its outputs go.

  Attributes:
    pipe: the model.
    checkpoint: its folder.
    weights: weights of a training run, one of `choice.WEIGHTS`.
    output: the folder of clips; pictures that were given are kept in `inputs/`, so that clips can be made again.
    bounds: of what may be asked for, so that nobody waits too long for others.
    step: checkpoint of a training run, by its step or "best"; None for the newest.
    turn: held by the generation that is running.
    reading: held while a picture is read: a large one takes gigabytes.
    closed: set when there are to be no more.
  """

  pipe: Pipeline
  checkpoint: str
  weights: str
  output: Path
  bounds: Bounds = Bounds()
  step: str | None = None
  turn: threading.Lock = dataclasses.field(default_factory=threading.Lock)
  reading: threading.Lock = dataclasses.field(default_factory=threading.Lock)
  closed: threading.Event = dataclasses.field(default_factory=threading.Event)

  def __post_init__(self):
    if self.pipe.autoencoder is None:
      raise UserError(
          f"{self.checkpoint} has no autoencoder, so there is nothing to see; {command('convert')} --base adds one")

  def close(self) -> None:
    """End what is running, and wait for it: a process must not end in the middle of a computation."""
    self.closed.set()
    with self.turn:
      pass

  @property
  def makes_clips(self) -> bool:
    """Whether the model makes more than single pictures."""
    return self.pipe.parts.longest > 1

  @property
  def defaults(self) -> dict[str, Any]:
    """What the form shows at first: the model's own settings."""
    return self.pipe.parts.defaults | {"seed": 0, "preset": "exact"}

  def settings(self, form: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a filled in form stands for: those that are not the model's own, and the seed.

    Raises:
      UserError: one that can't be; what the model itself refuses, `generate` does.
    """
    given = {name: value.strip() if isinstance(value, str) else value for name, value in form.items()}
    given = {name: value for name, value in given.items() if value not in (None, "")}
    for name, value in given.items():
      if isinstance(value, str) and len(value.encode(errors="replace")) > limits.CAPTION_BYTES:
        raise UserError(
            f"{name}: expected at most {limits.CAPTION_BYTES:,} bytes, got {len(value.encode(errors='replace')):,}")
    what = "label" if self.pipe.cfg.num_classes else "prompt"
    if what not in given:
      raise UserError(f"{what}: it is empty; say what to show")
    if "mask" in given and "image" not in given:
      raise UserError("mask: give the image, too, of which a part is to be made anew")
    if given.get("num_frames", 1) > self.bounds.frames:
      raise UserError(f"num_frames: expected at most {self.bounds.frames} here, got {given['num_frames']}")
    for name in given:
      if SETTINGS[name].kind is float:
        given[name] = float(given[name])  # A form has 3 where a flag has 3.0, and a file says which.
      elif SETTINGS[name].names_file:
        given[name] = str(self._keep(Path(given[name]), name))
    # An image with a mask has one frame unless more are asked for, as launch.sample has it.
    given |= {"num_frames": 1} if "mask" in given and "num_frames" not in given else {}
    own = {name: value for name, value in self.defaults.items() if not (name == "num_frames" and "mask" in given)}
    return {"seed": 0} | {name: value for name, value in given.items() if name == "seed" or value != own.get(name)}

  def notes(self, settings: Mapping[str, Any]) -> list[str]:
    """Return what a person should know of how the prompts are read."""
    texts = [settings[name] for name in ("prompt", "negative_prompt") if name in settings]
    return [note for text in texts for note in self.pipe.text_encoder.notes(text)]

  def command(self, settings: Mapping[str, Any]) -> str:
    """Return the command line that makes the same file."""
    flags = {"checkpoint": self.checkpoint, "output": "out", "formats": ",".join(FORMATS)}
    flags |= {} if self.weights == "ema" else {"weights": self.weights}
    flags |= {} if self.step is None else {"step": self.step}
    flags |= {} if self.pipe.cfg.dtype == "float32" else {"dtype": self.pipe.cfg.dtype}
    return shlex.join([*command("sample").split(), *(f"--{k}={v}" for k, v in (flags | dict(settings)).items())])

  def _keep(self, upload: Path, name: str) -> Path:
    """Copy a picture, unchanged, to where it stays; its name there is a digest of it."""
    try:
      with self.reading:
        readers.read_picture(upload, (1, 1), 3, name)
    except ValueError as error:
      raise UserError(str(error).replace(str(upload), upload.name)) from None
    data = upload.read_bytes()
    path = self.output.absolute() / INPUTS / (hashlib.sha256(data).hexdigest()[:16] + upload.suffix.lower())
    write_atomically(path, data)
    return path


def generate(studio: Studio, settings: Mapping[str, Any], cancelled: threading.Event) -> Iterator[News]:
  """Generate one clip and write it; setting `cancelled`, or closing the iterator, ends it.

  Raises:
    UserError: a setting that the model can't do.
  """
  told: queue.SimpleQueue[News | BaseException] = queue.SimpleQueue()

  def work() -> None:
    try:
      with studio.turn:
        for news in _run(studio, settings, cancelled, told.put):
          told.put(news)
    except BaseException as error:  # It is raised below.
      told.put(error)

  threading.Thread(target=work, daemon=True).start()
  try:
    while True:
      news = told.get()
      if isinstance(news, _Cancelled):
        return
      if isinstance(news, BaseException):
        raise news
      yield news
      if news.path is not None:
        return
  finally:
    cancelled.set()


def _run(studio: Studio, settings: Mapping[str, Any], cancelled: threading.Event, tell) -> Iterator[News]:
  """Yield finished frames, and at last the file; `tell` unfinished ones."""
  pipe, frames = studio.pipe, ()
  provenance, = make_provenances(pipe, studio.checkpoint, studio.weights, [settings], [[0]], 1)
  started = shown = time.monotonic()
  done, what = 0.0, "started"

  def check() -> None:
    if cancelled.is_set() or studio.closed.is_set():
      raise _Cancelled
    if time.monotonic() - started > studio.bounds.seconds:
      raise UserError(
          f"it took longer than {studio.bounds.seconds:g} s, the limit here; ask for fewer frames or steps")

  def on_set(step: Step) -> None:
    nonlocal shown, done, what
    check()
    done = (step.frame + (step.index + 1) / step.num_sets) / step.num_frames
    what = f"frame {step.frame + 1} of {step.num_frames}, set {step.index + 1} of {step.num_sets}"
    if time.monotonic() - shown >= PREVIEW_SECONDS and step.index + 1 < step.num_sets:
      tell(News(frames, step.preview()[0], done, what))
      shown = time.monotonic()

  check()
  for piece in pipe.stream(**settings, on_set=on_set):
    frames += tuple(piece[0])
    yield News(frames, None, done, what)
  clip, name = np.stack(frames), provenance.name(0)
  write_outputs(studio.output, name, provenance, FORMATS, clip, settings.get("fps", pipe.card.sample.fps))
  path, = output_paths(studio.output, name, FORMATS, len(clip)).values()
  make_room(studio.output, studio.bounds.bytes)
  yield News(frames, None, 1.0, "done", path)
