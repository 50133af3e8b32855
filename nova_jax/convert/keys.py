"""Published parameter names ↔ ours: one table, and the transforms between the two layouts.

PyTorch stores a linear map as [out, in] and a patch convolution as [out, C, row, column]; ours contract leading axes,
split attention heads and modulation parts into axes of their own, and stack blocks along "layers".
"""

import re
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from nova_jax.config import ModelConfig


def _same(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  return array.reshape(shape)


def _linear(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  return array.T.reshape(shape)


def _patches(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """[D, C, row, column] → [(row, column, C), D]: the order of values in a patch."""
  return array.transpose(2, 3, 1, 0).reshape(shape)


_NORM = r"(?P<module>.*norm\d?)"

# Published name → our path (with the named groups) and transform; the first match counts.
TABLE: tuple[tuple[str, str, Callable], ...] = (
    (r"(?P<module>mask_embed\.(bos_token|mask_token))", r"{module}", _same),
    (r"(?P<module>(text|label)_embed)\.weight", r"{module}.weight", _same),
    (r"(?P<module>.*\.patch_embed\.proj)\.weight", r"{module}.kernel", _patches),
    (r"(?P<module>.*(time_proj|flow_proj|fps_proj))\.0\.weight", r"{module}.fc1.kernel", _linear),
    (r"(?P<module>.*(time_proj|flow_proj|fps_proj))\.0\.bias", r"{module}.fc1.bias", _same),
    (r"(?P<module>.*(time_proj|flow_proj|fps_proj))\.2\.weight", r"{module}.fc2.kernel", _linear),
    (r"(?P<module>.*(time_proj|flow_proj|fps_proj))\.2\.bias", r"{module}.fc2.bias", _same),
    (_NORM + r"\.weight", r"{module}.scale", _same),
    (_NORM + r"\.bias", r"{module}.bias", _same),
    (r"(?P<module>.*(qkv|proj|lora|fc\d|head))\.weight", r"{module}.kernel", _linear),
    (r"(?P<module>.*(qkv|proj|lora|fc\d|head))\.bias", r"{module}.bias", _same),
)

_BLOCK = re.compile(r"(?P<encoder>\w+)\.blocks\.(?P<layer>\d+)\.(?P<rest>.*)")


def our_name(name: str, cfg: ModelConfig) -> tuple[str, int | None, Callable] | None:
  """Return our dotted path, the place along "layers" (None outside stacks) and the transform; None if unknown."""
  for pattern, path, transform in TABLE:
    match = re.fullmatch(pattern, name)
    if match:
      path = path.format(**match.groupdict())
      break
  else:
    return None
  block = _BLOCK.fullmatch(path)
  if not block:
    return path, None, transform
  stack, layer = "blocks", int(block["layer"])
  if block["encoder"] == "image_encoder":
    half = cfg.spatial_depth // 2
    stack, layer = ("encoder_blocks", layer) if layer < half else ("decoder_blocks", layer - half)
  return f"{block['encoder']}.{stack}.{block['rest']}", layer, transform


def to_ours(weights: Mapping[str, np.ndarray], shapes: nnx.State, cfg: ModelConfig) -> nnx.State:
  """Turn published weights into the state of a NOVA, in float32.

  Args:
    weights: published name → array.
    shapes: the state's structure and shapes, from `nnx.eval_shape`.
    cfg: the model.

  Raises:
    ValueError: unknown, missing or misshapen weights; all of them are named.
  """
  flat = {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(shapes)}
  arrays = {path: np.zeros(variable.shape, np.float32) for path, variable in flat.items()}
  written = {path: set() for path in flat}
  problems = []
  for name, array in weights.items():
    found = our_name(name, cfg)
    if found is None or found[0] not in flat:
      problems.append(f"{name}: not a parameter of this model")
      continue
    path, layer, transform = found
    if layer is not None and layer >= flat[path].shape[0]:
      problems.append(f"{name}: the model has {flat[path].shape[0]} such layers")
      continue
    target = arrays[path] if layer is None else arrays[path][layer]
    if array.size != target.size:
      problems.append(f"{name}: shape {array.shape} does not fit {target.shape}")
      continue
    target[...] = transform(np.asarray(array, np.float32), target.shape)
    written[path].add(layer)
  for path, layers in written.items():
    stacked = flat[path].get_metadata()["out_sharding"][:1] == ("layers",)
    missing = set(range(flat[path].shape[0])) - layers if stacked else {None} - layers
    if missing:
      problems.append(f"{path}: missing" + (f" layers {sorted(missing)}" if stacked else ""))
  if problems:
    raise ValueError("weights do not fit the model: " + "; ".join(problems))
  return nnx.map_state(lambda path, variable: variable.replace(jnp.asarray(arrays[".".join(map(str, path))])), shapes)
