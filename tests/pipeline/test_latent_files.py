"""Clips of latents in files: what is written, what a generation continues, and what is refused."""

import numpy as np
import pytest
from pipeline.test_pipeline import fresh
from safetensors.numpy import save_file

from nova_jax.autoencoders import make_autoencoder
from nova_jax.pipeline.batch_sampling import plan_batches
from nova_jax.pipeline.clips import Clips
from nova_jax.pipeline.given_clips import GivenClips
from nova_jax.pipeline.latent_files import LatentClips, check_autoencoder, latents_shape, read_latents, write_latents
from nova_jax.pipeline.request import Request
from nova_jax.pipeline.resolve import resolve
from nova_jax.utils.errors import UserError

LATENTS = np.random.default_rng(0).normal(size=(1, 5, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def pipe():
  return fresh()


def refusal(function, *args, **options):
  with pytest.raises(UserError) as error:
    function(*args, **options)
  return str(error.value)


def test_what_is_written_is_read(pipe, tmp_path):
  file = tmp_path / "a.safetensors"
  clips = LatentClips(LATENTS, 12.5, 5, pipe.autoencoder.digest)
  write_latents(file, clips)
  first = file.read_bytes()
  found = read_latents(file)
  assert np.array_equal(found.latents, LATENTS) and found[1:] == clips[1:] and latents_shape(file) == LATENTS.shape
  write_latents(file, clips)
  assert file.read_bytes() == first
  Clips.from_array(LATENTS, 8.0).save(file)
  assert read_latents(file)[1:] == (8.0, None, None)
  save_file({"latents": LATENTS[0]}, file)  # As samples are written.
  assert np.array_equal(read_latents(file).latents, LATENTS)


def test_all_latents_of_a_file_are_continued(pipe, tmp_path):
  file = str(tmp_path / "a.safetensors")
  write_latents(file, LatentClips(LATENTS, 25.0, 5, pipe.autoencoder.digest))
  job = resolve(Request(prompt="one", video=file, num_frames=7), pipe.parts)
  assert np.array_equal(job.inputs.prefix_latents, LATENTS), "more than the model sees at once, bit for bit"
  assert job.fps == (25,) or list(job.fps) == [25]
  job = resolve(Request(prompt=["one", "two"], video=[file, file], num_frames=7), pipe.parts)
  assert np.array_equal(job.inputs.prefix_latents, np.concatenate([LATENTS] * 2))
  write_latents(file, LatentClips(LATENTS, 25.0, 4, pipe.autoencoder.digest))
  job = resolve(Request(prompt="one", video=file, num_frames=7), pipe.parts)
  assert np.array_equal(job.inputs.prefix_latents, LATENTS[:, :4]), "the last one stood for a frame that isn't there"


def test_runs_continue_latents_of_one_length_together(pipe, tmp_path):
  clips = []
  for name, length in (("a", 2), ("b", 3), ("c", 2)):
    write_latents(tmp_path / f"{name}.safetensors", LatentClips(LATENTS[:, :length], 25.0))
    clips.append({"prompt": "one", "num_frames": 7, "video": str(tmp_path / f"{name}.safetensors"), "seed": 0})
  completed = GivenClips(pipe.parts).complete(clips)
  assert [clip["fps"] for clip in completed] == [25.0] * 3
  assert list(plan_batches(completed, 8)) == [[0, 2], [1]]


def test_what_is_refused(pipe, tmp_path):
  file = str(tmp_path / "a.safetensors")
  ask = lambda **settings: refusal(resolve, Request(prompt="one", video=file, **settings), pipe.parts)
  assert ask(num_frames=7).startswith("video: ") and "a.safetensors" in ask(num_frames=7)
  write_latents(file, LatentClips(LATENTS))
  assert "given frames count, too, and are 5 here" in ask(num_frames=5)
  assert "decode them to a video first" in ask(num_frames=7, context_frames=2)
  assert "decode them to a video first" in ask(num_frames=7, mask=(0, 0, 4, 4))
  write_latents(file, LatentClips(LATENTS[:, :, :4]))
  assert "this model's latents are (8, 8, 1), these (4, 8, 1)" in ask(num_frames=7)
  write_latents(file, LatentClips(LATENTS, autoencoder="0" * 32))
  assert "made by another autoencoder" in ask(num_frames=7)
  assert "made by another autoencoder" in refusal(
      check_autoencoder, file, LatentClips(LATENTS), make_autoencoder("rgb"))
  write_latents(file, LatentClips(np.full_like(LATENTS, np.nan)))
  assert "expected finite latents" in ask(num_frames=7)
  save_file({"moments": LATENTS}, file)
  assert "expected an array 'latents', got moments" in ask(num_frames=7)
  save_file({"latents": LATENTS[0, 0]}, file)
  assert "expected float32 latents [B, T, h, w, C]" in ask(num_frames=7)
  for about in ("[", "[]", '{"fps": -1}', '{"num_frames": 0}', '{"autoencoder": 1}'):
    save_file({"latents": LATENTS}, file, metadata={"clip": about})
    assert "what it says of its clip is damaged" in ask(num_frames=7)
