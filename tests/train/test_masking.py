from statistics import NormalDist

import numpy as np
import pytest

from nova_jax.train.masking import draw_num_visible, padded_sizes, visible_range


def test_distribution_is_the_truncated_normal():
  tokens, bounds, low = 1000, (0.7, 1.0), NormalDist(1, 0.25).cdf(0.7)
  visible = np.array([draw_num_visible(3, step, tokens, bounds) for step in range(20000)])
  assert visible.min() >= 0 and visible.max() <= 300
  for share in (0.75, 0.85, 0.95):
    expected = (NormalDist(1, 0.25).cdf(share) - low) / (0.5 - low)
    np.testing.assert_allclose(np.mean(1 - visible / tokens < share), expected, atol=0.012)


def test_depends_on_seed_and_step_alone():
  draws = [[draw_num_visible(seed, step, 256, (0.7, 1.0)) for step in range(50)] for seed in (0, 0, 1)]
  assert draws[0] == draws[1] != draws[2]


def test_a_fixed_ratio():
  assert draw_num_visible(0, 0, 16, (0.75, 0.75)) == 4


def test_padded_sizes_cover_every_draw():
  assert padded_sizes(16, (0.7, 1.0), 1) == (5,)
  assert padded_sizes(256, (0.7, 1.0), 4) == (20, 39, 58, 77)
  assert padded_sizes(16, (1.0, 1.0), 1) == (1,)


@pytest.mark.parametrize("bounds, num, name", [
    ((0.9, 0.7), 1, "mask_ratio"), ((0.7, 1.2), 1, "mask_ratio"), ((0.7, 1.0), 0, "visible_sizes")])
def test_bad_numbers_are_named(bounds, num, name):
  with pytest.raises(ValueError, match=name):
    padded_sizes(16, bounds, num)


def test_a_range_holds_every_draw_of_its_size():
  bounds, ranges = (0.7, 1.0), {}
  for step in range(500):
    count = draw_num_visible(0, step, 256, bounds)
    ranges.setdefault(visible_range(count, 256, bounds, 4), []).append(count)
  assert sorted(ranges) == [(0, 20), (16, 39), (40, 58), (56, 77)], "21, 40 and 59 at least, in multiples of 8"
  assert all(least <= min(counts) and max(counts) <= most for (least, most), counts in ranges.items())
  assert visible_range(38, 256, bounds, 1) == (0, 77) and visible_range(64, 256, (0.75, 0.75), 1) == (64, 64)
