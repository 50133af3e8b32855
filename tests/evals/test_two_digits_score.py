import json

import numpy as np
import pytest

from nova_jax.data.digits import one_digit
from nova_jax.data.digits import two_digits as data
from nova_jax.evals.digits import score as score_lib
from nova_jax.evals.digits import two_digits as two_digits_lib
from nova_jax.evals.digits.one_digit import DigitClassifier
from nova_jax.pipeline import Pipeline

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
NUM_CLIPS = 120


@pytest.fixture(scope="module")
def classifier():
  return DigitClassifier()


@pytest.fixture(scope="module")
def requests():
  """Return what real clips show, without the clips."""
  return two_digits_lib.real_clips(NUM_CLIPS, 32, 1)[1:]


@pytest.fixture(scope="module")
def right(classifier):
  real, *requests = two_digits_lib.real_clips(NUM_CLIPS, 32, 8)
  return _values(two_digits_lib.score(real, *requests, classifier))


def _values(scores):
  return {name: share.value for name, share in scores.items()}


def _draw(plant=lambda planted: planted):
  """Draw the held-out clips with an error planted: `plant` changes the images and ways of a clip."""
  made = []
  for number in range(NUM_CLIPS):
    clip = data.make_clip("test", number, num_frames=1)
    images = [data.enlarge(one_digit.source_images()[place]) for place in (clip.source, clip.back_source)]
    planted = plant({
        "front": [images[0]] * 8, "back": [images[1]] * 8, "way": clip.direction, "back_way": clip.back_direction,
        "swap": False, "clip": clip})
    ways = [data.way(planted[way], 32, 8) for way in ("way", "back_way")]
    frames = []
    for front, back, place, back_place in zip(planted["front"], planted["back"], *ways, strict=True):
      movers = [(front, place), (back, back_place)]
      frames.append(data.draw(32, *movers[planted["swap"]], *movers[1 - planted["swap"]]))
    made.append(np.stack(frames))
  return np.stack(made)


def _assert_falls(scores, right, name, *with_it):
  assert scores[name] <= 0.05, scores
  for other in right.keys() - {name, *with_it}:
    assert scores[other] >= right[other] - 0.04, (other, scores)


def test_real_clips_score_high(classifier):
  real, *requests = two_digits_lib.real_clips(400, canvas=32, num_frames=8)
  scores = two_digits_lib.score(real, *requests, classifier)
  assert tuple(scores) == two_digits_lib.SCORES and min(_values(scores).values()) >= 0.98
  assert all(scores[name].value == 1 for name in two_digits_lib.SCORES[1:])
  assert scores["digits"].low < 0.985 < scores["digits"].high
  noise = np.random.default_rng(0).normal(0, 8, real.shape)
  noisy = np.clip(real + noise, 0, 255).astype(np.uint8)
  assert min(_values(two_digits_lib.score(noisy, *requests, classifier)).values()) >= 0.98


def test_a_wrong_digit(classifier, requests, right):
  def plant(planted):
    clip = planted["clip"]
    wrong = next(d for d in range(clip.digit + 1, clip.digit + 4) if d % 10 not in (clip.digit, clip.back_digit)) % 10
    place = one_digit.sources("test", wrong)[one_digit.sources("test", clip.digit).index(clip.source)]
    image = data.enlarge(one_digit.source_images()[place])
    return planted | {"front": [image] * 8}

  scores = _values(two_digits_lib.score(_draw(plant), *requests, classifier))
  _assert_falls(scores, right, "digits")


def test_a_wrong_direction(classifier, requests, right):
  def plant(planted):  # The two may not share a lane, or both would go the same way.
    name = "way" if OPPOSITE[planted["way"]] != planted["back_way"] else None
    if name is None:
      return planted | {"way": planted["back_way"], "back_way": planted["way"]}
    return planted | {name: OPPOSITE[planted[name]]}

  scores = _values(two_digits_lib.score(_draw(plant), *requests, classifier))
  _assert_falls(scores, right, "directions")


def test_a_wrong_order(classifier, requests, right):
  scores = _values(two_digits_lib.score(_draw(lambda planted: planted | {"swap": True}), *requests, classifier))
  _assert_falls(scores, right, "depth")


