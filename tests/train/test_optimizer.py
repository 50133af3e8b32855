import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from nova_jax.config import PRESETS, MeshConfig, OptimizerConfig
from nova_jax.models.nova import NOVA
from nova_jax.parallel.sharding import make_mesh, replicated
from nova_jax.train.optimizer import frozen_mask, make_optimizer, make_schedule, muon_axes, muon_or_adamw, paths


def tree(seed=0):
  normal = lambda i, *shape: jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), shape)
  return {
      "video_encoder": {
          "blocks": {
              "attn": {"qkv": {"kernel": normal(0, 2, 16, 3, 2, 8), "bias": normal(1, 2, 3, 2, 8)},
                       "proj": {"kernel": normal(2, 2, 2, 8, 16)}},
              "mlp": {"fc1": {"kernel": normal(3, 2, 16, 64)}}},
          "mixer": {"proj": {"kernel": normal(4, 16, 2, 16)}},
          "patch_embed": {"proj": {"kernel": normal(5, 12, 16)}},
          "norm": {"scale": normal(6, 16)}},
      "mask_embed": {"mask_token": normal(7, 1, 16)},
  }


def test_constant_schedule_after_warm_up():
  rate = make_schedule(OptimizerConfig(learning_rate=8.0, warmup_steps=4), 10)
  np.testing.assert_allclose([rate(i) for i in range(6)], [2, 4, 6, 8, 8, 8])


def test_cosine_schedule():
  cfg = OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_steps=2, final_fraction=0.2)
  rate = make_schedule(cfg, 10)
  # From 1 at the end of the warm-up to 0.2 after 10 steps; half-way at 6.
  np.testing.assert_allclose(
      [rate(0), rate(1), rate(2), rate(6), rate(10), rate(99)], [0.5, 1, 1, 0.6, 0.2, 0.2], rtol=1e-6)


