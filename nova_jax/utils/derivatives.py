"""Functions with a custom backward pass that also support forward mode.

`jax.custom_vjp` defines the gradient of a function, but forbids `jax.jvp`. Instead a function here has a
`jax.custom_jvp` rule that applies a linear map with a given transpose. Reverse mode transposes the map, so its
transpose is the backward pass.

Invariant: both passes are ordinary programs, so derivatives of any order, `jax.vmap`, `jax.jacobian` and `jax.hessian`
work.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir


def linear_call(
    fun: Callable[[Any, Any], Any], transpose: Callable[[Any, Any], Any], residuals: Any, arguments: Any
) -> Any:
  """Call a function that is linear in `arguments` and has a custom transpose.

  Unlike the function of the same name in `jax.custom_derivatives`, it can be batched, and differentiated with respect
  to its residuals.

  Args:
    fun: function (residuals, arguments) → outputs.
    transpose: function (residuals, cotangents of the outputs) → cotangents of the arguments.
    residuals: values that both functions use; neither has to be linear in them.
    arguments: values in which `fun` is linear.

  Returns:
    The outputs of `fun`.
  """
  forward, outputs = jax.make_jaxpr(fun, return_shape=True)(residuals, arguments)
  backward, cotangents = jax.make_jaxpr(transpose, return_shape=True)(residuals, outputs)
  expected = jax.tree.map(jax.typeof, arguments)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), cotangents) == jax.tree.map(
      lambda x: (x.shape, x.dtype), expected), (cotangents, expected)
  residuals = jax.tree.leaves(residuals)
  out = linear_call_p.bind(
      *residuals, *jax.tree.leaves(arguments), forward=forward, backward=backward, num_residuals=len(residuals))
  return jax.tree.unflatten(jax.tree.structure(outputs), out)


linear_call_p = Primitive("linear_call")
linear_call_p.multiple_results = True


@linear_call_p.def_impl
def _call(*operands, forward: ClosedJaxpr, backward: ClosedJaxpr, num_residuals: int):
  return jaxpr_as_fun(forward)(*operands)


@linear_call_p.def_abstract_eval
def _types(*operands, forward, backward, num_residuals):
  return forward.out_avals


def _jvp(primals, tangents, *, forward, backward, num_residuals):
  params = dict(forward=forward, backward=backward, num_residuals=num_residuals)
  residuals, arguments = primals[:num_residuals], primals[num_residuals:]
  of_residuals, of_arguments = tangents[:num_residuals], tangents[num_residuals:]
  changes = []
  if _any_changes(of_arguments):
    changes.append(linear_call_p.bind(*residuals, *map(ad.instantiate_zeros, of_arguments), **params))
  if _any_changes(of_residuals):
    call = lambda *residuals: jaxpr_as_fun(forward)(*residuals, *arguments)
    changes.append(jax.jvp(call, residuals, tuple(map(ad.instantiate_zeros, of_residuals)))[1])
  total = [sum(parts[1:], start=parts[0]) for parts in zip(*changes, strict=True)]
  return linear_call_p.bind(*primals, **params), total


def _any_changes(tangents) -> bool:
  return any(not isinstance(tangent, ad.Zero) for tangent in tangents)


def _transpose(cotangents, *operands, forward, backward, num_residuals):
  residuals, arguments = operands[:num_residuals], operands[num_residuals:]
  out = linear_call_p.bind(
      *residuals, *map(ad.instantiate_zeros, cotangents), forward=backward, backward=forward,
      num_residuals=num_residuals)
  # Constant arguments appear as zeros, which need no cotangent.
  wanted = [x if ad.is_undefined_primal(argument) else None for x, argument in zip(out, arguments, strict=True)]
  return [None] * num_residuals + wanted


def _batch(operands, axes, *, forward, backward, num_residuals):
  size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
  # Each sample has its own arguments and its own cotangents.
  operands = [
      jnp.broadcast_to(x, (size, *jnp.shape(x))) if axis is None and i >= num_residuals else x
      for i, (x, axis) in enumerate(zip(operands, axes, strict=True))]
  axes = [0 if axis is None and i >= num_residuals else axis for i, axis in enumerate(axes)]
  residual_axes, argument_axes = axes[:num_residuals], axes[num_residuals:]
  forward_axes, backward_axes = (*residual_axes, *argument_axes), (*residual_axes, *[0] * len(forward.out_avals))
  batched = jax.vmap(jaxpr_as_fun(forward), forward_axes)
  transposed = jax.vmap(jaxpr_as_fun(backward), backward_axes, argument_axes)
  residuals, arguments = operands[:num_residuals], operands[num_residuals:]
  out = linear_call(
      lambda residuals, arguments: batched(*residuals, *arguments),
      lambda residuals, cotangents: transposed(*residuals, *cotangents), residuals, arguments)
  return out, [0] * len(out)


ad.primitive_jvps[linear_call_p] = _jvp
ad.primitive_transposes[linear_call_p] = _transpose
batching.primitive_batchers[linear_call_p] = _batch
mlir.register_lowering(linear_call_p, mlir.lower_fun(_call, multiple_results=True))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def by_kernel(
    kernel: Callable[[Any, Any], Any], formula: Callable[[Any, Any], Any], context: Any, arguments: Any
) -> Any:
  """Call a kernel that knows its gradient, but neither forward mode nor derivatives of its gradient.

  These come from a formula. Without them it is not computed: gradients are the kernel's.

  Args:
    kernel: function (context, arguments) → output, which JAX can differentiate once, in reverse mode.
    formula: function of the same arguments with the same output, which JAX can differentiate.
    context: values that nothing is differentiated by.
    arguments: values that derivatives are taken by.

  Returns:
    The output of `kernel`.
  """
  del formula
  return kernel(context, arguments)


@by_kernel.defjvp
def _by_kernel_jvp(kernel, formula, primals, tangents):
  context, arguments = primals
  fixed = jax.lax.stop_gradient(arguments)  # JAX must not look for derivatives inside the kernel.
  out, pull = jax.vjp(lambda arguments: kernel(context, arguments), fixed)
  return jax.jvp(lambda arguments: _depend(formula, (pull, context, arguments), out), (arguments,), tangents[1:])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _depend(formula, residuals, out):
  """Return the output `out`, which depends on the arguments in `residuals`."""
  del formula, residuals
  return out


@_depend.defjvp
def _depend_jvp(formula, primals, tangents):
  residuals, _ = primals
  (_, _, change), _ = tangents
  change = linear_call(
      functools.partial(_formula_change, formula), functools.partial(_kernel_gradient, formula), residuals, change)
  return _depend(formula, *primals), change


def _formula_change(formula, residuals, change):
  _, context, arguments = residuals
  return jax.jvp(functools.partial(formula, context), (arguments,), (change,))[1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _kernel_gradient(formula, residuals, cotangent):
  del formula
  pull, *_ = residuals
  return pull(cotangent)[0]


@_kernel_gradient.defjvp
def _kernel_gradient_jvp(formula, primals, tangents):
  (_, context, arguments), cotangent = primals
  (_, _, change), cotangent_change = tangents

  def gradient(arguments, cotangent):
    return jax.vjp(functools.partial(formula, context), arguments)[1](cotangent)[0]

  _, out = jax.jvp(gradient, (arguments, cotangent), (change, cotangent_change))
  return _kernel_gradient(formula, *primals), out
