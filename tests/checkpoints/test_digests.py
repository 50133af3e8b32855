import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nova_jax.checkpoints import array_digests
from nova_jax.config import MeshConfig
from nova_jax.parallel.sharding import make_mesh

ARRAYS = [
    np.linspace(-1, 1, 8 * 12 * 3, dtype=np.float32).reshape(8, 12, 3), np.ones((8, 12), ml_dtypes.bfloat16),
    np.arange(16, dtype=np.int8), np.int32(4), np.array([True, False] * 8), np.zeros((0, 3), np.float32),
    np.arange(70_000, dtype=np.float16)]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{np.asarray(array).dtype}-{np.asarray(array).shape}")
def test_processor_and_devices_agree(array):
  assert array_digests._on_host(np.asarray(array)) == int(array_digests._on_devices({"x": jnp.asarray(array)})["x"])


def test_no_mesh_changes_a_digest():
  mesh = make_mesh(MeshConfig(2, 4, 1))
  spread = jax.device_put(ARRAYS[0], NamedSharding(mesh, PartitionSpec("data", "fsdp")))
  assert int(array_digests._on_devices({"x": spread})["x"]) == array_digests._on_host(ARRAYS[0])
  assert array_digests.describe({"x": spread}) == array_digests.describe({"x": ARRAYS[0]})


def test_any_bit_any_place_and_the_order_count():
  array = np.arange(1, 300, dtype=np.float32)
  known = {array_digests._on_host(array), array_digests._on_host(array[::-1])}
  for i in (0, 7, 298):
    for bit in range(32):
      changed = array.copy()
      changed.view(np.uint32)[i] ^= np.uint32(1 << bit)
      known.add(array_digests._on_host(changed))
  assert len(known) == 2 + 3 * 32
  signs = array.copy()
  signs[:2] *= -1  # The highest bit of two values.
  assert array_digests._on_host(signs) not in known


def test_json_is_told_by_what_is_read_back():
  digest = array_digests.digest_json
  assert digest({"a": (1, 2), "b": {"c": 0.1}}) == digest({"b": {"c": 0.1}, "a": [1, 2]})
  assert digest({"position": 17}) != digest({"position": 16})
