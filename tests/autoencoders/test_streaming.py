"""Frames are decoded as soon as they can be, to the same bits as all at once."""

import numpy as np
import pytest
from autoencoders.test_neural import APART, SHARED, clip, wrap

from nova_jax.autoencoders import PixelAutoencoder
from nova_jax.autoencoders.streaming import decode_finished, frames_for_latent, latent_for_frame


@pytest.mark.parametrize("time_tiles", [SHARED, APART], ids=["shared", "apart"])
@pytest.mark.parametrize("num_frames", [1, 5, 17, 33, 40])
def test_pieces_are_the_whole(time_tiles, num_frames):
  autoencoder = wrap(time_tiles, norm=0.5)
  latents = autoencoder.encode(clip(num_frames, batch=2))
  taken = []

  def make():
    for t in range(latents.shape[1]):
      taken.append(t)
      yield latents[:, t]

  pieces = []
  tiles = time_tiles.latent_tiles(latents.shape[1])
  for piece, tile in zip(decode_finished(autoencoder, make(), latents.shape[1]), tiles, strict=True):
    assert taken[-1] == tile.stop - 1, "as soon as the tile's last latent is there"
    pieces.append(piece)
  assert np.array_equal(np.concatenate(pieces, axis=1), autoencoder.decode(latents))


def test_pixels_come_one_by_one():
  latents = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 1), np.float32)
  pieces = list(decode_finished(PixelAutoencoder(), np.moveaxis(latents, 1, 0), 3))
  assert [piece.shape[1] for piece in pieces] == [1, 1, 1]
  assert np.array_equal(np.concatenate(pieces, axis=1), PixelAutoencoder().decode(latents))


@pytest.mark.parametrize("time_tiles", [SHARED, APART], ids=["shared", "apart"])
def test_every_frame_has_its_latent(time_tiles):
  autoencoder = wrap(time_tiles)
  spans = [list(frames_for_latent(autoencoder, t)) for t in range(7)]
  assert sum(spans, []) == list(range(autoencoder.num_frames(7)))
  assert all(latent_for_frame(autoencoder, frame) == t for t, span in enumerate(spans) for frame in span)
