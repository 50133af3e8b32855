"""`launch.encode` and `launch.decode`: files to latents and back, by an autoencoder alone."""

import commands
import numpy as np
import pytest
from checkpoints.published import VIDEO

from nova_jax import media
from nova_jax.checkpoints.model_folder import load_autoencoder
from nova_jax.media.readers import read_clip, read_picture
from nova_jax.pipeline.latent_files import read_latents

RNG = np.random.default_rng(0)


def run(command, *args):
  done = commands.run(command, *args)
  assert done.returncode == 0, done.stderr
  return done


@pytest.fixture
def clips(tmp_path):
  folder = tmp_path / "clips"
  folder.mkdir()
  media.write_webp(folder / "moves.webp", RNG.integers(0, 256, (6, 300, 260, 3), np.uint8), 10)
  media.write_png(folder / "still.1.png", RNG.integers(0, 256, (260, 260, 3), np.uint8))
  return folder


def test_files_become_latents_and_files_again(clips, tmp_path):
  for ending in ("txt", "json"):  # Captions beside clips are no clips.
    (clips / f"moves.{ending}").write_text('{"caption": "a fox"}', encoding="utf-8")
  run("encode", "--source", clips, "--autoencoder", "rgb", "--output", tmp_path / "latents")
  moves = read_latents(tmp_path / "latents/moves.safetensors")
  assert moves.latents.shape == (1, 6, 300, 260, 3) and moves.fps == 10 and moves.num_frames == 6
  run("decode", "--source", tmp_path / "latents", "--autoencoder", "rgb", "--output", tmp_path / "back",
      "--format=webp")
  assert {path.name for path in (tmp_path / "back").iterdir()} == {"moves.webp", "still.1.png"}
  near = lambda a, b: np.abs(a.astype(int) - b).max() <= 1
  size = (300, 260)
  assert near(read_clip(tmp_path / "back/moves.webp", size, 3), read_clip(clips / "moves.webp", size, 3))
  size = (260, 260)
  assert near(read_picture(tmp_path / "back/still.1.png", size, 3), read_picture(clips / "still.1.png", size, 3))
  again = run("encode", "--source", clips, "--autoencoder", "rgb", "--output", tmp_path / "latents")
  assert again.stdout.startswith("0 files")


def test_of_files_of_one_clip_one_is_read(clips, tmp_path):
  for name in ("moves.png", "moves-sheet.png", "sheet.png"):  # As `launch.sample` writes them.
    (clips / name).write_bytes((clips / "still.1.png").read_bytes())
  run("encode", "--source", clips, "--autoencoder", "rgb", "--output", tmp_path / "latents")
  assert {path.name for path in (tmp_path / "latents").iterdir()} == {"moves.safetensors", "still.1.safetensors"}
  assert read_latents(tmp_path / "latents/moves.safetensors").num_frames == 6


@pytest.mark.slow
def test_an_autoencoder_of_a_model_takes_what_divides(clips, tmp_path):
  run("encode", "--source", clips / "moves.webp", "--autoencoder", VIDEO, "--output", tmp_path / "latents",
      "--size", "64,48")
  found = read_latents(tmp_path / "latents/moves.safetensors")
  autoencoder = load_autoencoder(str(VIDEO / "vae"))
  frames = read_clip(clips / "moves.webp", (64, 48), 3)
  assert np.array_equal(found.latents, autoencoder.encode(frames[None])) and found.autoencoder == autoencoder.digest
  run("decode", "--source", tmp_path / "latents", "--autoencoder", VIDEO, "--output", tmp_path / "back",
      "--format=webp")
  assert np.array_equal(
      read_clip(tmp_path / "back/moves.webp", (64, 48), 3), autoencoder.decode(found.latents)[0, :6])


def test_what_is_refused(clips, tmp_path):
  def refusal(command, *args):
    done = commands.run(command, "--autoencoder", "rgb", "--output", tmp_path / "x", *args)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    return done.stderr

  assert "--source: there is no" in refusal("encode", "--source", tmp_path / "gone")
  assert "--size: expected HEIGHT,WIDTH" in refusal("encode", "--source", clips, "--size", "64")
  assert "there is no file to read in" in refusal("decode", "--source", clips)
  (clips / "still.1.jpg").write_bytes((clips / "still.1.png").read_bytes())
  assert "still.1.jpg and still.1.png would become one file" in refusal("encode", "--source", clips)
  assert not (tmp_path / "x").exists()
  assert "moves.webp" in refusal("decode", "--source", clips / "moves.webp")
  assert "neither a folder nor a built-in vae" in commands.run(
      "encode", "--source", clips / "moves.webp", "--autoencoder", tmp_path / "gone", "--output", tmp_path / "x").stderr
