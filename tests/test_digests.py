import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nova_jax import digests
from nova_jax.config import MeshConfig
from nova_jax.sharding import make_mesh

ARRAYS = [
    np.linspace(-1, 1, 8 * 12 * 3, dtype=np.float32).reshape(8, 12, 3), np.ones((8, 12), ml_dtypes.bfloat16),
    np.arange(16, dtype=np.int8), np.int32(4), np.array([True, False] * 8), np.zeros((0, 3), np.float32),
    np.arange(70_000, dtype=np.float16)]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{np.asarray(array).dtype}-{np.asarray(array).shape}")
def test_processor_and_devices_agree(array):
  assert digests._on_host(np.asarray(array)) == int(digests._on_devices({"x": jnp.asarray(array)})["x"])


def test_no_mesh_changes_a_digest():
  mesh = make_mesh(MeshConfig(2, 4, 1))
  spread = jax.device_put(ARRAYS[0], NamedSharding(mesh, PartitionSpec("data", "fsdp")))
  assert int(digests._on_devices({"x": spread})["x"]) == digests._on_host(ARRAYS[0])
  assert digests.describe({"x": spread}) == digests.describe({"x": ARRAYS[0]})


def test_any_bit_any_place_and_the_order_count():
  array = np.arange(1, 300, dtype=np.float32)
  known = {digests._on_host(array), digests._on_host(array[::-1])}
  for i in (0, 7, 298):
    for bit in range(32):
      changed = array.copy()
      changed.view(np.uint32)[i] ^= np.uint32(1 << bit)
      known.add(digests._on_host(changed))
  assert len(known) == 2 + 3 * 32
  signs = array.copy()
  signs[:2] *= -1  # The highest bit of two values.
  assert digests._on_host(signs) not in known


def test_json_is_told_by_what_is_read_back():
  assert digests.of_json({"a": (1, 2), "b": {"c": 0.1}}) == digests.of_json({"b": {"c": 0.1}, "a": [1, 2]})
  assert digests.of_json({"position": 17}) != digests.of_json({"position": 16})
