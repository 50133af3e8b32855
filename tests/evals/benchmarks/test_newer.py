"""Folders for VBench-I2V, VBench-Long, VBench-2.0 and GenEval 2, as their scorers read them; and scorers' commands."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from evals.benchmarks import official
from evals.benchmarks.test_sampling import PROMPTS, Fake, contents, model, settings_of, write_prompts  # noqa: F401
from PIL import Image

from nova_jax.evals.benchmarks.check import check, layout_from_manifest
from nova_jax.evals.benchmarks.evaluate import check_folder
from nova_jax.evals.benchmarks.layout import NAMES, Item, Layout, read_layout
from nova_jax.evals.benchmarks.sampling import generate
from nova_jax.evals.benchmarks.scorers import how_to_score

LONG = "x" * 179 + " a tail that names do not have"


def write_json(path, values):
  path.write_text(json.dumps(values), encoding="utf-8")
  return path


class WithPictures(Fake):
  """Clips that begin with the mean of a picture."""

  def __call__(self, *, image, **options):
    clips = super().__call__(**options)
    clips[:, 0, 0] = [[[np.asarray(Image.open(path)).mean()]] for path in image]
    return clips


def test_vbench_i2v(model, tmp_path, capsys, monkeypatch):  # noqa: F811
  entries = [
      {"prompt_en": text, "dimension": ["i2v_subject", "camera_motion"], "image_name": f"{i // 2}.jpg"}
      for i, text in enumerate(PROMPTS)]
  path = write_json(tmp_path / "info.json", entries)
  (tmp_path / "crop").mkdir()
  for i in range(2):
    Image.new("RGB", (32, 32), (100 * i,) * 3).save(tmp_path / f"crop/{i}.jpg")
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match="crop lacks 1 pictures: 'crop/2.jpg'"):
    read_layout("vbench_i2v", path, None, Path("crop"))
  Image.new("RGB", (32, 32), (200,) * 3).save(tmp_path / "crop/2.jpg")
  layout = read_layout("vbench_i2v", path, None, tmp_path / "crop")
  assert generate(layout, settings_of(model), tmp_path / "out", load=WithPictures)
  found = official.read_vbench_i2v(tmp_path / "out/vbench_i2v", entries, "camera_motion", tmp_path / "crop")
  assert found == {text: [f"{text}-{i}.mp4" for i in range(5)] for text in PROMPTS}
  assert check_folder(tmp_path / "out", "digits", None) and "--ratio 1-1" in capsys.readouterr().out
  Image.new("RGB", (32, 32), (201,) * 3).save(tmp_path / "crop/2.jpg")
  with pytest.raises(ValueError, match="files differ; use another --output"):
    generate(layout, settings_of(model), tmp_path / "out", load=WithPictures)


def test_vbench_long_before_and_after_it_was_scored(model, tmp_path, caplog):  # noqa: F811
  path = write_prompts("vbench", tmp_path)
  entries = json.loads(path.read_text(encoding="utf-8"))
  layout = read_layout("vbench_long", path)
  assert generate(layout, settings_of(model), tmp_path / "out", load=Fake)
  assert "clips have 0.2 s: VBench's rule is vbench_long for 5 s or more" in caplog.text
  scored = tmp_path / "out/vbench_long"
  official.cut_vbench_long(scored / "overall_consistency", entries)
  found = official.read_vbench_long(scored / "overall_consistency", entries, "imaging_quality")
  assert found == {text: [f"{text}-{i}_{j:03}.mp4" for i in range(5) for j in range(2)] for text in PROMPTS}
  assert check(layout_from_manifest(tmp_path / "out"), scored).is_good, "its pieces are no strangers"
  write_json(path, [{"prompt_en": "a_b", "dimension": ["color"]}])
  with pytest.raises(ValueError, match="has a _, where the scorer ends the name of a clip"):
    read_layout("vbench_long", path)


def test_vbench2_by_list_and_by_folder(model, tmp_path):  # noqa: F811
  entries = [{"prompt_en": text, "dimension": ["Composition"], "auxiliary_info": ""} for text in [*PROMPTS, LONG]]
  entries.append({"prompt_en": "many foxes", "dimension": ["Diversity"]})
  layout = read_layout("vbench2", write_json(tmp_path / "info.json", entries))
  (tmp_path / "prompt").mkdir()
  for dimension in ("Composition", "Diversity"):
    lines = [entry["prompt_en"] + " \n" for entry in entries if entry["dimension"] == [dimension]]
    (tmp_path / f"prompt/{dimension}.txt").write_text("".join(lines), encoding="utf-8")
  assert read_layout("vbench2", tmp_path / "prompt").items == layout.items
  assert generate(layout, settings_of(model), tmp_path / "out", load=Fake)
  found = official.read_vbench2(tmp_path / "out/vbench2", entries, "Composition")
  assert {text: len(numbers) for text, numbers in found.items()} == dict.fromkeys([*PROMPTS, LONG], 3)
  assert len(official.read_vbench2(tmp_path / "out/vbench2", entries, "Diversity")["many foxes"]) == 20
  entries[0]["prompt_en"] = LONG + ", another one"
  with pytest.raises(ValueError, match="has the file name of another prompt, 'xxx"):
    read_layout("vbench2", write_json(tmp_path / "info.json", entries))
  with pytest.raises(ValueError, match="'composition' is no dimension of VBench-2.0"):
    read_layout("vbench2", write_json(tmp_path / "info.json", [{"prompt_en": "a", "dimension": ["composition"]}]))


def test_geneval2(model, tmp_path):  # noqa: F811
  lines = [json.dumps({"prompt": text, "atom_count": 1, "vqa_list": [["?", "Yes"]], "skills": []}) for text in PROMPTS]
  (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
  layout = read_layout("geneval2", tmp_path / "data.jsonl")
  assert generate(layout, settings_of(model), tmp_path / "out", load=Fake)
  scored = tmp_path / "out/geneval2"
  assert [image.size for image in official.read_geneval2(scored, lines)] == [(8, 8)] * len(PROMPTS)
  assert check(layout_from_manifest(tmp_path / "out"), scored, tmp_path / "out/checksums.json").is_good
  (scored / "image_paths.json").write_text("{}", encoding="utf-8")
  assert check(layout_from_manifest(tmp_path / "out"), scored).broken == ["image_paths.json"]


@pytest.mark.parametrize("benchmark", [*NAMES, "class_to_image", "bair"])
def test_commands_run_as_they_are(benchmark, tmp_path):
  """With programs of these names that write down what they are given, in a folder whose name needs quotes."""
  scored = tmp_path / "it's here" / benchmark
  scored.mkdir(parents=True)
  (scored.parent / "results").mkdir()
  names = ("Diversity/a.mp4", "scene/b.mp4", "temporal_flickering/c.mp4")
  items = tuple(Item(name, "a", "a", (0,)) for name in names)
  clone, programs, log = tmp_path / "clone", tmp_path / "bin", tmp_path / "log"
  for folder in (clone / "evaluation", clone / "BLIPvqa_eval", clone / "UniDet_eval", programs):
    folder.mkdir(parents=True)
  script = f'#!/bin/sh\nfor word; do printf "%s|" "$word"; done >> "{log}"; echo >> "{log}"\n'
  names = ("python", "nova-jax", "zip")
  for program in (*(programs / name for name in names), clone / "evaluation/download_models.sh"):
    program.write_text(script, encoding="utf-8")
    program.chmod(0o755)
  (clone / "dpg_bench").mkdir()
  (clone / "dpg_bench/dist_eval.sh").write_text(f'echo "$1|$2|" >> "{log}"\n', encoding="utf-8")
  lines = how_to_score(
      Layout(benchmark, items, {}, (), {}, 2 if benchmark == "bair" else 0), scored, (3, 480, 768))
  done = subprocess.run(
      ["bash", "-eu", "-c", "\n".join(lines)], cwd=clone, env={"PATH": f"{programs}:{os.environ['PATH']}"},
      capture_output=True, encoding="utf-8")
  assert done.returncode == 0, done.stderr
  words = [word for line in log.read_text(encoding="utf-8").splitlines() for word in line.split("|")]
  read = {"geneval2": "image_paths.json", "class_to_image": f"{scored.parent}/samples.npz"}.get(benchmark, str(scored))
  assert any(read in word for word in words)
  assert not any(word.isupper() and len(word) > 2 for word in words)
