"""Gathers and scatters tokens by index, with separate indices for each sample.

Both are mapped over samples. Indexed by sample and token instead, XLA could not see that each sample reads only itself,
and would sum masked parts over all devices. Invariant: nothing moves between samples.
"""

import jax
from jaxtyping import Array, Float, Int, Shaped

from nova_jax.utils.arrays import AnyArray


def gather_tokens(x: Shaped[Array, "B S ..."], ids: Int[AnyArray, "B Q"]) -> Shaped[Array, "B Q ..."]:
  """Return the tokens `ids` of each sample."""
  return jax.vmap(lambda x, ids: x[ids])(x, ids)


def scatter_tokens(
    x: Float[Array, "B S ..."], ids: Int[AnyArray, "B Q"], values: Float[Array, "B Q ..."],
) -> Float[Array, "B S ..."]:
  """Return x with tokens `ids` of each sample replaced by `values`; ids out of range are ignored."""
  return jax.vmap(lambda x, ids, values: x.at[ids].set(values, mode="drop"))(x, ids, values)
