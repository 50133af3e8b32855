"""The set schedule."""

import jax
import numpy as np
import pytest

from nova_jax.sampling.sets import MAX_GROUPS, draw_order, set_sizes, token_sets


def test_cosine_schedule_by_hand():
  # round(16·cos(π/2·i/4)) = 16, 15, 11, 6, 0
  assert set_sizes(16, 4).tolist() == [1, 4, 5, 6]


@pytest.mark.parametrize("num_tokens, num_sets", [(1, 1), (16, 1), (16, 8), (24, 40), (1440, 128), (4096, 64)])
def test_sets_cover_a_frame_in_few_shapes(num_tokens, num_sets):
  sets = token_sets(num_tokens, num_sets)
  assert sets[0].start == 0 and sum(s.size for s in sets) == num_tokens
  assert all(a.start + a.size == b.start for a, b in zip(sets, sets[1:]))
  assert all(s.size >= 1 and s.size <= s.max_size and s.start <= s.max_visible for s in sets)
  assert len({(s.max_visible, s.max_size) for s in sets}) <= MAX_GROUPS


def test_no_sets_are_refused():
  with pytest.raises(ValueError, match="num_inference_steps: expected at least 1, got 0"):
    set_sizes(16, 0)


def test_orders_are_permutations_and_differ():
  order = np.asarray(draw_order(jax.random.split(jax.random.key(0), 3), 1440))
  assert np.array_equal(np.sort(order, axis=1), np.broadcast_to(np.arange(1440), (3, 1440)))
  assert (order[0] != order[1]).mean() > 0.9
