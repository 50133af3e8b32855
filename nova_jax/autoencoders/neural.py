"""Makes an autoencoder for whole clips from a network: tiling, sampling and scaling.

  latent = (mean − shift) · factor, or with a sample of N(mean, std) in place of the mean.
The network runs on one tile in time of `batch_size` samples at once, and results move to the host tile by tile. A clip
of any length therefore takes the memory of one tile.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Float32, UInt8

from nova_jax.autoencoders.moments import mean_and_std
from nova_jax.autoencoders.pixels import Array
from nova_jax.autoencoders.tiling import TimeTiles, blend, space_tiles
from nova_jax.utils.digests import digest_arrays, digest_values
from nova_jax.utils.errors import UserError
from nova_jax.utils.finite import NotFinite, check_frames

# XLA's CPU backend orders operations for concurrency by default, which keeps twice as many activations alive.
CPU_OPTIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
_DEVICES = "devices"  # Name of the mesh axis.


class Network(Protocol):
  """A network for one tile in time, with its weights: an `nnx.Module`."""

  cfg: Any

  @property
  def latent_dim(self) -> int:
    """Channels C of a latent."""

  @property
  def spatial_stride(self) -> int:
    """Height and width of a latent in pixels."""

  @property
  def time_stride(self) -> int:
    """Frames of a latent."""

  def scaling(self) -> tuple[jax.Array | float, jax.Array | float]:
    """Return (shift, factor), as scalars or per channel: the model's latents are (z − shift) · factor."""

  def encode(self, x: Float[jax.Array, "B F H W 3"], /) -> Float[jax.Array, "B t h w M"]:
    """Return the moments of the latents, given pixels in −1 … 1."""

  def decode(self, z: Float[jax.Array, "B t h w C"], /) -> Float[jax.Array, "B F H W 3"]:
    """Return pixels of about −1 … 1, given unscaled latents."""


