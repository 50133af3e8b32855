"""Backends and meshes against dense attention on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nova_jax.config import MeshConfig
from nova_jax.models.attention import splash
from nova_jax.models.attention.dense import dense
from nova_jax.models.attention.dispatch import attention
from nova_jax.models.attention.masks import BlockCausal, ValidKeys, to_matrix
from nova_jax.parallel.context import SequenceSharding
from nova_jax.parallel.sharding import make_mesh

MASKS = {"all": None, "frames": BlockCausal(prefix=7, frame=30), "valid": ValidKeys(100)}
LENGTH = 7 + 5 * 30


def make(length=LENGTH, batch=2, heads=4, dim=32):
  rng = np.random.default_rng(0)
  return [jnp.asarray(rng.normal(size=(batch, length, heads, dim)), jnp.float32) for _ in range(4)]


def outputs(compute, q, k, v, weights):
  """Return the output and all gradients."""
  out, pull = jax.vjp(compute, q, k, v)
  return out, *pull(weights)


def assert_close(a, b, tolerance=1e-5):
  for x, y in zip(a, b, strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * np.abs(y).max())


def test_what_frames_see():
  seen = to_matrix(BlockCausal(prefix=2, frame=3), jnp.arange(8), 8)
  np.testing.assert_array_equal(seen.sum(1), [5, 5, 5, 5, 5, 8, 8, 8])
  np.testing.assert_array_equal(seen, jnp.arange(8) < seen.sum(1)[:, None])


@pytest.mark.parametrize("backend", ["splash", "mapped", "cudnn"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_backends_equal_dense(backend, mask):
  arrays = make()
  compute = jax.jit(lambda *arrays: outputs(functools.partial(attention, mask=mask, backend=backend), *arrays))
  assert_close(compute(*arrays), outputs(functools.partial(dense, mask=mask), *arrays))


@pytest.mark.parametrize("most_keys", [2048, 512])
@pytest.mark.parametrize("mask", [None, BlockCausal(prefix=30, frame=110), ValidKeys(400)], ids=MASKS)
def test_blocks_of_keys_are_loaded_together_or_one_by_one(mask, most_keys, monkeypatch):
  """600 keys are 5 blocks of 128, whose parts of the queries' gradient are added up where they are loaded apart."""
  monkeypatch.setattr(splash, "_MOST_KEYS", most_keys)
  arrays = make(length=580 if isinstance(mask, BlockCausal) else 600, batch=1, heads=1)
  compute = jax.jit(lambda *arrays: outputs(functools.partial(attention, mask=mask, backend="splash"), *arrays))
  assert_close(compute(*arrays), outputs(functools.partial(dense, mask=mask), *arrays))


def test_loads_are_whole_blocks_that_no_mask_hides():
  loaded = splash._loaded_keys
  assert [loaded(length, None) for length in (600, 1280, 2253, 5120)] == [640, 1280, 1152, 1024]
  assert loaded(1280, BlockCausal(prefix=30, frame=125)) == 256


def test_few_queries_and_a_traced_length():
  q, k, v, _ = make()
  for backend in ("splash", "mapped", "cudnn"):
    compute = jax.jit(lambda q, length: attention(q, k, v, ValidKeys(length), backend=backend))
    assert_close([compute(q[:, :30], 41)], [dense(q[:, :30], k[:, :41], v[:, :41])])


@pytest.mark.parametrize("balanced", [True, False])
def test_a_spread_sequence_comes_back_in_order(balanced):
  sharding = SequenceSharding(LENGTH, 4, balanced)
  x = jnp.arange(LENGTH)[None]
  spread = sharding.shard(x)
  assert spread.shape == (1, sharding.padded_length) and sharding.padded_length % 4 == 0
  np.testing.assert_array_equal(sharding.unshard(spread), x)
  real = sharding.positions().reshape(-1) < LENGTH
  np.testing.assert_array_equal(spread[0, real], sharding.positions().reshape(-1)[real])


def test_balance_gives_all_devices_the_same_work():
  mask = BlockCausal(prefix=258, frame=360)
  work = lambda balanced: mask.num_visible(SequenceSharding(258 + 9 * 360, 8, balanced).positions()).sum(1)
  assert work(True).max() / work(True).mean() < 1.06
  assert work(False).max() / work(False).mean() > 1.6


@pytest.mark.parametrize("backend", ["splash", "mapped", "cudnn", "dense"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_mesh_equals_one_device(backend, mask):
  arrays = make()
  mesh = make_mesh(MeshConfig(data=1, fsdp=2, context=2, tensor=2))

  def compute(q, k, v, weights):
    sharding = SequenceSharding.current(LENGTH, balanced=isinstance(mask, BlockCausal))
    # Padding behind the sequence must be hidden.
    hidden = ValidKeys(LENGTH) if mask is None else mask
    run = lambda q, k, v: sharding.unshard(attention(
        *(sharding.shard(x) for x in (q, k, v)), mask=hidden, backend=backend, sharding=sharding))
    return outputs(run, q, k, v, weights)

  with jax.set_mesh(mesh):
    placed = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("fsdp", None, "tensor")))
    got = jax.jit(compute)(*placed)
  assert_close(got, outputs(functools.partial(dense, mask=mask), *arrays))


def test_a_batch_that_does_not_divide_is_not_spread():
  arrays = make(batch=1)
  with jax.set_mesh(make_mesh(MeshConfig(fsdp=4, tensor=2))):
    got = jax.jit(lambda q, k, v, _: attention(q, k, v, backend="mapped"))(*arrays)
  assert_close([got], [dense(*arrays[:3])])
