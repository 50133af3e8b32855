import collections
import itertools

import numpy as np
import pytest

from nova_jax.data.digits import captions, one_digit

STEPS = {"left": (0, -2), "right": (0, 2), "up": (-2, 0), "down": (2, 0)}


def test_held_out_digits_are_in_no_training_clip():
  counts = np.bincount(one_digit.source_classes())
  for digit in range(10):
    train, test = set(one_digit.sources("train", digit)), set(one_digit.sources("test", digit))
    assert not train & test
    assert len(test) == one_digit.HELD_OUT_PER_CLASS and len(train | test) == counts[digit]
    assert {one_digit.source_classes()[i] for i in train | test} == {digit}


def test_combinations_are_even():
  for split in ("train", "test"):
    made = one_digit.make_clips(split, 400)
    counts = collections.Counter((clip.digit, clip.direction) for clip in made)
    assert len(counts) == 40 and set(counts.values()) == {10}
  assert len({clip.source for clip in made}) == 400  # Each held-out digit once.


def test_all_sources_are_shown_before_any_again():
  used = collections.Counter(one_digit.make_clip("test", i).source for i in range(3, 1203, 10))
  assert set(used) == set(one_digit.sources("test", 3)) and set(used.values()) == {3}


@pytest.mark.parametrize("canvas", [14, 16, 21, 32])
def test_first_moves_go_as_told(canvas):
  for clip in one_digit.make_clips("train", 40, canvas=canvas):
    assert clip.video.dtype == np.uint8 and clip.video.shape == (4, canvas, canvas, 1)
    assert np.array_equal(one_digit.source_images()[clip.source].sum(), clip.video[0].sum(dtype=int))
    for before, after in itertools.pairwise(clip.video):
      assert np.array_equal(np.roll(before, STEPS[clip.direction], (0, 1)), after)


def test_long_clips_bounce_and_return():
  for clip in one_digit.make_clips("train", 40, canvas=16, num_frames=9):
    assert not np.array_equal(clip.video[0], clip.video[4])
    assert clip.wall == 4
    assert np.array_equal(clip.video[0], clip.video[8])  # There and back over 8 pixels, 2 a frame.
    assert len(set(clip.video.sum((1, 2, 3)).tolist())) == 1  # Never cut by the edge.


def test_longer_clips_start_alike():
  for number in (0, 17, 123):
    short, long = (one_digit.make_clip("train", number, num_frames=n) for n in (1, 7))
    assert np.array_equal(short.video, long.video[:1]) and short.caption == long.caption


def test_pure_and_seeded():
  first, again, other = ([one_digit.make_clip("train", i, seed=seed) for i in range(10)] for seed in (0, 0, 1))
  for a, b, c in zip(first, again, other, strict=True):
    assert repr(a) == repr(b) and np.array_equal(a.video, b.video)
    assert (a.digit, a.direction) == (c.digit, c.direction)
  assert [clip.source for clip in first] != [clip.source for clip in other]


def test_known_record():
  """A change here changes every stored dataset: raise `MovingDigits.VERSION` with it."""
  clip = one_digit.make_clip("train", 1234)
  rows, columns = np.nonzero(clip.video[0, ..., 0])
  assert (clip.digit, clip.direction, clip.source) == (4, "down", 1439)
  assert clip.caption == "the digit four moves down"
  assert (rows.min(), columns.min()) == (0, 5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_fraction_of_paraphrased_captions(share):
  made = one_digit.make_clips("train", 400, paraphrase_fraction=share)
  canonical = sum(clip.caption == captions.caption(clip.digit, clip.direction) for clip in made)
  assert abs(canonical / 400 - (1 - share)) < 0.1 * (0 < share < 1) + 1e-9
  assert len({clip.caption for clip in made}) >= (200 if share == 1 else 40)


@pytest.mark.parametrize("jitter", [0, 1, 4])
def test_jitter_moves_the_start(jitter):
  made = one_digit.make_clips("train", 400, jitter=jitter)
  starts = {_corner(clip) for clip in made if clip.direction == "right"}
  assert len({row for row, _ in starts}) == 2 * jitter + 1
  assert len({column for _, column in starts}) == min(jitter, 2) + 1


def test_a_digit_turns_as_its_later_caption_says():
  made = one_digit.make_clips("train", 400, num_frames=16, turning_fraction=0.5, paraphrase_fraction=0.5)
  turning = [clip for clip in made if clip.turn < 16]
  assert 160 < len(turning) < 240 and {clip.turn for clip in turning} == set(range(3, 9))
  for clip in turning:
    assert _direction(clip.caption) == clip.direction != _direction(clip.later_caption)
    ways = ((clip.caption, 0, min(clip.turn, clip.wall)), (clip.later_caption, clip.turn, min(clip.later_wall, 15)))
    for text, begin, end in ways:
      for frame in range(begin, end):
        step = np.subtract(_corner(clip, frame + 1), _corner(clip, frame))
        assert tuple(step) == STEPS[_direction(text)], (text, frame)
  # What was, stays: before its turn a clip is the one that it would have been.
  straight_clips = one_digit.make_clips("train", 400, num_frames=16, paraphrase_fraction=0.5)
  for clip, straight in zip(made, straight_clips, strict=True):
    assert clip.caption == straight.caption and (clip.turn == 16) == (not clip.later_caption)
    assert np.array_equal(clip.video[: clip.turn + 1], straight.video[: clip.turn + 1])


def _direction(text):
  words = {"top": "up", "bottom": "down"} | {way: way for way in captions.DIRECTIONS}
  return next(way for word, way in words.items() if word in text)


def _corner(clip, number=0):
  """Return row and column at which the clip's image was put into a frame."""
  image, frame = one_digit.source_images()[clip.source], clip.video[number, ..., 0]
  windows = np.lib.stride_tricks.sliding_window_view(frame, image.shape)
  return tuple(np.argwhere((windows == image).all((2, 3)))[0].tolist())


@pytest.mark.parametrize("kwargs, named", [
    (dict(split="valid"), "valid"), (dict(canvas=9), "canvas"), (dict(num_frames=0), "num_frames"),
    (dict(jitter=5), "jitter")])
def test_bad_arguments(kwargs, named):
  with pytest.raises(ValueError, match=named):
    one_digit.make_clip(**{"split": "train", "number": 0, **kwargs})
