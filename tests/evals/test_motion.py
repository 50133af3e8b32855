"""Motion statistics of a folder of videos."""

import numpy as np
import pytest

from nova_jax.data.cache.clips.motion import motion_score
from nova_jax.evals.features.extract import read_clip
from nova_jax.evals.motion import motion_statistics
from nova_jax.media import write_mp4
from nova_jax.utils import limits


def test_statistics_of_a_folder(tmp_path):
  texture = np.random.default_rng(0).integers(0, 256, (24, 40), np.uint8).repeat(8, 0).repeat(8, 1)
  for step in (0, 2, 4):
    frames = np.stack([texture[40:136, 60 + step * i : 220 + step * i] for i in range(4)])[..., None]
    write_mp4(tmp_path / f"{step}.mp4", frames, 8, short_side=1)
  found = motion_statistics(tmp_path)
  assert found["videos"] == 3
  assert found["motion_mean"] == pytest.approx(2, rel=0.15) and found["motion_50"] == pytest.approx(2, rel=0.15)
  scores = [motion_score(read_clip(tmp_path / f"{step}.mp4")) for step in (0, 2, 4)]
  assert found["motion_25"] == pytest.approx(np.mean(scores[:2])) and found["motion_75"] == pytest.approx(
      np.mean(scores[1:]))
  assert found["motion_deviation"] == pytest.approx((8 / 3) ** 0.5, rel=0.15)
  with pytest.raises(ValueError, match="has no videos"):
    (tmp_path / "none").mkdir()
    motion_statistics(tmp_path / "none")
  with pytest.raises(ValueError, match="there is no folder .*gone"):
    motion_statistics(tmp_path / "gone")
  with pytest.raises(ValueError, match="0.mp4 is a file; expected a folder of videos"):
    motion_statistics(tmp_path / "0.mp4")


def test_videos_that_have_no_motion_or_too_many_pixels(tmp_path, monkeypatch):
  write_mp4(tmp_path / "a.mp4", np.zeros((1, 16, 16, 1), np.uint8), 8)
  with pytest.raises(ValueError, match="a.mp4 has one frame"):
    motion_statistics(tmp_path)
  write_mp4(tmp_path / "a.mp4", np.zeros((3, 16, 16, 1), np.uint8), 8, short_side=1)
  monkeypatch.setattr(limits, "REQUEST_PIXELS", 600)
  with pytest.raises(ValueError, match="a.mp4: its frames are more pixels than REQUEST_PIXELS, 600"):
    motion_statistics(tmp_path)
