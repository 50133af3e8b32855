"""What a model of moving digits can do beside text to video: a score for each task, on held-out digits.

  image_to_video  given the first frame of a held-out clip: direction, same_digit, retrieval (`one_digit.py`)
  continuation    given its first two frames: the digit and the path (within a pixel) of the frames to come
  long            from text, `LONG` times the trained length: is every frame the digit? Also the
                  time of a frame and the memory, early and late
  switch          another prompt, the opposite direction, takes over after the trained length and sees one frame: does
                  the digit move that way over the next two frames, is it still the digit?
  turn            after twice the trained length a prompt that turns the digit by 90 degrees takes over, and sees all
                  that the model remembers: does the digit move that way over the next two frames, is it the digit in
                  every frame up to four times the trained length?
  inpainting      half of a held-out digit is given, cut through its middle: are known pixels kept, does it read right?
Invariant: every case is answerable: real digits continued by hand would score 1, up to the classifier's errors.
"""

import resource
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from nova_jax.data.digits import captions
from nova_jax.evals.digits import one_digit as digits_lib
from nova_jax.pipeline import Pipeline

LONG = 4
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
ASIDE = {"left": "up", "right": "down", "up": "right", "down": "left"}


class Tasks:
  """The cases and who reads them.

  Args:
    pipe: the model.
    num_cases: of each task.
    settings: of `Request`, for all tasks.
  """

  def __init__(self, pipe: Pipeline, num_cases: int, seed: int, settings: Mapping[str, Any]):
    self.pipe, self.settings, self.seed = pipe, settings, seed
    self.length, (self.canvas, _) = pipe.card.num_frames, pipe.cfg.latent_size
    self.real, digits, self.directions = digits_lib.real_clips(num_cases, self.canvas, self.length)
    self.digits = np.asarray(digits)
    self.prompts = list(map(captions.caption, digits, self.directions))
    self.classifier = digits_lib.DigitClassifier()

  def run(self) -> dict[str, tuple[UInt8[np.ndarray, "n T h w"], dict[str, Any]]]:
    """Return the clips of each task and its scores."""
    tasks = [self.image_to_video, self.continuation, self.long, self.switch, self.turn, self.inpainting]
    return {task.__name__: task() for task in tasks}

  def image_to_video(self):
    clips = self._generate(image=list(self.real[:, 0, ..., None]))
    shares = digits_lib.score(clips, self.digits, self.directions, self.classifier)
    return clips, {name: share.value for name, share in shares.items() if name != "digit"}

  def continuation(self):
    clips = self._generate(video=list(self.real[:, :2, ..., None]), num_frames=self.length)
    right = [self.classifier.read(frame) == self.digits for frame in clips[:, 2:].swapaxes(0, 1)]
    near = [
        np.abs(digits_lib.locate(frame) - digits_lib.locate(real)).max(axis=1) <= 1
        for frame, real in zip(clips[:, 2:].swapaxes(0, 1), self.real[:, 2:].swapaxes(0, 1), strict=True)]
    return clips, {"digit": np.all(right, axis=0).mean(), "path": np.all(near, axis=0).mean()}

  def long(self):
    pieces, seconds, memory, started = [], [], [], time.perf_counter()
    for piece in self.pipe.stream(self.prompts, seed=self.seed, num_frames=LONG * self.length, **self.settings):
      pieces.append(piece[..., 0])
      seconds.append(time.perf_counter() - started)
      memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
      started = time.perf_counter()
    clips, late = np.concatenate(pieces, axis=1), len(pieces) // 2
    read = np.stack([self.classifier.read(frame) for frame in clips.swapaxes(0, 1)])
    return clips, {
        "digit": (read == self.digits).all(axis=0).mean(),
        "digit, last frame": (read[-1] == self.digits).mean(),
        # The first frames of all compile.
        "s/frame, first half": float(np.median(seconds[2:late])),
        "s/frame, last half": float(np.median(seconds[late:])),
        "MiB, half-way": round(memory[late]), "MiB, at the end": round(memory[-1])}

  def switch(self):
    clips, moved, read = self._change(OPPOSITE, self.length, later_context=1, num_frames=2 * self.length)
    return clips, {"direction": moved.mean(), "digit": read[self.length + 1].mean()}

  def turn(self):
    clips, moved, read = self._change(ASIDE, 2 * self.length, num_frames=LONG * self.length)
    return clips, {"direction": moved.mean(), "digit": read.all(axis=0).mean(), "digit, last frame": read[-1].mean()}

  def _change(
      self, ways: Mapping[str, str], frame: int, **settings: Any
  ) -> tuple[UInt8[np.ndarray, "n T h w"], Bool[np.ndarray, "n"], Bool[np.ndarray, "T n"]]:
    """Let prompts with other directions take over at a frame; return clips, who moves so, and who is the digit when."""
    there = [ways[direction] for direction in self.directions]
    later = {frame: [captions.caption(digit, direction) for digit, direction in zip(self.digits, there, strict=True)]}
    clips = self._generate(later_prompts=later, **settings)
    moves = digits_lib.movement_directions(np.stack([clips[:, frame - 1], clips[:, frame + 1]]))
    read = np.stack([self.classifier.read(frame) for frame in clips.swapaxes(0, 1)])
    return clips, moves == np.array(there), read == self.digits

  def inpainting(self):
    # Digits in the horizontal lane are cut by a horizontal line, the others by a vertical one.
    half, side, kept = self.canvas // 2, self.canvas, []
    clips = np.zeros((len(self.digits), 1, side, side), np.uint8)
    for box, lane in (((half, 0, side, side), ("left", "right")), ((0, half, side, side), ("up", "down"))):
      rows = np.flatnonzero(np.isin(self.directions, lane))
      clips[rows] = self._generate(
          rows, image=list(self.real[rows, 0, ..., None]), mask=box, num_frames=1)
      unknown = np.zeros((side, side), bool)
      unknown[box[0] : box[2], box[1] : box[3]] = True
      kept.append((clips[rows, 0][:, ~unknown] == self.real[rows, 0][:, ~unknown]).all(axis=1))
    read = self.classifier.read(clips[:, 0])
    return clips, {"known pixels equal": np.concatenate(kept).mean(), "digit": (read == self.digits).mean()}

  def _generate(self, rows: np.ndarray | None = None, **settings: Any) -> UInt8[np.ndarray, "n T h w"]:
    rows = np.arange(len(self.prompts)) if rows is None else rows
    return self.pipe([self.prompts[i] for i in rows], seed=self.seed, **self.settings, **settings)[..., 0]
