"""Building a cache: nothing is lost, and neither hosts, processes nor crashes change a byte."""

import dataclasses
import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from data.cache.begun import begin
from data.cache.footage import CLIPS, STILLS, Bomb, hard_cases, shades, write_video

from nova_jax import autoencoders
from nova_jax.autoencoders import make_autoencoder
from nova_jax.checkpoints.model_folder import load_autoencoder
from nova_jax.config import CacheConfig
from nova_jax.data.cache.build import build
from nova_jax.data.cache.clips.preprocess import Clip, Rejected, prepare
from nova_jax.data.cache.clips.workers import Workers
from nova_jax.data.cache.encoders import open_autoencoder, open_text_encoder
from nova_jax.data.cache.inspect import describe
from nova_jax.data.cache.items.item import Item, Piece
from nova_jax.data.cache.records import ShardReader
from nova_jax.data.cache.sources import open_source
from nova_jax.text import WordEncoder

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "tests/reference/t2v/pipeline"
CFG = CacheConfig(buckets=((5, 32, 48), (5, 48, 32), (1, 32, 32)), shard_items=4, batch_size=3)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """Real footage, hard cases and what must become of them."""
  folder = tmp_path_factory.mktemp("source")
  expected = hard_cases(folder)
  for path in (*CLIPS.values(), STILLS["coffee.png"], STILLS["rocket.jpg"]):
    (folder / path.name).write_bytes(path.read_bytes())
    (folder / path.name).with_suffix(".txt").write_text(f"real footage of {path.stem}", encoding="utf-8")
    expected[path.name] = "5x32x48" if path.suffix == ".mp4" else "1x32x32"
  return folder, expected


@pytest.fixture(scope="module")
def cache(source, tmp_path_factory):
  """The cache of one host in one process, built without interruption."""
  folder = tmp_path_factory.mktemp("cache") / "whole"
  return folder, build(str(source[0]), folder, CFG)


def contents(folder):
  files = (path for path in sorted(folder.rglob("*")) if path.is_file())
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def records(folder, manifest):
  for shard in manifest.shards:
    reader = ShardReader(folder / shard.file)
    yield from ((shard.bucket, reader[i]) for i in range(shard.records))


