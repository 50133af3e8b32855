"""Running a job: latents frame by frame, and pixels as soon as they can be decoded.

Invariant: nothing is decided here; a job that is run again gives the same.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, UInt8

from nova_jax.autoencoders import Autoencoder
from nova_jax.autoencoders.streaming import decode_finished
from nova_jax.pipeline.resolve import Job
from nova_jax.sampling.frame_context import Model
from nova_jax.sampling.sampler import Set, generate
from nova_jax.utils.errors import UserError


class Step(NamedTuple):
  """A finished set, as a caller's `on_set` is told it.

  Attributes:
    frame: latent frame, from 0.
    num_frames: latent frames of the clip.
    index: the set, from 0.
    num_sets: sets of this frame.
    preview: decodes the frame as far as it is written; it needs an autoencoder.
  """

  frame: int
  num_frames: int
  index: int
  num_sets: int
  preview: Callable[[], UInt8[np.ndarray, "B height width c"]]


def run(
    job: Job, model: Model, autoencoder: Autoencoder | None, on_set: Callable[[Step], None] | None = None,
    guide: Model | None = None,
) -> Iterator[UInt8[np.ndarray, "B f height width c"] | Float[np.ndarray, "B 1 h w C"]]:
  """Yield the next frames of all clips, as soon as they are finished.

  Args:
    job: resolved request.
    model: transformer.
    autoencoder: decodes latents; None if the job is of latents.
    on_set: called when a set of tokens is finished.
    guide: model that guides in place of the unconditional passes.

  Raises:
    FloatingPointError: latents or pixels that are not finite; the text names where.
  """
  tell = None if on_set is None else _tell(on_set, job, autoencoder)
  frames = generate(model, job.plan, job.inputs, tell, guide)
  if not job.as_pixels:
    return (np.asarray(frame)[:, None] for frame in frames)
  assert autoencoder is not None  # `resolve.check` refuses pixels without one.
  return _decode(job, frames, autoencoder)


def _decode(
    job: Job, frames: Iterator[Float[Array, "B h w C"]], autoencoder: Autoencoder
) -> Iterator[UInt8[np.ndarray, "B f height width c"]]:
  done = 0
  for piece in decode_finished(autoencoder, frames, job.plan.num_frames):
    # A latent may stand for several frames, and a clip end among them.
    piece = job.givens.keep(piece[:, : None if job.num_frames is None else job.num_frames - done], done)
    done += piece.shape[1]
    yield piece


def _tell(on_set: Callable[[Step], None], job: Job, autoencoder: Autoencoder | None) -> Callable[[Set], None]:

  def tell(done: Set) -> None:
    on_set(Step(done.frame, job.plan.num_frames, done.index, done.num_sets, lambda: preview(done)))

  def preview(done: Set) -> UInt8[np.ndarray, "B height width c"]:
    if autoencoder is None:
      raise UserError("preview: there is no autoencoder to make pixels with; load a folder that has one")
    return np.asarray(autoencoder.decode(np.asarray(done.latents())[:, None]))[:, 0]

  return tell
