"""Forward mode, and derivatives of derivatives, through functions that have a backward pass of their own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import slow
from models.test_nova import TINY, inputs, make

from nova_jax.config import MeshConfig, SchedulerConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.loss import sample_training_noise, training_loss
from nova_jax.models.attention import mapped
from nova_jax.models.attention.dense import dense
from nova_jax.models.attention.dispatch import attention
from nova_jax.models.attention.masks import BlockCausal, ValidKeys
from nova_jax.models.layers import project
from nova_jax.parallel.context import SequenceSharding
from nova_jax.parallel.sharding import gather_weight, make_mesh
from nova_jax.utils.derivatives import by_kernel, linear_call

rng = np.random.default_rng(0)


def normal(*shape):
  return rng.standard_normal(shape, np.float32)


def like(tree):
  return jax.tree.map(lambda x: normal(*x.shape), tree)


def derivatives(compute, arguments, change, other):
  """Return forward mode, reverse mode, and along two directions each of their four pairs."""
  loss = lambda *arguments: jnp.sin(compute(*arguments)).mean()
  along = lambda *arguments: jax.jvp(loss, arguments, change)[1]

  def against(*arguments):
    gradients = jax.grad(loss, range(len(arguments)))(*arguments)
    return sum(jnp.vdot(gradient, dx) for gradient, dx in zip(gradients, change, strict=True))

  first = [jax.jvp(compute, arguments, change), jax.grad(loss, range(len(arguments)))(*arguments)]
  return first + [second for by in (along, against) for second in (
      jax.jvp(by, arguments, other)[1], jax.grad(by, range(len(arguments)))(*arguments))]


def assert_same_derivatives(ours, reference, *arguments):
  arguments, change, other = (tuple(like(arguments)) for _ in range(3))
  got, expected = (
      jax.jit(functools.partial(derivatives, compute))(arguments, change, other) for compute in (ours, reference))
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1e-2))


def test_a_linear_map_is_transposed_as_it_says():
  seven = lambda factor, x: linear_call(lambda factor, x: factor * x, lambda _, g: 7 * g, factor, x)
  double = jax.jit(lambda x: seven(2.0, x))
  looped = lambda x: jax.lax.scan(jax.checkpoint(lambda x, factor: (seven(factor, x), None)), x, jnp.full(2, 2.0))[0]
  assert double(3.0) == 6 and jax.jvp(double, (3.0,), (1.0,)) == (6, 2) and jax.grad(double)(3.0) == 7
  assert looped(3.0) == 12 and jax.jvp(looped, (3.0,), (1.0,)) == (12, 4) and jax.grad(looped)(3.0) == 49
  squared = lambda x: seven(x, x)  # Its gradient is x + 7: what comes from the factor is differentiated as ever.
  assert jax.grad(squared)(3.0) == 10 and jax.grad(jax.grad(squared))(3.0) == 1
  np.testing.assert_array_equal(jax.vmap(jax.grad(seven, 1))(jnp.arange(3.0), jnp.ones(3)), [7, 7, 7])
  np.testing.assert_array_equal(jax.vmap(seven, (0, None))(jnp.arange(3.0), 2.0), [0, 2, 4])


def test_a_kernel_has_its_own_gradient_and_all_else_of_its_formula():
  @jax.custom_vjp
  def squared(x):
    return x**2

  squared.defvjp(lambda x: (squared(x), x), lambda x, g: (7 * g,))
  with pytest.raises(TypeError, match="forward-mode"):
    jax.jvp(squared, (3.0,), (1.0,))
  ours = jax.jit(lambda x: by_kernel(lambda factor, x: factor * squared(x), lambda factor, x: factor * x**2, 2.0, x))
  assert ours(3.0) == 18 and jax.grad(ours)(3.0) == 14 and jax.jvp(ours, (3.0,), (1.0,)) == (18, 12)
  assert jax.hessian(ours)(3.0) == jax.grad(jax.grad(ours))(3.0) == 4
  assert jax.jvp(lambda x: jax.jvp(ours, (x,), (1.0,))[1], (3.0,), (1.0,))[1] == 4
  np.testing.assert_array_equal(jax.vmap(jax.hessian(ours))(jnp.arange(3.0)), [4, 4, 4])


def test_linear_maps():
  assert_same_derivatives(
      lambda x, kernel: project(x, kernel, 2), lambda x, kernel: jnp.tensordot(x, kernel, 2),
      normal(2, 3, 4, 5), normal(4, 5, 3, 2))


@pytest.mark.parametrize("backend", ["mapped", "splash", "cudnn"])
@pytest.mark.parametrize("mask", [slow(None), BlockCausal(prefix=1, frame=3), slow(ValidKeys(4))], ids=str)
def test_attention(monkeypatch, backend, mask):
  monkeypatch.setattr(mapped, "SMALL_HEAD", 0)  # Loops over these heads too.
  qkv = [normal(1, 7, 2, 8) for _ in range(3)]
  assert_same_derivatives(
      functools.partial(attention, mask=mask, backend=backend), functools.partial(dense, mask=mask), *qkv)


@pytest.mark.parametrize("backend", ["dense", "mapped", "splash", "cudnn"])
def test_forward_mode_on_a_mesh(backend):
  qkv, change = (tuple(normal(2, 9, 2, 8) for _ in range(3)) for _ in range(2))
  mask, weight = BlockCausal(prefix=1, frame=2), normal(8, 8)

  def compute(q, k, v):
    sharding = SequenceSharding.current(9, balanced=True)
    q = project(q, gather_weight(weight, ("embed", "mlp")), 1)
    spread = (q, k, v) if sharding is None else map(sharding.shard, (q, k, v))
    out = attention(*spread, mask=mask, backend=backend if sharding else "dense", sharding=sharding)
    return out if sharding is None else sharding.unshard(out)

  expected = jax.jit(lambda *qkv: jax.jvp(compute, qkv, change))(*qkv)
  with jax.set_mesh(make_mesh(MeshConfig(fsdp=2, context=2, tensor=2))):
    got = jax.jit(lambda *qkv: jax.jvp(compute, qkv, change))(*qkv)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), got, expected)


@pytest.mark.slow
def test_the_training_loss():
  latents, condition = inputs(TINY, 2)
  graph, params, rest = nnx.split(make(dataclasses.replace(TINY, remat="dots")), nnx.Param, ...)
  scheduler = make_scheduler(SchedulerConfig())
  draws = sample_training_noise(jax.random.split(jax.random.key(0), 2), TINY, scheduler, 2, 6, 1)
  own = np.random.default_rng(0)  # What other tests have drawn changes nothing here.
  directions = [jax.tree.map(lambda p: own.standard_normal(p.shape, np.float32), params) for _ in range(2)]

  def loss(params):
    return training_loss(nnx.merge(graph, params, rest), scheduler, condition | {"latents": latents}, draws, 5)[0]

  def loss_along(lengths, params):
    return loss(jax.tree.map(lambda p, *dp: p + sum(map(jnp.multiply, lengths, dp)), params, *directions))

  @jax.jit
  def numbers(params):
    zero, step = jnp.zeros(2), 1e-4  # Longer steps miss by their square, 0.1 at 1e-3; shorter ones by rounding.
    gradients = jax.lax.map(lambda at: jax.grad(loss_along)(at, params), step * np.concatenate([np.eye(2), -np.eye(2)]))
    return (
        jax.jvp(loss, (params,), (directions[0],))[1], jax.grad(loss)(params), jax.hessian(loss_along)(zero, params),
        (gradients[:2] - gradients[2:]) / (2 * step))

  forward, gradient, hessian, differences = numbers(params)
  products = jax.tree.map(jnp.vdot, gradient, directions[0])
  np.testing.assert_allclose(forward, sum(jax.tree.leaves(products)), rtol=1e-4)
  np.testing.assert_allclose(hessian, differences, rtol=0, atol=0.003 * np.abs(hessian).max())
