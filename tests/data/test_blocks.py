"""Records in blocks of neighbours: each once an epoch, and the same stream for any hosts, after any resume."""

import itertools
import pickle
import threading

import jax
import numpy as np
import pytest
from data.latent_caches import damage, make_cache, make_loader, make_record, numbers

from nova_jax.config import DataConfig
from nova_jax.data import blocks
from nova_jax.data.blocks import Blocks
from nova_jax.data.cache.records import ShardReader

DATA = DataConfig(shuffle_block=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return make_cache(tmp_path_factory.mktemp("cache") / "out", [make_record(i) for i in range(26)])


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("count, size", [(26, 4), (24, 4), (3, 4), (40, 7), (5, 1)])
def test_each_epoch_has_each_record_once_and_blocks_are_whole(count, size, few, monkeypatch):
  monkeypatch.setattr(blocks, "FEW", few)
  order = Blocks(count, size, seed=3)
  epochs = [[order[epoch * count + place] for place in range(count)] for epoch in range(3)]
  for epoch in epochs:
    assert sorted(number for number, _ in epoch) == list(range(count))
    for (number, left), (following, _) in itertools.pairwise(epoch):
      assert left == 1 or following == (number + 1) % count
    assert sum(left == 1 for _, left in epoch) == -(-count // size)
  assert epochs[0] != epochs[1] != epochs[2]
  assert [order[place] for place in range(count)] == epochs[0] != [Blocks(count, size, 4)[i] for i in range(count)]


def test_without_blocks_the_order_is_that_of_before(cache, tmp_path):
  loader = make_loader([make_cache(tmp_path / "out", [make_record(i) for i in range(24)])])
  assert [numbers(next(loader)) for _ in range(4)] == [
      [10, 9, 12, 15, 5, 11, 14, 4], [7, 19, 17, 13, 18, 8, 21, 2], [1, 3, 20, 23, 0, 22, 16, 6],
      [17, 18, 3, 19, 5, 21, 6, 1]]
  loader.close()


def test_the_stream_is_the_same_for_any_hosts_and_after_any_resume(cache):
  loader = make_loader([cache], data=DATA)
  batches = [next(loader) for _ in range(8)]
  assert sorted(sum(map(numbers, batches), [])[:26]) == list(range(26))
  for rows in ([0, 1], [2, 3, 4], [7]):
    part = make_loader([cache], data=DATA, rows=rows)
    for whole in batches[:5]:
      jax.tree.map(np.testing.assert_array_equal, next(part), jax.tree.map(lambda value: value[rows], whole))
    part.close()
  for start, batch_size in ((3, 8), (4, 16), (6, 16)):
    other = make_loader([cache], data=DATA, batch_size=batch_size)
    other.set_state(8 * start)
    expected = [np.concatenate([getattr(batch, name) for batch in batches[start : start + batch_size // 8]])
                for name in ("latents", "index")]
    found = next(other)
    np.testing.assert_array_equal(found.latents, expected[0])
    np.testing.assert_array_equal(found.index, expected[1])
    other.close()
  loader.close()


def test_a_block_is_read_at_once(cache, monkeypatch):
  asked, real, here = [], ShardReader.stored, threading.current_thread()

  def stored(self, start, stop):
    if threading.current_thread() is here:  # Loaders of other tests may still read ahead.
      asked.append(stop - start)
    return real(self, start, stop)

  monkeypatch.setattr(ShardReader, "stored", stored)
  loader = make_loader([cache], data=DATA)
  feed = pickle.loads(pickle.dumps(loader._feed))  # As it goes to a process that reads.
  records = [feed.buckets[0].records[place].record for place in range(24)]
  assert len(records) == sum(asked) == 24 and len(asked) <= 12  # Blocks of 4 lie in two shards of 4 at most.


def test_damage_in_a_block_costs_one_record(tmp_path):
  cache = make_cache(tmp_path / "out", [make_record(i) for i in range(16)])
  damage(cache, 1)
  loader = make_loader([cache], data=DataConfig(shuffle_block=8, max_damaged=1))
  seen = sum((numbers(next(loader)) for _ in range(2)), [])
  assert len(loader.damaged) == 1 and "record 1" in loader.damaged[0]
  assert sorted(seen) == sorted([*set(range(16)) - {1}, 2])
  loader.close()
