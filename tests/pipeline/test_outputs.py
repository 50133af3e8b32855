"""Files of outputs: each has the provenance to make it again, and a name that depends on what it shows."""

import dataclasses

import jax
import numpy as np
import pytest
from pipeline.batches import FORMATS, contents, make_pipe, run
from pipeline.test_pipeline import CARD, fresh

from nova_jax import media
from nova_jax.config import SampleConfig
from nova_jax.pipeline import batch_sampling
from nova_jax.pipeline.provenance import Provenance, digest_weights, output_paths, parse, read_provenance, write_outputs


@pytest.fixture(scope="module")
def pipe():
  return make_pipe()


def test_every_format_tells_its_provenance_and_it_gives_the_same_file(pipe, tmp_path):
  provenances, files = run(pipe, tmp_path)
  for path in files[3]:
    assert read_provenance(path) == provenances[3]
  again = read_provenance(files[2][0])
  batch_sampling.check_files(again)
  assert batch_sampling.check_weights(pipe, again) == []
  clip = np.concatenate([piece for (piece,) in batch_sampling.make(pipe, [again], "pixels")])
  write_outputs(tmp_path / "again", again.name(2), again, FORMATS, clip, pipe.card.sample.fps)
  assert contents(tmp_path / "again") == {path.name: path.read_bytes() for path in files[2]}


def test_latents_and_pictures(pipe, tmp_path):
  provenances, files = run(pipe, tmp_path, ("latents",))
  assert read_provenance(files[0][0]) == provenances[0]
  assert [path.suffix for path in output_paths(tmp_path, "a", FORMATS, 1).values()] == [".png", ".webp", ".png"]
  assert [path.suffix for path in output_paths(tmp_path, "a", ("png", "mp4"), 2).values()] == [".mp4"]
  with pytest.raises(ValueError, match="png holds a single picture, got a clip of 2 frames"):
    output_paths(tmp_path, "a", ("png",), 2)
  media.write_png(tmp_path / "a.png", np.zeros((4, 4, 1), np.uint8), note="note")
  assert media.read_note(tmp_path / "a.png") == "note"
  media.write_png(tmp_path / "b.png", np.zeros((4, 4, 1), np.uint8))
  for name, message in (("a.png", "is not of"), ("b.png", "doesn't say"), ("none.mp4", "does not exist")):
    with pytest.raises(ValueError, match=message):
      read_provenance(tmp_path / name)


def test_another_model_or_picture_is_not_the_same(pipe, tmp_path):
  media.write_png(tmp_path / "start.png", np.zeros((8, 8, 1), np.uint8))
  clips = [{"prompt": "one", "image": str(tmp_path / "start.png"), "seed": 0}]
  (provenance,) = batch_sampling.make_provenances(pipe, "model", "ema", clips, [[0]], 1)
  batch_sampling.check_files(provenance)
  media.write_png(tmp_path / "start.png", np.ones((8, 8, 1), np.uint8))
  with pytest.raises(ValueError, match="start.png is not what it was"):
    batch_sampling.check_files(provenance)


