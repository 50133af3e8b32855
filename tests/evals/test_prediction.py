"""Best of several samples, drift by frame number, and which files belong together."""

import csv
import itertools
import json

import commands
import numpy as np
import pytest
from evals.test_frame_scores import clips
from PIL import Image

from nova_jax.evals.features.extract import find
from nova_jax.evals.frame_scores import psnr, ssim
from nova_jax.evals.prediction import fvd, pair_up, score_prediction
from nova_jax.media.lossless import write_avi


@pytest.fixture
def folders(tmp_path):
  """Two clips, the second sample of the first being the better one, and the first of the second."""
  for number, (real, made) in enumerate(clips()):
    if number < 2:
      write_avi(tmp_path / f"real/clip_{number}.avi", real, 8)
      better = ((real.astype(int) + made) // 2).astype(np.uint8)
      for sample, clip in enumerate([better, made] if number else [made, better]):
        write_avi(tmp_path / f"made/clip_{number}_{sample:03}.avi", clip, 8)
  return tmp_path


def test_the_best_sample_counts_and_drift_is_of_all(folders):
  done = commands.run(
      "score", "--benchmark=prediction", "--real", folders / "real", "--generated", folders / "made",
      "--context_frames=2", "--json", folders / "scores.json", "--csv", folders / "drift.csv", "--plot",
      folders / "drift.png")
  assert done.returncode == 0, done.stderr
  scores = json.loads((folders / "scores.json").read_text(encoding="utf-8"))
  with (folders / "drift.csv").open(encoding="utf-8") as file:
    drift = list(csv.DictReader(file))
  assert [row["frame"] for row in drift] == ["2", "3", "4", "5"]
  for name, score in (("psnr", psnr), ("ssim", ssim)):
    found = []
    for real, made in itertools.islice(clips(), 2):
      better = ((real.astype(int) + made) // 2).astype(np.uint8)
      found.append([score(real[2:], clip[2:]) for clip in (better, made)])
    found = np.array(found)
    assert scores[name] == pytest.approx(found[:, 0].mean(), abs=1e-9)
    assert scores[f"{name}_of_all"] == pytest.approx(found.mean(), abs=1e-9) and scores[f"{name}_of_all"] < scores[name]
    np.testing.assert_allclose([float(row[name]) for row in drift], found.mean((0, 1)), atol=1e-6)
  assert (scores["clips"], scores["samples"], scores["predicted_frames"]) == (2, 2, 4)
  assert Image.open(folders / "drift.png").width > 400


def test_lower_is_better_for_lpips_and_fvd_is_the_mean_of_the_samples_numbers(folders):
  pairs = pair_up(find(folders / "real"), find(folders / "made"))
  found = score_prediction(pairs, 2, {"lpips": lambda real, made: 1 / psnr(real, made)}).totals()
  assert found["lpips"] < found["lpips_of_all"]

  class Brightness:
    dim = 1

    def __call__(self, clips):
      return clips.mean((1, 2, 3, 4))[:, None]

  one = [fvd({path: [samples[number]] for path, samples in pairs.items()}, Brightness()) for number in range(2)]
  assert fvd(pairs, Brightness()) == pytest.approx(np.mean(one)) and one[0] != one[1]
  assert fvd({path: [path, path] for path in pairs}, Brightness()) == pytest.approx(0, abs=1e-9)


def test_files_that_do_not_belong_together(folders):
  real, made = folders / "real", folders / "made"
  write_avi(made / "clip_0_002.avi", next(clips())[1], 8)
  with pytest.raises(ValueError, match="clip_1.avi has 2 samples, clip_0.avi 3; expected as many"):
    pair_up(find(real), find(made))
  (made / "clip_0_002.avi").rename(made / "other_000.avi")
  with pytest.raises(ValueError, match="other_000.avi should be NAME_NUMBER of a real clip"):
    pair_up(find(real), find(made))
  (made / "other_000.avi").unlink()
  pairs = pair_up(find(real), find(made))
  with pytest.raises(ValueError, match="has 6 frames; expected as many in all, and more than 6 given"):
    score_prediction(pairs, 6, {"psnr": psnr})
  write_avi(made / "clip_0_000.avi", next(clips())[1][:, :50], 8)
  with pytest.raises(ValueError, match="expected 6 frames of 96 x 64 as in clip_0.avi, got 6 frames of 96 x 50"):
    score_prediction(pairs, 2, {"psnr": psnr})