def test_every_item_ends_where_it_should(source, cache):
  folder, manifest = cache
  became = {record.source: "x".join(map(str, bucket)) for bucket, record in records(folder, manifest)}
  lines = [json.loads(line) for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
  for line in lines:
    assert line["source"] not in became
    became[line["source"]] = line["reason"]
  expected = dict(source[1])
  items = {item.name for item in open_source(str(source[0]), CFG)}
  skipped = {name for name, fate in expected.items() if fate == "too_short"}
  assert items == set(expected) and became.keys() == items - skipped
  for name, reason in became.items():
    assert expected[name] in reason, (name, reason)
  counts = manifest.counts
  assert counts.seen == len(items) and counts.too_short == len(skipped) == 1 and counts.no_bucket == 0
  assert counts.rejected == len(lines) and counts.cached == len(items) - len(lines) - 1


def test_records_are_the_clips_in_order_with_their_captions(source, cache):
  folder, manifest = cache
  found = {record.source: record for _, record in records(folder, manifest)}
  for item in open_source(str(source[0]), CFG):
    if item.name in found:
      clip, record = prepare(item, CFG, 3), found[item.name]
      np.testing.assert_array_equal(
          record.moments, make_autoencoder("rgb").moments(clip.pixels).astype(np.float16), strict=True)
      assert (record.caption, record.fps, record.motion_flow) == (clip.texts.caption, clip.fps, clip.motion_flow)
  assert found["chinese.png"].caption == "一只猫坐在垫子上。" and found["empty.png"].caption == ""
  assert found["lines.png"].caption == "first\n\nsecond\r\nthird" and found["both.png"].short_caption == "short"
  names = [record.source for bucket, record in records(folder, manifest) if bucket == (1, 32, 32)]
  assert names == sorted(names) and len(names) > 5


def test_again_is_the_same_and_changes_nothing(source, cache, tmp_path):
  build(str(source[0]), tmp_path / "again", CFG)
  before = contents(cache[0])
  assert contents(tmp_path / "again") == before
  assert build(str(source[0]), cache[0], CFG) == cache[1]
  assert contents(cache[0]) == before


@pytest.mark.parametrize("num_hosts", [2, 3])
def test_hosts_share_the_work(source, cache, tmp_path, num_hosts):
  with ThreadPoolExecutor(num_hosts) as pool:
    manifests = list(pool.map(
        lambda host: build(str(source[0]), tmp_path / "out", CFG, host=host, num_hosts=num_hosts), range(num_hosts)))
  assert manifests == [cache[1]] * num_hosts
  assert contents(tmp_path / "out") == contents(cache[0])


def test_processes_change_nothing(source, cache, tmp_path):
  told = []
  build(str(source[0]), tmp_path / "out", CFG, num_workers=2, progress=lambda *step: told.append(step))
  assert contents(tmp_path / "out") == contents(cache[0])
  total = cache[1].counts.seen
  assert [done for done, _, _ in told][::len(told) - 1] == [0, total] and {step[1] for step in told} == {total}
  assert told[-1][2] == cache[1].counts


# Builds a cache in a child after another, each killed at another moment, until one comes through.
KILLED = textwrap.dedent("""
    import os, pathlib, random, signal, sys, time
    from nova_jax.config import CacheConfig
    from nova_jax.data.cache import build
    source, output = sys.argv[1], pathlib.Path(sys.argv[2])
    cfg = CacheConfig(buckets=((5, 32, 48), (5, 48, 32), (1, 32, 32)), shard_items=4, batch_size=3)
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    random.seed(0)

    def child(moment):
      count, replace = [0], os.replace
      def watched(*paths):
        count[0] += 1
        if count[0] == moment and moment % 2: die()
        replace(*paths)
        if count[0] == moment: die()
      os.replace = watched
      if not moment:  # At any time, by a signal from a timer.
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.005, 0.08))
        signal.signal(signal.SIGALRM, lambda *_: die())
      build.build(source, output, cfg)
      os._exit(0)

    kills = 0
    for attempt in range(200):
      # Early on a run gets far enough for one more write, or none; later ones get further.
      moment = 0 if attempt % 3 == 2 else 1 + attempt % 3 + attempt // 12
      pid = os.fork()
      if not pid: child(moment)
      status = os.waitpid(pid, 0)[1]
      if status == 0: break
      assert os.WTERMSIG(status) == signal.SIGKILL, status
      kills += 1
    print(kills)
""")


@pytest.mark.slow
def test_killed_at_random_moments_and_continued(source, cache, tmp_path):
  done = subprocess.run(
      [sys.executable, "-c", KILLED, source[0], tmp_path / "out"], cwd=ROOT, capture_output=True, encoding="utf-8")
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) >= 10
  assert contents(tmp_path / "out") == contents(cache[0])


def test_parts_that_a_dying_machine_lost_are_built_again(source, cache, tmp_path):
  output = tmp_path / "out"
  begin(source[0], output, CFG, 21)
  (output / "parts/000000.json").write_bytes(b"")
  next(output.glob("000002-*")).write_bytes(b"")
  next(output.glob("000004-*")).unlink()
  build(str(source[0]), output, CFG)
  assert contents(output) == contents(cache[0])


def test_what_killed_runs_left_is_removed(source, cache, tmp_path):
  begin(source[0], str(tmp_path / "out"), CFG, 6)
  for name in (".000001-5x32x48.77.array_record", ".manifest.77.json", ".rejected.77.jsonl", "parts/.000001.77.json"):
    (tmp_path / "out" / name).write_text("half", encoding="utf-8")
  build(str(source[0]), tmp_path / "out", CFG)
  assert contents(tmp_path / "out") == contents(cache[0])


@pytest.mark.parametrize("change, message", [
    ({"stride": 2}, "settings.stride is 1 there, 2 here"), ({"autoencoder": "pixels"}, "autoencoder.kind is 'rgb'")])
