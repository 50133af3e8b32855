"""Autoencoders equal the published code's: moments, means and decoded pixels of images and clips."""

import functools

import numpy as np
import pytest
from helpers import quick_if
from parity.reference import ROOT, channels_last, close, files, read

from nova_jax.autoencoders import wrap
from nova_jax.checkpoints.components import open_part

PASSES = files("*/vae*.safetensors") + files("vaes/*_*.safetensors")


def folder_of(path):
  """Return the autoencoder's folder: beside the pipeline's other parts, or named before the number of frames."""
  return path.parent / (path.stem.rsplit("_", 1)[0] if path.parent.name == "vaes" else "pipeline/vae")


@functools.cache
def load(folder):
  return wrap(open_part(ROOT / folder).load())


def clips(array):
  """Make clips, channels last, of images or clips in PyTorch's layout."""
  array = channels_last(array)
  return array[:, None] if array.ndim == 4 else array


def test_there_are_reference_passes():
  assert PASSES


@pytest.mark.parametrize("path", quick_if(("vae_17", "t2i/vae.", "_9"), PASSES), ids=str)
def test_autoencoder(path):
  arrays, autoencoder = read(ROOT / path).arrays, load(folder_of(path))
  expected = {name: clips(array) for name, array in arrays.items()}
  moments = autoencoder.moments(expected["pixels"])
  close(moments, expected["moments"], 1e-4, "moments")
  close(autoencoder.mean_and_std(moments)[0], expected["mean"], 1e-4, "mean")
  close(autoencoder.encode(expected["pixels"]), expected["scaled_mean"], 1e-4, "scaled mean")
  decoded = autoencoder.decode_pixels(expected["scaled_mean"])
  close(decoded, expected["decoded"], 1e-4, "decoded")
  pixels = np.clip(expected["decoded"] * 127.5 + 127.5, 0, 255).astype(np.uint8)
  off = np.abs(autoencoder.decode(expected["scaled_mean"]).astype(int) - pixels)
  assert off.max() <= 1, f"uint8 pixels differ by {off.max()}"
