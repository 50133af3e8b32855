"""The type of arrays that may be JAX's or NumPy's."""

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray
