"""Matrices in 8 bits: what is stored, and how far the results are from those of the model itself."""

import dataclasses

import commands
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from checkpoints.published import VIDEO
from flax import nnx
from helpers import quick_if, save_run
from parity.reference import ROOT

from nova_jax.checkpoints.load import load_model
from nova_jax.checkpoints.model_folder import load_text_encoder, open_folder
from nova_jax.config import MeshConfig, ModelConfig
from nova_jax.models.layers import cast_weights
from nova_jax.models.quantization import KINDS, Quantization, read_quantize
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.batch_sampling import make_provenances
from nova_jax.pipeline.provenance import parse
from nova_jax.utils.errors import UserError

CFG = ModelConfig(
    latent_dim=1, latent_size=(16, 16), patch_size=4, width=64, num_heads=2, temporal_depth=2, spatial_depth=2,
    denoiser_depth=1, denoiser_width=32, base_frames=2, text_dim=8, text_len=8, mixer_rank=2)
# Relative errors of what a few blocks compute: int8 has steps of max / 127, fp8 3 bits behind the point.
ERRORS = {"int8": 0.02, "fp8": 0.06}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  folder = tmp_path_factory.mktemp("quantized") / "base"
  save_run(folder, CFG)
  return folder


def arrays(module):
  return {"/".join(map(str, path)): np.asarray(value[...]) for path, value in nnx.to_flat_state(nnx.state(module))}


def error(found, expected):
  found, expected = np.asarray(found, np.float32), np.asarray(expected, np.float32)
  return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_each_output_has_the_scale_of_its_largest_weight(kind):
  rng = np.random.default_rng(0)
  kernel = rng.standard_normal((3, 16, 2, 8)).astype(np.float32) * np.exp(rng.standard_normal((3, 1, 2, 8)))
  kernel[1, :, 0, 0] = 0
  quantized, scales = Quantization(kind, "").apply(kernel, (1,))
  assert quantized.dtype == KINDS[kind] and scales.shape == (3, 2, 8) and scales[1, 0, 0] == 0
  largest = 127 if kind == "int8" else 448
  np.testing.assert_allclose(scales, np.abs(kernel).max(1) / largest, rtol=1e-6)
  restored = quantized.astype(np.float32) * scales[:, None]
  step = scales[:, None] / 2 if kind == "int8" else np.abs(kernel) / 16 + scales[:, None] * 2**-10
  assert (np.abs(restored - kernel) <= step * 1.0001).all()


@pytest.mark.parametrize("kind", quick_if(("int8",), KINDS))
def test_a_quantized_model_computes_almost_the_same(base, kind):
  exact, quantized = load_model(base), load_model(base, quantize={"blocks": kind})
  before, after = arrays(exact), arrays(quantized)
  stored = {name for name in after if after[name].dtype == KINDS[kind]}
  # Heads among the inputs, parts among the outputs, and the denoiser; neither embeddings nor biases.
  assert stored == {name for name in before if "blocks/" in name and name.endswith("kernel")}
  assert after.keys() - before.keys() == {f"{name}_scale" for name in stored}
  assert all(np.array_equal(after[name], before[name]) for name in before.keys() - stored)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((1, 20, 64)), jnp.float32)
  noised, times = jnp.asarray(rng.standard_normal((1, 20, 16)), jnp.float32), jnp.full((1, 1), 300.0)

  def run(model):
    z = model.video_encoder(x[:, None, :4], x[:, 4:])
    return z, model.image_decoder(noised, times, model.image_decoder.condition(x))

  for found, expected in zip(jax.jit(run)(quantized), jax.jit(run)(exact), strict=True):
    assert 1e-5 < error(found, expected) < ERRORS[kind]


def test_nothing_is_cast_to_the_dtype_of_activations_that_has_8_bits(base):
  model = load_model(base, quantize={"blocks": "int8"}, dtype="bfloat16")
  _, state = cast_weights(model, "bfloat16")
  dtypes = {"/".join(map(str, path)): value[...].dtype for path, value in nnx.to_flat_state(state)}
  path = "video_encoder/blocks/attn/qkv"
  assert [dtypes[f"{path}/{name}"] for name in ("kernel", "kernel_scale", "bias")] == [
      np.int8, np.float32, ml_dtypes.bfloat16]


def test_a_text_encoder_in_8_bits_gives_almost_the_same_embeddings():
  card = open_folder(ROOT / VIDEO).card
  texts = ["a fox runs", "two cats sit on a wall and look at the sea"]
  encoders = [
      load_text_encoder("text_encoder", card.model, ROOT / VIDEO, quantization=read_quantize(kinds).get("text_encoder"))
      for kinds in ({}, {"text_encoder": "int8"}, {"text_encoder": "fp8"})]
  exact, *others = (encoder.encode(texts)[0] for encoder in encoders)
  for kind, found in zip(("int8", "fp8"), others, strict=True):
    assert 1e-5 < error(found, exact) < ERRORS[kind]
  assert len({encoder.digest for encoder in encoders}) == 3


def test_a_mesh_spreads_kernels_and_scales(base):
  model = load_model(base, quantize={"blocks": "int8"}, mesh=MeshConfig(data=2, fsdp=-1, tensor=2))
  qkv = model.video_encoder.blocks.attn.qkv
  # [layers, embed, 3, heads, head_dim], and [layers, 3, heads, head_dim].
  assert tuple(qkv.kernel[...].sharding.spec)[1] == "fsdp"
  assert tuple(qkv.kernel_scale[...].sharding.spec)[2] == "tensor"


@pytest.mark.slow
def test_a_provenance_says_what_was_quantized(base):
  pipes = [Pipeline.load(base, quantize=quantize) for quantize in (None, {"blocks": "int8"})]
  plain, quantized = (
      make_provenances(pipe, str(base), "ema", [{"prompt": "a", "seed": 0}], [[0]], 1)[0] for pipe in pipes)
  assert not parse(plain.text()).quantize and '"quantize"' not in plain.text() and plain.weights != quantized.weights
  assert plain.name(0) != quantized.name(0)
  assert parse(quantized.text()).quantize == {"blocks": "int8"}
  assert dataclasses.replace(quantized, quantize={}).name(0) == quantized.name(0)  # The weights tell.


@pytest.mark.parametrize("flag, message", [
    ("blocks", "--quantize: expected PART=KIND such as text_encoder=int8, each part once, got 'blocks'"),
    ("blocks=int8,blocks=fp8", "each part once, got 'blocks=fp8'"),
    ("vae=int8", "quantize: 'vae' can't be quantized; known: blocks, text_encoder"),
    ("blocks=int4", "quantize: 'int4' is not a kind of numbers; did you mean 'int8'?"),
    ("text_encoder=int8", "quantize: the text encoder 'words' has no weights"),
])
def test_what_can_not_be_quantized_is_refused(base, tmp_path, flag, message):
  done = commands.run(
      "sample", "--checkpoint", base, "--output", tmp_path, "--prompt", "one", "--quantize", flag)
  assert done.returncode == 2 and message in done.stderr
  with pytest.raises(UserError):
    read_quantize({"vae": "int8"})
