"""Streams of latent caches: the same for any hosts and workers, in the shares asked for, whole despite damage."""

import collections
import dataclasses
import os
import pickle

import jax
import numpy as np
import pytest
from absl import flags
from data.latent_caches import AUTOENCODER, MODEL, damage, make_cache, make_loader, make_record, numbers
from helpers import fields

from nova_jax.config import DataConfig, Experiment, SourceConfig, StageConfig, TrainConfig
from nova_jax.data import shards
from nova_jax.data.caption_lengths import long_captions
from nova_jax.data.shards import read_caches
from nova_jax.data.sources import CacheData, needs_text_encoder
from nova_jax.text import WordEncoder

BOTH = DataConfig(buckets=((4, 4), (8, 4)))


@pytest.fixture(scope="module")
def mix(tmp_path_factory):
  """Clips of two sizes in one cache, stills in another, with as much noise as signal."""
  folder = tmp_path_factory.mktemp("caches")
  clips = [make_record(i, size=(8, 4) if i % 3 == 0 else (4, 4), logvar=0.0) for i in range(15)]
  stills = [make_record(i, frames=1, logvar=0.0) for i in range(20, 30)]
  return make_cache(folder / "clips", clips, 3.0), make_cache(folder / "stills", stills, 1.0)


def take(loader, count):
  try:
    return [next(loader) for _ in range(count)]
  finally:
    loader.close()


def assert_equal(batches, others):
  for batch, other in zip(batches, others, strict=True):
    batch, other = fields(batch), fields(other)
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def joined(parts, rows):
  """Put the rows of several hosts together."""
  order = np.argsort(np.concatenate(rows))
  return [
      jax.tree.map(lambda *values: np.concatenate(values)[order], *batch)
      for batch in zip(*parts, strict=True)]


def test_a_batch_is_what_the_spec_says(mix):
  batch = take(make_loader(mix, data=BOTH), 1)[0]
  frames, height, width = batch.latents.shape[1:4]
  assert {name: (value.shape, value.dtype.name) for name, value in fields(batch).items()} == {
      "latents": ((8, frames, height, width, 2), "float32"), "index": ((8,), "int32"),
      "text_embeds": ((8, 6, 8), "float16"), "text_lengths": ((8,), "int32"),
      "motion_flow": ((8,), "float32"), "fps": ((8,), "float32")}


def test_rows_are_records(tmp_path):
  records = [make_record(i) for i in range(10)]
  batches = take(make_loader([make_cache(tmp_path, records)], data=DataConfig(short_captions=0.5)), 50)
  lengths = {False: 0, True: 0}
  for batch in batches:
    for row, number in enumerate(numbers(batch)):
      expected = (records[number].moments[..., :2].astype(np.float32) - 0.5) * 2
      np.testing.assert_allclose(batch.latents[row], expected, atol=1e-4)
      length, embeds = batch.condition.text_lengths[row], batch.condition.text_embeds[row]
      short = length == 1 and embeds[0, 0] <= 0
      np.testing.assert_array_equal(embeds[:length], -np.full((1, 8), number) if short else records[number].text_embeds)
      assert not embeds[length:].any() and (batch.condition.fps[row], batch.condition.motion_flow[row]) == (24, 3)
      lengths[bool(short)] += number % 4 > 1  # Of two or three words, or of one in short.
  assert 0.4 < lengths[True] / sum(lengths.values()) < 0.6


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_motion_is_shown_or_left_out(tmp_path, share):
  loader = make_loader([make_cache(tmp_path, [make_record(0)])], data=DataConfig(motion_dropout=share))
  seen = [
      pair for batch in take(loader, 25)
      for pair in zip(batch.condition.motion_flow.tolist(), batch.condition.fps.tolist(), strict=True)]
  counts = collections.Counter(seen)
  assert counts.keys() <= {(3.0, 24.0), (5.0, 12.0)}  # The record's, and the defaults.
  assert abs(counts[(5.0, 12.0)] / 200 - share) < 0.1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_captions_are_long_or_short(tmp_path, share):
  cache = make_cache(tmp_path, [make_record(i, embeds=False) for i in range(10)], text_encoder=None)
  batch = take(make_loader(
      [cache], data=DataConfig(short_captions=share), text_encoder=WordEncoder(dim=8, max_length=6)), 1)[0]
  word = "short" if share else "record"
  embeds, lengths = WordEncoder(dim=8, max_length=6).encode([f"{word} {number}" for number in numbers(batch)])
  np.testing.assert_array_equal(batch.condition.text_embeds, embeds)
  np.testing.assert_array_equal(batch.condition.text_lengths, lengths)


