"""Results that are arrays, and save and show themselves."""

import numpy as np
import pytest
from PIL import Image

from nova_jax.media import readers
from nova_jax.pipeline.clips import Clips
from nova_jax.utils.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), np.uint8)


def clips(array=PIXELS, fps=4.0):
  return Clips.from_array(array, fps)


def test_they_are_arrays():
  made = clips()
  assert made.shape == (2, 3, 8, 8, 3) and made.dtype == np.uint8 and len(made) == 2
  assert type(np.asarray(made)) is np.ndarray and np.array_equal(made, PIXELS)
  assert isinstance(made[0], Clips) and made[0].fps == 4 and made[1:].fps == 4
  assert type(made / 255) is np.ndarray and type(np.abs(made.astype(int) - PIXELS)) is np.ndarray
  assert isinstance(made.max(), np.uint8) and type(made.mean(axis=0)) is np.ndarray
  assert type(np.concatenate([made, made])) is np.ndarray
  assert repr(made) == "Clips(2 x 3 x 8 x 8 x 3 uint8, 4 frames a second)"


def test_moving_files(tmp_path):
  assert clips().save(tmp_path / "a.gif") == [tmp_path / "a-000.gif", tmp_path / "a-001.gif"]
  (path,) = clips()[1].save(tmp_path / "sub" / "b.webp", fps=8)
  found = readers.open_clip(path, (128, 128), 3)
  assert found.fps == 8 and np.array_equal(found.frames[:, ::16, ::16], PIXELS[1])
  (path,) = clips()[:1].save(str(tmp_path / "c.mp4"))
  assert readers.open_clip(path, (8, 8), 3).fps == 4


def test_pictures_sheets_and_latents(tmp_path):
  (path,) = clips()[0, 2].save(tmp_path / "a.png")
  assert np.array_equal(np.asarray(Image.open(path))[::16, ::16], PIXELS[0, 2])
  assert len(clips()[:, :1].save(tmp_path / "b.png")) == 2
  (sheet,) = clips().save(tmp_path / "sheet.png")
  assert Image.open(sheet).width > 3 * 64
  latents = clips(PIXELS.astype(np.float32))
  assert latents.save(tmp_path / "a.safetensors") == [tmp_path / "a.safetensors"]
  for made, name, message in (
      (latents, "a.mp4", "save them as .safetensors"), (clips(), "a.avi", "expected an ending of .mp4, .gif"),
      (clips(fps=None), "a.mp4", "fps: these clips differ in their rate"), (clips()[0, 0, 0], "a.png", "channels la")):
    with pytest.raises(UserError, match=message):
      made.save(tmp_path / name)


def test_a_notebook_shows_them():
  shown = clips()._repr_html_()
  assert shown.count('<img src="data:image/webp;base64,') == 2
  assert clips(PIXELS.astype(np.float32))._repr_html_() is None and "and 4 more" in clips(
      np.zeros((20, 1, 8, 8, 1), np.uint8))._repr_html_()
