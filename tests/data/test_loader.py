import collections
import dataclasses

import jax
import numpy as np
import pytest
from absl import flags
from helpers import fields

from nova_jax.autoencoders import PixelAutoencoder
from nova_jax.data.digits import one_digit
from nova_jax.data.loader import Loader
from nova_jax.data.videos import VideoFeed
from nova_jax.text import WordEncoder
from nova_jax.utils.errors import UserError

NUM_RECORDS = 40


class Source:
  """Clips in memory, as a TFDS data source gives them; counts reads."""

  def __init__(self, num_frames=4, turning=0.0):
    self.reads = 0
    made = one_digit.make_clips("train", NUM_RECORDS, num_frames=num_frames, turning_fraction=turning)
    self.records = [dataclasses.asdict(clip) for clip in made]
    for record in self.records:
      record["caption"] = record["caption"].encode()
      record["later_caption"] = record["later_caption"].encode()

  def __len__(self):
    return len(self.records)

  def __getitem__(self, number):
    self.reads += 1
    return self.records[number]


SOURCE = Source()


@pytest.fixture
def make():
  loaders = []

  def build(source=SOURCE, text_encoder=WordEncoder(), **kwargs):
    options = {name: kwargs.pop(name) for name in ("rows", "num_workers") if name in kwargs}
    batch_size = kwargs.pop("batch_size", 8)
    feed = VideoFeed(source, text_encoder, PixelAutoencoder(), **{"num_frames": 4, "seed": 0, **kwargs})
    loaders.append(Loader(feed, batch_size=batch_size, **options))
    return loaders[-1]

  yield build
  for loader in loaders:
    loader.close()


def _take(loader, count):
  return [next(loader) for _ in range(count)]


def _assert_equal(batches, others):
  assert len(batches) == len(others)
  for batch, other in zip(batches, others, strict=True):
    batch, other = fields(batch), fields(other)
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def _records(batches):
  """Tell which records the rows of batches of whole clips are."""
  known = {PixelAutoencoder().encode(record["video"]).tobytes(): i for i, record in enumerate(SOURCE.records)}
  return [known[row.tobytes()] for batch in batches for row in batch.latents]


def test_a_batch_is_what_the_spec_says(make):
  batch = next(make())
  assert {name: (value.shape, value.dtype.name) for name, value in fields(batch).items()} == {
      "latents": ((8, 4, 16, 16, 1), "float32"), "index": ((8,), "int32"),
      "text_embeds": ((8, 16, 64), "float32"), "text_lengths": ((8,), "int32")}
  assert batch.index.tolist() == list(range(8))
  for row, number in enumerate(_records([batch])):
    embeds, lengths = WordEncoder().encode([SOURCE.records[number]["caption"].decode()])
    np.testing.assert_array_equal(batch.condition.text_embeds[row], embeds[0])
    assert batch.condition.text_lengths[row] == lengths[0]


def test_labels_in_place_of_text(make):
  batch = next(make(text_encoder=None))
  assert fields(batch).keys() == {"latents", "index", "labels"} and batch.condition.labels.dtype == np.int32
  assert batch.condition.labels.tolist() == [SOURCE.records[number]["digit"] for number in _records([batch])]


