"""Builds that are interrupted."""

import pytest

from nova_jax.data.cache.build import build


class Ended(Exception):
  pass


def begin(source, output, cfg, count):
  """Build a cache until so many items are decoded; those of the part at hand are lost."""

  def show(done, total, counts):
    if done >= count:
      raise Ended

  with pytest.raises(Ended):
    build(str(source), output, cfg, progress=show)
