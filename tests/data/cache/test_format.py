"""Records and manifests come back as they were written, damage is found, and bytes depend on the content alone."""

import contextlib
import dataclasses
import errno
import json
import os
import resource
import zlib

import numpy as np
import pytest
from safetensors.numpy import save

from nova_jax.autoencoders import make_autoencoder
from nova_jax.config import CacheConfig
from nova_jax.data.cache import format as cache_format
from nova_jax.data.cache.format import AutoencoderInfo, Unused
from nova_jax.data.cache.identity import manifest_digest
from nova_jax.data.cache.records import DamagedRecord, Record, ShardReader, decode_record, encode_record, write_shard

INFO = AutoencoderInfo("rgb", "0" * 64, 3, 1, 1, (0.0,), (2.0,))
SETTINGS = CacheConfig(buckets=((2, 4, 4), (1, 4, 8)), shard_items=4)
CAPTIONS = ("", "one", "two\nlines", "一只猫", 'a "quote"', "six")


def make_record(index):
  rng = np.random.default_rng(index)
  still = index % 3 == 2
  return Record(
      moments=rng.normal(size=(1, 4, 8, 3) if still else (2, 4, 4, 3)).astype(np.float16), caption=CAPTIONS[index],
      source=f"clips/{index}.mp4", short_caption=None if index % 2 else "short",
      text_embeds=rng.normal(size=(index, 5)).astype(np.float16), fps=None if still else 12.0,
      motion_flow=None if still else 0.1 * index)


RECORDS = [((1, 4, 8) if i % 3 == 2 else (2, 4, 4), make_record(i)) for i in range(6)]


def assert_same(record, expected):
  for field in dataclasses.fields(Record):
    value, other = getattr(record, field.name), getattr(expected, field.name)
    np.testing.assert_array_equal(value, other, err_msg=field.name, strict=isinstance(other, np.ndarray))


def test_a_cache_comes_back(tmp_path):
  written = cache_format.write_cache(tmp_path, RECORDS, INFO, settings=SETTINGS)
  manifest = cache_format.read_manifest(tmp_path)
  assert manifest == written and manifest.counts.cached == 6
  assert [(shard.bucket, shard.records) for shard in manifest.shards] == [
      ((1, 4, 8), 1), ((2, 4, 4), 3), ((1, 4, 8), 1), ((2, 4, 4), 1)]
  assert [(info.bucket, info.moments, info.records) for info in manifest.buckets] == [
      ((1, 4, 8), (1, 4, 8, 3), 2), ((2, 4, 4), (2, 4, 4, 3), 4)]
  found = [ShardReader(tmp_path / shard.file)[i] for shard in manifest.shards for i in range(shard.records)]
  for record, number in zip(found, (2, 0, 1, 3, 5, 4), strict=True):
    assert_same(record, RECORDS[number][1])


def test_the_same_records_give_the_same_bytes(tmp_path):
  for name in "ab":
    cache_format.write_cache(tmp_path / name, RECORDS, INFO, settings=SETTINGS)
  files = sorted(path.name for path in (tmp_path / "a").iterdir())
  assert len(files) == 6
  for file in files:
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_what_was_not_used_is_kept_and_other_manifests_stay_as_they_were(tmp_path):
  written = cache_format.write_cache(tmp_path, RECORDS, INFO, settings=SETTINGS)
  assert "unused" not in json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
  unused = (Unused("compressed tars", 3, ("a.tar.gz", "b.tgz")), Unused("links", 1, ("c",)))
  written = dataclasses.replace(written, unused=unused)
  cache_format.write_manifest(tmp_path, written)
  assert cache_format.read_manifest(tmp_path) == written
  assert [str(row) for row in unused] == ["compressed tars: 3 (a.tar.gz, b.tgz, …)", "links: 1 (c)"]


def test_a_cache_is_known_by_what_it_holds(tmp_path):
  for name, records in (("a", RECORDS), ("b", RECORDS), ("c", RECORDS[::-1]), ("d", RECORDS[1:])):
    settings = dataclasses.replace(SETTINGS, autoencoder=name)
    cache_format.write_cache(tmp_path / name, records, INFO, settings=settings)
  digests = [manifest_digest(tmp_path / name) for name in "abcd"]
  assert digests[0] == digests[1] and len({*digests}) == 3
  cache_format.write_cache(tmp_path / "e", RECORDS, dataclasses.replace(INFO, digest="other"), settings=SETTINGS)
  assert manifest_digest(tmp_path / "e") not in digests


def test_any_flipped_byte_of_a_record_is_found():
  stored = encode_record(RECORDS[3][1])
  for position in range(len(stored)):
    damaged = bytearray(stored)
    damaged[position] ^= 1
    with pytest.raises(DamagedRecord):
      decode_record(bytes(damaged))
  for length in (0, 3, 11, len(stored) - 1):
    with pytest.raises(DamagedRecord):
      decode_record(stored[:length])


def stored(metadata, **arrays):
  content = save({"moments": np.zeros((1, 2, 2, 2), np.float16)} | arrays, metadata)
  return zlib.crc32(content).to_bytes(4, "little") + content


