"""Tokens picked and put by number, each sample by its own.

Written with an index of samples beside that of tokens, XLA cannot see that a sample reads itself alone, and sums masked
parts over all devices. Mapped over samples it can. Invariant: nothing moves between samples.
"""

import jax
from jaxtyping import Array, Float, Int


def take(x: Float[Array, "B S ..."], ids: Int[Array, "B Q"]) -> Float[Array, "B Q ..."]:
  """Return tokens `ids` of each sample."""
  return jax.vmap(lambda x, ids: x[ids])(x, ids)


def put(x: Float[Array, "B S ..."], ids: Int[Array, "B Q"], values: Float[Array, "B Q ..."]) -> Float[Array, "B S ..."]:
  """Return x with tokens `ids` of each sample replaced; ids out of range are left out."""
  return jax.vmap(lambda x, ids, values: x.at[ids].set(values, mode="drop"))(x, ids, values)