def test_the_stream_is_the_same_for_any_hosts_and_after_any_resume(mix):
  whole = take(make_loader(mix, data=BOTH), 12)
  for hosts in ([range(8)], [range(4), range(4, 8)], [[0, 1], [2, 3, 6], [4], [5, 7]]):
    for start in (0, 1, 7, 11):
      parts = []
      for rows in hosts:
        loader = make_loader(mix, data=BOTH, rows=rows)
        loader.set_state(8 * start)
        parts.append(take(loader, 12 - start))
        assert loader.get_state() == 8 * 12
      assert_equal(whole[start:], joined(parts, hosts))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_change_nothing(mix, num_workers):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's workers read flags, which a launcher has parsed.
  whole = take(make_loader(mix, data=BOTH), 6)
  loader = make_loader(mix, data=BOTH, num_workers=num_workers)
  loader.set_state(16)
  assert_equal(whole[2:], take(loader, 4))


def test_latents_are_sampled_anew_at_every_visit(tmp_path):
  cache = make_cache(tmp_path, [make_record(0, frames=1, size=(8, 8), logvar=np.log(0.25))])
  sampled = np.concatenate([b.latents for b in take(make_loader([cache], num_frames=1, data=DataConfig(
      buckets=((8, 8),))), 20)])
  z = sampled / 2 + 0.5
  assert len({row.tobytes() for row in z}) == len(z) == 160
  assert abs(z.mean()) < 0.02 and abs(z.std() - 0.5) < 0.02
  assert abs(np.corrcoef(z.reshape(160, -1)) - np.eye(160)).max() < 0.5


def test_mixing_weights_hold_and_batches_have_one_shape(mix):
  shapes = collections.Counter(batch.latents.shape[1:4] for batch in take(make_loader(mix, data=BOTH), 96))
  shares = {shape: count / 96 for shape, count in shapes.items()}
  assert shares == pytest.approx({(3, 4, 4): 0.5, (3, 8, 4): 0.25, (1, 4, 4): 0.25}, abs=0.02)


def test_sources_of_one_shape_share_batches_by_weight_and_epochs_are_whole(tmp_path):
  caches = [make_cache(tmp_path / "a", [make_record(i) for i in range(8)], 3.0),
            make_cache(tmp_path / "b", [make_record(i) for i in range(8, 32)], 1.0)]
  seen = [number for batch in take(make_loader(caches), 64) for number in numbers(batch)]
  counts = collections.Counter(seen)
  assert sum(counts[i] for i in range(8)) / len(seen) == pytest.approx(0.75, abs=0.01)
  assert {counts[i] for i in range(8)} == {48}  # 48 epochs of one, 5.3 of the other.
  assert {counts[i] for i in range(8, 32)} == {5, 6}
  small = [number for number in seen if number < 8]
  epochs = [small[i : i + 8] for i in range(0, len(small), 8)]
  assert all(sorted(epoch) == list(range(8)) for epoch in epochs) and len(set(map(tuple, epochs))) > 40


def test_many_records_are_shuffled_as_few_are(tmp_path, monkeypatch):
  cache = make_cache(tmp_path, [make_record(i) for i in range(16)])
  orders = []
  for few in (16, 17):  # Grain's shuffle, and ours.
    monkeypatch.setattr(shards, "FEW", few)
    seen = [number for batch in take(make_loader([cache]), 6) for number in numbers(batch)]
    epochs = [seen[:16], seen[16:32], seen[32:]]
    assert all(sorted(epoch) == list(range(16)) != epoch for epoch in epochs) and len(set(map(tuple, epochs))) == 3
    loader = make_loader([cache])
    loader.set_state(32)
    assert [number for batch in take(loader, 2) for number in numbers(batch)] == epochs[2]
    orders.append(epochs)
  assert orders[0] != orders[1]


def test_single_frames_of_clips(tmp_path):
  """The first one where later latents stand for several frames, any one elsewhere."""
  every = dataclasses.replace(AUTOENCODER, time_stride=1)
  for name, info, expected in (("a", AUTOENCODER, {0}), ("b", every, {0, 1, 2})):
    cache = make_cache(tmp_path / name, [make_record(0)], autoencoder=info)
    batches = take(make_loader([cache], num_frames=1), 8)
    frames = {round(8 * (float(row.mean()) / 2 + 0.5)) for batch in batches for row in batch.latents}
    assert frames == expected


