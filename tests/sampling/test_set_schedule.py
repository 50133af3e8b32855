"""The set schedule."""

import itertools

import jax
import numpy as np
import pytest

from nova_jax.sampling.set_schedule import (
  FEW_GROUPS,
  MAX_GROUPS,
  SCHEDULES,
  draw_order,
  halton_order,
  make_order,
  set_sizes,
  still_first,
  token_sets,
)


def test_cosine_schedule_by_hand():
  # round(16·cos(π/2·i/4)) = 16, 15, 11, 6, 0
  assert set_sizes(16, 4).tolist() == [1, 4, 5, 6]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "num_tokens, num_sets", [(1, 1), (1, 9), (16, 1), (16, 2), (16, 8), (24, 40), (1440, 128), (4096, 64)])
def test_sets_cover_a_frame_in_few_shapes(num_tokens, num_sets, schedule):
  sets = token_sets(num_tokens, num_sets, schedule=schedule)
  assert sets[0].start == 0 and sum(s.size for s in sets) == num_tokens
  assert all(a.start + a.size == b.start for a, b in itertools.pairwise(sets))
  assert all(s.size >= 1 and s.size <= s.max_size and s.start <= s.max_visible for s in sets)
  assert len({(s.max_visible, s.max_size) for s in sets}) <= MAX_GROUPS


def test_other_schedules_by_hand():
  assert set_sizes(16, 4, "constant").tolist() == [4, 4, 4, 4] and sorted(set_sizes(10, 4, "constant")) == [2, 2, 3, 3]
  # round(8·cos(π/2·i/7)) = 8, 8, 7, 6, 5, 3, 2, 0, and all others at once.
  assert set_sizes(16, 8, "two_stage").tolist() == [1, 1, 1, 2, 1, 2, 8]
  assert set_sizes(1024, 64, "two_stage")[-8:].tolist() == [64] * 8 and set_sizes(16, 1, "two_stage").tolist() == [16]


def test_the_second_stage_does_not_pad_the_first():
  sets = token_sets(1024, 64, schedule="two_stage")
  assert max(s.max_size for s in sets if s.start < 512) < 20 and {s.max_size for s in sets if s.start >= 512} == {64}
  known = token_sets(1024, 64, 24, "two_stage")
  assert known[0].start == 24 and sum(s.size for s in known) == 1000 and known[-1].size == 63


def test_no_sets_are_refused():
  with pytest.raises(ValueError, match="num_inference_steps: expected at least 1, got 0"):
    set_sizes(16, 0)


def test_orders_are_permutations_and_differ():
  order = np.asarray(draw_order(jax.random.split(jax.random.key(0), 3), 1440))
  assert np.array_equal(np.sort(order, axis=1), np.broadcast_to(np.arange(1440), (3, 1440)))
  assert (order[0] != order[1]).mean() > 0.9


def test_halton_by_hand():
  # Halves 1/2, 1/4, 3/4, 1/8, 5/8 and thirds 1/3, 2/3, 1/9, 4/9, 7/9 on 2 rows and 3 columns.
  assert halton_order((2, 3))[:4] == (4, 2, 3, 1)
  for grid in ((1, 1), (4, 4), (30, 48)):
    assert sorted(halton_order(grid)) == list(range(grid[0] * grid[1]))
  quarter = np.array(halton_order((32, 32))[:256])
  counts = np.bincount(quarter // 32 // 8 * 4 + quarter % 32 // 8, minlength=16)
  assert counts.min() >= 12 and counts.max() <= 20, "evenly spread, where chance gives 16 ± 4"


def test_orders_by_name():
  keys, grid = jax.random.split(jax.random.key(0), 3), (4, 6)
  assert np.array_equal(make_order("random", keys, grid), draw_order(keys, 24))
  halton, checkerboard = (np.asarray(make_order(name, keys, grid)) for name in ("halton", "checkerboard"))
  assert (halton == halton_order(grid)).all()
  late = (checkerboard // 6 + checkerboard % 6) % 2
  assert np.array_equal(late, [[0] * 12 + [1] * 12] * 3) and (checkerboard[0] != checkerboard[1]).any()
  assert np.array_equal(np.sort(checkerboard, axis=1), [np.arange(24)] * 3)
  assert np.array_equal(make_order("checkerboard", keys[1:2], grid)[0], checkerboard[1]), "neighbours don't matter"


def test_what_stood_still_comes_first():
  before, last = np.zeros((2, 4, 3), np.float32), np.zeros((2, 4, 3), np.float32)
  last[0, 2], last[0, 0, 1], last[1, 3] = 1, -5, 9
  order = np.array([[3, 2, 1, 0], [3, 0, 2, 1]])
  assert np.array_equal(still_first(order, before, last), [[3, 1, 2, 0], [0, 2, 1, 3]])


def test_phases_go_from_the_first_group_to_the_last():
  phases = lambda *arguments, **options: [each.phase for each in token_sets(*arguments, **options)]
  assert [phases(16, number) for number in (1, 2, 3)] == [[0], [0, 1], [0, 0.5, 1]]
  assert phases(64, 8) == [0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1] and phases(64, 8, 8, "two_stage")[-1] == 1
  assert phases(256, 10) == [step / 4 for step in range(5) for _ in range(2)]
  assert phases(4096, 64) == [step / 7 for step in range(8) for _ in range(8)]
  assert phases(4096, 64, max_groups=FEW_GROUPS) == [step / 3 for step in range(4) for _ in range(16)]


def test_eight_groups_pad_less_than_four():
  padded = lambda groups: sum(each.max_size for each in token_sets(256, 16, max_groups=groups))
  assert 256 < padded(MAX_GROUPS) < 1.05 * 256 and padded(FEW_GROUPS) > 1.12 * 256
