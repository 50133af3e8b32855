"""Maps published parameter names to ours and back: a table of regular expressions, with the layouts of both sides.

PyTorch stores a linear map as [out, in] and a convolution as [out, in, …]. Ours contract leading axes, have separate
axes for attention heads and modulation parts, and stack blocks along "layers". Every published weight is listed with
its position in our arrays; this list serves both directions and the shape tables of the tests.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from flax import nnx

from nova_jax.checkpoints.store import LazyArray
from nova_jax.checkpoints.weight_files import DTYPES, shorten_name
from nova_jax.config import ModelConfig
from nova_jax.utils.errors import UserError

CARRIED = "carried/"  # Prefix of the names of arrays that no model reads.

Shape = tuple[int, ...]
# Function from our shape to the axes it is split into, and their order in the published array.
Layout = Callable[[Shape], tuple[Shape, Sequence[int]]]


def identity(shape: Shape) -> tuple[Shape, Sequence[int]]:
  return shape, range(len(shape))


def linear(num_inputs: int = 1) -> Layout:
  """Return the layout [inputs…, outputs…] → [out, in]."""
  return lambda shape: ((math.prod(shape[:num_inputs]), math.prod(shape[num_inputs:])), (1, 0))


def flat(shape: Shape) -> tuple[Shape, Sequence[int]]:
  """Lay out all axes as one."""
  return (math.prod(shape),), (0,)


def conv(shape: Shape) -> tuple[Shape, Sequence[int]]:
  """Lay out […, in, out] as [out, in, …]; without further axes this is a linear map."""
  last = len(shape) - 1
  return shape, (last, last - 1, *range(last - 1))


def patches(channels: int) -> Layout:
  """Return the layout [(row, column, C), D] → [D, C, row, column], which reorders the values of a patch."""

  def layout(shape: Shape):
    side = math.isqrt(shape[0] // channels)
    return (side, side, channels, shape[1]), (3, 2, 0, 1)

  return layout


class Names(NamedTuple):
  """Names of the weights of one kind of part in published checkpoints.

  Attributes:
    table: rows of our dotted path, published name with `\\1` for groups, and layout; the first full match counts.
    stacks: map from the path of a stack of blocks to its published name, with {} for the layer's number, and the number
      of the first layer.
    aliases: map from older published names to those of the table.
    carried: pattern of published names that no model reads, but that checkpoints keep.
  """

  table: Sequence[tuple[str, str, Layout]]
  stacks: Mapping[str, tuple[str, int]] = {}
  aliases: Sequence[tuple[str, str]] = ()
  carried: str = r"(?!)"


class Weight(NamedTuple):
  """A published weight and the position of its values in our arrays; `layer` is None outside stacks."""

  name: str
  shape: Shape
  path: str
  layer: int | None
  split: Shape
  axes: Sequence[int]

  def to_ours(self, array: np.ndarray, out: np.ndarray) -> None:
    """Write a published array into our array, which may be stacked."""
    target = out if self.layer is None else out[self.layer]
    target[...] = array.reshape(self.shape).transpose(np.argsort(self.axes)).reshape(target.shape)

  def to_published(self, array: np.ndarray) -> np.ndarray:
    """Return the contiguous published array from our array, which may be stacked."""
    array = np.asarray(array if self.layer is None else array[self.layer])
    return np.array(array.reshape(self.split).transpose(self.axes), order="C")


def published_weights(shapes: nnx.State, names: Names) -> Iterator[Weight]:
  """Yield the published weights of a model, given its state from `nnx.eval_shape`."""
  for keys, variable in nnx.to_flat_state(shapes):
    dotted, path = ".".join(map(str, keys)), "/".join(map(str, keys))
    stacked = variable.get_metadata()["out_sharding"][:1] == ("layers",)
    prefix = next((prefix for prefix in names.stacks if dotted.startswith(prefix + ".")), None)
    assert stacked == (prefix is not None), path
    leaf = dotted if prefix is None else dotted[len(prefix) + 1:]
    pattern, template, layout = next(row for row in names.table if re.fullmatch(row[0], leaf))
    name = re.sub(pattern, template, leaf, count=1)
    shape = variable.shape if prefix is None else variable.shape[1:]
    split, axes = layout(shape)
    published = tuple(split[axis] for axis in axes)
    if prefix is None:
      yield Weight(name, published, path, None, split, axes)
      continue
    block, first = names.stacks[prefix]
    for layer in range(variable.shape[0]):
      yield Weight(f"{block.format(first + layer)}.{name}", published, path, layer, split, axes)


def transformer_names(cfg: ModelConfig) -> Names:
  """Return the names of the weights of a NOVA model."""
  half = cfg.spatial_depth // 2
  return Names(
      stacks={
          "video_encoder.blocks": ("video_encoder.blocks.{}", 0),
          "image_encoder.encoder_blocks": ("image_encoder.blocks.{}", 0),
          "image_encoder.decoder_blocks": ("image_encoder.blocks.{}", half),
          "image_decoder.blocks": ("image_decoder.blocks.{}", 0),
      },
      table=(
          (r"(.*patch_embed\.proj)\.kernel", r"\1.weight", patches(cfg.latent_dim)),
          (r"(.*(?:time_proj|flow_proj|fps_proj))\.fc1\.kernel", r"\1.0.weight", linear()),
          (r"(.*(?:time_proj|flow_proj|fps_proj))\.fc1\.bias", r"\1.0.bias", identity),
          (r"(.*(?:time_proj|flow_proj|fps_proj))\.fc2\.kernel", r"\1.2.weight", linear()),
          (r"(.*(?:time_proj|flow_proj|fps_proj))\.fc2\.bias", r"\1.2.bias", identity),
          (r"(attn\.proj)\.kernel", r"\1.weight", linear(2)),
          (r"(.*)\.kernel", r"\1.weight", linear()),
          (r"(.*)\.scale", r"\1.weight", identity),
          (r"(.*)\.bias", r"\1.bias", flat),
          (r"(.*)", r"\1", identity),
      ))


PHI_NAMES = Names(
    stacks={"layers": ("model.layers.{}", 0)},
    table=(
        (r"(self_attn\.dense)\.kernel", r"\1.weight", linear(2)),
        (r"(self_attn\..*|mlp\..*)\.kernel", r"\1.weight", linear()),
        (r"(input_layernorm)\.scale", r"\1.weight", identity),
        (r"(final_layernorm)\.scale", r"model.\1.weight", identity),
        (r"((?:final_layernorm|embed_tokens).*)", r"model.\1", identity),
        (r"(.*)", r"\1", flat),
    ),
    carried=r"lm_head\..*")

AUTOENCODER_NAMES = Names(
    table=((r"(.*)\.kernel", r"\1.weight", conv), (r"(.*)", r"\1", identity)),
    aliases=(
        (r"(.*attentions\.\d+)\.query\.(.*)", r"\1.to_q.\2"), (r"(.*attentions\.\d+)\.key\.(.*)", r"\1.to_k.\2"),
        (r"(.*attentions\.\d+)\.value\.(.*)", r"\1.to_v.\2"),
        (r"(.*attentions\.\d+)\.proj_attn\.(.*)", r"\1.to_out.0.\2")))


def unwrapped(weights: Mapping[str, LazyArray]) -> tuple[dict[str, LazyArray], str]:
  """Return weights by names without wrappers' prefixes, and the prefixes; "" for none.

  torch.compile prefixes names in the modules it wraps with `_orig_mod.`, and DistributedDataParallel prefixes all names
  with `module.`. A model may have both wrappers.

  Raises:
    UserError: two weights have the same name without prefixes.
  """
  names = {name: name.replace("_orig_mod.", "") for name in weights}
  wrappers = ["_orig_mod."] if any(name != old for old, name in names.items()) else []
  while names and all(name.startswith("module.") for name in names.values()):
    names = {old: name.removeprefix("module.") for old, name in names.items()}
    wrappers = [*wrappers, "module."]
  found = {name: weights[old] for old, name in names.items()}
  if len(found) < len(weights):
    twice = next(name for old, name in names.items() if found[name] is not weights[old])
    raise UserError(f"{shorten_name(twice)} is there twice, also behind {' and '.join(wrappers)}")
  return found, " and ".join(dict.fromkeys(wrappers))


def renamed(weights: Mapping[str, LazyArray], names: Names) -> dict[str, LazyArray]:
  """Return weights with older names replaced by those of the table.

  Raises:
    UserError: a weight is present under both names.
  """
  found: dict[str, LazyArray] = {}
  for name, stored in weights.items():
    for pattern, replacement in names.aliases:
      name = re.sub(pattern, replacement, name)
    if name in found:
      raise UserError(f"{shorten_name(name)} is there twice, also under an older name")
    found[name] = stored
  return found


def misfits(found: Mapping[str, LazyArray], expected: Mapping[str, Shape], carried: str) -> list[list[str]]:
  """Return a line for each weight that does not fit, grouped into unknown, missing, misshapen and non-numeric ones.

  Args:
    found: weights by name.
    expected: shapes by name.
    carried: pattern of further names that are allowed, although no model reads them.
  """
  found = {name: stored for name, stored in found.items() if not re.fullmatch(carried, name)}
  both = sorted(found.keys() & expected.keys())
  kinds = (
      [f"{shorten_name(name)} is not a weight of this model" for name in sorted(found.keys() - expected.keys())],
      [f"{name} is missing" for name in sorted(expected.keys() - found.keys())],
      [f"{name} has shape {shorten_name(str(found[name].shape))} instead of {expected[name]}"
       for name in both if found[name].shape != expected[name]],
      [f"{name} is {found[name].dtype}" for name in both if found[name].dtype not in DTYPES.values()])
  return [lines for lines in kinds if lines]


def mixed_dtypes(weights: Mapping[str, LazyArray], shapes: nnx.State, names: Names) -> list[list[str]]:
  """Return a line for each stack whose published weights differ in dtype, since one array has one dtype."""
  dtypes: dict[str, set[str]] = {}
  for weight in published_weights(shapes, names):
    dtypes.setdefault(weight.path, set()).add(str(weights[weight.name].dtype))
  lines = [
      f"{path} is {' in some layers and '.join(sorted(found))} in others"
      for path, found in dtypes.items() if len(found) > 1]
  return [lines] if lines else []


def to_ours(weights: Mapping[str, LazyArray], shapes: nnx.State, names: Names) -> dict[str, LazyArray]:
  """Return our lazy arrays for published weights, in the stored dtype.

  Args:
    weights: weights by published name; all of them must fit.
    shapes: structure and shapes of the state, from `nnx.eval_shape`.
    names: names of this kind of part.

  Returns:
    Arrays by path in the state, such as "video_encoder/norm/scale"; those that no model reads are under "carried/".
  """
  sizes = our_shapes(shapes)

  def read(path: str, group: Sequence[Weight], dtype: np.dtype) -> np.ndarray:
    out = np.empty(sizes[path], dtype)
    for weight in group:
      weight.to_ours(weights[weight.name].read(), out)
    return out

  ours = {}
  for path, group in itertools.groupby(published_weights(shapes, names), lambda weight: weight.path):
    group = list(group)
    dtype = np.result_type(*(weights[weight.name].dtype for weight in group))
    ours[path] = LazyArray(sizes[path], dtype, functools.partial(read, path, group, dtype))
  carried = {name: stored for name, stored in weights.items() if re.fullmatch(names.carried, name)}
  return ours | {CARRIED + name: stored for name, stored in carried.items()}


def to_published(ours: Mapping[str, LazyArray], shapes: nnx.State, names: Names) -> dict[str, LazyArray]:
  """Undo `to_ours`."""
  read = functools.lru_cache(maxsize=1)(lambda path: ours[path].read())

  def stored(weight: Weight) -> LazyArray:
    # A stack of blocks yields many published weights in sequence, so the last array that was read is kept.
    return LazyArray(weight.shape, ours[weight.path].dtype, lambda: weight.to_published(read(weight.path)))

  listed = list(published_weights(shapes, names))
  weights = {weight.name: stored(weight) for weight in listed if weight.path in ours}
  others = ours.keys() - {weight.path for weight in listed}
  return weights | {path.removeprefix(CARRIED): ours[path] for path in sorted(others)}


def our_shapes(shapes: nnx.State) -> dict[str, Shape]:
  """Return the shapes of our arrays by path in the state."""
  return {"/".join(map(str, path)): tuple(variable.shape) for path, variable in nnx.to_flat_state(shapes)}