def test_another_cache_is_not_continued(source, cache, tmp_path, change, message):
  other = dataclasses.replace(CFG, **change)
  begin(source[0], tmp_path / "part", CFG, 6)
  for folder in (cache[0], tmp_path / "part"):
    before = contents(folder)
    with pytest.raises(ValueError, match=message):
      build(str(source[0]), folder, other)
    assert contents(folder) == before


def test_folders_that_hold_something_else_are_left_alone(source, tmp_path):
  (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
  with pytest.raises(ValueError, match="neither empty nor a cache"):
    build(str(source[0]), tmp_path, CFG)
  assert list(contents(tmp_path)) == ["mine.txt"]


def test_a_source_that_changed_is_not_continued(tmp_path):
  (tmp_path / "in").mkdir()
  write_video(tmp_path / "in/a.mp4", shades(5))
  (tmp_path / "in/a.txt").write_text("one", encoding="utf-8")
  build(str(tmp_path / "in"), tmp_path / "out", CFG)
  write_video(tmp_path / "in/b.mp4", shades(5))
  with pytest.raises(ValueError, match="num_items is 1 there, 2 here"):
    build(str(tmp_path / "in"), tmp_path / "out", CFG)
  (tmp_path / "in/b.mp4").unlink()
  (tmp_path / "in/a.txt").write_text("another", encoding="utf-8")
  with pytest.raises(ValueError, match="of another source or other settings: source_digest"):
    build(str(tmp_path / "in"), tmp_path / "out", CFG)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
  folder = tmp_path_factory.mktemp("few")
  for i, name in enumerate(("bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4")):
    (folder / f"{i}.mp4").write_bytes(CLIPS[name].read_bytes())
    (folder / f"{i}.json").write_text(
        json.dumps({"caption": "word " * (3 + i), "short_caption": "a b"[:i]}), encoding="utf-8")
  return folder


def test_published_encoders(few, tmp_path):
  cfg = CacheConfig(
      buckets=((5, 32, 32),), autoencoder=str(REFERENCE), text_encoder=str(REFERENCE), text_len=8, batch_size=2)
  manifest = build(str(few), tmp_path / "out", cfg)
  info = manifest.autoencoder
  assert (info.kind, info.latent_dim, info.spatial_stride, info.time_stride) == ("AutoencoderKLOpenSora", 4, 8, 4)
  assert manifest.text_encoder.kind.startswith("Phi") and manifest.text_encoder.max_length == 8
  moved = dataclasses.replace(cfg, autoencoder=str(REFERENCE / "vae"), text_encoder=str(REFERENCE / "text_encoder"))
  assert build(str(few), tmp_path / "out", moved) == manifest  # The same encoders, wherever they lie.
  autoencoder = load_autoencoder(str(REFERENCE / "vae"))
  for item, (_, record) in zip(open_source(str(few), cfg), records(tmp_path / "out", manifest), strict=True):
    pixels = prepare(item, cfg, 3).pixels[None]
    np.testing.assert_allclose(record.moments, autoencoder.moments(pixels)[0], atol=0.02, rtol=2e-3)
    latents = info.latents(record.moments)
    np.testing.assert_allclose(latents, autoencoder.encode(pixels)[0], atol=0.02, rtol=2e-3)
    assert record.text_embeds.dtype == np.float16 and 3 <= len(record.text_embeds) <= 8
    if record.short_caption is None:
      assert item.name == "0.mp4" and record.short_text_embeds is None
    else:
      assert len(record.short_text_embeds) == len(record.short_caption.split())


@pytest.mark.slow
def test_devices_share_a_program_and_change_nothing(few, tmp_path, monkeypatch):
  cfg = CacheConfig(
      buckets=((5, 32, 32),), autoencoder=str(REFERENCE), text_encoder=str(REFERENCE), text_len=8, batch_size=2)
  made, wrap = [], autoencoders.wrap
  monkeypatch.setattr(autoencoders, "wrap", lambda *args, **options: made.append(wrap(*args, **options)) or made[-1])
  for count in (1, 2, 8):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:count])
    build(str(few), tmp_path / str(count), cfg)
  assert len(made) == 3 and [one._encode_tile._cache_size() for one in made] == [1] * 3
  assert contents(tmp_path / "8") == contents(tmp_path / "2") == contents(tmp_path / "1")


