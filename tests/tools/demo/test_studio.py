"""The demo without its page: settings of a form, frames one by one, cancelling, and the file of launch.sample."""

import dataclasses
import shlex
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from commands import run
from PIL import Image
from pipeline.test_pipeline import CARD, TINY, save

from nova_jax.pipeline import Pipeline
from nova_jax.tools.demo import views
from nova_jax.tools.demo.studio import Bounds, News, Studio, generate

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  save(folder, CARD, TINY)
  return Studio(Pipeline.load(folder), str(folder), "ema", tmp_path_factory.mktemp("demo"), bounds=Bounds())


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
  path = tmp_path_factory.mktemp("uploads") / "noise.PNG"
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12), np.uint8)).save(path)
  return path


def test_what_is_the_models_own_is_left_out(studio):
  form = studio.defaults | {"prompt": " one ", "negative_prompt": " ", "image": None, "guidance_scale": 3}
  assert studio.settings(form) == {"prompt": "one", "seed": 0, "guidance_scale": 3.0}
  assert isinstance(studio.settings(form)["guidance_scale"], float), "JSON tells 3 from 3.0"
  assert studio.settings({"prompt": "one", "seed": 7, "num_frames": 2}) == {"prompt": "one", "seed": 7, "num_frames": 2}


def test_pictures_stay_where_a_provenance_finds_them(studio, picture):
  settings = studio.settings(studio.defaults | {"prompt": "one", "image": str(picture), "mask": str(picture)})
  kept = Path(settings["image"])
  assert kept.parent == studio.output / "inputs" and kept.suffix == ".png"
  assert kept.read_bytes() == picture.read_bytes() and settings["mask"] == settings["image"]
  assert settings["num_frames"] == studio.defaults["num_frames"], "an edited picture would be one frame else"
  settings = studio.settings({"prompt": "one", "image": str(picture), "mask": str(picture), "num_frames": None})
  assert settings["num_frames"] == 1, "as its command has it"


def test_a_generation_that_takes_too_long_ends_without_a_file(studio):
  hasty = dataclasses.replace(studio, bounds=Bounds(seconds=0.0))
  before = set(studio.output.iterdir())
  with pytest.raises(ValueError, match="took longer than 0 s, the limit here"):
    list(generate(hasty, {"prompt": "two", "num_frames": 250, "seed": 9}, threading.Event()))
  assert set(studio.output.iterdir()) == before and not studio.turn.locked()


@pytest.mark.parametrize("form, message", [
    ({"prompt": "a" * 70000}, "prompt: expected at most 65,536 bytes, got 70,000"),
    ({"prompt": "a", "negative_prompt": "\u00e9" * 40000}, "negative_prompt: expected at most 65,536 bytes, got 80,"),
    ({"prompt": "  "}, "prompt: it is empty"), ({}, "prompt: it is empty"),
    ({"prompt": "one", "mask": "m.png"}, "mask: give the image"),
    ({"prompt": "one", "num_frames": 257}, "num_frames: expected at most 256 here, got 257"),
    ({"prompt": "one", "image": "{file}"}, "image: bad.png: is not a picture")])
def test_what_a_form_can_not_have(studio, tmp_path, form, message):
  (tmp_path / "bad.png").write_text("no picture", encoding="utf-8")
  form = {name: value.format(file=tmp_path / "bad.png") if name == "image" else value for name, value in form.items()}
  with pytest.raises(ValueError, match=message):
    studio.settings(form)


@pytest.mark.parametrize("settings, message", [
    ({"prompt": "a b c d e f"}, "shorten it"), ({"prompt": "one", "num_frames": 0}, "num_frames: expected at least 1"),
    ({"prompt": "one", "seed": -1}, "seed"), ({"label": 3}, "label: this model is made for texts")])
def test_what_the_model_refuses(studio, settings, message):
  with pytest.raises(ValueError, match=message):
    list(generate(studio, {"seed": 0} | settings, threading.Event()))
  assert not studio.turn.locked()


def test_the_file_is_that_of_the_command_line(studio, picture, tmp_path):
  settings = studio.settings({
      "prompt": "it's one", "negative_prompt": "two", "image": str(picture), "num_frames": 4, "seed": 5,
      "num_inference_steps": 2, "guidance_scale": 3, "motion_flow": 4})
  told = list(generate(studio, settings, threading.Event()))
  counts = [len(news.frames) for news in told if news.making is None]
  assert counts == [1, 2, 3, 4, 4] and [news.path for news in told[:-1]] == [None] * (len(told) - 1)
  command = shlex.split(studio.command(settings))
  assert command[:3] == ["python", "-m", "launch.sample"]
  done = run("sample", *command[3:], f"--output={tmp_path}", "--compilation_cache=off")
  assert done.returncode == 0, done.stderr
  made, = tmp_path.iterdir()
  assert made.name == told[-1].path.name and made.read_bytes() == told[-1].path.read_bytes()


def test_a_single_frame_is_a_picture(studio):
  *_, last = generate(studio, {"prompt": "one", "num_frames": 1, "seed": 0}, threading.Event())
  assert last.path.suffix == ".png" and Image.open(last.path).size == (128, 128)


def test_cancelling_ends_it_and_the_next_one_starts(studio):
  cancelled, counts = threading.Event(), []
  for news in generate(studio, {"prompt": "one", "num_frames": 250, "seed": 9}, cancelled):
    counts.append(len(news.frames))
    if counts[-1] == 2:
      cancelled.set()
  assert counts[-1] < 20, "what was told already may still come"
  closed = generate(studio, {"prompt": "one", "num_frames": 250, "seed": 9}, threading.Event())
  next(closed)
  closed.close()
  *_, last = generate(studio, {"prompt": "one", "num_frames": 2, "seed": 9}, threading.Event())
  assert last.path.exists() and [path.name for path in studio.output.glob("000-one-*.mp4")] == [last.path.name]


def test_one_generation_at_a_time(studio):
  with studio.turn:
    waiting = generate(studio, {"prompt": "one", "num_frames": 1, "seed": 0}, threading.Event())
    thread = threading.Thread(target=lambda: told.extend(waiting))
    told = []
    thread.start()
    thread.join(0.3)
    assert not told
  thread.join()
  assert told[-1].path is not None


def test_closing_ends_what_runs(studio):
  closing = dataclasses.replace(studio, closed=threading.Event())
  running = generate(closing, {"prompt": "one", "num_frames": 250, "seed": 0}, threading.Event())
  next(running)
  closing.close()
  assert not closing.turn.locked() and len(list(running)) < 100
  assert not list(generate(closing, {"prompt": "one", "num_frames": 2, "seed": 0}, threading.Event()))


def test_texts_are_escaped_and_long_clips_shortened():
  frame = np.zeros((8, 8, 1), np.uint8)
  made = views.Made(Path("/tmp/a b.png"), "<script>", frame)
  assert "<script>" not in views.show_file(made) + views.show_made([made]) + views.show_error("<script>")
  news = News((frame,) * 100, frame, 0.5, "")
  assert views.show_strip(news).count("<img") == views.STRIP_FRAMES + 1 and "52 more" in views.show_strip(news)


def test_without_gradio_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "gradio", None)
  failed = run("demo", "--checkpoint=none")
  assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and "extra demo" in failed.stderr, failed.stderr