@pytest.mark.parametrize("content", [
    stored(None), stored({"record": "[" * 100_000}), stored({"record": "{}"}), stored({"record": '{"caption": 1}'}),
    stored({"record": '{"caption": "x", "other": 1}'}), stored({"record": '{"caption": "x", "fps": "fast"}'}),
    stored({"record": '{"caption": "x", "fps": NaN}'}), stored({"record": '{"caption": "x"}'}, more=np.zeros(1)),
    stored({"record": '{"caption": "x"}'}, moments=np.zeros((1, 2, 2, 2), np.float64)),
    stored({"record": '{"caption": "x"}'}, moments=np.full((1, 2, 2, 2), np.nan, np.float16)),
    stored({"record": '{"caption": "x"}'}, text_embeds=np.zeros(3, np.float16)),
    b"\xb0\x9d\x4f\x2a" + bytes(20), *(zlib.crc32(text).to_bytes(4, "little") + text for text in (
        b"\xff" * 8, bytes(8), (2**62).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}"))])
def test_records_of_other_programs_are_damaged_ones(content):
  with pytest.raises(DamagedRecord):
    decode_record(content)


def test_a_flipped_byte_in_a_file_costs_one_record(tmp_path):
  manifest = cache_format.write_cache(tmp_path, RECORDS, INFO, settings=SETTINGS)
  path = tmp_path / manifest.shards[1].file
  content = bytearray(path.read_bytes())
  content[content.index(b"clips/1.mp4")] ^= 1
  path.write_bytes(content)
  reader = ShardReader(path)
  assert_same(reader[0], RECORDS[0][1])
  assert_same(reader[2], RECORDS[3][1])
  with pytest.raises(DamagedRecord):
    reader[1]


def limited(kind, most):
  """Limit what this process may have of something, for a while."""
  @contextlib.contextmanager
  def limit():
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, before[1]))
    try:
      yield
    finally:
      resource.setrlimit(kind, before)
  return limit()


def test_a_full_disk_names_the_shard_and_leaves_nothing(tmp_path):
  content = np.random.default_rng(0).bytes(1000)
  with limited(resource.RLIMIT_FSIZE, 10_000), pytest.raises(OSError, match="File too large") as caught:
    write_shard(tmp_path / "a.array_record", [content] * 20)
  assert caught.value.filename == str(tmp_path / "a.array_record") and not list(tmp_path.iterdir())
  write_shard(tmp_path / "a.array_record", [content] * 20)


def test_too_many_open_files_are_no_damage(tmp_path):
  manifest = cache_format.write_cache(tmp_path, RECORDS, INFO, settings=SETTINGS)
  with contextlib.ExitStack() as stack:
    used = [stack.enter_context(open(os.devnull, "rb")).fileno() for _ in range(300)]
    with limited(resource.RLIMIT_NOFILE, used[0]), pytest.raises(OSError, match="ulimit -n") as caught:
      ShardReader(tmp_path / manifest.shards[0].file)
  assert caught.value.errno == errno.EMFILE


@pytest.mark.parametrize("change, message", [
    (lambda values: values.update(version=2), "version"),
    (lambda values: values["counts"].update(seen=9), "9 were seen, but 6"),
    (lambda values: values["shards"][0].update(records=9), "has 2 records, its shards 10"),
    (lambda values: values["shards"][0].update(bytes=9), "says 9 bytes"),
    (lambda values: values["shards"][0].update(file="../a.array_record"), "expected a shard in this folder"),
    (lambda values: values["shards"][0].update(records=-1), "manifest.json: expected a shard"),
    (lambda values: values["shards"][0].update(bucket=[9, 9, 9]), "manifest.json: expected a shard"),
    (lambda values: values["buckets"].append({"bucket": [1, 1, 1], "moments": [1, 1, 1, 6], "records": 0}), "a bucket"),
    (lambda values: values["buckets"][0].update(moments=[1, 4, 8, 5]), "moments of the autoencoder"),
    (lambda values: values["shards"][0].update(file="none"), "does not exist"),
    (lambda values: values["autoencoder"].update(kinds="x"), "did you mean 'kind'")])
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, change, message):
  cache_format.write_cache(tmp_path, RECORDS, INFO, settings=SETTINGS)
  values = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
  change(values)
  (tmp_path / "manifest.json").write_text(json.dumps(values), encoding="utf-8")
  with pytest.raises(ValueError, match=message) as caught:
    cache_format.read_manifest(tmp_path)
  assert str(tmp_path) in str(caught.value)


def test_many_shards_are_seen_by_one_listing(tmp_path, monkeypatch):
  written = cache_format.write_cache(tmp_path, RECORDS, INFO, settings=SETTINGS)
  monkeypatch.setattr(cache_format, "_FEW", 3)
  monkeypatch.setattr(
      cache_format.Path, "stat", lambda path, **_: None if path.suffix == ".array_record" else os.stat(path))
  assert cache_format.read_manifest(tmp_path) == written
  (tmp_path / written.shards[1].file).unlink()
  with pytest.raises(ValueError, match=f"{written.shards[1].file} does not exist"):
    cache_format.read_manifest(tmp_path)


def test_no_cache(tmp_path):
  with pytest.raises(ValueError, match="there is no folder"):
    cache_format.read_manifest(tmp_path / "none")
  with pytest.raises(ValueError, match="run python -m launch.cache to its end"):
    cache_format.read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["pixels", "rgb"])
def test_latents_are_those_of_the_autoencoder(name):
  autoencoder = make_autoencoder(name)
  pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, autoencoder.latent_dim), np.uint8)
  scaling = (float(autoencoder.shift),), (float(autoencoder.factor),)
  info = AutoencoderInfo(name, "", autoencoder.latent_dim, 1, 1, *scaling)
  np.testing.assert_allclose(info.latents(autoencoder.moments(pixels)), autoencoder.encode(pixels), atol=1e-6)


def test_samples_have_the_deviation_of_the_moments():
  moments = np.stack([np.full(4, 3.0), np.full(4, np.log(4.0))], -1).astype(np.float16)
  info = AutoencoderInfo("kl", "", 1, 8, 1, (1.0,), (0.5,))
  np.testing.assert_allclose(info.latents(moments, np.ones((4, 1), np.float32)), np.full((4, 1), (3 + 2 - 1) / 2), 1e-3)
