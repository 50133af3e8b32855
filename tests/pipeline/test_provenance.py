"""Recipes that strangers wrote: refused in one line, before anything that they name is looked up."""

import json

import numpy as np
import pytest

from nova_jax import media
from nova_jax.pipeline import batch_sampling
from nova_jax.pipeline.provenance import Provenance, parse, read_provenance
from nova_jax.utils import limits

DIGEST = "0123456789abcdef"
GOOD = json.loads(Provenance(
    "runs/model", f"ema sha256:{DIGEST * 2}", "float32", {"prompt": "a fox", "seed": 3, "image": "a.png"},
    {"image": DIGEST}, (1, 4), 8).text())
ABSENT = object()


def text_of(**changes):
  values = {name: value for name, value in (GOOD | changes).items() if value is not ABSENT}
  return json.dumps(values)


def settings(**changes):
  values = GOOD["settings"] | changes
  return {"settings": {name: value for name, value in values.items() if value is not ABSENT}}


def test_what_we_write_is_read():
  provenance = parse(text_of())
  assert provenance.batch == (1, 4) and provenance.settings["seed"] == 3
  assert parse(text_of(weights=f"params {DIGEST}", space_tile=None, versions=ABSENT)).weights == f"params {DIGEST}"


@pytest.mark.parametrize("changes, message", [
    ({"weights": 5}, "weights"), ({"weights": "ema"}, "weights"), ({"weights": "ema x y"}, "weights"),
    ({"weights": ABSENT}, "weights"), ({"files": [1]}, "files"), ({"files": None}, "files"), ({"files": {}}, "files"),
    ({"files": {"image": 5}}, "files"), ({"files": {"image": DIGEST, "video": DIGEST}}, "files"),
    ({"batch": 3}, "batch"), ({"batch": [0, 10**9]}, "batch"), ({"batch": [-1, 1]}, "batch"), ({"batch": [1]}, "batch"),
    ({"batch": [1, 1]}, "batch"), ({"batch": [True, 2]}, "batch"), ({"batch": [0, 1, 2]}, "batch"),
    ({"batch": [0.0, 1]}, "batch"), ({"space_tile": -1}, "space_tile"), ({"space_tile": "x"}, "space_tile"),
    ({"space_tile": True}, "space_tile"), ({"checkpoint": 5}, "checkpoint"), ({"checkpoint": "a\0b"}, "checkpoint"),
    ({"checkpoint": ""}, "checkpoint"), ({"dtype": "int8"}, "dtype"), ({"dtype": ["float32"]}, "dtype"),
    ({"settings": 5}, "settings"), ({"settings": []}, "settings"), ({"on_set": 1}, "'on_set' is not a field"),
    (settings(prompt=5), "prompt: expected text"), (settings(prompt=ABSENT), "give a prompt"),
    (settings(prompt=["a"]), "prompt: expected text"), (settings(output="latent"), "output is not a setting"),
    (settings(on_set="x"), "on_set is not a setting"), (settings(given=[[1]]), "given is not a setting"),
    (settings(seed=ABSENT), "a seed"), (settings(seed="1"), "seed: expected a whole"), (settings(num_samples=9), "num"),
    (settings(guidance_scale=10**400), "guidance_scale: expected a fin"), (settings(image=5), "image: expected text"),
    (settings(mask="-1,0,4,4"), "mask: expected TOP"),
    (settings(place=[[1], 2, 3, 4]), "outpaint_box: expected TOP"), (settings(mask=[0, 0, 4]), "mask: expected TOP"),
    (settings(mask=[0, 0, 4, 10**9]), "mask: expected TOP"), (settings(seed=-1), "seed: expected 0 to"),
    (settings(later_prompts={"9" * 5000: "a"}), "later_prompts"), (settings(prompt="a" * 70_000), "at most 65,536"),
    ({"format": "another"}, "something else"), ({"version": 7}, "something else")])
def test_wrong_fields_are_named(changes, message):
  with pytest.raises(ValueError, match=message) as error:
    parse(text_of(**changes))
  assert "\n" not in str(error.value) and len(str(error.value)) < 700  # It may list all settings.


@pytest.mark.parametrize("text", [
    "[" * 100_000, '{"format": ' * 50_000, "null", "[]", "5", "", "\0", '{"version": 1' + "0" * 5000 + "}"])
def test_what_is_no_provenance(text, tmp_path):
  with pytest.raises(ValueError):
    parse(text)
  media.write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), note=text or "x")
  with pytest.raises(ValueError, match="a.png.*") as error:
    read_provenance(tmp_path / "a.png")
  assert "\n" not in str(error.value)


def test_long_notes_are_not_parsed(tmp_path):
  media.write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), note=" " * (limits.NOTE_BYTES + 1))
  with pytest.raises(ValueError, match="a.png"):
    read_provenance(tmp_path / "a.png")


def test_files_are_what_they_were_before_anything_is_loaded(tmp_path):
  media.write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
  provenance = parse(text_of(**settings(image=str(tmp_path / "a.png"))))
  with pytest.raises(ValueError, match="image .*a.png is not what it was"):
    batch_sampling.check_files(provenance)
  for path, message in (("none.png", "does not exist"), ("/dev/zero", "neither a file"), (str(tmp_path), "a folder")):
    with pytest.raises(ValueError, match=f"image: .*{message}"):
      batch_sampling.check_files(parse(text_of(**settings(image=path))))
