"""The parts of a cache are built under Ray, which starts a cluster on this machine."""

import dataclasses

import pytest
from data.cache import many_kinds

from nova_jax.data.cache.on_ray import build_on_ray
from nova_jax.utils.errors import UserError

ray = pytest.importorskip("ray", reason="needs the extra dev")
pytestmark = pytest.mark.slow


def start():
  """Start a cluster; on a busy machine the first attempt may take longer than the 30 seconds that Ray allows."""
  for attempt in range(3):
    try:
      return ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    except Exception:  # Ray raises no class of its own.
      ray.shutdown()
      if attempt == 2:
        raise


@pytest.fixture(scope="module")
def cluster():
  from data.cache.test_claims import ROOT

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("RAY_AUTH_MODE", "disabled")  # Else a token is written into the home folder.
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_raylet_start_wait_time_s", "300")  # Of a busy machine.
    patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")  # Of its processes.
    start()
    yield
    ray.shutdown()


def test_a_cache_is_built_by_tasks_of_ray(cluster, tmp_path):
  source = many_kinds.write_source(tmp_path)
  manifest = build_on_ray(str(source), tmp_path / "out", many_kinds.CFG, num_tasks=2, num_workers=0)
  assert manifest.counts.cached == 71 and many_kinds.digest(tmp_path / "out") == "9888de808a3e2b2d"
  other = dataclasses.replace(many_kinds.CFG, stride=2)
  with pytest.raises(UserError, match="settings.stride is 1 there, 2 here"):
    build_on_ray(str(source), tmp_path / "out", other, num_tasks=1, num_workers=0)