def test_a_damaged_record_is_skipped_and_counted(tmp_path, capsys):
  cache = make_cache(tmp_path, [make_record(i) for i in range(8)])
  before = [numbers(batch) for batch in take(make_loader([cache]), 6)]
  path = damage(cache, 2)
  loader = make_loader([cache], data=DataConfig(max_damaged=1))
  after = [numbers(batch) for batch in take(loader, 6)]
  assert after == [[3 if number == 2 else number for number in row] for row in before]
  assert len(loader.damaged) == 1 and f"{path}, record 2" in loader.damaged[0]
  out = capsys.readouterr().out
  assert out.count("\n") == 1 and f"skipping damaged record 1 of at most 1: {path}, record 2" in out


@pytest.mark.parametrize("limit, count", [(0, 1), (1, 2)])
def test_more_damage_than_may_be_is_an_error(tmp_path, limit, count):
  cache = make_cache(tmp_path, [make_record(i) for i in range(8)])
  path = damage(cache, 1, count)
  with pytest.raises(ValueError, match=rf"{path}, record [12]: .*max_damaged={limit}|{path}, record .* in a row"):
    take(make_loader([cache], data=DataConfig(max_damaged=limit)), 6)


def test_what_was_skipped_before_counts_after_a_resume(tmp_path):
  cache = make_cache(tmp_path, [make_record(i) for i in range(8)])
  damage(cache, 1)
  loader = make_loader([cache], data=DataConfig(max_damaged=1))
  take(loader, 2)
  again = make_loader([cache], data=DataConfig(max_damaged=1))
  again.set_state(loader.get_state(), loader.damaged)
  take(again, 2)
  assert again.damaged == loader.damaged
  again.set_state(0, ["another"])
  with pytest.raises(ValueError, match="damaged record 2"):
    take(again, 2)


def test_a_stream_of_several_buckets_keeps_its_batches(mix):
  with pytest.raises(ValueError, match="within a batch of 8"):
    make_loader(mix, data=BOTH).set_state(12)


@pytest.mark.parametrize("model, info, data, num_frames, message", [
    (dict(), dict(factor=(1.0,)), DataConfig(), 3, r"than the model's \(made-up\): factor is \(2.0,\) there, "),
    (dict(), dict(kind="other"), DataConfig(), 3, "another autoencoder .made-up. than the model's .other."),
    (dict(latent_size=(4, 8)), dict(), DataConfig(), 3, r"latents of 4 x 4 .*model.latent_size=4 x 8"),
    (dict(), dict(), DataConfig(buckets=((8, 8),)), 3, "no records of the sizes in data.buckets: 8 x 8"),
    (dict(patch_size=4, latent_size=(8, 8)), dict(), DataConfig(buckets=((4, 4),)), 3, "patches of 8"),
    (dict(text_dim=9), dict(), DataConfig(), 3, "of 8 values .*model.text_dim=9"),
    (dict(text_dim=None, num_classes=3), dict(), DataConfig(), 3, "labels.* of 0.mp4 is 'record 0'; expected a n"),
    (dict(), dict(), DataConfig(), 4, "clips of 3 latent frames .* takes 4")])
def test_a_cache_that_does_not_fit_is_refused(tmp_path, model, info, data, num_frames, message):
  cache = make_cache(tmp_path, [make_record(i) for i in range(4)])
  with pytest.raises(ValueError, match=message):
    make_loader(
        [cache], model=dataclasses.replace(MODEL, **model), data=data, num_frames=num_frames,
        autoencoder=dataclasses.replace(AUTOENCODER, **info))


def classes_cache(folder, labels, **options):
  records = [dataclasses.replace(make_record(i, embeds=False), caption=label) for i, label in enumerate(labels)]
  return make_cache(folder, records, text_encoder=None, **options)


def test_captions_are_the_numbers_of_classes(tmp_path):
  model = dataclasses.replace(MODEL, text_dim=None, num_classes=12)
  cache = classes_cache(tmp_path, [f" {number}\n" for number in range(4, 12)])
  batch = next(make_loader([cache], model=model))
  assert batch.condition.labels.tolist() == [4 + number for number in numbers(batch)]
  assert batch.condition.labels.dtype == np.int32 and batch.condition.text_embeds is None
  with pytest.raises(ValueError, match="of 7.mp4 is '11'; expected a number from 0 to 10"):
    take(make_loader([cache], model=dataclasses.replace(model, num_classes=11)), 8)
  for label in ("-1", "1.0", "²", "", "12"):
    with pytest.raises(ValueError, match="expected a number from 0 to 11"):
      make_loader([classes_cache(tmp_path / repr(label), [label])], model=model)


