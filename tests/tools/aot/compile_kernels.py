"""Compiles attention of the released models, forwards and backwards, for a chip: python compile_kernels.py CHIP."""

import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from nova_jax.config import MeshConfig
from nova_jax.models.attention.dispatch import attention
from nova_jax.models.attention.masks import BlockCausal, ValidKeys
from nova_jax.parallel.sharding import make_mesh
from nova_jax.tools.aot.topology import parse_topology, prepare_environment

HOSTS = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}
# Tokens, width of a head and mask: both halves of the spatial encoder, and the temporal encoder of a clip.
KERNELS = (
    (1280, 64, None), (563, 64, ValidKeys(400)), (5120, 96, None), (2253, 64, ValidKeys(2000)), (1800, 64, None),
    (258 + 9 * 360, 64, BlockCausal(258, 360)))


def compile_kernels(chip: str) -> None:
  prepare_environment()
  mesh = make_mesh(MeshConfig(), parse_topology(HOSTS[chip]).devices())
  for length, width, mask in KERNELS:
    x = jax.ShapeDtypeStruct(
        (mesh.size, length, 16, width), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))

    def loss(q, k, v, mask=mask):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return attention(q, k, v, mask, backend="splash").astype(jnp.float32).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile()
    print(length, width, compiled.as_text().count("tpu_custom_call"))


if __name__ == "__main__":
  compile_kernels(sys.argv[1])
