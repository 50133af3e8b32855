"""What decoding and encoding one tile of a clip needs: `python -m benchmarks.autoencoder_memory`.

Compiles the released OpenSora-Plan 1.2 autoencoder for a tile of 17 frames, whole or in tiles in space, without running
it, and prints what XLA's memory analysis says for this backend. It takes a minute.
"""

import jax
import numpy as np
from flax import nnx

from nova_jax.autoencoders import make_network
from nova_jax.autoencoders.neural import tile_function
from nova_jax.autoencoders.published import RELEASED

CONFIG = RELEASED["osp480"]
FRAMES, LATENTS, STRIDE = 17, 5, 8
SIZES = ((60, 96), (32, 32), (16, 16))  # Latents of a whole frame of 480 × 768 pixels, and tiles.


def memory(method: str, height: int, width: int, dtype: str) -> tuple[float, float]:
  """Return the GiB of activations and of weights in half precision."""
  graph, state = nnx.split(nnx.eval_shape(lambda: make_network(CONFIG, nnx.Rngs(0))))
  state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float16), state)
  shape = (1, LATENTS, height, width, CONFIG["latent_channels"])
  if method == "encode":
    shape = (1, FRAMES, STRIDE * height, STRIDE * width, 3)
  tile = jax.ShapeDtypeStruct(shape, np.float32)
  analysis = tile_function(graph, method, dtype).lower(state, tile).compile().memory_analysis()
  return analysis.temp_size_in_bytes / 2**30, analysis.argument_size_in_bytes / 2**30


def main() -> None:
  print(f"{'tile':<32}{'dtype':<12}{'activations':>12}{'weights':>10}   [GiB, {jax.devices()[0].device_kind}]")
  for method in ("decode", "encode"):
    for height, width in SIZES if method == "decode" else SIZES[:1]:
      for dtype in ("float32", "bfloat16"):
        activations, weights = memory(method, height, width, dtype)
        name = f"{method} {FRAMES} x {STRIDE * height} x {STRIDE * width}"
        print(f"{name:<32}{dtype:<12}{activations:>12.2f}{weights:>10.2f}", flush=True)


if __name__ == "__main__":
  main()
