"""Latent caches in a bucket: the bytes of a cache on a disk, read in the same order."""

import json
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from absl import flags
from data.cache import many_kinds
from data.cache.begun import begin
from data.cache.footage import CLIPS, STILLS
from data.cache.test_claims import start, wait_for
from data.latent_caches import damage, make_cache, make_loader, make_record
from storage.fake_bucket import NAME

from nova_jax.cli import inspect
from nova_jax.config import CacheConfig, DataConfig
from nova_jax.data.cache import claims
from nova_jax.data.cache.build import build
from nova_jax.data.cache.format import MANIFEST, read_manifest
from nova_jax.utils.errors import UserError

pytestmark = pytest.mark.slow
CFG = CacheConfig(buckets=((5, 32, 48), (1, 32, 32)), shard_items=2, batch_size=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp("source")
  for path in (*list(CLIPS.values())[:2], STILLS["coffee.png"], STILLS["rocket.jpg"]):
    (folder / path.name).write_bytes(path.read_bytes())
    (folder / path.name).with_suffix(".txt").write_text(f"real footage of {path.stem}", encoding="utf-8")
  return folder


def files(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_cache_is_built_and_continued_as_on_a_disk(source, folder, tmp_path, bucket):
  build(str(source), tmp_path / "cache", CFG)
  begin(source, folder, CFG, 3)
  with pytest.raises(UserError, match=f"{folder} has no {MANIFEST}"):
    read_manifest(folder)
  bucket.requests.clear()
  build(str(source), folder, CFG)
  assert not any("000000" in path and path.startswith("POST") for path in bucket.requests)  # Done before.
  assert files(folder) == files(tmp_path / "cache")


def test_hosts_share_a_cache_out(source, folder, tmp_path):
  build(str(source), tmp_path / "cache", CFG)
  with ThreadPoolExecutor(2) as pool:
    manifests = list(pool.map(lambda host: build(str(source), folder, CFG, host=host, num_hosts=2), range(2)))
  assert manifests[0] == manifests[1]
  assert files(folder) == files(tmp_path / "cache")


@pytest.mark.parametrize("workers", [0, 2])
def test_records_come_in_the_same_order(folder, tmp_path, workers):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's workers read flags, which a launcher has parsed.
  records = [make_record(i) for i in range(24)]
  caches = [make_cache(place / "cache", records) for place in (tmp_path, folder)]
  ours, expected = (make_loader([cache], num_workers=workers if cache is caches[1] else 0) for cache in caches[::-1])
  for _ in range(4):
    batch, wanted = next(ours), next(expected)
    jax.tree.map(np.testing.assert_array_equal, batch, wanted)
  ours.close()
  expected.close()


def test_damage_is_skipped_and_what_is_gone_is_no_damage(folder, bucket):
  cache = make_cache(folder, [make_record(i) for i in range(16)])
  path = damage(cache, 1)
  loader = make_loader([cache], data=DataConfig(max_damaged=1))
  for _ in range(2):
    next(loader)
  (skipped,) = loader.damaged
  assert skipped.startswith(f"{path}, record 1: ")
  loader.close()
  path.unlink()
  with pytest.raises(UserError, match=f"{path} does not exist"):
    read_manifest(folder)
  with pytest.raises(OSError, match="is gone"):
    loader = make_loader([cache])
    for _ in range(4):
      next(loader)


def test_a_block_of_neighbours_is_one_request(folder, bucket):
  cache = make_cache(folder, [make_record(i) for i in range(64)], shard_items=32)
  asked = []
  for block in (1, 16):
    loader = make_loader([cache], data=DataConfig(shuffle_block=block), batch_size=16)
    bucket.requests.clear()
    for number in range(32):
      loader._feed.buckets[0].records[number]
    asked.append(sum(path.startswith("GET") and path.endswith(".array_record?alt=media") for path in bucket.requests))
  # What opens the shards is read in 2 requests each; then 32 records are read one by one, or in 2 blocks, each of which
  # may lie in two. How often a shard is asked about first depends on how busy the machine is, so that is not counted.
  assert asked[0] >= 32 and asked[1] <= 16, asked


def test_the_manifest_asks_once_for_all_shards(folder, bucket):
  asked = []
  for name, count in (("few", 8), ("many", 48)):
    make_cache(folder / name, [make_record(i) for i in range(count)])
    bucket.requests.clear()
    read_manifest(folder / name)
    asked.append(len(bucket.requests))
  assert 0 < asked[1] < asked[0] + 10, "40 shards more are no reason to ask 40 times; a late answer may count"


def test_a_cache_is_inspected(folder, capsys):
  make_cache(folder, [make_record(i) for i in range(8)])
  assert inspect.COMMAND.execute(["inspect", f"--dataset={folder}", "--verify"]) == 0
  assert "8" in capsys.readouterr().out
  manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
  (folder / manifest["shards"][0]["file"]).write_bytes(b"cut")
  assert inspect.COMMAND.execute(["inspect", f"--dataset={folder}", "--verify"]) != 0
  assert inspect.COMMAND.execute(["inspect", f"--dataset=gs://{NAME}/none"]) == 2
  assert f"there is no folder gs://{NAME}/none" in capsys.readouterr().err


def test_of_two_processes_that_build_a_cache_in_a_bucket_one_is_killed(tmp_path, folder, bucket, monkeypatch):
  """The other one takes over what it was at, though it waits for signs of life, as of another machine."""
  source = many_kinds.write_source(tmp_path)
  monkeypatch.setattr(claims, "holder_is_dead", lambda content: False)
  monkeypatch.setattr(claims, "LAPSES", 2.0)
  killed = start(source, folder, 9)
  wait_for(killed, 9)
  killed.kill()
  killed.wait()
  (claim,) = (path.name for path in (folder / "parts").named("000001"))
  assert claim == "000001.claim-0"
  bucket.requests.clear()
  build(str(source), folder, many_kinds.CFG)
  assert any("000001.claim-1" in path for path in bucket.requests)
  files = {path.name: path.read_bytes() for path in folder.iterdir()}
  for name, content in files.items():
    (tmp_path / "copy").mkdir(exist_ok=True)
    (tmp_path / "copy" / name).write_bytes(content)
  assert many_kinds.digest(tmp_path / "copy") == "9888de808a3e2b2d"
