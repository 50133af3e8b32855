import numpy as np
import pytest

from nova_jax.data.digits import one_digit
from nova_jax.evals.digits import one_digit as digits_lib


@pytest.fixture(scope="module")
def classifier():
  return digits_lib.DigitClassifier()


@pytest.fixture(scope="module")
def real():
  return digits_lib.real_clips(400, canvas=16, num_frames=4)


def _values(scores):
  return {name: share.value for name, share in scores.items()}


def _noisy(videos, deviation):
  noise = np.random.default_rng(0).normal(0, deviation, videos.shape)
  return np.clip(videos + noise, 0, 255).astype(np.uint8)


def test_real_clips_score_high(classifier, real):
  scores = _values(digits_lib.score(*real, classifier))
  assert scores["digit"] >= 0.98
  assert all(scores[name] == 1 for name in ("direction", "same_digit", "retrieval@1", "retrieval@last"))


def test_a_little_noise_does_not_matter(classifier, real):
  videos, digits, directions = real
  scores = _values(digits_lib.score(_noisy(videos, 8), digits, directions, classifier))
  assert min(scores.values()) >= 0.98


def test_a_digit_off_by_a_pixel_is_read(classifier, real):
  videos, digits, _ = real
  crops = digits_lib.crop(videos[:, 0], digits_lib.locate(videos[:, 0]))
  for shift in digits_lib.SHIFTS:
    shifted = digits_lib.crop(crops, np.tile(shift, (len(crops), 1)))
    read = classifier._svc.predict(digits_lib.flatten(shifted))
    assert np.mean(read == digits) >= 0.93


@pytest.mark.parametrize("canvas, num_frames", [(10, 3), (14, 5), (24, 12)])
def test_other_sizes_and_bounces(classifier, canvas, num_frames):
  scores = _values(digits_lib.score(*digits_lib.real_clips(120, canvas, num_frames), classifier))
  assert len(scores) == 5 and min(scores.values()) >= 0.98


def test_single_frames_have_a_digit_alone(classifier, real):
  videos, digits, directions = real
  assert digits_lib.score(videos[:, :1], digits, directions, classifier).keys() == {"digit"}


def test_two_frames_are_first_and_last(classifier, real):
  videos, digits, directions = real
  scores = digits_lib.score(videos[:, :2], digits, directions, classifier)
  assert scores["retrieval@1"] == scores["retrieval@last"] and scores["direction"].value == 1


def test_fresh_digit_in_each_frame_is_caught(classifier, real):
  """The right class moving the right way in every frame, but never the same image twice: only retrieval tells."""
  videos, digits, directions = (np.asarray(part) for part in real)
  cheat = videos.copy()
  for digit in range(10):
    for direction in np.unique(directions):
      own = np.flatnonzero((digits == digit) & (directions == direction))
      places = [digits_lib.locate(frames) for frames in videos[own].swapaxes(0, 1)]
      for t in range(1, 4):
        crops = digits_lib.crop(videos[own, 0], places[0])
        for i, clip in enumerate(own):
          canvas = np.zeros((32, 32), np.uint8)
          y, x = places[t][i] + 8
          canvas[y:y + 8, x:x + 8] = crops[(i + t) % len(own)]
          cheat[clip, t] = canvas[8:24, 8:24]
  scores = _values(digits_lib.score(cheat, digits, directions, classifier))
  assert scores["digit"] >= 0.98 and scores["direction"] >= 0.98 and scores["same_digit"] >= 0.95
  assert scores["retrieval@1"] <= 0.1 and scores["retrieval@last"] <= 0.1  # Chance is 1/40.


def test_one_image_for_every_clip_of_a_class_scores_chance(classifier, real):
  videos, digits, directions = (np.asarray(part) for part in real)
  first = {digit: np.flatnonzero(digits == digit)[0] for digit in range(10)}
  same = np.stack([videos[first[digit]] for digit in digits])
  scores = digits_lib.score(same, digits, directions, classifier)
  assert scores["retrieval@1"].value == pytest.approx(1 / 40)


def test_wrong_answers_lower_their_score_alone(classifier):
  videos, digits, directions = digits_lib.real_clips(80, canvas=16, num_frames=4)
  right = _values(digits_lib.score(videos, digits, directions, classifier))
  backwards = _values(digits_lib.score(videos[:, ::-1], digits, directions, classifier))
  assert backwards["direction"] == 0 and backwards["digit"] == right["digit"]
  still = _values(digits_lib.score(videos[:, [0, 0, 0, 0]], digits, directions, classifier))
  assert still["direction"] == 0 and still["retrieval@last"] == 1
  others = _values(digits_lib.score(videos, [(digit + 1) % 10 for digit in digits], directions, classifier))
  assert others["digit"] <= 0.03 and others["same_digit"] == right["same_digit"]
  turned = videos.copy()
  turned[:40, 2] = np.roll(videos[:40, 2], 1, axis=0)  # The next class in one frame.
  assert _values(digits_lib.score(turned, digits, directions, classifier))["same_digit"] == pytest.approx(0.5, abs=0.03)


def test_a_digit_is_cut_alike_everywhere():
  for image in one_digit.source_images()[::100]:
    frames = np.zeros((9, 9, 16, 16), np.uint8)
    for y in range(9):
      for x in range(9):
        frames[y, x, y:y + 8, x:x + 8] = image
    crops = digits_lib.crop(frames.reshape(-1, 16, 16), digits_lib.locate(frames.reshape(-1, 16, 16)))
    assert (crops == crops[0]).all() and crops[0].sum() > 0.97 * image.sum()


def test_empty_frames_are_no_error(classifier):
  scores = digits_lib.score(np.zeros((4, 3, 16, 16), np.uint8), [1, 1, 2, 2], ["up"] * 4, classifier)
  assert scores["direction"].value == 0 and scores["retrieval@1"].value == pytest.approx(0.5)


def test_wilson_interval():
  share = digits_lib.proportion(np.array([1.0] * 90 + [0.0] * 10))
  assert share.value == 0.9 and share.count == 100
  assert (share.low, share.high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))


def test_classifier_is_deterministic(classifier, real):
  frames = _noisy(real[0][:, 0], 40)
  np.testing.assert_array_equal(classifier.read(frames), digits_lib.DigitClassifier().read(frames))


def test_table_has_both_columns(classifier, real):
  scores = digits_lib.score(*real, classifier)
  worse = {name: share._replace(value=0.5) for name, share in scores.items()}
  lines = digits_lib.table(worse, scores).splitlines()
  assert len(lines) == 6 and lines[2].split()[:2] == ["direction", "0.500"] and lines[2].endswith("1.000")


def test_bad_arguments(classifier):
  with pytest.raises(ValueError, match="2 and 1 for 2"):
    digits_lib.score(np.zeros((2, 1, 16, 16), np.uint8), [1, 2], ["up"], classifier)
  with pytest.raises(ValueError, match="float32"):
    digits_lib.score(np.zeros((1, 1, 16, 16), np.float32), [1], ["up"], classifier)
