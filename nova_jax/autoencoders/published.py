"""Published `vae/config.json` files as dataclasses: each field is used, checked, or known to be irrelevant."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from nova_jax.config import LARGEST
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict
from nova_jax.utils.files import read_json

NUM_GROUPS = 32  # Number of groups of every group normalisation.
MOST_LAYERS = 64  # Largest number of layers per level, and of levels.

_KL = {"_class_name": "AutoencoderKL", "latent_channels": 4, "down_block_types": ["DownEncoderBlock2D"] * 4,
       "up_block_types": ["UpDecoderBlock2D"] * 4}
# The autoencoders of the released models, by the suffix of the model's name.
RELEASED: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "sdxl1024": {**_KL, "scaling_factor": 0.13025},
    "sd512": _KL,
    "osp480": {
        "_class_name": "AutoencoderKLOpenSora", "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 2 + ["DownEncoderBlock3D"] * 2,
        "up_block_types": ["UpDecoderBlock3D"] * 4},
})


def published_autoencoder(name: str) -> Mapping[str, Any]:
  """Return the published config of the autoencoder in the folder `name`, or else of the released model `name`.

  Raises:
    UserError: there is neither such a folder nor such a model.
  """
  for path in (as_path(name) / "vae/config.json", as_path(name) / "config.json"):
    if path.is_file():
      return read_json(path)
  kind = as_path(name).name.rsplit("-")[-1]
  if kind not in RELEASED:
    raise UserError(
        f"autoencoder: {name!r} is neither a published folder nor a released model; known: {', '.join(RELEASED)}")
  return RELEASED[kind]


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """The relevant fields of a published `vae/config.json` that all autoencoders except LTX share, with its defaults."""

  in_channels: int = 3
  out_channels: int = 3
  block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
  layers_per_block: int = 2
  latent_channels: int = 16
  scaling_factor: float = 0.18215
  shift_factor: float | None = None
  use_quant_conv: bool = True
  use_post_quant_conv: bool = True

  def __post_init__(self):
    check_sizes(self)
    if any(dim % NUM_GROUPS for dim in self.block_out_channels):
      raise UserError(f"block_out_channels: expected multiples of {NUM_GROUPS}, got {self.block_out_channels}")


def read_config(cls: type[Any], values: Mapping[str, Any], fixed: Mapping[str, Any]) -> Any:
  """Create the config `cls` from published values.

  Args:
    cls: dataclass whose fields have the published names.
    values: published config.
    fixed: other fields, each with the only value that is supported if the field is present.

  Raises:
    UserError: a field has another value or a wrong type; the error names the field.
  """
  for name, expected in fixed.items():
    if values.get(name, expected) != expected:
      raise UserError(f"{name}: only {expected!r} is supported, got {values[name]!r}")
  known = {field.name for field in dataclasses.fields(cls)}
  return from_dict(cls, {name: value for name, value in values.items() if name in known}, "autoencoder")


def check_sizes(cfg: Any) -> None:
  """Refuse sizes that are out of range, before a network is created, and a scaling factor of 0."""
  for field in dataclasses.fields(cfg):
    value = getattr(cfg, field.name)
    largest = MOST_LAYERS if "layers" in field.name else LARGEST
    sizes = value if isinstance(value, tuple) else (value,)
    if any(type(size) is int and not 1 <= size <= largest for size in sizes) or not 1 <= len(sizes) <= MOST_LAYERS:
      raise UserError(f"{field.name}: expected sizes of 1 to {largest}, got {value}")
  if not cfg.scaling_factor:
    raise UserError("scaling_factor: expected another number than 0")


def uniform_blocks(values: Mapping[str, Any], field: str, kind: str) -> dict[str, Any]:
  """Return {field: expected value}: as many blocks as are given, all of the type `kind`; empty without the field."""
  given = values.get(field)
  return {field: [kind] * len(given)} if isinstance(given, list) else {}


# Supported values of fields that all autoencoders except LTX share.
COMMON = {
    "act_fn": "silu", "norm_num_groups": NUM_GROUPS, "mid_block_add_attention": True, "latents_mean": None,
    "latents_std": None}