def test_what_is_left_out_and_what_is_stated_are_one_provenance(pipe, tmp_path, monkeypatch):
  for folder in ("a", "b"):
    media.write_png(tmp_path / folder / "start.png", np.zeros((8, 8, 1), np.uint8))
  monkeypatch.chdir(tmp_path)
  base = {"prompt": "Ein Käse, 八", "seed": 0, "image": str(tmp_path / "a/start.png")}

  def made(**settings):
    (provenance,) = batch_sampling.make_provenances(pipe, "model", "ema", [base | settings], [[0]], 1)
    return provenance

  name = made().name(3)
  assert name.startswith("003-ein-käse-八-")
  same = {"num_frames": 3, "num_inference_steps": 3, "guidance_scale": 2.0, "refresh_every": 1, "fps": 12.0,
          "diffusion_grid": "published", "token_order": "random", "set_schedule": "cosine",
          "guidance_start": 1000, "guidance_every": 1, "temperature": 1}
  assert made(**same) == made() and made(image="a/start.png") == made(), "provenances hold in any folder"
  for same in (
      {"guidance_scale": 2}, {"fps": 12}, {"negative_prompt": ""}, {"later_inference_steps": 3}, {"window": 3},
      {"min_guidance_scale": 2.0}, {"flow_shift": pipe.scheduler.shift}, {"later_context": 2}, {"later_prompts": {}},
      {"solver": "euler"}, {"later_token_order": "random"}, {"later_set_schedule": "cosine"},
      {"last_temperature": 1.0}):
    assert made(**same) == made(), same
  unguided = made(guidance_scale=1, guidance_renorm=0.5, guidance_every=3, guidance_start=9)
  assert unguided == made(guidance_scale=0.0, negative_prompt="two"), "no guidance"
  (tmp_path / "link").symlink_to("a")
  assert made(image="link/start.png") == made(image="b/../a//start.png") == made()
  assert made(image="a/start.png", mask=(0, 0, 4, 4)) == made(mask=[0, 0, 4, 4])
  assert made(image="b/start.png").name(3) == name, "the same picture"
  others = [made(num_frames=2), made(seed=1), dataclasses.replace(made(), space_tile=4)]
  assert len({name, *(provenance.name(3) for provenance in others)}) == 4
  assert len(made(prompt="八" * 300).name(3).encode()) < 100 and made(prompt="!").name(3).count("-") == 1
  monkeypatch.setattr(pipe, "card", dataclasses.replace(pipe.card, sample=SampleConfig(4, 2, 2.0)))
  assert made().name(3) != name, "the model's own settings are in it"


def test_a_temperature_is_the_same_whatever_the_card_says_later(monkeypatch):
  pipes = {own: fresh(dataclasses.replace(CARD, sample=dataclasses.replace(CARD.sample, temperature=own)))
           for own in (1.0, 0.5)}
  changed, told = fresh(dataclasses.replace(CARD, sample=dataclasses.replace(CARD.sample, temperature=0.7))), []
  monkeypatch.setattr(type(changed), "stream", lambda self, **settings: told.append(settings["temperature"]) or [])
  for own, settings in ((1.0, {}), (0.5, {}), (0.5, {"temperature": 1})):
    clip = {"prompt": "one", "seed": 0} | settings
    (provenance,) = batch_sampling.make_provenances(pipes[own], "model", "ema", [clip], [[0]], 1)
    assert list(batch_sampling.make(changed, [provenance], "pixels")) == []
  assert told == [1.0, 0.5, 1.0]


def test_notes_of_outputs_keep_the_names_that_they_had():
  provenance = Provenance("model", f"ema {'0' * 16}", "float32", {
      "prompt": "one", "seed": 0, "image": "a.png", "outpaint_box": [0, 0, 4, 8]}, {"image": "0" * 16}, (0, 1))
  assert '"place": [0, 0, 4, 8]' in provenance.text() and parse(provenance.text()) == provenance
  assert provenance.name(0) == "000-one-cdadb6be", "what was made before is found"


def test_every_bit_of_every_part_is_in_the_digest(pipe):
  whole, state = digest_weights(pipe), pipe.model.state
  digests = {whole}
  for i in range(0, len(jax.tree.leaves(state)), 7):
    leaves, tree = jax.tree.flatten(state)
    leaves[i] = leaves[i].at[(-1,) * leaves[i].ndim].add(1e-3)
    other = fresh()
    other.model = other.model._replace(state=jax.tree.unflatten(tree, leaves))
    digests.add(digest_weights(other))
  assert len(digests) > 3 and digest_weights(fresh()) == whole
  other = fresh()
  other.autoencoder = dataclasses.replace(other.autoencoder, std=0.5)
  assert other.digests["vae"] != pipe.digests["vae"] and digest_weights(other) not in digests
  old = Provenance("model", "ema 0123456789abcdef", "float32", {}, {}, (0, 1))
  assert "can't be told" in batch_sampling.check_weights(pipe, old)[0]
  with pytest.raises(ValueError, match="weights are not those"):
    batch_sampling.check_weights(pipe, dataclasses.replace(old, weights=f"ema {digest_weights(other)}"))
