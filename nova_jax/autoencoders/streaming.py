"""Streaming decoding: frames are decoded as soon as their latents have been generated.

Invariants: the parts together equal the result of `decode` for the whole clip, bit for bit. At most one tile of latents
is kept.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

from nova_jax.autoencoders import Autoencoder
from nova_jax.autoencoders.pixels import Array
from nova_jax.utils.errors import UserError
from nova_jax.utils.finite import NotFinite


def decode_finished(
    autoencoder: Autoencoder, latents: Iterable[Float[Array, "B h w C"]], num_latents: int
) -> Iterator[UInt8[np.ndarray, "B frames height width c"]]:
  """Yield the frames of a clip in parts, given its `num_latents` latent frames one by one.

  Raises:
    NotFinite: decoded pixels are not finite; the error names the frame of the clip.
  """
  tiles = iter(autoencoder.latent_tiles(num_latents))
  tile: slice | None = next(tiles)
  kept, done = [], 0
  for t, latent in enumerate(latents):
    kept.append(np.asarray(latent))
    if tile is None or t + 1 < tile.stop:
      continue
    try:
      frames = np.asarray(autoencoder.new_frames(np.stack(kept, axis=1), first=tile.start == 0))
    except NotFinite as error:
      raise NotFinite(done + error.frame, "the clip") from None
    yield frames
    done += frames.shape[1]
    tile = next(tiles, None)
    kept = [] if tile is None else kept[len(kept) - (t + 1 - tile.start):]


def frames_for_latent(autoencoder: Autoencoder, latent: int) -> range:
  """Return the frames that the latent frame `latent` adds to a clip."""

  def num_frames(num_latents: int) -> int:
    try:
      return autoencoder.num_frames(num_latents) if num_latents else 0
    except UserError:  # No clip has this number: the last latent only repeats a frame.
      return num_frames(num_latents - 1)

  return range(num_frames(latent), num_frames(latent + 1))


def latent_for_frame(autoencoder: Autoencoder, frame: int) -> int:
  """Return the latent frame that `frame` is decoded from."""
  return next(t for t in range(frame + 1) if frame in frames_for_latent(autoencoder, t))
