"""What reuse of features saves: `python -m benchmarks.reuse --preset nova-d48w1024-osp480 --depth 4`.

Times the spatial encoder with random weights for a set early, in the middle and late in a frame: exact, refreshed and
reused. Prints seconds and the speed-up of the spatial stage for some `refresh_every`. Fewer blocks are faster to time,
but then the last one, which is cheap without reuse too, counts for more.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from nova_jax.cli import Command
from nova_jax.config import PRESETS
from nova_jax.models.nova import SpatialEncoder
from nova_jax.sampling.feature_cache import Features, encode_set
from nova_jax.sampling.set_schedule import FEW_GROUPS, token_sets


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_enum("preset", "nova-d48w1024-osp480", sorted(PRESETS), "Sizes.", flag_values=values)
  flags.DEFINE_integer(
      "depth", None, "Blocks of the spatial encoder. Default: the preset's.", lower_bound=2, flag_values=values)
  flags.DEFINE_integer("batch_size", 2, "Samples, passes of guidance counted.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("num_inference_steps", 64, "Sets a frame.", lower_bound=4, flag_values=values)
  flags.DEFINE_integer("repeat", 3, "Timings, of which the shortest counts.", lower_bound=1, flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Time and print."""
  cfg = PRESETS[args.preset]
  cfg = dataclasses.replace(cfg, spatial_depth=args.depth or cfg.spatial_depth, remat="none")
  encoder = SpatialEncoder(cfg, rngs=nnx.Rngs(0))
  sets = token_sets(cfg.num_image_tokens, args.num_inference_steps, max_groups=FEW_GROUPS)
  total = np.zeros(3)
  for i in np.array([1, 3, 5]) * len(sets) // 6:
    total += [seconds(encoder, sets[i - 1], sets[i], args, kind) for kind in ("exact", "refresh", "reuse")]
    print(f"set {i + 1}/{len(sets)}, {sets[i].start} known: done", flush=True)
  exact, refresh, reuse = total / 3
  print(f"a set takes {exact:.3f} s exact, {refresh:.3f} s refreshed, {reuse:.3f} s reused")
  for every in (2, 3, 4, 6, 8):
    print(f"refresh_every {every}: {exact * every / (refresh + (every - 1) * reuse):.2f} x")


def seconds(encoder: SpatialEncoder, before, now, args, kind: str) -> float:
  """Return how long one set takes."""
  cfg, batch = encoder.cfg, args.batch_size
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.standard_normal((batch, cfg.num_image_tokens, cfg.width), np.float32))
  cond = jnp.asarray(rng.standard_normal((batch, cfg.num_video_tokens, cfg.width), np.float32))
  order = jnp.broadcast_to(jnp.asarray(rng.permutation(cfg.num_image_tokens)), (batch, cfg.num_image_tokens))
  wanted = jax.lax.dynamic_slice_in_dim(jnp.pad(order, ((0, 0), (0, now.max_size))), now.start, now.max_size, axis=1)
  graph, state = nnx.split(encoder)

  def run(state, features, tokens, cond, order, wanted):
    encoder = nnx.merge(graph, state)
    if kind == "exact":
      return encoder(tokens, order[:, : now.max_visible], now.start, cond, wanted), features
    max_new = None if kind == "refresh" else max(before.max_size, now.max_size)
    return encode_set(
        encoder, tokens, order, now.start, cond, wanted, features, now.max_visible, before.size, max_new)

  step, features, times = jax.jit(run, donate_argnums=1), Features.empty(cfg, batch), []
  for _ in range(args.repeat + 1):
    started = time.perf_counter()
    _, features = jax.block_until_ready(step(state, features, tokens, cond, order, wanted))
    times.append(time.perf_counter() - started)
  return min(times[1:])  # The first compiles.


if __name__ == "__main__":
  Command(main, define_flags).run()
