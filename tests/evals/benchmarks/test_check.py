"""What `launch.evaluate --check` says of files: damaged ones, those of another kind, and folders of one colour."""

import json
import os

import av
import numpy as np
import pytest
from PIL import Image

from nova_jax import media
from nova_jax.evals.benchmarks.check import check
from nova_jax.evals.benchmarks.evaluate import check_folder
from nova_jax.evals.benchmarks.layout import NAMES, Item, Layout
from nova_jax.evals.benchmarks.scorers import _SCORERS

RNG = np.random.default_rng(0)


def layout(*paths):
  return Layout("vbench", tuple(Item(path, "a", "a", (0,)) for path in paths), {}, ())


def noise(frames=3):
  return RNG.integers(0, 256, (frames, 64, 64, 3), np.uint8)


def test_each_benchmark_has_the_commands_of_its_scorer():
  assert set(NAMES) <= set(_SCORERS)


def test_files_that_are_not_what_they_should_be(tmp_path):
  names = ["good.mp4", "empty.mp4", "cut.mp4", "gif.mp4", "avi.mp4", "pipe.mp4", "sound.mp4", "picture.mp4"]
  for name in ("good.mp4", "cut.mp4"):
    media.write_mp4(tmp_path / name, noise(), 8, short_side=1)
  with av.open(str(tmp_path / "empty.mp4"), "w") as out:  # As writers leave it that have no encoder.
    stream = out.add_stream("libx264", rate=8)
    stream.pix_fmt, stream.height, stream.width = "yuv420p", 64, 64
    out.start_encoding()
  content = bytearray((tmp_path / "cut.mp4").read_bytes())
  content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
  (tmp_path / "cut.mp4").write_bytes(content)
  media.write_gif(tmp_path / "gif.mp4", noise(), 8)
  with av.open(str(tmp_path / "avi.mp4"), "w", format="avi") as out:
    stream = out.add_stream("mpeg4", rate=8)
    stream.pix_fmt, stream.height, stream.width = "yuv420p", 64, 64
    out.mux([*stream.encode(av.VideoFrame.from_ndarray(noise()[0], format="rgb24")), *stream.encode()])
  os.mkfifo(tmp_path / "pipe.mp4")
  with av.open(str(tmp_path / "sound.mp4"), "w") as out:
    stream = out.add_stream("aac", rate=48000)
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    silence.sample_rate = 48000
    out.mux([*stream.encode(silence), *stream.encode()])
  Image.fromarray(noise()[0]).save(tmp_path / "picture.mp4", "PNG")
  report = check(layout(*names), tmp_path)
  assert report.broken == ["empty.mp4", "cut.mp4", "pipe.mp4", "sound.mp4"]
  assert report.misnamed == ["gif.mp4", "avi.mp4", "picture.mp4"]
  assert not report.is_good and any("can't be read" in line for line in report.lines())


def test_pictures_that_are_not_what_they_should_be(tmp_path):
  for name, kind in (("good.png", "PNG"), ("jpeg.png", "JPEG"), ("cut.png", "PNG"), ("moves.png", None)):
    if kind:
      Image.fromarray(noise()[0]).save(tmp_path / name, kind)
  (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:5000])
  first, second = map(Image.fromarray, noise(2))
  first.save(tmp_path / "moves.png", save_all=True, append_images=[second])
  report = check(layout("good.png", "jpeg.png", "cut.png", "moves.png"), tmp_path)
  assert report.misnamed == ["jpeg.png", "moves.png"] and report.broken == ["cut.png"]


def test_a_folder_of_one_colour_is_said(tmp_path):
  for i, name in enumerate(("black/a.mp4", "black/b.mp4", "sound/a.mp4", "sound/b.mp4")):
    clip = np.full((3, 64, 64, 3), 40 * i, np.uint8) if name != "sound/b.mp4" else noise()
    media.write_mp4(tmp_path / name, clip, 8, short_side=1)
  report = check(layout("black/a.mp4", "black/b.mp4", "sound/a.mp4", "sound/b.mp4"), tmp_path)
  assert report.plain == ["black/a.mp4", "black/b.mp4"] and not report.is_good
  assert "2 of one colour" in report.lines()[1]


def test_manifests_of_other_tools(tmp_path, capsys):
  with pytest.raises(ValueError, match="--check: there is no folder .*gone"):
    check_folder(tmp_path / "gone", "vbench", str(tmp_path / "prompts.json"))
  with pytest.raises(ValueError, match=f"--check: {tmp_path} has no manifest.json"):
    check_folder(tmp_path, "digits", None)
  for manifest in ('{"name": "app"}', '{"files": []}', '{"files": {"a": {}}, "benchmark": "vbench"}'):
    (tmp_path / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(ValueError, match="manifest.json is not one that python -m launch.evaluate wrote"):
      check_folder(tmp_path, "digits", None)
  (tmp_path / "prompts.json").write_text(json.dumps([{"prompt_en": "a", "dimension": ["color"]}]), encoding="utf-8")
  assert not check_folder(tmp_path, "vbench", str(tmp_path / "prompts.json"))
  assert "5 missing" in capsys.readouterr().out


def test_an_error_of_our_own_is_no_broken_file(tmp_path, monkeypatch):
  Image.fromarray(noise()[0]).save(tmp_path / "good.png")
  monkeypatch.setattr("nova_jax.evals.benchmarks.check.open_footage", lambda path: int("a bug"))
  with pytest.raises(ValueError, match="a bug"):
    check(layout("good.png"), tmp_path)
