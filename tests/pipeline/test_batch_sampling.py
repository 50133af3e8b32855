"""Batches on disk: the same files however often a run was interrupted."""

import json
import subprocess
import types

import numpy as np
import pytest
from pipeline.batches import LINES, contents, make_pipe, run
from pipeline.test_pipeline import fresh

from nova_jax import media
from nova_jax.cli import sampling_flags
from nova_jax.pipeline import batch_sampling, prompts
from nova_jax.pipeline.given_clips import GivenClips
from nova_jax.pipeline.provenance import write_outputs
from nova_jax.utils.progress import Progress
from nova_jax.utils.writers import _host, _start_time


@pytest.fixture(scope="module")
def pipe():
  return make_pipe()


def test_a_stopped_run_goes_on_to_the_same_files(pipe, tmp_path):
  provenances, files = run(pipe, tmp_path / "whole")
  assert [provenance.settings["seed"] for provenance in provenances] == [5, 6, 7, 9]
  whole = contents(tmp_path / "whole")
  assert len(whole) == sum(map(len, files)) == 16, "names don't collide"
  with pytest.raises(ZeroDivisionError):
    run(pipe, tmp_path / "stopped", stop_after=8)  # In the second batch.
  stopped = contents(tmp_path / "stopped")
  assert 0 < len(stopped) < 16
  first, writing = sorted(stopped)[0], subprocess.Popen(["sleep", "60"])
  (tmp_path / "stopped" / first).unlink()
  stem, ending = first.rsplit(".", 1)
  gone = subprocess.Popen(["true"])
  gone.wait()
  left = [
      tmp_path / "stopped" / f".{stem}.{_host()}-{process.pid}-{_start_time(process.pid)}-123456.{ending}"
      for process in (gone, writing)]
  for path in left:
    path.write_text("half a clip", encoding="utf-8")
  run(pipe, tmp_path / "stopped")
  left[1].unlink()  # Another run may be at it.
  writing.kill()
  assert contents(tmp_path / "stopped") == whole
  times = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").iterdir()}
  run(pipe, tmp_path / "stopped")
  assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").iterdir()}


def test_frames_are_written_as_they_are_finished(pipe, tmp_path):
  clips = [{"prompt": "one", "num_frames": 3, "seed": 0}]
  provenance, = batch_sampling.make_provenances(pipe, "model", "ema", clips, [[0]], 1)
  with Progress("set") as progress:
    (path,), = batch_sampling.run(pipe, batch_sampling.Work([provenance], [[0]]), tmp_path, ("mp4",), progress)
  pieces = [piece for (piece,) in batch_sampling.make(pipe, [provenance], "pixels")]
  assert [len(piece) for piece in pieces] == [1, 1, 1]
  clip = np.concatenate(pieces)
  write_outputs(tmp_path / "whole", provenance.name(0), provenance, ("mp4",), clip, pipe.card.sample.fps)
  assert (tmp_path / "whole" / path.name).read_bytes() == path.read_bytes()


def test_warming_up_leaves_nothing(pipe):
  clips, _ = prompts.expand(LINES, {"num_frames": 3}, 5)
  batches = list(batch_sampling.plan_batches(clips, 3))
  provenances = batch_sampling.make_provenances(pipe, "model", "ema", clips, batches, 3)
  batch_sampling.warm_up(pipe, batch_sampling.Work(provenances, batches))


def test_what_is_edited_keeps_its_length_and_is_made_once(tmp_path):
  pipe = fresh()
  media.write_png(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8))
  media.write_gif(tmp_path / "b.gif", np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1), 4)
  (tmp_path / "lines.jsonl").write_text("".join(
      json.dumps({"prompt": "one", name: str(tmp_path / path)}) + "\n" for name, path in
      [("image", "a.png"), ("video", "b.gif")]), encoding="utf-8")
  args = types.SimpleNamespace(**dict.fromkeys([*sampling_flags.NAMES.values(), "preset"]))
  args.prompts, args.mask, args.seed = tmp_path / "lines.jsonl", "0,0,4,8", 0
  clips, places = sampling_flags.clips(args)
  assert places == [f"{args.prompts}:1", f"{args.prompts}:2"]
  clips = GivenClips(pipe.parts).complete(clips, places)
  assert [clip["num_frames"] for clip in clips] == [1, 2]
  batches = list(batch_sampling.plan_batches(clips, 2))
  provenances = batch_sampling.make_provenances(pipe, "model", "ema", clips, batches, 2)
  times = []
  for _ in range(2):
    with Progress("set") as progress:
      files = batch_sampling.run(pipe, batch_sampling.Work(provenances, batches), tmp_path / "out", ("gif",), progress)
    assert [path.suffix for (path,) in files] == [".png", ".gif"]
    times.append([path.stat().st_mtime_ns for (path,) in files])
  assert times[0] == times[1]


def test_latents_need_no_autoencoder():
  alone = fresh()
  alone.autoencoder = None
  work = batch_sampling.prepare(alone, "model", "ema", [{"prompt": "one", "seed": 0}], [""], 1, "latent")
  assert work.batches == [[0]] and len(work.provenances) == 1
  with pytest.raises(ValueError, match="output: there is no autoencoder"):
    batch_sampling.prepare(alone, "model", "ema", [{"prompt": "one"}], [""], 1)