class NeuralAutoencoder:
  """Encodes and decodes clips with a network; an `Autoencoder`.

  Args:
    network: network for one tile with its weights.
    time_tiles: tiling of clips in time.
    space_tile: side of tiles in space, in latents; None takes whole frames. Tiles overlap by a quarter and are blended.
      They need less memory, but are approximate: normalisation and attention see one tile only.
    dtype: dtype of the computation, "float32" or "bfloat16".
    batch_size: number of samples per device that pass through the network at once.
    devices: devices that each hold the weights and compute a batch, in one program for all of them; the number of
      samples must be a multiple of theirs. Empty takes the default device.
  """

  def __init__(
      self, network: Network, time_tiles: TimeTiles, *, space_tile: int | None = None, dtype: str = "float32",
      batch_size: int = 1, devices: Sequence[jax.Device] = (),
  ):
    if space_tile is not None and (not isinstance(space_tile, int) or space_tile < 4):
      raise UserError(f"space_tile: a quarter is shared, so expected 4 latents or more, got {space_tile}")
    if dtype not in ("float32", "bfloat16"):
      raise UserError(f'dtype: expected "float32" or "bfloat16", got {dtype!r}')
    self.latent_dim: int = network.latent_dim
    self.spatial_stride: int = network.spatial_stride
    self.shift, self.factor = (np.asarray(value, np.float32) for value in network.scaling())
    self.channels = 3
    self.time_tiles, self.space_tile = time_tiles, space_tile
    self.batch_size = batch_size * max(1, len(devices))
    graph, state = nnx.split(network)
    mesh = Mesh(np.array(devices), (_DEVICES,)) if len(devices) > 1 else None
    place = NamedSharding(mesh, PartitionSpec()) if mesh else devices[0] if devices else None
    self._state = jax.device_put(state, place)
    self._encode_tile, self._decode_tile = (
        tile_function(graph, method, dtype, mesh) for method in ("encode", "decode"))

  @functools.cached_property
  def digest(self) -> str:
    scaling = [self.shift.tolist(), self.factor.tolist()]
    return digest_values([scaling, repr(self.time_tiles), digest_arrays(self._state)])

  def encode(
      self, pixels: UInt8[Array, "B frames height width 3"] | Float[Array, "B frames height width 3"],
      key: jax.Array | None = None,
  ) -> Float32[np.ndarray, "B T h w C"]:
    """Encode a clip into latents, shifted and scaled: the means, or samples if there is a `key`."""
    mean, std = self.mean_and_std(self.moments(pixels))
    if key is not None:
      mean = mean + std * np.asarray(jax.random.normal(key, mean.shape))
    return self.scale(mean)

  def decode(self, latents: Float[Array, "B T h w C"]) -> UInt8[np.ndarray, "B frames height width 3"]:
    """Decode latents, shifted and scaled as `encode` returns them, into pixels.

    Raises:
      UserError: no clip has this number of latents.
      FloatingPointError: the pixels are not finite.
    """
    return self._decode(latents, _to_uint8)

  def decode_pixels(self, latents: Float[Array, "B T h w C"]) -> Float32[np.ndarray, "B frames height width 3"]:
    """Decode latents, shifted and scaled as `encode` returns them, into pixels of about −1 … 1."""
    return self._decode(latents, lambda x: x)

  def moments(
      self, pixels: UInt8[Array, "B frames height width 3"] | Float[Array, "B frames height width 3"]
  ) -> Float32[np.ndarray, "B T h w M"]:
    """Return the moments of the latents, before sampling and scaling.

    Args:
      pixels: uint8 values, or floats in −1 … 1.

    Raises:
      UserError: height or width is not a multiple of the spatial stride.
    """
    pixels = np.asarray(pixels)
    for name, size in zip(("height", "width"), pixels.shape[2:4], strict=True):
      if size % self.spatial_stride or not size:
        below = size - size % self.spatial_stride
        nearest = " or ".join(str(size) for size in (below, below + self.spatial_stride) if size)
        raise UserError(
            f"pixels: {name} {size} is not a multiple of {self.spatial_stride}; resize or crop to {nearest}")
    frames = self.time_tiles.frame_tiles(pixels.shape[1])

    def encode(clip):
      missing = -(clip.shape[1] - 1) % self.time_tiles.stride
      clip = np.pad(clip, ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0)), "edge")
      return self._by_space(self._encode_tile, clip, self.spatial_stride, 1)

    return _by_time(encode, pixels, frames, self.time_tiles.overlap, self.batch_size)

  def mean_and_std(
      self, moments: Float[np.ndarray, "B T h w M"]
  ) -> tuple[Float[np.ndarray, "B T h w C"], Float[np.ndarray, "B T h w C"] | float]:
    """Split moments into the means and standard deviations of unscaled latents."""
    return mean_and_std(moments, self.latent_dim)

  def scale(self, z: Float[np.ndarray, "... C"]) -> Float[np.ndarray, "... C"]:
    """Shift and scale latents as models expect them."""
    return (z - self.shift) * self.factor

  def unscale(self, z: Float[np.ndarray, "... C"]) -> Float[np.ndarray, "... C"]:
    """Undo `scale`."""
    return z / self.factor + self.shift

  def num_latent_frames(self, num_frames: int) -> int:
    """Return the number of latent frames of a clip of `num_frames` frames."""
    return self.time_tiles.num_latents(num_frames)

  def num_frames(self, num_latent_frames: int) -> int:
    """Return the number of frames that latents decode to; raises UserError if no clip has this number of latents."""
    return self.time_tiles.num_frames(num_latent_frames)

  def latent_tiles(self, num_latent_frames: int) -> list[slice]:
    """Return the latent frames of each tile; raises UserError if no clip has this number of latents."""
    return self.time_tiles.latent_tiles(num_latent_frames)

  def new_frames(
      self, latents: Float[Array, "B T h w C"], first: bool
  ) -> UInt8[np.ndarray, "B frames height width 3"]:
    """Decode one tile of `latent_tiles`, without the frames that it shares with the previous tile."""
    shared = 0 if first else self.time_tiles.frame_overlap
    try:
      return self.decode(latents)[:, shared:]
    except NotFinite as error:
      raise NotFinite(max(0, error.frame - shared)) from None

  def _decode(self, latents, finish: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    z = self.unscale(np.asarray(latents, np.float32))
    decode = lambda z: finish(self._by_space(self._decode_tile, z, 1, self.spatial_stride))
    tiles = self.time_tiles.latent_tiles(z.shape[1])
    return _by_time(decode, z, tiles, self.time_tiles.frame_overlap, self.batch_size)

  def _by_space(self, run: Callable, x: np.ndarray, stride_in: int, stride_out: int) -> np.ndarray:
    """Run one tile in time, cut into tiles in space if `space_tile` is set; strides are those of a latent."""
    if self.space_tile is None:
      return np.asarray(run(self._state, x))
    rows, columns = (space_tiles(size // stride_in, self.space_tile) for size in x.shape[2:4])
    scaled = lambda tile, stride: slice(tile.start * stride, tile.stop * stride)
    return blend(
        (scaled(row, stride_out), scaled(column, stride_out),
         np.asarray(run(self._state, x[:, :, scaled(row, stride_in), scaled(column, stride_in)])))
        for row in rows for column in columns)


def tile_function(
    graph: nnx.GraphDef, method: str, dtype: str, mesh: Mesh | None = None
) -> Callable[[nnx.State, Array], jax.Array]:
  """Return the compiled function (weights, tile) → result for a network's "encode" or "decode", computed in `dtype`.

  With a mesh, each of its devices runs an equal part of the samples independently.
  """
  run = functools.partial(run_network, graph, method, dtype)
  if mesh is not None:
    share = PartitionSpec(_DEVICES)
    run = jax.shard_map(run, mesh=mesh, in_specs=(PartitionSpec(), share), out_specs=share, check_vma=False)
  return jax.jit(run, compiler_options=CPU_OPTIONS if jax.default_backend() == "cpu" else None)


def run_network(graph: nnx.GraphDef, method: str, dtype: str, state: nnx.State, x: Array) -> jax.Array:
  """Run a network's "encode" or "decode" on one tile in `dtype`."""
  if x.dtype == jnp.uint8:
    x = (x.astype(jnp.float32) - 127.5) / 127.5
  return getattr(nnx.merge(graph, state), method)(x.astype(dtype)).astype(jnp.float32)


def _to_uint8(pixels: Float32[np.ndarray, "B frames height width 3"]) -> UInt8[np.ndarray, "B frames height width 3"]:
  check_frames(pixels)
  return (pixels * 127.5 + 127.5).clip(0, 255).astype(np.uint8)


def _by_time(
    run: Callable[[np.ndarray], np.ndarray], x: np.ndarray, tiles: Sequence[slice], overlap: int, batch_size: int
) -> np.ndarray:
  """Run batches and tiles one after another, and drop the `overlap` frames that later tiles repeat."""
  batches = (x[i:i + batch_size] for i in range(0, len(x), batch_size))
  return np.concatenate([
      np.concatenate([run(batch[:, tile])[:, overlap if tile.start else 0:] for tile in tiles], axis=1)
      for batch in batches])
