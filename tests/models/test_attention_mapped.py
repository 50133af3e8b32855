"""How mapped attention cuts a sequence, and that it equals dense attention when frames share a run."""

import itertools

import jax
import numpy as np
import pytest
from models.test_attention import assert_close, outputs

from nova_jax.models.attention import mapped as mapped_lib
from nova_jax.models.attention.dense import dense
from nova_jax.models.attention.mapped import MAX_RUNS, SMALL_HEAD, mapped, split_into_runs
from nova_jax.models.attention.masks import BlockCausal


def test_a_run_a_frame():
  runs = split_into_runs(BlockCausal(prefix=3, frame=4), 11, 11)
  assert [tuple(run) for run in runs] == [(0, 7, 7, False), (7, 11, 11, False)]


def test_many_frames_share_runs():
  length = 3 + 19 * 4
  runs = split_into_runs(BlockCausal(prefix=3, frame=4), length, length)
  assert len(runs) <= MAX_RUNS and runs[0].masked and runs[0].start == 0 and runs[-1].stop == length
  assert all(a.stop == b.start for a, b in itertools.pairwise(runs))


@pytest.mark.parametrize("small_head", [0, SMALL_HEAD])
@pytest.mark.parametrize("prefix, frame, num_frames", [(3, 5, 11), (0, 1, 9), (7, 13, 1)])
def test_equals_dense_at_odd_lengths(monkeypatch, prefix, frame, num_frames, small_head):
  monkeypatch.setattr(mapped_lib, "SMALL_HEAD", small_head)
  rng = np.random.default_rng(0)
  arrays = [rng.normal(size=(2, prefix + num_frames * frame, 3, 8)).astype(np.float32) for _ in range(4)]
  mask = BlockCausal(prefix, frame)
  got = jax.jit(lambda *arrays: outputs(lambda q, k, v: mapped(q, k, v, mask), *arrays))(*arrays)
  assert_close(got, outputs(lambda q, k, v: dense(q, k, v, mask), *arrays))