def test_each_epoch_is_another_order_of_all_records(make):
  loader = make()
  epochs = [_records(_take(loader, NUM_RECORDS // 8)) for _ in range(3)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(NUM_RECORDS)) != epoch
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_function_of_the_seed(make):
  first = _take(make(), 3)
  _assert_equal(first, _take(make(), 3))
  assert _records(first) != _records(_take(make(seed=1), 3))


@pytest.mark.parametrize("num_frames", [1, 4])
def test_resumes_at_any_batch(make, num_frames):
  loader = make(num_frames=num_frames)
  states, batches = zip(*[(loader.get_state(), next(loader)) for _ in range(12)], strict=True)
  assert states == tuple(range(0, 96, 8))
  for start in (1, 5, 11):
    resumed = make(num_frames=num_frames)
    resumed.set_state(states[start])
    _assert_equal(batches[start:], _take(resumed, 12 - start))
  loader.set_state(states[2])  # A stream that has run goes back, too.
  _assert_equal(batches[2:4], _take(loader, 2))


@pytest.mark.parametrize("num_frames", [1, 4])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [4, 5], [0, 1, 6, 7], [5]])
def test_a_host_reads_its_rows_alone(make, rows, num_frames):
  source = Source()
  part = make(source, num_frames=num_frames, rows=rows)
  for whole, batch in zip(_take(make(num_frames=num_frames), 4), _take(part, 4), strict=True):
    _assert_equal([jax.tree.map(lambda value: value[rows], whole)], [batch])
  part.close()
  assert source.reads <= len(rows) * (4 + 2 * 4) + 1  # Four batches, what was read ahead, a look at the first record.


def test_resumes_with_other_hosts_and_batch_size(make):
  loader = make()
  _take(loader, 3)
  other = make(batch_size=16, rows=range(8, 16))
  other.set_state(loader.get_state())
  assert next(other).index.tolist() == list(range(32, 40))


def test_single_frames_come_from_all_over_the_clip(make):
  latents = {
      (number, frame): PixelAutoencoder().encode(SOURCE.records[number]["video"][frame]).tobytes()
      for number in range(NUM_RECORDS) for frame in range(4)}
  assert len(set(latents.values())) == len(latents)
  known = {value: key for key, value in latents.items()}
  loader = make(num_frames=1)
  seen = [known[row[0].tobytes()] for batch in _take(loader, 40) for row in batch.latents]
  assert loader.get_state() == 8 * NUM_RECORDS
  frames = np.bincount([frame for _, frame in seen])
  assert len(frames) == 4 and frames.min() > 50  # 80 each, give or take.
  assert len({frame for number, frame in seen if number == 0}) > 1  # Another frame on another visit.


def test_longer_records_are_cut_after_their_first_frames(make):
  for full, short in zip(_take(make(), 2), _take(make(num_frames=2), 2), strict=True):
    np.testing.assert_array_equal(full.latents[:, :2], short.latents)


def test_some_clips_come_later_and_say_so(make):
  source = Source(num_frames=11)
  cuts = {
      PixelAutoencoder().encode(record["video"][first : first + 4]).tobytes(): (number, first)
      for number, record in enumerate(source.records) for first in range(8)}
  batches = _take(make(source, mid_clip_fraction=0.5), 40)
  cut = [[cuts[row.tobytes()] for row in batch.latents] for batch in batches]
  firsts = np.array([[first for _, first in row] for row in cut])
  given = np.stack([batch.given for batch in batches])
  assert given.dtype == np.int32 and np.array_equal(given, np.select([firsts == 0, firsts < 4], [0, 1], 2))
  counts = np.bincount(firsts.ravel())
  assert len(counts) == 8 and abs(counts[0] - 160) < 40 and counts[1:].min() > 8  # 160 and 23, give or take.
  # They are the records that stand there without.
  plain = [[cuts[row.tobytes()][0] for row in batch.latents] for batch in _take(make(source), 40)]
  assert plain == [[number for number, _ in row] for row in cut]
  resumed = make(source, mid_clip_fraction=0.5)
  resumed.set_state(8 * 38)
  _assert_equal(batches[38:], _take(resumed, 2))
  assert next(make(source, mid_clip_fraction=0.5, num_frames=1)).given is None  # A picture has nothing to go on from.


def test_what_is_learned_of_a_turning_digit_goes_as_its_caption_says(make):
  source, encoder, cuts = Source(num_frames=16, turning=1.0), WordEncoder(), collections.defaultdict(list)
  for record in source.records:
    for first in range(13):
      cuts[PixelAutoencoder().encode(record["video"][first : first + 4]).tobytes()].append((record, first))
  seen = set()
  for batch in _take(make(source, mid_clip_fraction=0.9), 60):
    for row, given, embeds in zip(batch.latents, batch.given.tolist(), batch.condition.text_embeds, strict=True):
      possible = []  # A digit that goes back and forth shows some cuts twice.
      for record, first in cuts[row.tobytes()]:
        begins = [0, record["turn"], 16]
        # Moves that are learned lead to these frames; all are of one way.
        learned = range(first + max(given, 1), first + 4)
        ways = {next(way for way in range(2) if begins[way] < frame <= begins[way + 1]) for frame in learned}
        caption = (record["caption"], record["later_caption"])[min(ways)].decode()
        if len(ways) == 1 and (given > 0) == (first > 0) and np.array_equal(embeds, encoder.encode([caption])[0][0]):
          possible.append((min(ways), given))
      assert possible
      seen.add(possible[0])
  # Clips that begin later show the turn or what comes after it; those that begin the video end before it.
  assert seen == {(0, 0), (1, 1), (1, 2), (1, 3)}


def test_pictures_of_a_turning_digit_come_from_before_its_turn(make):
  source = Source(num_frames=16, turning=1.0)
  known = {
      PixelAutoencoder().encode(frame[None]).tobytes()
      for record in source.records for frame in record["video"][: record["turn"]]}
  for batch in _take(make(source, num_frames=1, mid_clip_fraction=0.5), 20):
    assert {row.tobytes() for row in batch.latents} <= known


def test_single_frames_are_the_first_ones_by_choice(make):
  encode = lambda frame: PixelAutoencoder().encode(frame[None]).tobytes()
  firsts = {encode(record["video"][0]) for record in SOURCE.records}
  seen = {choice: {row.tobytes() for batch in _take(make(num_frames=1, single_frames=choice), 20)
                   for row in batch.latents} for choice in ("any", "first")}
  assert seen["first"] <= firsts and not seen["any"] <= firsts
  with pytest.raises(UserError, match="data.single_frames: expected 'any' or 'first', got 'last'"):
    make(single_frames="last")


def test_small_sources_are_decoded_once(make):
  source = Source()
  _take(make(source), 3 * NUM_RECORDS // 8)
  assert source.reads <= NUM_RECORDS + 1  # One look at the first for its size.


def test_index_stays_in_int32(make):
  loader = make()
  loader.set_state(2**31 - 4)
  assert next(loader).index.tolist() == [2**31 - 4, 2**31 - 3, 2**31 - 2, 2**31 - 1, 0, 1, 2, 3]


@pytest.mark.slow  # Starts worker processes; test_latents.py has a quick test of them.
def test_worker_processes_change_nothing(make):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain's workers read flags, which a launcher has parsed.
  _assert_equal(_take(make(), 3), _take(make(num_workers=1), 3))


@pytest.mark.parametrize("kwargs, named", [
    (dict(num_frames=5), "5 latent frames need clips of 5 frames"),
    (dict(source=[]), "no records"),
    (dict(mid_clip_fraction=1.5), "data.mid_clip_fraction: expected 0 to 1"),
    (dict(mid_clip_fraction=0.5, num_frames=2), "leaves none to learn of 2"),
    (dict(mid_clip_fraction=0.5), "records of 4 frames have no clip of 4 in their middle")])
def test_bad_arguments(make, kwargs, named):
  with pytest.raises(ValueError, match=named):
    make(**kwargs)
