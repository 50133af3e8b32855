"""Pictures of all classes: balanced, in turns, shared out and continued, and as ADM's evaluator reads them."""

import dataclasses
import json
import re
import types

import commands
import numpy as np
import pytest
from evals.benchmarks import official
from evals.benchmarks.test_sampling import Fake, contents
from PIL import Image
from pipeline.test_pipeline import CARD, CLASSES, save

from nova_jax.evals.benchmarks.check import layout_from_manifest
from nova_jax.evals.benchmarks.classes import archive_problem, class_layout, write_archive
from nova_jax.evals.benchmarks.evaluate import check_folder
from nova_jax.evals.benchmarks.layout import seed_for_sample
from nova_jax.evals.benchmarks.sampling import generate
from nova_jax.evals.benchmarks.settings import Settings
from nova_jax.pipeline import Pipeline

CLASS_CARD = dataclasses.replace(CARD, model=CLASSES, text_encoder=None, num_frames=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  save(folder, CLASS_CARD, CLASSES)
  return folder


class ClassFake(Fake):
  """Pictures that tell class and seed."""

  cfg = types.SimpleNamespace(num_classes=3, latent_size=(8, 8))

  def __call__(self, *, label, seed, num_frames, **options):
    assert len(label) == len(seed) and num_frames == 1 and "text_embeds" not in options
    pictures = np.zeros((len(seed), 1, 8, 8, 3), np.uint8)
    pictures[..., 0] = np.reshape(label, (-1, 1, 1, 1))
    pictures[..., 1] = np.reshape(seed, (-1, 1, 1, 1)) % 251
    pictures[:, 0, 0, 0, 2] = 99
    return pictures


def test_classes_take_turns_and_are_balanced():
  layout = class_layout(50_000, 1000)
  labels = [item.label for item in layout.items]
  assert all(sorted(labels[start : start + 5000]) == sorted(5 * [*range(1000)]) for start in range(0, 50_000, 5000))
  assert layout.items[1234][:5] == ("01234_0234.png", "class 234", "", (1,), 234) and not layout.notes
  seeds = {seed_for_sample("class_to_image", item.prompt, item.samples[0], 0) for item in layout.items[:5000]}
  assert len(seeds) == 5000
  assert "the first 2 classes have one more" in class_layout(8, 3).notes[0]
  assert class_layout(100_001, 10).items[7].path == "000007_0007.png"


def test_shards_make_what_adm_reads(model, tmp_path, capsys):
  layout, settings = class_layout(8, 3), Settings(str(model), batch_size=3)
  assert generate(layout, settings, tmp_path / "whole", load=ClassFake)
  assert not generate(layout, settings, tmp_path / "parts", (1, 2), load=ClassFake)
  assert generate(layout, settings, tmp_path / "parts", (0, 2), load=ClassFake)
  assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
  scored, archive = tmp_path / "whole/class_to_image", tmp_path / "whole/samples.npz"
  write_archive(archive, scored, layout.items)
  found = official.read_adm(archive)
  assert found.shape == (8, 8, 8, 3) and found.dtype == np.uint8
  assert found[:, 3, 3, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1] == np.load(archive)["arr_1"].tolist()
  assert all(np.array_equal(np.asarray(Image.open(scored / item.path)), picture)
             for item, picture in zip(layout.items, found, strict=True))
  first = archive.read_bytes()
  write_archive(archive, scored, layout_from_manifest(tmp_path / "whole").items)
  assert archive.read_bytes() == first, "the manifest knows the classes, and the bytes are the same"
  assert check_folder(tmp_path / "whole", "digits", None)
  assert f"{archive} has the same pictures" in capsys.readouterr().out


def test_an_archive_of_others_is_told(model, tmp_path, capsys):
  layout = class_layout(4, 3)
  generate(layout, Settings(str(model), batch_size=2), tmp_path, load=ClassFake)
  scored, archive = tmp_path / "class_to_image", tmp_path / "samples.npz"
  pictures = np.stack([np.asarray(Image.open(scored / item.path)) for item in layout.items])
  for arrays, problem in (
      ({"arr_0": pictures}, "expected arr_0.npy and arr_1.npy"),
      ({"arr_0": pictures, "arr_1": [0, 1, 2, 1]}, "other classes"),
      ({"arr_0": pictures[:3], "arr_1": [0, 1, 2, 0]}, r"expected uint8 \[4, 8, 8, 3\]"),
      ({"arr_0": pictures[::-1], "arr_1": [0, 1, 2, 0]}, "another picture in place of 00000_0000.png")):
    np.savez(archive, **arrays)
    assert re.search(problem, archive_problem(archive, scored, layout.items))
  assert not check_folder(tmp_path, "digits", None) and "let --npz write it again" in capsys.readouterr().out
  archive.write_bytes(b"none")
  assert "can't be read" in archive_problem(archive, scored, layout.items)


@pytest.mark.slow
def test_a_model_makes_the_classes_that_names_say(model, tmp_path):
  done = commands.run(
      "evaluate", "--benchmark=class_to_image", "--checkpoint", model, "--output", tmp_path, "--num_pictures=4",
      "--batch_size=2", "--npz")
  assert done.returncode == 0, done.stderr
  manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
  entries = list(manifest["files"].values())
  assert [entry["label"] for entry in entries] == [0, 1, 2, 0] and len({entry["seeds"][0] for entry in entries}) == 4
  clips = Pipeline.load(model)(label=[2, 0], seed=[entry["seeds"][0] for entry in entries[2:]], num_frames=1)
  assert np.abs(official.read_adm(tmp_path / "samples.npz")[2:, ..., :1].astype(int) - clips[:, 0]).max() <= 1


def test_models_of_texts_and_flags_of_others_are_refused(model, tmp_path):
  text = tmp_path / "text"
  save(text)
  args = ("evaluate", "--output", tmp_path / "out", "--checkpoint")
  for more, message in (
      ((text, "--benchmark=class_to_image"), "takes text; class_to_image needs classes"),
      ((model, "--benchmark=class_to_image", "--prompts=a"), "--prompts is given, but not used"),
      ((text, "--benchmark=geneval", "--npz"), "--npz is given, but not used by geneval")):
    failed = commands.run(*args, *more)
    assert failed.returncode == 2 and message in failed.stderr
  assert not (tmp_path / "out").exists()
