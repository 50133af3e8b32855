"""Names and layouts of published weights: each has one place in ours, and all that doesn't fit is named."""

import numpy as np
import pytest
from flax import nnx
from parity.reference import ROOT, files
from tables.read import NAMES, read_table

from nova_jax.checkpoints import key_table
from nova_jax.checkpoints.components import kind_from_config, open_part
from nova_jax.checkpoints.store import LazyArray

PARTS = [path.parent for path in files("*/pipeline/*/config.json") + files("vaes/*/config.json")]


def stored(array):
  return LazyArray(array.shape, array.dtype, lambda: array)


@pytest.mark.parametrize("path", PARTS, ids=str)
def test_every_value_has_one_place(path):
  """Numbered values go there and come back; none is lost, doubled or made up."""
  part = open_part(ROOT / path)
  assert not part.misfits()
  sizes = np.cumsum([0] + [int(np.prod(weight.shape)) for weight in part.weights.values()])
  numbers = {
      name: np.arange(start, start + np.prod(weight.shape)).reshape(weight.shape)
      for start, (name, weight) in zip(sizes[:-1], part.weights.items(), strict=True)}
  ours = key_table.to_ours({name: stored(array) for name, array in numbers.items()}, part.shapes, part.names)
  arrays = {name: array.read() for name, array in ours.items()}
  assert np.array_equal(np.sort(np.concatenate([array.ravel() for array in arrays.values()])), np.arange(sizes[-1]))
  back = key_table.to_published({name: stored(array) for name, array in arrays.items()}, part.shapes, part.names)
  assert back.keys() == numbers.keys()
  for name, array in back.items():
    assert np.array_equal(array.read(), numbers[name]), name


def test_layouts():
  """[in, out] and [out, in], written out."""
  kernel = np.arange(6).reshape(2, 3)
  split, axes = key_table.linear()(kernel.shape)
  assert np.array_equal(kernel.reshape(split).transpose(axes), kernel.T)
  patch = np.arange(2 * 2 * 3 * 5).reshape(12, 5)  # (row, column, channel), width.
  split, axes = key_table.patches(3)(patch.shape)
  assert patch.reshape(split).transpose(axes)[4, 2, 1, 0] == patch[(1 * 2 + 0) * 3 + 2, 4]
  image = np.arange(3 * 3 * 2 * 5).reshape(3, 3, 2, 5)
  split, axes = key_table.conv(image.shape)
  assert image.reshape(split).transpose(axes)[4, 1, 2, 0] == image[2, 0, 1, 4]


def test_all_misfits_are_named_at_once():
  part = open_part(ROOT / PARTS[0])
  weights, shapes = dict(part.weights), {name: weight.shape for name, weight in part.weights.items()}
  first, second, third = list(weights)[:3]
  weights["extra"] = weights.pop(first)
  weights[second] = stored(np.zeros((1, *weights[second].shape)))
  problems = "; ".join(sum(key_table.misfits(weights, shapes, part.names.carried), []))
  assert "extra is not a weight" in problems and f"{first} is missing" in problems
  assert f"{second} has shape (1, " in problems and third not in problems


def test_older_names_of_attention():
  weights = {"encoder.mid_block.attentions.0.proj_attn.bias": stored(np.ones(2)), "conv_in.bias": stored(np.ones(1))}
  assert list(key_table.renamed(weights, key_table.AUTOENCODER_NAMES)) == [
      "encoder.mid_block.attentions.0.to_out.0.bias", "conv_in.bias"]
  weights["encoder.mid_block.attentions.0.to_out.0.bias"] = stored(np.ones(2))
  with pytest.raises(ValueError, match="twice"):
    key_table.renamed(weights, key_table.AUTOENCODER_NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_full_size_parts_have_the_published_weights(name):
  """Every name and shape of the released sizes, as the published code's own constructors give them."""
  config, published = read_table(name)
  _, make, names = kind_from_config(config)
  shapes = nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
  ours = {weight.name: weight.shape for weight in key_table.published_weights(shapes, names)}
  carried = {name for name in published if name not in ours}
  assert ours == {name: shape for name, shape in published.items() if name not in carried}
  assert carried <= {"lm_head.weight", "lm_head.bias"}
