"""The mesh and the table of axes."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from models.test_nova import TINY

from nova_jax.config import MeshConfig
from nova_jax.models.layers import parameter
from nova_jax.models.nova import NOVA
from nova_jax.parallel.sharding import constrain, gather_weight, make_mesh, state_shardings


def shardings(mesh_cfg, cfg=TINY):
  state = nnx.state(nnx.eval_shape(lambda: NOVA(cfg, rngs=nnx.Rngs(0))))
  flat = nnx.to_flat_state(state_shardings(make_mesh(mesh_cfg), state))
  return {"/".join(path): variable.get_value().spec for path, variable in flat}


def test_parameters_are_spread_as_the_table_says():
  specs = shardings(MeshConfig(data=2, fsdp=2, tensor=2))
  assert specs["video_encoder/blocks/attn/qkv/kernel"] == P(None, "fsdp", None, "tensor", None)
  assert specs["image_encoder/decoder_blocks/mlp/fc2/kernel"] == P(None, "tensor", "fsdp")
  assert specs["text_embed/weight"] == P(None, None)


def test_one_axis_takes_what_is_left():
  mesh = make_mesh(MeshConfig(data=2, fsdp=-1, tensor=2))
  assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}


@pytest.mark.parametrize("cfg, message", [
    (MeshConfig(data=3, fsdp=1), "needs 3 devices, there are 8"), (MeshConfig(data=-1, fsdp=-1), "at most one -1"),
    (MeshConfig(data=0), "positive"),
    (MeshConfig(data=512, fsdp=-1), "'data': 512.* a multiple of 512 devices, there are 8; .* is 1 or 2 or 4 or 8$"),
    (MeshConfig(fsdp=-1, tensor=3), "'tensor': 3.* a multiple of 3 devices, there are 8")])
def test_impossible_meshes_are_refused(cfg, message):
  with pytest.raises(ValueError, match=message):
    make_mesh(cfg, jax.devices())


def test_colliding_axes_are_refused_with_the_name_of_the_parameter():
  class Square(nnx.Module):
    def __init__(self):
      self.weight = parameter(jnp.ones((8, 8)), ("embed", "embed"))

  with pytest.raises(ValueError, match=r"^weight: axes \('embed', 'embed'\) lie on the mesh axis 'fsdp' twice"):
    state_shardings(make_mesh(MeshConfig(fsdp=8)), nnx.state(Square()))


def test_activations_are_spread_where_sizes_divide():
  with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, context=2))):
    spread = jax.jit(lambda x: constrain(x, "batch", "sequence", None))
    assert spread(jnp.ones((4, 6, 3))).sharding.spec == P(("data", "fsdp"), "context")
    assert spread(jnp.ones((4, 5, 3))).sharding.spec == P(("data", "fsdp"))
    assert spread(jnp.ones((1, 6, 3))).sharding.spec == P(None, "context")
  assert constrain(jnp.ones(3), "batch").sharding.is_fully_replicated


def test_gradients_of_gathered_weights_go_back_in_parts():
  mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
  weight = jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, P("fsdp", "tensor")))
  with jax.set_mesh(mesh):
    whole, pull = jax.jit(lambda w: jax.vjp(lambda w: gather_weight(w, ("embed", "mlp")), w))(weight)
    assert whole.sharding.spec == P(None, "tensor")
    assert jax.jit(lambda pull, g: pull(g)[0])(pull, whole).sharding.spec == P("fsdp", "tensor")


def test_an_axis_that_does_not_divide_is_named():
  with pytest.raises(ValueError, match=r"mesh.tensor=8 does not divide 2, the 'heads' axis of .*attn/"):
    shardings(MeshConfig(fsdp=1, tensor=8), dataclasses.replace(TINY, num_heads=2))


@dataclasses.dataclass(frozen=True)
class Chip:
  """As much of a TPU as its place in the mesh depends on."""

  coords: tuple[int, int, int]
  device_kind: str = "TPU v6 lite"
  platform: str = "tpu"
  core_on_chip: int = 0
  slice_index: int = 0
  process_index: int = 0

  @property
  def id(self) -> int:
    return self.coords[0] + 8 * self.coords[1]


@pytest.mark.parametrize("fsdp", [2, 8, 16, 64])
def test_an_axis_lies_along_the_torus_or_along_parts_of_it(fsdp):
  mesh = make_mesh(MeshConfig(data=-1, fsdp=fsdp), [Chip((x, y, 0)) for x, y in itertools.product(range(8), repeat=2)])
  assert dict(mesh.shape) == {"data": 64 // fsdp, "fsdp": fsdp, "context": 1, "tensor": 1}
  group = np.array([device.coords for device in mesh.devices[0, :, 0, 0]])
  sides = [len(np.unique(group[:, dim])) for dim in (0, 1)]
  assert math.prod(sides) == fsdp and (8 in sides or fsdp < 8)