def test_multistep_schedule():
  rate = make_schedule(OptimizerConfig(learning_rate=1.0, schedule="multistep", milestones=(0.5, 0.8), gamma=0.1), 10)
  np.testing.assert_allclose([rate(4), rate(5), rate(7), rate(8)], [1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_wsd_schedule():
  cfg = OptimizerConfig(
      learning_rate=1.0, schedule="wsd", warmup_steps=2, decay_fraction=0.4, final_fraction=0.1)
  rate = make_schedule(cfg, 10)
  # Stable up to step 6; a quarter of the way down, the root is a half.
  np.testing.assert_allclose(
      [rate(0), rate(1), rate(6), rate(7), rate(10), rate(99)], [0.5, 1, 1, 0.55, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize("fields, message", [
    (dict(schedule="linear"), "optimizer.schedule"), (dict(warmup_steps=-1), "optimizer.warmup_steps"),
    (dict(milestones=(2.0,)), "optimizer.milestones"), (dict(name="sgd"), "optimizer.name")])
def test_bad_numbers_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    make_optimizer(OptimizerConfig(**fields), 10)


def update(cfg, params, grads, freeze=()):
  tx = make_optimizer(cfg, 10, freeze)
  updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
  return updates, state


def test_adamw_decays_kernels_alone():
  params, zeros = tree(), jax.tree.map(jnp.zeros_like, tree())
  updates, _ = update(OptimizerConfig(learning_rate=0.5, weight_decay=0.1), params, zeros)
  for path, u, p in zip(*map(jax.tree.leaves, (paths(params), updates, params)), strict=True):
    np.testing.assert_allclose(u, -0.05 * p if path.endswith("kernel") else 0 * p, rtol=1e-6)


def test_muon_orthogonalises_q_k_and_v_apart():
  params, grads = tree(0), tree(1)
  # If q, k and v were one matrix, the largest would leave nothing to the others.
  scales = jnp.array([1.0, 1e3, 1e-3])[:, None, None]
  qkv = grads["video_encoder"]["blocks"]["attn"]["qkv"]
  qkv["kernel"] = qkv["kernel"] * scales
  updates, _ = update(OptimizerConfig(name="muon", learning_rate=1.0, weight_decay=0, clip_norm=0), params, grads)
  u = updates["video_encoder"]["blocks"]["attn"]["qkv"]["kernel"].transpose(0, 2, 1, 3, 4).reshape(6, 16, 16)
  singular = np.linalg.svd(u / (0.2 * np.sqrt(16)), compute_uv=False)
  assert singular.min() > 0.3 and singular.max() < 1.3
  u = updates["video_encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
  singular = np.linalg.svd(u / (0.2 * np.sqrt(64)), compute_uv=False)
  assert singular.min() > 0.5 and singular.max() < 1.3
  # The rest takes Adam's first step: the sign of the gradient.
  np.testing.assert_allclose(jnp.abs(updates["video_encoder"]["patch_embed"]["proj"]["kernel"]), 1.0, rtol=1e-3)


@pytest.mark.parametrize("fsdp", [2, 8])
def test_muon_gives_each_device_whole_matrices_and_changes_no_number(fsdp):
  """Two layers divide by two devices, but not by eight, each of which then computes them all."""
  cfg = OptimizerConfig(name="muon", learning_rate=1.0, weight_decay=0, clip_norm=0)
  params, grads = ({"blocks": {"mlp": tree(seed)["video_encoder"]["blocks"]["mlp"]}} for seed in (0, 1))
  tx = make_optimizer(cfg, 10)
  alone, _ = tx.update(grads, tx.init(params), params)
  mesh = make_mesh(MeshConfig(fsdp=fsdp), jax.devices()[:fsdp])
  rows = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
  placed = jax.device_put((grads, tx.init(params), params), jax.tree.map(
      lambda x: rows if jnp.ndim(x) == 3 else replicated(mesh), (grads, tx.init(params), params)))
  with jax.set_mesh(mesh):
    compiled = jax.jit(tx.update).lower(*placed).compile()
  shared, _ = compiled(*placed)
  kernels = [updates["blocks"]["mlp"]["fc1"]["kernel"] for updates in (shared, alone)]
  np.testing.assert_allclose(*kernels, rtol=1e-6, atol=1e-6)
  collectives = re.findall(r" (all-[a-z-]+|collective-permute|reduce-scatter)\(", compiled.as_text())
  assert set(collectives) == {"all-to-all" if fsdp == 2 else "all-gather"}, "products need the network"


def test_muon_takes_the_matrices_of_the_blocks_and_conditions():
  assert muon_axes("image_decoder/blocks/norm1/proj/kernel").output_axis == 3
  assert muon_axes("image_encoder/decoder_blocks/attn/qkv/kernel").output_axis == (3, 4)
  assert muon_axes("image_decoder/time_cond_embed/condition_proj/fc2/kernel")
  for path in ("image_decoder/head/kernel", "text_embed/proj/kernel", "video_encoder/patch_embed/proj/kernel",
               "video_encoder/blocks/attn/qkv/bias", "image_decoder/time_cond_embed/timestep_proj/fc1/kernel"):
    assert muon_axes(path) is None


VARIANTS = {
    **PRESETS, "classes": dataclasses.replace(PRESETS["digits"], text_dim=None, num_classes=10),
    "rotary": dataclasses.replace(PRESETS["digits"], rotary=True),
    "pre": dataclasses.replace(PRESETS["digits"], norm="pre", history=False)}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_of_a_model_is_in_one_list(name):
  _, params, _ = nnx.split(nnx.eval_shape(lambda: NOVA(VARIANTS[name], rngs=nnx.Rngs(0))), nnx.Param, ...)
  params = nnx.to_pure_dict(params)
  for path, leaf in zip(jax.tree.leaves(paths(params)), jax.tree.leaves(params), strict=True):
    inner = "blocks" in path and path.endswith("kernel") and leaf.ndim > 2
    assert muon_or_adamw(path) == "muon" or not inner, path


def test_a_parameter_in_neither_list_is_refused():
  params = {"video_encoder": {"blocks": {"gate": {"kernel": jnp.ones((2, 4, 4))}}}}
  with pytest.raises(ValueError, match="video_encoder/blocks/gate/kernel is in neither"):
    make_optimizer(OptimizerConfig(name="muon"), 10).init(params)
  make_optimizer(OptimizerConfig(), 10).init(params)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_frozen_parameters_have_no_update_and_no_state(name):
  params = tree()
  cfg = OptimizerConfig(name=name, learning_rate=1.0)
  updates, state = update(cfg, params, tree(1), freeze=("video_encoder/(blocks|mixer)", "mask_token$"))
  frozen = frozen_mask(params, ("video_encoder/(blocks|mixer)", "mask_token$"))
  for path, stop, u in zip(*map(jax.tree.leaves, (paths(params), frozen, updates)), strict=True):
    assert stop == (path.split("/")[1] in ("blocks", "mixer", "mask_token")), path
    assert bool(jnp.all(u == 0)) == stop, path
  assert not any(word in path for path in jax.tree.leaves(paths(state)) for word in ("blocks", "mixer", "mask_token"))


def test_a_pattern_that_freezes_nothing_names_near_paths():
  with pytest.raises(ValueError, match=r"'vido_encoder/patch_embed'.*video_encoder/patch_embed"):
    make_optimizer(OptimizerConfig(), 10, ("vido_encoder/patch_embed",)).init(tree())


def test_gradients_are_clipped_by_their_whole_norm():
  params, grads = {"a": {"kernel": jnp.zeros(2)}}, {"a": {"kernel": jnp.array([30.0, 40.0])}}
  tx = make_optimizer(OptimizerConfig(clip_norm=5.0), 10)
  _, state = tx.update(grads, tx.init(params), params)
  adam = state[1].inner_states["adamw"].inner_state[0]
  np.testing.assert_allclose(adam.mu["a"]["kernel"], [0.3, 0.4], rtol=1e-5)
