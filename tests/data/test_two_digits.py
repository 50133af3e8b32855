import collections
import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
from absl import flags

from nova_jax.autoencoders import PixelAutoencoder
from nova_jax.config import DataConfig
from nova_jax.data.digits import captions, datasets, one_digit, two_digits
from nova_jax.data.loader import Loader
from nova_jax.data.videos import VideoFeed
from nova_jax.text import WordEncoder

CONFIG = DataConfig(name="two_digits", num_records=24, num_frames=10, canvas=32, paraphrase_fraction=0.5)
STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}


@pytest.fixture(scope="module")
def test_clips():
  return [two_digits.make_clip("test", number) for number in range(400)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("prepared")
  return folder, datasets.prepare(folder, CONFIG)


def _ways(clip):
  return [two_digits.way(way, 32, 8) for way in (clip.direction, clip.back_direction)]


def _images(clip):
  return [two_digits.enlarge(one_digit.source_images()[source]) for source in (clip.source, clip.back_source)]


def test_all_combinations_are_even():
  made = [
      (clip.digit, clip.back_digit, clip.direction, clip.back_direction)
      for clip in (two_digits.make_clip("train", number, num_frames=1) for number in range(2 * 1080))]
  assert set(collections.Counter(made).values()) == {2} and len(set(made)) == two_digits.COMBINATIONS == 1080
  assert len(set(made[:1080])) == 1080
  for start in (0, 120, 960):
    assert len({(digit, *ways) for digit, _, *ways in made[start : start + 120]}) == 120
  assert all(digit != back and way != back_way for digit, back, way, back_way in made)


def test_held_out_digits_are_in_no_training_clip(test_clips):
  for role in ("source", "back_source"):
    shown = {getattr(clip, role) for clip in test_clips}
    assert shown == {place for digit in range(10) for place in one_digit.sources("test", digit)}  # Each of them once.
    trained = {getattr(two_digits.make_clip("train", number, num_frames=1), role) for number in range(500)}
    assert not trained & shown
  for clip in test_clips:
    assert one_digit.source_classes()[[clip.source, clip.back_source]].tolist() == [clip.digit, clip.back_digit]


def test_both_move_as_told_and_cross(test_clips):
  for clip in test_clips[:40]:
    front, back = _ways(clip)
    for way, direction in ((front, clip.direction), (back, clip.back_direction)):
      travelled = way[-1] - way[0]
      assert np.sign(travelled).tolist() == list(STEPS[direction]) and abs(travelled).sum() == 20
      assert (abs(np.diff(way, axis=0)).sum(1) <= 3).all() and (way >= 0).all() and (way <= 20).all()
    distance = abs(front - back).max(1)
    assert distance[[0, -1]].min() >= 10 and distance[3:5].max() <= 2  # Apart, in the middle on each other, apart.


def test_frames_at_the_walls_show_both_whole_and_the_middle_one_of_them(test_clips):
  for clip in test_clips:
    images = _images(clip)
    for frame in (0, two_digits.MOVES):
      for image, way in zip(images, _ways(clip), strict=True):
        y, x = way[frame]
        shown = clip.video[frame, y : y + 12, x : x + 12, 0]
        assert (abs(shown.astype(int) - image) > 64).sum() <= 4, clip.caption
    y, x = _ways(clip)[0][3]
    shown, image = clip.video[3, y : y + 12, x : x + 12, 0], images[0]
    assert (shown == image)[image >= two_digits.INK].all(), "the digit in front is whole"


def test_one_sees_who_is_in_front(test_clips):
  for clip in test_clips:
    (front, back), (way, back_way) = _images(clip), _ways(clip)
    other = np.stack([
        two_digits.draw(32, back, there, front, here) for here, there in zip(way, back_way, strict=True)])
    differ = (abs(clip.video[..., 0].astype(int) - other) > 64).sum((1, 2))
    assert differ.max() >= 30, clip.caption
    assert differ[[0, -1]].max() <= 8, "at the walls corners touch at most"


def test_longer_clips_start_alike_and_come_back():
  long = two_digits.make_clip("train", 17, num_frames=15)
  assert np.array_equal(long.video[:8], two_digits.make_clip("train", 17).video)
  assert np.array_equal(long.video[:8], long.video[:6:-1]) and long.wall == 7


def test_pure_and_seeded():
  first, again, other = ([two_digits.make_clip("train", i, seed=seed) for i in range(10)] for seed in (0, 0, 1))
  for a, b, c in zip(first, again, other, strict=True):
    assert np.array_equal(a.video, b.video) and repr(a) == repr(b)
    assert (a.digit, a.back_digit, a.direction) == (c.digit, c.back_digit, c.direction)
  assert [clip.source for clip in first] != [clip.source for clip in other]


def test_known_record():
  """A change here changes every stored dataset: raise `TwoDigits.VERSION` with it."""
  clip = two_digits.make_clip("train", 1234, paraphrase_fraction=1.0)
  digest = hashlib.sha256(clip.video.tobytes()).hexdigest()[:16]
  assert (clip.source, clip.back_source, digest) == (343, 1394, "fd0f1458d89e5abb")
  assert clip.caption == "watch the one head to the left and pass under the four that heads to the top"


def test_captions_say_what_is_shown():
  made = [two_digits.make_clip("train", i, num_frames=1, paraphrase_fraction=0.5) for i in range(240)]
  plain = [captions.caption(clip.digit, clip.direction, (clip.back_digit, clip.back_direction)) for clip in made]
  assert 80 < sum(clip.caption == text for clip, text in zip(made, plain, strict=True)) < 160
  assert plain[12] == "the digit two moves left in front of the digit four, which moves up"


@pytest.mark.parametrize("variant", [None, *range(captions.NUM_PARAPHRASES)])
def test_every_wording_tells_all_combinations_apart(variant):
  def say(digit, way, behind):
    return captions.caption(digit, way, behind) if variant is None else captions.paraphrase(digit, way, variant, behind)

  texts = {
      say(digit, way, (back, back_way)) for digit, back in itertools.permutations(range(10), 2)
      for way, back_way in two_digits.PAIRS}
  assert len(texts) == two_digits.COMBINATIONS
  known = set(captions.vocabulary(variant is not None, num_digits=2))
  encoder = WordEncoder(words=frozenset(known), max_length=20)
  assert not any(encoder.notes(text) for text in list(texts)[:40])
  assert encoder.encode(sorted(texts, key=len)[-20:])[1].max() <= 17


def test_records_are_the_clips(prepared):
  folder, sources = prepared
  assert {split: len(source) for split, source in sources.items()} == {"train": 24, "test": 400}
  for split, number in (("train", 0), ("train", 23), ("test", 123)):
    clip = two_digits.make_clip(split, number, num_frames=10, paraphrase_fraction=0.5)
    record = sources[split][number]
    assert np.array_equal(record["video"], clip.video) and record["caption"].decode() == clip.caption
    assert (record["back_digit"], record["back_source"]) == (clip.back_digit, clip.back_source)
  assert (folder / "two_digits").is_dir()


def test_same_config_same_bytes(prepared, tmp_path):
  folder, _ = prepared
  datasets.prepare(tmp_path, CONFIG)
  digests = [
      [hashlib.sha256(path.read_bytes()).digest() for path in sorted(place.rglob("*array_record*"))]
      for place in (folder, tmp_path)]
  assert len(digests[0]) == 2 and digests[0] == digests[1]


@pytest.mark.slow  # Starts processes.
def test_workers_change_nothing(prepared):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's workers read flags, which a launcher has parsed.
  batches = []
  for workers in (0, 2):
    feed = VideoFeed(
        prepared[1]["train"], WordEncoder(max_length=20), PixelAutoencoder(), num_frames=8, seed=0,
        mid_clip_fraction=0.5)
    loader = Loader(feed, batch_size=8, num_workers=workers)
    batches.append([next(loader) for _ in range(4)])
    loader.close()
  for one, two in zip(*batches, strict=True):
    np.testing.assert_array_equal(one.latents, two.latents)
    np.testing.assert_array_equal(one.condition.text_embeds, two.condition.text_embeds)
    np.testing.assert_array_equal(one.given, two.given)


@pytest.mark.parametrize("kwargs, named", [
    (dict(split="valid"), "valid"), (dict(canvas=31), "canvas: two digits need at least 32"),
    (dict(num_frames=0), "num_frames")])
def test_bad_arguments(kwargs, named):
  with pytest.raises(ValueError, match=named):
    two_digits.make_clip(**{"split": "train", "number": 0, **kwargs})


@pytest.mark.parametrize("field", [{"jitter": 1}, {"turning_fraction": 0.5}])
def test_fields_of_one_digit_are_refused(tmp_path, field):
  with pytest.raises(ValueError, match=f"data.{next(iter(field))}: two digits"):
    datasets.prepare(tmp_path, dataclasses.replace(CONFIG, **field))
