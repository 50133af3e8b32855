"""cuDNN's attention is what an NVIDIA GPU would run. There is none here: programs are lowered for one, and not run."""

import dataclasses
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train.test_nova_step import BATCH, FRAMES, TINY

from nova_jax.config import Experiment, MeshConfig, StageConfig, TrainConfig
from nova_jax.diffusion.batch import Batch
from nova_jax.models.attention import cudnn, dispatch
from nova_jax.models.attention.dispatch import attention
from nova_jax.models.attention.masks import BlockCausal, ValidKeys
from nova_jax.models.condition import Condition
from nova_jax.parallel.sharding import make_mesh
from nova_jax.train.masking import VisibleRange
from nova_jax.train.nova import NovaTask
from nova_jax.train.program import TrainProgram

CALL = re.compile(r"@__cudnn\$(\w+)")


@pytest.fixture
def on_gpu(monkeypatch):
  """Let this machine be taken for one with a GPU and cuDNN while programs are traced and lowered."""
  monkeypatch.setattr(dispatch, "current_platform", lambda: "gpu")
  monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91400)


def calls(function, *args):
  """Return how often a program for CUDA calls each function of cuDNN."""
  found = CALL.findall(jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text())
  return {name: found.count(name) for name in found}


def arrays(length=40, dim=64, dtype=jnp.bfloat16):
  return [jax.ShapeDtypeStruct((2, length, 4, dim), dtype)] * 3


@pytest.mark.parametrize("mask, count", [(None, 1), (ValidKeys(30), 1), (BlockCausal(prefix=4, frame=12), 3)])
def test_each_mask_is_told_without_a_matrix(on_gpu, mask, count):
  compute = lambda q, k, v: attention(q, k, v, mask)
  # Of cuDNN's functions those without a bias, which a matrix would be.
  assert calls(compute, *arrays()) == {"fmhaSoftmax": count}
  gradient = lambda q, k, v: jax.grad(lambda *x: compute(*x).astype(jnp.float32).sum(), argnums=(0, 1, 2))(q, k, v)
  assert calls(gradient, *arrays()) == {"fmhaSoftmax": count, "fmhaSoftmaxBackward": count}


def test_a_length_may_be_known_only_when_the_program_runs(on_gpu):
  compute = lambda q, k, v, length: attention(q, k, v, ValidKeys(length))
  assert calls(compute, *arrays(), jax.ShapeDtypeStruct((), jnp.int32)) == {"fmhaSoftmax": 1}


@pytest.mark.parametrize("dtype, dim, capability, platform, expected", [
    ("bfloat16", 64, None, "gpu", True), ("float16", 128, "8.6", "gpu", True), ("bfloat16", 64, "9.0", "cuda", True),
    ("float32", 64, None, "gpu", False), ("bfloat16", 60, None, "gpu", False), ("bfloat16", 136, None, "gpu", False),
    ("bfloat16", 64, "7.5", "gpu", False),  # Turing, such as a T4.
    ("bfloat16", 64, "gfx942", "gpu", False), ("bfloat16", 64, None, "cpu", False)])
def test_what_cudnn_can_not_do_is_left_to_xla(monkeypatch, dtype, dim, capability, platform, expected):
  device = types.SimpleNamespace(**({"compute_capability": capability} if capability else {}))
  monkeypatch.setattr(jax, "local_devices", lambda: [device])
  assert cudnn.fits(jnp.zeros((1, 8, 2, dim), dtype), platform) == expected


def lower(**model):
  """Return cuDNN's functions that NOVA's training step and evaluation for CUDA call."""
  train = TrainConfig(steps=2, stages=(StageConfig("video", 1.0, BATCH, FRAMES),), loss_repeat=2)
  cfg = Experiment(model=dataclasses.replace(TINY, **model), train=train)
  program = TrainProgram(
      NovaTask.from_experiment(cfg), cfg, make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]))
  shape = (FRAMES, *TINY.latent_size, TINY.latent_dim)
  batch = Batch(
      np.zeros((BATCH, *shape), np.float32),
      Condition(np.zeros((BATCH, TINY.text_len, TINY.text_dim), np.float32), np.ones(BATCH, np.int32)),
      index=np.arange(BATCH, dtype=np.int32))
  abstract = program.abstract
  visible = np.int32(2), VisibleRange(0, 4)
  return [
      CALL.findall(step.run.trace(*args, batch, *visible).lower(lowering_platforms=("cuda",)).as_text())
      for step, args in (
          (program.step(program.stages[0], shape), (abstract,)),
          (program.eval_step(shape), (abstract.params, abstract.buffers)))]


@pytest.mark.slow
def test_a_training_step_of_nova_for_cuda(on_gpu):
  trained, evaluated = lower(dtype="bfloat16")
  assert set(trained) == {"fmhaSoftmax", "fmhaSoftmaxBackward"} and set(evaluated) == {"fmhaSoftmax"}
  assert lower(dtype="float32") == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("remat, times", [("dots", 1), ("block", 2)])
def test_attention_is_recomputed_only_with_whole_blocks(on_gpu, remat, times):
  trained, _ = lower(dtype="bfloat16", remat=remat)
  assert trained.count("fmhaSoftmax") == times * trained.count("fmhaSoftmaxBackward") > 0