def test_a_model_of_classes_trains_on_a_cache(tmp_path):
  experiment = Experiment(
      model=dataclasses.replace(MODEL, text_dim=None, num_classes=12),
      data=DataConfig(name="caches", sources=(SourceConfig(str(tmp_path)),)), train=TrainConfig(stages=(StageConfig(
          num_frames=3),)))
  classes_cache(tmp_path, ["3", "11"])
  assert not needs_text_encoder(experiment)
  examples = CacheData(experiment, AUTOENCODER, None).examples(experiment.train.stages[0], 8)
  assert examples.condition["label"] == [3, 11] and "text_embeds" not in examples.condition


def test_bad_sources(tmp_path):
  make_cache(tmp_path, [make_record(0)])
  with pytest.raises(ValueError, match="name a cache"):
    read_caches(())
  with pytest.raises(ValueError, match=r"data.sources\[0\].weight: expected more than 0"):
    read_caches((SourceConfig(str(tmp_path), 0.0),))
  with pytest.raises(ValueError, match="there is no folder"):
    read_caches((SourceConfig(str(tmp_path / "none")),))
  cache = make_cache(tmp_path / "bare", [make_record(0, embeds=False)], text_encoder=None)
  with pytest.raises(ValueError, match="bare has no text embeddings"):
    make_loader([cache])
  with pytest.raises(ValueError, match="empty has no records: of 0 items, 0 were rejected .*other buckets"):
    make_loader([make_cache(tmp_path / "empty", [])])


def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
  cache = make_cache(tmp_path, [make_record(i) for i in range(40)])
  monkeypatch.setattr(shards, "_MOST_OPEN", 3)
  records = shards.Shards.of(cache, cache.manifest.shards[0].bucket)
  before = len(os.listdir("/proc/self/fd"))
  for number in (*range(40), 0, 39, 0):
    assert records[number].caption == f"record {number}"
    assert len(os.listdir("/proc/self/fd")) <= before + 3
  assert pickle.loads(pickle.dumps(records))[7].caption == "record 7"


def test_records_of_another_shape_are_damaged_ones(tmp_path):
  cache = make_cache(tmp_path, [make_record(i) for i in range(4)])
  info, = cache.manifest.buckets
  manifest = dataclasses.replace(cache.manifest, buckets=(dataclasses.replace(info, moments=(9, 9, 9, 4)),))
  with pytest.raises(shards.DamagedRecord, match=r"\(9, 9, 9, 4\)"):
    shards.Shards.of(dataclasses.replace(cache, manifest=manifest), info.bucket)[0]


def test_shards_that_vanish_are_no_damaged_records(tmp_path):
  cache = make_cache(tmp_path / "cache", [make_record(i) for i in range(8)])
  records = shards.Whole(shards.Shards.of(cache, cache.manifest.shards[0].bucket), tries=5)
  assert records[0].skipped == ()
  (tmp_path / "cache").rename(tmp_path / "elsewhere")
  with pytest.raises(OSError, match="still mounted"):
    records[7]


def long_record(number):
  return dataclasses.replace(make_record(number, embeds=False), caption="one two three four five six seven eight")


def test_captions_that_are_too_long_are_cut_and_counted(tmp_path):
  """The end of a caption is lost as it is where the text encoder cuts by itself; no run ends for it."""
  words = WordEncoder(dim=8, max_length=6)
  records = [make_record(i, embeds=False) for i in range(5)] + [long_record(5), long_record(6)]
  cache = make_cache(tmp_path / "cache", records, text_encoder=None)
  batches = take(make_loader([cache], data=DataConfig(short_captions=0.0), text_encoder=words), 3)
  embeds, lengths = words.encode(["one two three four five six"])
  for batch in batches:
    for row, number in enumerate(numbers(batch)):
      if number >= 5:
        np.testing.assert_array_equal(batch.condition.text_embeds[row], embeds[0])
        assert batch.condition.text_lengths[row] == lengths[0] == 6
  (line,) = long_captions([cache, cache], words)
  assert line.startswith(f"{cache.path}: 2 captions of 7 records have more than 6 tokens (model.text_len) and are cut")
  assert not long_captions([make_cache(tmp_path / "short", records[:5], text_encoder=None)], words)
