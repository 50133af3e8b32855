"""Caches have the bytes that they had before sources were listed in parts (made at aaeb045, on 27 November 2026)."""

import pytest
from data.cache import many_kinds

from nova_jax.data.cache.build import build
from nova_jax.data.cache.items.item import Item
from nova_jax.data.cache.sources import find_source, tars
from nova_jax.data.cache.sources.found import Ranked
from nova_jax.data.cache.sources.units import Unit

# They are of the libraries of constraints.txt; the digests of another version of ArrayRecord may differ.
DIGESTS = {
    "in": "9888de808a3e2b2d", "table.jsonl": "864524f29790fb80", "in/m.tar": "213c0a51c046cd1a",
    "in/rows.parquet": "462a0af1a2cecd1a"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("sources")
  many_kinds.write_source(folder)
  many_kinds.write_table(folder)
  return folder


@pytest.mark.parametrize("name", DIGESTS)
def test_a_cache_has_the_bytes_that_it_always_had(folder, tmp_path, name):
  build(str(folder / name), tmp_path / "out", many_kinds.CFG)
  assert many_kinds.digest(tmp_path / "out") == DIGESTS[name]


def test_a_walk_through_a_source_reads_no_tars_and_tables(folder, monkeypatch):
  monkeypatch.setattr(tars, "read_members", None)
  found = Ranked()
  pieces = list(find_source(str(folder / "in")).walk(many_kinds.CFG, found))
  units = [piece for piece in pieces if isinstance(piece, Unit)]
  assert [unit.name for unit in units] == [
      "a/2.tar", "a-tar.tar", "bad.parquet", "cut.tar", "m.tar", "other.parquet", "rows.parquet", "z/last.tar"]
  assert len(pieces) == len(units) + sum(isinstance(piece, Item) for piece in pieces) > 30