def test_an_exchange_on_the_way(classifier, requests, right):
  def plant(planted):
    front, back = planted["front"], planted["back"]
    return planted | {"front": front[:4] + back[:4], "back": back[:4] + front[:4]}

  scores = _values(two_digits_lib.score(_draw(plant), *requests, classifier))
  _assert_falls(scores, right, "same_digits", "retrieval@last")
  assert scores["retrieval@last"] <= 0.05


def test_another_digit_of_the_class_on_the_way(classifier, requests, right):
  def plant(planted):
    clip = planted["clip"]
    places = one_digit.sources("test", clip.digit)
    image = data.enlarge(one_digit.source_images()[places[(places.index(clip.source) + 1) % 40]])
    return planted | {"front": planted["front"][:4] + [image] * 4}

  scores = _values(two_digits_lib.score(_draw(plant), *requests, classifier))
  assert scores["retrieval@last"] <= 0.5 < right["retrieval@last"]
  assert all(scores[name] >= right[name] - 0.05 for name in ("digits", "directions", "depth", "same_digits"))


def test_digits_that_meet_and_turn_back_have_not_crossed(classifier, requests):
  real = _draw()
  scores = _values(two_digits_lib.score(real[:, [0, 1, 2, 3, 3, 2, 1, 0]], *requests, classifier))
  opposite = np.mean([OPPOSITE[way] == back for way, (_, back) in zip(requests[1], requests[2], strict=True)])
  assert scores["directions"] <= opposite + 0.01  # In one lane they would end at the same walls;
  assert scores["same_digits"] <= 0.01 + (1 - opposite) * 0.2  # that they are not the same ones tells.
  still = _values(two_digits_lib.score(real[:, [0] * 8], *requests, classifier))
  assert still["directions"] == still["depth"] == 0


def test_frames_tell_how_clips_drift(classifier):
  real, *requests = two_digits_lib.real_clips(40, canvas=32, num_frames=128)
  drifting = real.copy()
  drifting[:20, 64:] = np.roll(real[:20, 64:], 1, axis=0)  # Half of the clips become others.
  by_frame = two_digits_lib.scores_by_frame(drifting, *requests, classifier)
  assert list(by_frame) == list(range(0, 128, 7))
  assert min(share.value for frame in range(0, 64, 7) for share in by_frame[frame].values()) >= 0.95
  assert all(0.45 <= by_frame[frame][name].value <= 0.65 for frame in (70, 98, 126) for name in by_frame[0])


def test_bad_arguments(classifier):
  with pytest.raises(ValueError, match=r"\[1, 1, 1\] for 2"):
    two_digits_lib.score(np.zeros((2, 8, 32, 32), np.uint8), [1], ["up"], [(2, "left")], classifier)
  with pytest.raises(ValueError, match="float32"):
    two_digits_lib.score(np.zeros((1, 8, 32, 32), np.float32), [1], ["up"], [(2, "left")], classifier)
  with pytest.raises(ValueError, match="within 8 frames of 32 pixels"):
    two_digits_lib.score(np.zeros((1, 4, 32, 32), np.uint8), [1], ["up"], [(2, "left")], classifier)


def test_files_of_a_run(tmp_path):
  asked = []

  def generate(prompts, seeds):
    asked.extend(prompts)
    return two_digits_lib.real_clips(12, 32, 8)[0][seeds[0] : seeds[-1] + 1, ..., None]

  result = score_lib.score_generator(
      generate, tmp_path, canvas=32, num_frames=8, num_prompts=12, captions="free", batch_size=5, task="two_digits")
  assert result.scores == result.real and tuple(result.scores) == two_digits_lib.SCORES
  assert {path.name for path in tmp_path.iterdir()} == {"sheet.png", "grid.gif", "scores.json"}
  written = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
  assert written["generated"]["depth"] == 1
  assert asked[0] == "a 0 drifting to the left passes before a 1 drifting to the right" and len(asked) == 12
  assert asked[10].startswith("two slides ")


def test_a_model_of_one_digit_is_refused(tmp_path):
  with pytest.raises(ValueError, match="8 frames of 32 pixels a side.*makes 4 frames of 16"):
    score_lib.score_digits(Pipeline.load("digits"), tmp_path, num_prompts=4, task="two_digits")