@pytest.mark.parametrize("error", [RecursionError("deep"), RuntimeError("panic"), MemoryError()])
def test_a_caption_that_breaks_the_text_encoder_costs_one_item(few, tmp_path, monkeypatch, error):
  whole = WordEncoder.encode

  def encode(self, captions):
    if any(caption.count("word") == 4 for caption in captions):
      raise error
    return whole(self, captions)

  monkeypatch.setattr(WordEncoder, "encode", encode)
  cfg = CacheConfig(buckets=((5, 32, 32),), text_encoder="words", text_dim=4)
  assert build(str(few), tmp_path / "out", cfg).counts.rejected == 1
  assert type(error).__name__ in (tmp_path / "out/rejected.jsonl").read_text(encoding="utf-8")


def test_built_in_encoders_are_those_of_the_caches_that_there_are():
  cfg = CacheConfig(buckets=((5, 32, 32),), text_encoder="words", text_dim=4, text_len=256)
  assert open_autoencoder(cfg)[1].digest.startswith("29a981b9e630")
  assert open_text_encoder(cfg)[1].digest.startswith("982376a38af6")


@pytest.mark.parametrize("num_hosts", [1, 2])
def test_captions_that_are_too_long_are_cut_and_counted(few, tmp_path, num_hosts):
  cfg = CacheConfig(buckets=((5, 32, 32),), text_encoder="words", text_dim=4, text_len=4, shard_items=2)
  for host in range(num_hosts):
    manifest = build(str(few), tmp_path / "out", cfg, host=host, num_hosts=num_hosts)
  assert (manifest.counts.cached, manifest.num_cut) == (3, 1)
  found = [record for _, record in records(tmp_path / "out", manifest)]
  assert [record.text_embeds.shape for record in found] == [(3, 4), (4, 4), (4, 4)]
  assert found[2].caption == "word word word word word"
  np.testing.assert_array_equal(found[2].text_embeds, found[1].text_embeds)
  assert "more than the 4 tokens" in describe(manifest) and "is embedded: 1" in describe(manifest)


def test_published_text_encoders_cut_the_same(few, tmp_path):
  cfg = CacheConfig(buckets=((5, 32, 32),), text_encoder=str(REFERENCE), text_len=4)
  assert build(str(few), tmp_path / "out", cfg).num_cut > 0


@pytest.mark.parametrize("fields, message", [
    ({"autoencoder": str(REFERENCE), "buckets": ((5, 36, 32),)}, "multiples of 8"),
    ({"autoencoder": str(REFERENCE), "buckets": ((6, 32, 32),)}, "no latents of just 6 frames, but of 9"),
    ({"autoencoder": "none"}, "neither a folder nor a built-in vae"), ({"text_encoder": "none"}, "neither a folder")])
def test_settings_that_do_not_fit(few, tmp_path, fields, message):
  with pytest.raises(ValueError, match=message):
    build(str(few), tmp_path / "out", dataclasses.replace(CFG, **fields))
  assert not (tmp_path / "out").exists()


def test_a_decoder_that_crashes_costs_one_item(few):
  good = [Item(path.name, Piece(path), {"caption": "x"}) for path in sorted(few.glob("*.mp4"))]
  bomb = Item("bomb", Bomb(), {"caption": "x"})
  with Workers(2, CFG, 3) as workers:
    outcomes = list(workers.outcomes([good[0], bomb, good[1], good[2]]))
    more = list(workers.outcomes(good[:1]))
  assert [type(outcome) for outcome in outcomes + more] == [Clip, Rejected, Clip, Clip, Clip]
  assert "crashed" in outcomes[1].reason
