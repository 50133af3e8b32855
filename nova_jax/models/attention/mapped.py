"""Attention one head at a time, for CPU: the scores of a head fit into the cache; the backward pass recomputes them.

The queries of a head are split into runs that attend to the same keys, so that hidden scores are not computed. For a
run with scores s:

  p = exp(s − max s),   out = p v / Σp;        backward, with p now normalised and δ = Σ(dout · out):
  ds = p · (dout vᵀ − δ),   dq = ds k,   dk = dsᵀ q,   dv = pᵀ dout;
  forward mode, where d denotes tangents instead:
  ds = dq kᵀ + q dkᵀ,   dout = (p · ds) v − Σ(p · ds) out + p dv

Gradients of small heads are computed for all heads at once: there a loop would cost more than it saves.
Invariant: no array is transposed; a head is sliced from the array in its original layout.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from nova_jax.models.attention.dense import dense
from nova_jax.models.attention.masks import Mask, to_matrix
from nova_jax.models.layers import ATTENTION_RESIDUALS
from nova_jax.utils.derivatives import linear_call

# Each run is compiled separately. A sequence with more frames than this puts several frames into a run.
MAX_RUNS = 8
# Scores of a head, at most, for which gradients are faster without the loop.
SMALL_HEAD = 1024


class Run(NamedTuple):
  """Queries start … stop − 1, which attend to at most the first `num_keys` keys; to all of these unless `masked`."""

  start: int
  stop: int
  num_keys: int
  masked: bool


def split_into_runs(mask: Mask | None, num_queries: int, num_keys: int) -> tuple[Run, ...]:
  """Split queries into at most `MAX_RUNS` runs."""
  if mask is None:
    return (Run(0, num_queries, num_keys, False),)
  if jax.tree.leaves(mask):  # The length is known only when the program runs.
    return (Run(0, num_queries, num_keys, True),)
  visible = np.minimum(mask.num_visible(np.arange(num_queries)), num_keys)
  starts = np.flatnonzero(np.diff(visible, prepend=-1))
  starts = starts[:: -(-len(starts) // MAX_RUNS)]
  stops = np.append(starts[1:], num_queries)
  return tuple(
      Run(int(start), int(stop), int(visible[start:stop].max()), bool(visible[start] < visible[stop - 1]))
      for start, stop in zip(starts, stops, strict=True))


@jax.custom_jvp
def mapped(
    q: Float[Array, "B Q H K"], k: Float[Array, "B S H K"], v: Float[Array, "B S H K"], mask: Mask | None = None,
) -> Float[Array, "B Q H K"]:
  """Compute attention one head at a time; the arguments are those of `attention`."""
  return _forward(q, k, v, mask)[0]


def _forward(q, k, v, mask):
  runs = split_into_runs(mask, q.shape[1], k.shape[1])

  def head(index, outputs):
    out, log_sum = outputs
    q_head, k_head, v_head = _read_head(q, index), _read_head(k, index), _read_head(v, index)
    for run in runs:
      scores = _scores(q_head, k_head, mask, run)
      highest = scores.max(axis=1, keepdims=True)
      # The weights are read twice. Without the barrier XLA would compute all exponentials twice.
      weights = jax.lax.optimization_barrier(jnp.exp(scores - highest))
      total = weights.sum(axis=1, keepdims=True)
      rows = _dot(weights.astype(v.dtype), v_head[: run.num_keys]) / total
      out = _write_head(out, rows.astype(q.dtype), index, run.start)
      log_sum = _write_head(log_sum, highest + jnp.log(total), index, run.start)
    return out, log_sum

  log_sum = jnp.zeros((*q.shape[:3], 1), jnp.float32)
  return jax.lax.fori_loop(0, q.shape[0] * q.shape[2], head, (jnp.zeros_like(q), log_sum))


@mapped.defjvp
def _mapped_jvp(primals, tangents):
  q, k, v, mask = primals
  if q.shape[1] * k.shape[1] <= SMALL_HEAD:
    return jax.jvp(lambda q, k, v: dense(q, k, v, mask), (q, k, v), tangents[:3])
  out, log_sum = (checkpoint_name(x, ATTENTION_RESIDUALS) for x in _forward(*primals))
  return out, linear_call(_change, _backward, (*primals, out, log_sum), tangents[:3])


def _change(residuals, tangents):
  q, k, v, mask, out, log_sum = residuals
  dq, dk, dv = tangents

  def head(index, dout):
    q_head, k_head, v_head, dq_head, dk_head, dv_head = (_read_head(x, index) for x in (q, k, v, dq, dk, dv))
    out_head, log_sum_head = _read_head(out, index), _read_head(log_sum, index)
    for run in split_into_runs(mask, q.shape[1], k.shape[1]):
      rows, keys = slice(run.start, run.stop), slice(run.num_keys)
      weights = jnp.exp(_scores(q_head, k_head, mask, run) - log_sum_head[rows])
      dscores = _dot(dq_head[rows], k_head[keys].T) + _dot(q_head[rows], dk_head[keys].T)
      changes = weights * dscores * q.shape[-1] ** -0.5
      rows_change = (
          _dot(changes.astype(v.dtype), v_head[keys]) + _dot(weights.astype(v.dtype), dv_head[keys])
          - changes.sum(axis=1, keepdims=True) * out_head[rows])
      dout = _write_head(dout, rows_change.astype(q.dtype), index, run.start)
    return dout

  return jax.lax.fori_loop(0, q.shape[0] * q.shape[2], head, jnp.zeros_like(q))


def _backward(residuals, dout):
  q, k, v, mask, out, log_sum = residuals
  runs = split_into_runs(mask, q.shape[1], k.shape[1])
  delta = (dout.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1, keepdims=True)
  scale = q.shape[-1] ** -0.5

  def head(index, gradients):
    dq, dk, dv = gradients
    q_head, k_head, v_head, dout_head = (_read_head(x, index) for x in (q, k, v, dout))
    log_sum_head, delta_head = (_read_head(x, index).reshape(-1) for x in (log_sum, delta))
    dk_head = jnp.zeros(k_head.shape, jnp.float32)
    dv_head = jnp.zeros(v_head.shape, jnp.float32)
    for run in runs:
      rows, keys = slice(run.start, run.stop), slice(run.num_keys)
      # Transposed to [s, q], which two of the three products need.
      weights = jnp.exp(_scores(q_head, k_head, mask, run).T - log_sum_head[rows])
      weights = jax.lax.optimization_barrier(weights)
      dweights = _dot(v_head[keys], dout_head[rows].T)
      dscores = (weights * (dweights - delta_head[rows]) * scale).astype(q.dtype)
      dscores = jax.lax.optimization_barrier(dscores)
      dq = _write_head(dq, _dot(dscores.T, k_head[keys]).astype(q.dtype), index, run.start)
      dk_head = dk_head.at[keys].add(_dot(dscores, q_head[rows]))
      dv_head = dv_head.at[keys].add(_dot(weights.astype(q.dtype), dout_head[rows]))
    return dq, _write_head(dk, dk_head.astype(k.dtype), index, 0), _write_head(dv, dv_head.astype(v.dtype), index, 0)

  gradients = jax.lax.fori_loop(
      0, q.shape[0] * q.shape[2], head, (jnp.zeros_like(q), jnp.zeros_like(k), jnp.zeros_like(v)))
  return gradients


def _scores(q: Float[Array, "Q K"], k: Float[Array, "S K"], mask: Mask | None, run: Run) -> Float[Array, "q s"]:
  """Return the scores of a run for one head, −∞ where keys are hidden."""
  scores = _dot(q[run.start : run.stop] * (q.shape[-1] ** -0.5), k[: run.num_keys].T)
  if mask is None or not run.masked:
    return scores
  return jnp.where(to_matrix(mask, jnp.arange(run.start, run.stop), run.num_keys), scores, -jnp.inf)


_dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)


def _read_head(x: Float[Array, "B S H K"], index) -> Float[Array, "S K"]:
  """Return head `index`, counted over the heads of all samples."""
  start = (index // x.shape[2], 0, index % x.shape[2], 0)
  return jax.lax.dynamic_slice(x, start, (1, x.shape[1], 1, x.shape[3])).reshape(x.shape[1], x.shape[3])


def _write_head(x: Float[Array, "B S H K"], rows: Float[Array, "s K"], index, first: int) -> Float[Array, "B S H K"]:
  """Write rows of head `index`, starting at row `first`."""
  start = (index // x.shape[2], first, index % x.shape[2], 0)
  return jax.lax.dynamic_update_slice(x, rows[None, :, None], start)
