"""The motion score is the displacement of what moves."""

import numpy as np
import pytest

from nova_jax.data.cache.clips.motion import motion_score


def moving(step, num_frames=4, channels=3):
  texture = np.random.default_rng(0).integers(0, 256, (24, 40), np.uint8).repeat(8, 0).repeat(8, 1)
  frames = [texture[40 : 140, 60 + step * i : 220 + step * i] for i in range(num_frames)]
  return np.stack(frames)[..., None].repeat(channels, -1)


@pytest.mark.parametrize("step", [1, 3, 6])
def test_a_texture_that_moves(step):
  assert motion_score(moving(step)) == pytest.approx(step, rel=0.15)


def test_nothing_moves():
  assert motion_score(moving(0)) == pytest.approx(0, abs=1e-3)
  assert motion_score(np.zeros((3, 32, 32, 3), np.uint8)) == 0
  assert motion_score(moving(3)[:1]) == 0


def test_grey_is_as_colour():
  assert motion_score(moving(2, channels=1)) == motion_score(moving(2))
