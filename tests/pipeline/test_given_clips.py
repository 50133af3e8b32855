"""Clips, pictures and masks that a list of prompts names: decoded once, and refused before anything is made."""

from pathlib import Path

import numpy as np
import pytest
from pipeline.test_pipeline import fresh

from nova_jax import media
from nova_jax.media import footage, readers
from nova_jax.pipeline import batch_sampling
from nova_jax.pipeline.given_clips import GivenClips
from nova_jax.pipeline.provenance import read_provenance
from nova_jax.utils.progress import Progress


@pytest.fixture
def decoded(monkeypatch):
  """The names of files, each time one is decoded."""
  names, open_footage = [], footage.open_footage
  monkeypatch.setattr(
      footage, "open_footage", lambda path, **options: names.append(Path(path).name) or open_footage(path, **options))
  return names


def write_steps(path, num_frames, fps):
  """Write a clip each frame of which is another grey."""
  media.write_gif(path, np.arange(0, 10 * num_frames, 10, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(
      8, 2), fps)


def test_a_clip_keeps_its_rate_and_is_decoded_once(tmp_path, monkeypatch, decoded):
  pipe = fresh()
  write_steps(tmp_path / "a.gif", 5, 4)
  monkeypatch.chdir(tmp_path)
  base = {"prompt": "one", "video": "a.gif"}
  clips = [
      base | {"mask": [0, 0, 4, 8], "seed": 0}, base | {"mask": [0, 0, 4, 8], "num_frames": 2, "seed": 1},
      base | {"seed": 2}, base | {"fps": 20.0, "seed": 3}]
  given = GivenClips(pipe.parts)
  clips = given.complete(clips)
  assert [clip.get("num_frames") for clip in clips] == [5, 2, None, None]
  assert [clip["fps"] for clip in clips] == [4.0, 4.0, 4.0, 20.0]
  assert len(decoded) == 3 and [note.partition(": ")[2] for note in given.notes] == [
      "its first 2 frames are edited (num_frames), those after them are not used",
      "its last 2 frames are continued, the 3 before them are not used"]
  batches = list(batch_sampling.plan_batches(clips, 2))
  assert batches == [[0], [1], [2], [3]], "a batch has one length and rate"
  provenances = batch_sampling.make_provenances(pipe, "model", "ema", clips, batches, 1)
  told, stream = [], pipe.stream
  monkeypatch.setattr(pipe, "stream", lambda *args, **settings: told.append(settings["fps"]) or stream(**settings))
  with Progress("set") as progress:
    files = batch_sampling.run(
        pipe, batch_sampling.Work(provenances, batches, given), tmp_path / "out", ("gif",), progress)
  assert len(decoded) == 3, "and not for each batch"
  assert told == [4.0, 4.0, 4.0, 20.0]
  for (path,), (num_frames, fps), first in zip(files, [(5, 4), (2, 4), (3, 4), (3, 20)], [0, 0, 30, 30], strict=True):
    clip = readers.open_clip(path, (8, 8), 1)
    assert (len(clip.frames), clip.fps) == (num_frames, fps) and clip.frames[0, 4:] == pytest.approx(first, abs=1)
  again = read_provenance(files[0][0])
  assert again == provenances[0] and again.settings["fps"] == 4.0
  (clip,), = [np.concatenate(rows) for rows in zip(*batch_sampling.make(pipe, [again], "pixels"), strict=True)],
  assert np.array_equal(clip, readers.read_clip(files[0][0], (8, 8), 1)), "the same from the file"


def test_no_more_is_kept_than_the_limit(tmp_path, decoded):
  pipe = fresh()
  for name in "ab":
    write_steps(tmp_path / f"{name}.gif", 5, 4)
  clips = [{"prompt": "one", "video": str(tmp_path / f"{name}.gif"), "mask": [0, 0, 4, 8]} for name in "aab"]
  given = GivenClips(pipe.parts, limit=5 * 64)
  given.complete(clips)
  assert decoded == ["a.gif", "b.gif"]
  given.complete(clips)
  assert decoded == ["a.gif", "b.gif"] * 2


@pytest.mark.parametrize("second, message", [
    ({"mask": "black.png"}, "mask: it leaves nothing"), ({"mask": "two.gif"}, "mask: expected one of 8 x 8 or 1"),
    ({"image": "half.png", "mask": [0, 0, 4, 8]}, "image: half.png: can't be read"),
    ({"image": None, "video": "three.gif", "mask": "two.gif"}, "mask: expected one of 8 x 8 or 3")])
def test_pictures_and_masks_are_read_before_anything_is_made(tmp_path, monkeypatch, second, message):
  monkeypatch.chdir(tmp_path)
  media.write_png("a.png", np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8))
  Path("half.png").write_bytes(Path("a.png").read_bytes()[:-40])
  media.write_png("black.png", np.zeros((8, 8, 1), np.uint8))
  write_steps("two.gif", 2, 4)
  write_steps("three.gif", 3, 4)
  clips = [{"prompt": "one", "image": "a.png", "mask": [0, 0, 4, 8]}] * 2
  with pytest.raises(ValueError, match=f"^list:2: {message}"):
    GivenClips(fresh().parts).complete([clips[0], clips[1] | second], ["list:1", "list:2"])
