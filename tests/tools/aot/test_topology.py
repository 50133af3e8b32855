"""Names of slices and meshes: what is understood, and what is refused in one line."""

import pytest

from nova_jax.config import MeshConfig
from nova_jax.tools.aot.topology import parse_mesh, parse_topology


@pytest.mark.parametrize("text, num_chips, num_slices", [
    ("v5e:16x16", 256, 1), ("v5e:16x16*2", 512, 2), ("v4:4x4x4", 64, 1), ("v5p:2x2x1", 4, 1), ("v6e:8x8", 64, 1),
    ("tpu7x:4x4x4", 64, 1)])
def test_slices(text, num_chips, num_slices):
  topology = parse_topology(text)
  assert (topology.num_chips, topology.num_slices, topology.name) == (num_chips, num_slices, text)
  assert topology.num_devices == num_chips * (2 if "tpu7x" in text else 1)


@pytest.mark.parametrize("text, message", [
    ("v5e", "expected CHIP:AxB"), ("v5e:16", "has 2 dimensions"), ("v5x:2x2", "did you mean 'v5p'"),
    ("v4:4x4", "has 3 dimensions"), ("v5e:32x32", "1 to 256 chips"), ("v5e:0x4", "1 to 256 chips"),
    ("v5e:2x2*0", "1 to 256 chips"), ("v5e:2x2*", "expected CHIP:AxB"), ("", "expected CHIP:AxB")])
def test_no_slices(text, message):
  with pytest.raises(ValueError, match=message) as error:
    parse_topology(text)
  assert "\n" not in str(error.value)


def test_meshes():
  assert parse_mesh("data=2,fsdp=64,tensor=4") == MeshConfig(data=2, fsdp=64, tensor=4)
  assert parse_mesh("fsdp=-1") == MeshConfig(data=1, fsdp=-1)


@pytest.mark.parametrize("text, message", [
    ("fsdq=4", "did you mean 'fsdp'"), ("fsdp", "expected AXIS=DEVICES"), ("fsdp=0", "expected AXIS=DEVICES"),
    ("", "expected AXIS=DEVICES"), ("fsdp=4,data=2,fsdp=8", "fsdp stands twice in 'fsdp=4,data=2,fsdp=8'")])
def test_no_meshes(text, message):
  with pytest.raises(ValueError, match=message):
    parse_mesh(text)


def test_a_library_that_is_not_there(monkeypatch):
  monkeypatch.setenv("TPU_LIBRARY_PATH", "/nowhere/libtpu.so")
  with pytest.raises(ValueError, match="^TPU_LIBRARY_PATH in the environment: there is no file '/nowhere/libtpu.so'"):
    parse_topology("v5e:2x2").devices()
