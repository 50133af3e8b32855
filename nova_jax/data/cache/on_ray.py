"""A latent cache built on a cluster of Ray: the same parts, claimed by as many processes as the cluster has room for.

Each task of Ray builds parts as `launch.cache` does on a host. Ray starts one again whose node is lost; what it was at
is claimed by another one meanwhile. Invariant: the cache has the bytes that one host would have written.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nova_jax.config import CacheConfig
from nova_jax.data.cache.build import build
from nova_jax.data.cache.format import Manifest, read_manifest
from nova_jax.data.cache.sources import find_source
from nova_jax.utils.errors import UserError


def build_on_ray(
    source: str, output: str | Path, cfg: CacheConfig, *, num_tasks: int, num_workers: int = 1,
    resources: Mapping[str, float] | None = None, retry_rejected: bool = False,
) -> Manifest:
  """Build a cache, or what is missing of it, by tasks of Ray; returns when it is finished.

  `ray.init` comes before, with the address of the cluster; without it, Ray starts one of this machine alone.

  Args:
    source: as of `build`; all nodes see it under this name.
    output: folder of the cache, which all nodes see under this name.
    cfg: settings of the cache.
    num_tasks: number of tasks that build parts, 1 or more.
    num_workers: number of processes that decode for each task, and cores that it takes.
    resources: what a task takes beside cores, such as {"TPU": 4} or {"GPU": 1}; nothing encodes on CPUs.
    retry_rejected: whether to try again what earlier runs rejected.

  Raises:
    UserError: Ray is not installed, there are no tasks, or as of `build`.
    RunFailed, OSError: as of `build`.
  """
  if num_tasks < 1:
    raise UserError(f"num_tasks: expected 1 or more, got {num_tasks}")
  try:
    import ray.exceptions
  except ImportError:
    raise UserError("building on a cluster needs the package ray: pip install ray") from None
  find_source(source)
  other = dict(resources or {})
  task: Any = ray.remote(
      num_cpus=max(num_workers, 1), num_gpus=other.pop("GPU", 0), resources=other, max_retries=-1)(_build)
  given = (source, str(output), cfg, num_tasks, num_workers, retry_rejected)
  waiting = [task.remote(host, *given) for host in range(num_tasks)]
  try:
    while waiting:
      done, waiting = ray.wait(waiting)
      ray.get(done)
  except ray.exceptions.RayTaskError as error:
    raise error.cause from error
  finally:
    for left in waiting:
      ray.cancel(left, force=True)
  return read_manifest(output)


def _build(
    host: int, source: str, output: str, cfg: CacheConfig, num_tasks: int, num_workers: int, retry_rejected: bool
) -> None:
  """Build parts in a process of Ray."""
  build(source, output, cfg, host=host, num_hosts=num_tasks, num_workers=num_workers, retry_rejected=retry_rejected)
