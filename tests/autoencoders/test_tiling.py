import itertools

import numpy as np
import pytest

from nova_jax.autoencoders import NETWORKS
from nova_jax.autoencoders.tiling import blend, space_tiles

LAWS = {name: kind.time_tiles for name, kind in NETWORKS.items()}
IMAGES, SHARED, APART, LONG = (
    LAWS[name] for name in (
        "AutoencoderKL", "AutoencoderKLOpenSora", "AutoencoderKLCogVideoX", "AutoencoderKLLTXVideo"))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_every_frame_is_in_a_tile_and_decodes(law):
  for num_frames in (*range(1, 61), 249, 250, 500):
    tiles = law.frame_tiles(num_frames)
    seen = sorted({frame for tile in tiles for frame in range(num_frames)[tile]})
    assert (num_frames, seen) == (num_frames, list(range(num_frames)))
    # Consecutive tiles share one frame, or none if a tile is one frame.
    shared = min(1, law.frames - 1)
    assert all(later.start == earlier.stop - shared for earlier, later in itertools.pairwise(tiles)), num_frames
    assert all(tile.stop - tile.start == law.frames for tile in tiles[:-1]), num_frames
    num_latents = law.num_latents(num_frames)
    assert num_latents >= law.num_latents(max(num_frames - 1, 1)), num_frames
    # What decodes is the clip and at most the frames that complete its last latent.
    assert num_frames <= law.num_frames(num_latents) < num_frames + law.stride
    # Tiles of latents and tiles of frames are the same tiles.
    assert [law.frames_of_tile(tile.stop - tile.start) for tile in law.latent_tiles(num_latents)] == [
        law.frames_of_tile(law.latents_of_tile(tile.stop - tile.start)) for tile in tiles], num_frames


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_every_latent_is_in_a_tile(law):
  possible = {law.num_latents(num_frames) for num_frames in range(1, law.stride * 61)}
  for num_latents in range(1, 61):
    if num_latents not in possible:
      with pytest.raises(ValueError, match=f"take {num_latents - 1} or {num_latents + 1}"):
        law.num_frames(num_latents)
      continue
    tiles = law.latent_tiles(num_latents)
    seen = sorted({latent for tile in tiles for latent in range(num_latents)[tile]})
    assert (num_latents, seen) == (num_latents, list(range(num_latents)))
    assert law.num_latents(law.num_frames(num_latents)) == num_latents


@pytest.mark.parametrize("law, num_frames, num_latents", [
    (IMAGES, 1, 1), (IMAGES, 33, 33), (SHARED, 1, 1), (SHARED, 17, 5), (SHARED, 33, 9), (SHARED, 25, 7),
    (APART, 1, 1), (APART, 17, 5), (APART, 33, 10), (APART, 21, 7), (LONG, 249, 32), (LONG, 497, 64)])
def test_known_lengths(law, num_frames, num_latents):
  assert law.num_latents(num_frames) == num_latents
  assert law.num_frames(num_latents) == num_frames


def test_clips_between_two_latents_are_continued():
  assert SHARED.num_latents(20) == 6
  assert APART.num_latents(20) == 7


def test_impossible_lengths_are_refused():
  assert LAWS and [n for n in range(1, 20) if _refused(APART, n)] == [6, 11, 16]
  with pytest.raises(ValueError, match="1 frame or more"):
    SHARED.num_latents(0)


def _refused(law, num_latents):
  try:
    law.num_frames(num_latents)
  except ValueError:
    return True
  return False


@pytest.mark.parametrize("length, size", [(5, 8), (8, 8), (9, 8), (30, 8), (61, 16), (7, 4)])
def test_space_tiles_cover_and_overlap(length, size):
  tiles = space_tiles(length, size)
  assert tiles[0].start == 0 and tiles[-1].stop == length
  assert {tile.stop - tile.start for tile in tiles} == {min(size, length)}
  assert all(earlier.stop - later.start >= size // 4 for earlier, later in itertools.pairwise(tiles))
  assert all(later.start > earlier.start for earlier, later in itertools.pairwise(tiles))


def test_blending_is_smooth_and_keeps_what_tiles_agree_on():
  tiles = space_tiles(20, 8)
  picture = np.random.default_rng(0).normal(size=(1, 2, 20, 20, 3)).astype(np.float32)
  parts = lambda values: [
      (rows, columns, values(i, picture[:, :, rows, columns]))
      for i, rows in enumerate(tiles) for columns in tiles]
  np.testing.assert_allclose(blend(parts(lambda i, part: part)), picture, atol=1e-6)
  # Rows of tiles that differ by 1 share two places, in which one goes over into the other.
  column = blend(parts(lambda i, part: np.full_like(part, i)))[0, 0, :, 0, 0]
  np.testing.assert_allclose(column, [*[0] * 6, 0.25, 0.75, *[1] * 4, 1.25, 1.75, *[2] * 6], atol=1e-6)
