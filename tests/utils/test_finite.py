"""Weights, embeddings, latents and pixels that are not finite end with a line that names them, and with no picture."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from pipeline.test_generation import fresh
from pipeline.test_pipeline import save

from nova_jax.autoencoders import PixelAutoencoder
from nova_jax.autoencoders.streaming import decode_finished
from nova_jax.pipeline import Pipeline
from nova_jax.sampling import sampler
from nova_jax.utils.errors import FAILED, exit_code
from nova_jax.utils.finite import is_finite


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, ml_dtypes.float8_e4m3fn])
def test_one_bad_number_among_many_is_found(dtype):
  array = np.linspace(-3, 3, 600_000).reshape(600, 1000).astype(dtype)
  assert is_finite(array) and is_finite(array[::7, ::3]) and is_finite(array[:0]) and is_finite(np.zeros((), dtype))
  for bad in (np.nan, -np.inf) if dtype is not ml_dtypes.float8_e4m3fn else (np.nan,):
    array[597, 3] = bad
    assert not is_finite(array) and not is_finite(array.T) and not is_finite(jnp.asarray(array, jnp.float32))
  assert is_finite(np.arange(3))


def test_weights_are_named_when_they_are_loaded(tmp_path):

  def spoil(path, leaf):
    return leaf.at[(0,) * leaf.ndim].set(np.nan) if "image_decoder" in jax.tree_util.keystr(path) else leaf

  save(tmp_path, change=lambda weights: jax.tree_util.tree_map_with_path(spoil, weights))
  with pytest.raises(FloatingPointError, match="transformer has weights that are not finite: image_decoder/") as error:
    Pipeline.load(tmp_path)
  assert exit_code(error.value) == FAILED
  Pipeline.load(tmp_path, weights="params")


def test_frame_and_set_of_latents_are_named():
  pipe = fresh()
  with pytest.raises(FloatingPointError, match="latents are not finite .*, from frame 1/3, set 1/3 on"):
    pipe("one", guidance_scale=1e30)
  with pytest.raises(ValueError, match="given: expected finite latents"):
    pipe("one", given=np.full((1, 1, 8, 8, 1), np.nan), output="latent")


def test_a_set_in_the_middle_is_named(monkeypatch):
  pipe, write, calls = fresh(), sampler.denoise_set, []

  def breaking(*args, **options):
    x, features = write(*args, **options)
    calls.append(x)
    return x if len(calls) < 5 else jnp.where(x > x.mean(), jnp.inf, x), features

  monkeypatch.setattr(sampler, "denoise_set", breaking)
  with pytest.raises(FloatingPointError, match="from frame 2/3, set 2/3 on"):
    pipe("one", output="latent")


def test_frame_of_pixels_is_named():
  latents = np.zeros((2, 4, 4, 4, 1), np.float32)
  latents[1, 2, 3, 3] = np.nan
  with pytest.raises(FloatingPointError, match="from frame 3 of the clip on"):
    list(decode_finished(PixelAutoencoder(), latents.swapaxes(0, 1), 4))
  for array in (latents, jnp.asarray(latents)):
    with pytest.raises(FloatingPointError, match="pixels that are not finite"):
      PixelAutoencoder().decode(array)


def test_embeddings_are_checked():
  pipe = fresh()

  class Broken:
    dim, max_length = 8, 4

    def notes(self, prompt):
      return []

    def encode(self, prompts):
      return np.full((len(prompts), 4, 8), np.inf, np.float32), np.full(len(prompts), 2)

  with pytest.raises(ValueError, match="text_embeds: expected finite"):
    pipe(text_embeds=[np.full((2, 8), np.nan)])
  pipe.text_encoder = Broken()
  with pytest.raises(FloatingPointError, match="text encoder made an embedding that is not finite, of the prompt 'on"):
    pipe("one")
