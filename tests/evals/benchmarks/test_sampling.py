"""Folders for the official scorers: what these find, interrupted and shared out as well, and what is refused."""

import dataclasses
import hashlib
import json
import shutil
import types

import numpy as np
import pytest
from evals.benchmarks import official
from flax import nnx
from PIL import Image
from pipeline.test_pipeline import CARD, TINY, save

from nova_jax.evals.benchmarks import making
from nova_jax.evals.benchmarks.check import check, layout_from_manifest
from nova_jax.evals.benchmarks.layout import read_layout, seed_for_sample
from nova_jax.evals.benchmarks.sampling import generate
from nova_jax.evals.benchmarks.settings import Settings
from nova_jax.pipeline import Pipeline
from nova_jax.sampling.sampler import Model

LONG = "a very " * 42 + "long one"  # More than 300 characters.
PROMPTS = ['A "fox"', "a fox.", "A fox.", "ein Füchslein", "a fox's hat, red-0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  save(folder, CARD, TINY)
  return folder


class Fake:
  """A pipeline whose samples tell which others were computed beside them, as rounding might."""

  cfg = types.SimpleNamespace(num_classes=None, latent_size=(8, 8))
  digests = {"transformer": "a", "vae": "b"}
  card = types.SimpleNamespace(sample=types.SimpleNamespace(fps=8.0))

  def __init__(self, *_, frames=2, size=8, **options):
    self.model, self.frames, self.size = Model(None, nnx.State({})), frames, size
    self.text_encoder = self if "text_encoder" in options["parts"] else None

  @property
  def parts(self):
    return self

  def check(self, request, rows):
    pass

  def notes(self, prompt):
    return []

  def num_latent_frames(self, num_frames):
    return num_frames or self.frames

  def num_shown_frames(self, num_latents):
    return num_latents

  def encode(self, texts):
    return np.array([[[len(text), 1.0]] * 3 for text in texts], np.float32), np.full(len(texts), 2, np.int32)

  def __call__(self, *, text_embeds, seed, num_frames=None, **options):
    assert all(embeds.shape == (2, 2) for embeds in text_embeds)
    frames, beside = num_frames or self.frames, hashlib.sha256(repr(seed).encode()).digest()[0]
    clips = np.full((len(seed), frames, self.size, self.size, 3), beside, np.uint8)
    for clip, own in zip(clips, seed, strict=True):
      clip[:, 0] = own % 251
    return clips


def write_prompts(benchmark, folder, prompts=PROMPTS):
  if benchmark == "geneval":
    lines = [json.dumps({"tag": "t", "include": [], "prompt": text}) for text in [*prompts, LONG, "a/b"]]
    (path := folder / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
  elif benchmark == "vbench":
    entries = [{"prompt_en": text, "dimension": ["overall_consistency", "imaging_quality"]} for text in prompts]
    entries += [{"prompt_en": "a still fox", "dimension": ["temporal_flickering"]}, entries[0]]
    (path := folder / "prompts.json").write_text(json.dumps(entries), encoding="utf-8")
  elif benchmark == "dpg":
    (path := folder / "prompts").mkdir()
    for i, text in enumerate([*prompts, LONG, "a/b"]):
      (path / f"item{i}.txt").write_text(text, encoding="utf-8")
  else:
    (path := folder / "prompts.txt").write_text("".join(f"{text}\tnote\n" for text in prompts), encoding="utf-8")
  return path


def settings_of(model, **fields):
  return Settings(checkpoint=str(model), batch_size=8, sampling=fields)


def contents(folder):
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("benchmark", ["geneval", "vbench", "dpg", "t2i_compbench"])
def test_what_the_official_scorer_finds(model, tmp_path, benchmark):
  layout = read_layout(benchmark, write_prompts(benchmark, tmp_path))
  assert generate(layout, settings_of(model), tmp_path / "out", load=Fake)
  scored = tmp_path / "out" / benchmark
  assert check(layout_from_manifest(tmp_path / "out"), scored, tmp_path / "out" / "checksums.json").is_good
  if benchmark == "geneval":
    assert official.read_geneval(scored) == {
        f"{i:05}": (text, 4) for i, text in enumerate([*PROMPTS, LONG, "a/b"])}
  elif benchmark == "vbench":
    entries = json.loads((tmp_path / "prompts.json").read_text(encoding="utf-8"))
    for dimension in ("overall_consistency", "imaging_quality"):  # Both are judged on one folder.
      found = official.read_vbench(scored / "overall_consistency", entries, dimension)
      assert found == {text: [f"{text}-{i}.mp4" for i in range(5)] for text in PROMPTS}
    assert len(official.filter_vbench(scored / "temporal_flickering", "a still fox")) == 25
    assert sorted(path.name for path in scored.iterdir()) == ["overall_consistency", "temporal_flickering"]
  elif benchmark == "dpg":
    found = official.read_dpg(scored, 8)
    assert sorted(found) == [f"item{i}" for i in range(len(PROMPTS) + 2)]
    tops = [[np.asarray(tile)[0, 0, 0] for tile in found[f"item{i}"]] for i in range(len(PROMPTS))]
    assert tops == [[seed_for_sample("dpg", text, i, 0) % 251 for i in range(4)] for text in PROMPTS]
  else:
    assert official.read_t2i_compbench(scored) == [text for text in PROMPTS for _ in range(10)]


class Killed(Exception):
  pass


@pytest.mark.parametrize("benchmark", ["vbench", "dpg"])
def test_interrupted_and_shared_out_the_bytes_are_the_same(model, tmp_path, benchmark, monkeypatch):
  layout = read_layout(benchmark, write_prompts(benchmark, tmp_path))
  assert generate(layout, settings_of(model), tmp_path / "whole", load=Fake)
  expected, rng, replace = contents(tmp_path / "whole"), np.random.default_rng(0), making.os.replace
  left = 0

  def dying(source, target):
    nonlocal left
    left -= 1
    if left < 0:
      raise Killed
    replace(source, target)

  monkeypatch.setattr(making.os, "replace", dying)
  for num_shards in (1, 3):
    output, complete, deaths = tmp_path / f"{num_shards}", False, 0
    for _ in range(100):
      left = int(rng.integers(3, 15))
      try:
        complete = generate(
            layout, settings_of(model), output, (int(rng.integers(num_shards)), num_shards), load=Fake)
      except Killed:
        deaths += 1
      if complete:
        break
    assert complete and deaths > 1 and contents(output) == expected


@pytest.mark.slow  # Generates with a model, again and again; Fake stands in for it elsewhere.
def test_a_model_makes_the_same_whatever_was_there_before(model, tmp_path):
  prompts = write_prompts("geneval", tmp_path, [])
  prompts.write_text(json.dumps({"tag": "t", "include": [], "prompt": "one"}) + "\n" + json.dumps(
      {"tag": "t", "include": [], "prompt": "two"}), encoding="utf-8")
  layout = read_layout("geneval", prompts)
  settings = dataclasses.replace(settings_of(model), batch_size=4)
  assert not generate(layout, settings, tmp_path / "parts", (1, 2))
  assert generate(layout, settings, tmp_path / "parts", (0, 2))
  (tmp_path / "parts/geneval/00001/samples/0002.png").unlink()
  assert generate(layout, settings, tmp_path / "parts") and generate(layout, settings, tmp_path / "whole")
  assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
  manifest = json.loads((tmp_path / "whole/manifest.json").read_text(encoding="utf-8"))
  assert manifest["settings"]["step"] == 7, "the newest checkpoint, by name"
  picture = np.asarray(Image.open(tmp_path / "whole/geneval/00001/samples/0002.png"))
  seeds = [seed_for_sample("geneval", "two", i, 0) for i in range(4)]
  clip = Pipeline.load(model)(["two"] * 4, num_frames=1, seed=seeds)[2, 0]
  assert picture.shape == (8, 8, 3) and np.abs(picture.astype(int) - clip).max() <= 1


def test_what_check_lists(model, tmp_path):
  layout = read_layout("t2i_compbench", write_prompts("t2i_compbench", tmp_path))
  generate(layout, settings_of(model), tmp_path / "out", load=Fake)
  scored = tmp_path / "out/t2i_compbench"
  first, second, third, fourth = (scored / path for path in layout.paths[:4])
  first.unlink()
  second.write_bytes(b"no picture")
  third.write_bytes((scored / layout.paths[4]).read_bytes())
  making.media.write_png(fourth, np.zeros((4, 4, 3), np.uint8), short_side=1)
  (scored / "samples/grid.png").write_bytes(b"")
  report = check(layout, scored, tmp_path / "out/checksums.json")
  assert not report.is_good and report.missing == [layout.paths[0]] and report.strange == ["samples/grid.png"]
  assert report.broken == [layout.paths[1]] and report.changed == layout.paths[1:4]
  assert report.unlike == [layout.paths[3]]
  assert "49 of 50 files, 8 x 8 pixels" in report.lines()[0]
  assert generate(layout, settings_of(model), tmp_path / "out", load=Fake), "what is missing is made again"


def test_other_settings_are_refused(model, tmp_path):
  layout = read_layout("t2i_compbench", write_prompts("t2i_compbench", tmp_path))
  generate(layout, settings_of(model), tmp_path / "out", load=Fake)
  with pytest.raises(ValueError, match="guidance_scale was None, now 3.0; use another --output"):
    generate(layout, settings_of(model, guidance_scale=3.0), tmp_path / "out", load=Fake)
  with pytest.raises(ValueError, match="expected a multiple, got 6"):
    layout = read_layout("dpg", write_prompts("dpg", tmp_path))
    generate(layout, Settings(str(model), batch_size=6), tmp_path / "grid", load=Fake)


@pytest.mark.slow
def test_the_same_model_under_another_path_continues_and_another_model_does_not(model, tmp_path, monkeypatch):
  layout = read_layout("t2i_compbench", write_prompts("t2i_compbench", tmp_path, ["a"]))
  link, output = tmp_path / "link", tmp_path / "out"
  link.symlink_to(model)
  assert not generate(layout, settings_of(model), output, (0, 2))
  before = contents(output)
  assert json.loads(before["manifest.json"])["weights"].keys() == {"transformer", "vae", "text_encoder"}
  monkeypatch.chdir(model.parent)
  for path in (f"{model}/", link, model.name, model / ".." / model.name):
    assert not generate(layout, settings_of(path, num_inference_steps=3, guidance_scale=2), output, (0, 2))
  assert contents(output) == before
  moved = tmp_path / "moved"
  shutil.copytree(model, moved)
  assert generate(layout, settings_of(moved), output, (1, 2))
  whole = contents(output)
  for changed in (CARD, dataclasses.replace(CARD, scheduler=dataclasses.replace(CARD.scheduler, shift=3.0))):
    shutil.rmtree(moved)
    save(moved, changed, TINY, seed=5 * (changed is CARD))
    with pytest.raises(ValueError, match="samples of another model: the weights of the transformer differ; use anot"):
      generate(layout, settings_of(moved), output)
  assert contents(output) == whole


def test_a_manifest_of_an_earlier_version_or_of_another_tool(model, tmp_path, caplog):
  layout = read_layout("t2i_compbench", write_prompts("t2i_compbench", tmp_path, ["a"]))
  output = tmp_path / "out"
  assert generate(layout, settings_of(model), output, load=Fake)
  manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
  del manifest["weights"]
  (output / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
  assert generate(layout, settings_of(model), output, load=Fake)
  assert "didn't record the weights" in caplog.text
  (output / "manifest.json").write_text('{"name": "app"}', encoding="utf-8")
  with pytest.raises(ValueError, match="not one that python -m launch.evaluate wrote"):
    generate(layout, settings_of(model), output, load=Fake)


def test_rewritten_prompts_are_read_and_official_ones_name(tmp_path):
  path = write_prompts("vbench", tmp_path, ["a fox"])
  (tmp_path / "long.json").write_text(json.dumps([
      {"prompt": "a fox", "dense_prompt": "a red fox", "tag": "overall_consistency"},
      {"prompt": "a still fox", "dense_prompt": "a fox sits", "tag": "temporal_flickering"}]), encoding="utf-8")
  layout = read_layout("vbench", path, tmp_path / "long.json")
  assert {(item.prompt, item.text) for item in layout.items} == {("a fox", "a red fox"), ("a still fox", "a fox sits")}
  assert layout.items[0].path == "overall_consistency/a fox-0.mp4"
  (tmp_path / "long.json").write_text(
      json.dumps([{"prompt": "a fox", "dense_prompt": "x", "tag": "scene"}]), encoding="utf-8")
  with pytest.raises(ValueError, match="'a fox' is not in .*long.json"):
    read_layout("vbench", path, tmp_path / "long.json")


@pytest.mark.parametrize("benchmark, prompt, message", [
    ("vbench", "either/or", "has a /"), ("vbench", LONG, "more than 255 bytes"),
    ("vbench", "ü" * 130, "more than 255 bytes"), ("t2i_compbench", "a_b", "has a _"),
    ("t2i_compbench", "either/or", "has a /"), ("t2i_compbench", LONG, "more than 255 bytes")])
def test_names_that_cannot_be_are_refused(tmp_path, benchmark, prompt, message):
  with pytest.raises(ValueError, match=message):
    read_layout(benchmark, write_prompts(benchmark, tmp_path, [*PROMPTS, prompt]))


def test_names_that_a_file_system_takes_for_one(model, tmp_path, monkeypatch):
  layout = read_layout("vbench", write_prompts("vbench", tmp_path))
  monkeypatch.setattr("nova_jax.evals.benchmarks.layout._same_file", lambda folder, *names: True)
  with pytest.raises(ValueError, match="takes these for one name: .*A fox.-0.mp4', .*a fox.-0.mp4'"):
    generate(layout, settings_of(model), tmp_path / "out", load=Fake)


@pytest.mark.parametrize("benchmark, text, message", [
    ("geneval", '[{"prompt": "a"}]', "prompts:1: expected an object"), ("geneval", "a fox", "for --rewritten"),
    ("vbench", '[{"prompt_en": "a", "dimension": ["colour"]}]', "'colour' is no dimension"),
    ("vbench", '[{"prompt_en": "a"}]', "entry 1: expected dimension"),
    ("vbench", '[{"prompt_en": "a", "dimension": [["color"]]}]', r"entry 1: \['color'\] is no dimension"),
    ("vbench", '[{"prompt_en": "a", "dimension": 5}]', "entry 1: 5 is no dimension"),
    ("dpg", "a,b\n1,2", "item_id and text"),
    ("t2i_compbench", "a\n\nb", "prompts:2 is blank"), ("t2i_compbench", "", "has no prompts")])
def test_files_of_another_kind_are_refused(tmp_path, benchmark, text, message):
  (tmp_path / "prompts").write_text(text, encoding="utf-8")
  with pytest.raises(ValueError, match=message):
    read_layout(benchmark, tmp_path / "prompts")


def test_a_guide_is_part_of_the_settings(model, tmp_path):
  """It is loaded, and a folder that was begun without it, or with another, isn't continued."""
  told, layout = [], read_layout("t2i_compbench", write_prompts("t2i_compbench", tmp_path))

  def load(*args, **options):
    told.append(options["guide"])
    return Fake(*args, **options)

  settings = settings_of(model)
  assert "guide" not in settings.stored()
  for guide in ("params", ""):
    generate(layout, dataclasses.replace(settings, guide=guide), tmp_path / f"out{guide}", load=load)
    with pytest.raises(ValueError, match="guide was"):
      generate(layout, dataclasses.replace(settings, guide="ema"), tmp_path / f"out{guide}", load=load)
  assert told == ["params", None]
