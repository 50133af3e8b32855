"""Which rows of a batch a host needs, and how they become arrays over all hosts.

The mesh decides: hosts that share the work on a sample (along `tensor` or `context`) need the same rows, others have
rows of their own. Invariant: row r of the global array is row r of the batch, for any mesh and any number of hosts.
"""

import jax
import numpy as np
from jax.sharding import NamedSharding

from nova_jax.diffusion.batch import Batch


def local_rows(sharding: NamedSharding, batch_size: int) -> list[int]:
  """Return the rows that lie on this host's devices, in ascending order.

  Args:
    sharding: of arrays whose first axis is the batch.
    batch_size: rows of all hosts together; divides over the mesh.
  """
  parts = sharding.addressable_devices_indices_map((batch_size,)).values()
  return sorted({row for (part,) in filter(None, parts) for row in range(*part.indices(batch_size))})


def spread(sharding: NamedSharding, batch_size: int, rows: list[int], batch: Batch) -> Batch:
  """Make global arrays of this host's rows.

  Args:
    sharding: of the arrays.
    batch_size: rows of all hosts together.
    rows: what `local_rows` returned.
    batch: arrays whose first axis is `rows`.
  """

  def place(local: np.ndarray) -> jax.Array:
    def read(index: tuple[slice, ...] | None) -> np.ndarray:
      assert index is not None
      wanted = np.arange(*index[0].indices(batch_size))
      return local[(np.searchsorted(rows, wanted), *index[1:])]

    return jax.make_array_from_callback((batch_size, *local.shape[1:]), sharding, read)

  return jax.tree.map(place, batch)
