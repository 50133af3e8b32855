"""Inspection finds every flipped byte, says where, and shows what is in a cache."""

import dataclasses
import shutil

import numpy as np
import pytest
from commands import run
from PIL import Image

from nova_jax.autoencoders import make_autoencoder
from nova_jax.config import CacheConfig
from nova_jax.data.cache import inspect
from nova_jax.data.cache.encoders import open_autoencoder
from nova_jax.data.cache.format import read_manifest, write_cache
from nova_jax.data.cache.records import Record

SETTINGS = CacheConfig(buckets=((3, 24, 32), (1, 16, 16)), shard_items=5)
CAPTIONS = ("red", "绿色", "blue\nand more", "", "x" * 300)


def make_record(index):
  still = index % 4 == 3
  pixels = np.full((1, 16, 16, 3) if still else (3, 24, 32, 3), 20 * index, np.uint8)
  pixels[..., 0] = 255 - 20 * index
  return (1, 16, 16) if still else (3, 24, 32), Record(
      make_autoencoder("rgb").moments(pixels).astype(np.float16), CAPTIONS[index % 5], f"{index}.mp4",
      fps=None if still else 12.0, motion_flow=None if still else float(index))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache")
  write_cache(folder, [make_record(i) for i in range(12)], open_autoencoder(SETTINGS)[1], settings=SETTINGS)
  return folder


@pytest.fixture
def copy(cache, tmp_path):
  return shutil.copytree(cache, tmp_path / "copy")


def verify(folder):
  return inspect.survey(folder, read_manifest(folder, check_shards=False), None).damage


def flip(path, place):
  content = bytearray(path.read_bytes())
  content[place] ^= 1
  path.write_bytes(content)


def test_a_sound_cache(cache):
  manifest, told = read_manifest(cache), []
  found = inspect.survey(cache, manifest, None, lambda *step: told.append(step))
  assert found.damage == [] and told[-1] == (12, 12)
  assert sorted(found.motion) == [0, 1, 2, 4, 5, 6, 8, 9, 10] and found.fps == [12.0] * 9
  assert sorted(found.captions) == sorted(len(CAPTIONS[i % 5]) for i in range(12))


def test_damage_is_named_by_shard_and_index(copy):
  shard = read_manifest(copy).shards[1]
  content = (copy / shard.file).read_bytes()
  flip(copy / shard.file, content.index(b"2.mp4"))
  (damage,) = verify(copy)
  assert (damage.shard, damage.index) == (shard.file, 2)
  assert str(damage).startswith(f"{shard.file}, record 2: ")


def test_any_flipped_byte_is_found(copy):
  rng = np.random.default_rng(0)
  for shard in read_manifest(copy).shards:
    whole = (copy / shard.file).read_bytes()
    for place in [0, len(whole) - 1, *rng.integers(0, len(whole), 12).tolist()]:
      flip(copy / shard.file, place)
      assert {damage.shard for damage in verify(copy)} == {shard.file}, place
      (copy / shard.file).write_bytes(whole)
  assert verify(copy) == []


@pytest.mark.parametrize("change, reason", [
    (lambda path: path.unlink(), "does not exist"), (lambda path: path.write_bytes(b""), "has 0 bytes"),
    (lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes; manifest.json says"),
    (lambda path: shutil.copy(path.with_name("000002-3x24x32.array_record"), path), "")])
def test_shards_that_are_not_what_was_written(copy, change, reason):
  shard = read_manifest(copy).shards[1]
  change(copy / shard.file)
  found = verify(copy)
  assert {damage.shard for damage in found} == {shard.file} and reason in found[0].reason


def test_a_part_is_spread_evenly(cache):
  manifest = read_manifest(cache)
  for most in (1, 5, 11, 12, 99):
    assert sum(len(indices) for _, indices in inspect.spread(manifest, most)) == min(most, 12)
  assert len([shard for shard, indices in inspect.spread(manifest, 6) if indices]) >= 3


def test_the_sheet_shows_the_clips(cache, tmp_path):
  manifest = read_manifest(cache)
  titles = inspect.write_sheet(tmp_path / "a.png", cache, manifest, 12)
  assert len(titles) == 12 and "绿色" in titles[2] + titles[1] and all("\n" not in title for title in titles)
  image = np.asarray(Image.open(tmp_path / "a.png"))
  assert image.shape[1] < 800
  for i in range(12):  # Each colour is there, give or take what half precision and truncation lose.
    distance = np.abs(image.astype(int) - [255 - 20 * i, 20 * i, 20 * i]).max(-1)
    assert (distance <= 2).sum() > 1000, i


def test_another_autoencoder_is_refused(cache, tmp_path):
  with pytest.raises(ValueError, match="pixels is pixels .* was made with rgb"):
    inspect.write_sheet(tmp_path / "a.png", cache, read_manifest(cache), 2, "pixels")


def test_words(cache):
  text = inspect.describe(read_manifest(cache))
  assert "12 items seen: 12 cached" in text and "3 x 24 x 32" in text and "9 records" in text
  settings = dataclasses.replace(read_manifest(cache).settings, stride=3, fps=24.0)
  text = inspect.describe(dataclasses.replace(read_manifest(cache), settings=settings))
  assert "\none frame in 3 of 24 a second, " in text
  bars = inspect.histogram("motion", [0.0, 1.0, 1.0, 8.0]).splitlines()
  assert len(bars) == 9 and bars[0] == "motion: mean 2.5, from 0 to 8" and bars[2].endswith("# 2")
  assert inspect.histogram("motion", []) == "" and len(inspect.histogram("fps", [3.0, 3.0]).splitlines()) == 2


def test_command_line(copy, tmp_path):
  flip(copy / read_manifest(copy).shards[0].file, 200)
  done = run("inspect", "--dataset", copy, "--verify", "--sheet", str(tmp_path / "a.png"), "--clips", "3")
  assert done.returncode == 2 and (tmp_path / "a.png").is_file()
  assert done.stderr.count("\n") == 1 and "damaged" in done.stderr, done.stderr
  assert f"damaged: {read_manifest(copy).shards[0].file}, record 0: " in done.stdout
