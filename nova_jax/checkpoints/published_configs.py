"""Conversion between the JSON configs of published models and our configs."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from nova_jax.checkpoints.store import LazyArray
from nova_jax.config import ModelConfig, SchedulerConfig
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict, to_dict

TRANSFORMER_CLASS = "NOVATransformer3DModel"
OUR_CLASS = "NOVA"  # A transformer that the published code can't build; its config is {"model": `ModelConfig`}.
NUM_CLASSES = 1000  # Number of classes of class-conditional models, which their config lacks.

# Number of heads by width. The last three are published sizes, the others belong to reference models.
_HEADS = {64: 2, 96: 3, 128: 4, 768: 12, 1024: 16, 1536: 16}


def parse_arch(arch: str, kind: str) -> tuple[int, int]:
  """Return depth and width from a name like "vit_d16w1024"."""
  match = re.fullmatch(rf"{kind}_d(\d{{1,3}})w(\d{{1,5}})", arch)
  if not match:
    raise UserError(f"arch: expected {kind}_dDEPTHwWIDTH, of at most 3 and 5 digits, got {arch!r}")
  return int(match[1]), int(match[2])


def num_heads(width: int) -> int:
  """Return the number of heads that the published code uses for a width."""
  if width not in _HEADS:
    raise UserError(
        f"arch: the number of heads for width {width} is not known; known widths: {', '.join(map(str, _HEADS))}")
  return _HEADS[width]


@dataclasses.dataclass(frozen=True)
class PublishedTransformer:
  """The fields of a published `transformer/config.json`."""

  image_dim: int  # C, the number of latent channels.
  image_size: tuple[int, int]  # Size in pixels.
  image_stride: int  # Pixels per latent.
  image_base_size: tuple[int, int]  # Grid of image tokens per frame.
  video_base_size: tuple[int, int, int]  # Latent frames that time is stretched to, and grid of video tokens per frame.
  arch: tuple[str, str, str]  # Names of temporal encoder, spatial encoder and denoiser.
  text_token_dim: int | None = None
  text_token_len: int | None = None
  video_mixer_rank: int | None = None
  rotary_pos_embed: bool = False


def class_name_from_config(published: Mapping[str, Any]) -> str:
  """Return the class name in a published config; empty if it has none."""
  named = published.get("_class_name") or published.get("architectures") or ""
  return str(named[0] if isinstance(named, list) else named)


def with_mixer(published: Mapping[str, Any], weights: Mapping[str, LazyArray]) -> Mapping[str, Any]:
  """Return a transformer's config, completed with the scaling & shift layer if the weights have one.

  The published video config omits `video_mixer_rank`, and so do folders that were trained from it.
  """
  if class_name_from_config(published) == OUR_CLASS:
    return published
  if published.get("video_mixer_rank") or "video_encoder.mixer.proj.weight" not in weights:
    return published
  narrow = weights.get("video_encoder.mixer.lora.weight")
  return {**published, "video_mixer_rank": -1 if narrow is None else (narrow.shape or (-1,))[0]}


def model_config(published: Mapping[str, Any]) -> ModelConfig:
  """Turn a `transformer/config.json` into a `ModelConfig`.

  Raises:
    UserError: fields are missing or have a wrong type, or sizes don't fit each other.
  """
  if class_name_from_config(published) == OUR_CLASS:
    if not isinstance(model := published.get("model"), Mapping):
      raise UserError(f"model: expected the fields of a model, got {model!r}")
    return from_dict(ModelConfig, model, "model")
  known = _known(PublishedTransformer, published)
  if isinstance(known.get("image_size"), int):
    known["image_size"] = (known["image_size"],) * 2
  fields = from_dict(PublishedTransformer, known, "transformer")
  stride, size = fields.image_stride, fields.image_size
  if stride < 1 or min(size) < stride:
    raise UserError(f"image_size and image_stride: expected positive sizes, got {size} and {stride}")
  temporal, spatial, denoiser = fields.arch
  temporal_depth, temporal_width = parse_arch(temporal, "vit")
  spatial_depth, spatial_width = parse_arch(spatial, "vit")
  if temporal_width != spatial_width:
    raise UserError(f"arch: both encoders must have one width, got {temporal_width} and {spatial_width}")
  denoiser_depth, denoiser_width = parse_arch(denoiser, "mlp")
  text_dim = fields.text_token_dim or None
  cfg = ModelConfig(
      latent_dim=fields.image_dim, latent_size=(size[0] // stride, size[1] // stride), patch_size=15 // stride + 1,
      width=spatial_width, num_heads=num_heads(spatial_width), temporal_depth=temporal_depth,
      spatial_depth=spatial_depth, denoiser_depth=denoiser_depth, denoiser_width=denoiser_width,
      base_frames=fields.video_base_size[0], text_dim=text_dim, num_classes=None if text_dim else NUM_CLASSES,
      # 0 and null both mean that the layer is absent.
      mixer_rank=fields.video_mixer_rank or None, rotary=fields.rotary_pos_embed)
  if text_dim and fields.text_token_len is not None:
    cfg = dataclasses.replace(cfg, text_len=fields.text_token_len)
  grids = fields.image_base_size, fields.video_base_size[1:]
  if grids != (cfg.image_grid, cfg.video_grid):
    raise UserError(f"image_base_size and video_base_size: image_size {size} makes grids of {cfg.image_grid} and "
                     f"{cfg.video_grid} tokens, got {grids[0]} and {grids[1]}")
  return cfg


def scheduler_config(published: Mapping[str, Any], library: str) -> SchedulerConfig:
  """Turn a published `scheduler_config.json` into a `SchedulerConfig`.

  Args:
    published: fields of the file, with the class under "_class_name".
    library: library that the class belongs to, "nova" or "diffusers".

  Raises:
    UserError: the class or a field is not supported, or a field has a wrong type.
  """
  name = class_name_from_config(published)
  if name == "FlowMatchEulerDiscreteScheduler" and library == "nova":
    if published.get("use_dynamic_shifting"):
      raise UserError(
          "scheduler: use_dynamic_shifting needs a shift for each image, which NOVA never gives; set it to false")
    ours = "flow_matching"
  elif name == "DDPMScheduler":
    ours = "ddpm" if library == "nova" else "diffusers_ddpm"
    if published.get("trained_betas"):
      raise UserError("scheduler: trained_betas are not supported; use a beta_schedule")
  else:
    raise UserError(
        f"scheduler: expected NOVA's FlowMatchEulerDiscreteScheduler or a DDPMScheduler, got {library}'s {name}")
  known = _known(SchedulerConfig, published) | {"name": ours}
  if "rescale_betas_zero_snr" in known:
    known["rescale_betas_zero_snr"] = bool(known["rescale_betas_zero_snr"])  # NOVA's config has a number here.
  return from_dict(SchedulerConfig, known, "scheduler")


def _known(cls: type[Any], published: Mapping[str, Any]) -> dict[str, Any]:
  """Return the fields of `published` that are set and that `cls` also has."""
  names = {field.name for field in dataclasses.fields(cls)}
  return {name: value for name, value in published.items() if name in names and value is not None}


def stored_model(cfg: ModelConfig) -> dict[str, Any]:
  """Turn a `ModelConfig` into a `transformer/config.json`, of `OUR_CLASS` where there is no published one."""
  try:
    return published_model(cfg)
  except UserError:
    return {"_class_name": OUR_CLASS, "model": to_dict(cfg)}


def published_model(cfg: ModelConfig) -> dict[str, Any]:
  """Turn a `ModelConfig` into a published `transformer/config.json`.

  Raises:
    UserError: the published code does not support this model.
  """
  heads = num_heads(cfg.width)
  if heads != cfg.num_heads:
    raise UserError(f"model.num_heads: the published code gives width {cfg.width} {heads} heads, got {cfg.num_heads}")
  for name, published in (("norm", "post"), ("history", True), ("told_noise", False), ("canvas", False)):
    if getattr(cfg, name) != published:
      raise UserError(f"model.{name}: the published code has {published!r} only, got {getattr(cfg, name)!r}")
  if cfg.num_classes not in (None, NUM_CLASSES):
    raise UserError(f"model.num_classes: the published code has {NUM_CLASSES} classes, got {cfg.num_classes}")
  # The published code uses the stride of a latent only to derive the patch size.
  stride = next((stride for stride in (16, 8, 4, 2, 1) if 15 // stride + 1 == cfg.patch_size), None)
  if stride is None:
    raise UserError(f"model.patch_size: the published code has 1, 2, 4, 8 and 16, got {cfg.patch_size}")
  return {
      "_class_name": TRANSFORMER_CLASS,
      "arch": [
          f"vit_d{cfg.temporal_depth}w{cfg.width}", f"vit_d{cfg.spatial_depth}w{cfg.width}",
          f"mlp_d{cfg.denoiser_depth}w{cfg.denoiser_width}"],
      "image_base_size": list(cfg.image_grid),
      "image_dim": cfg.latent_dim,
      "image_size": [side * stride for side in cfg.latent_size],
      "image_stride": stride,
      "rotary_pos_embed": cfg.rotary,
      "text_token_dim": cfg.text_dim,
      "text_token_len": cfg.text_len if cfg.text_dim else None,
      "video_base_size": [cfg.base_frames, *cfg.video_grid],
      "video_mixer_rank": cfg.mixer_rank,
  }


def published_scheduler(cfg: SchedulerConfig) -> tuple[dict[str, Any], list[str]]:
  """Turn a `SchedulerConfig` into a published `scheduler_config.json` and its [module, class]."""
  if cfg.name == "flow_matching":
    fields, module = ("num_train_timesteps", "shift"), "diffnext.schedulers.scheduling_cfm"
    name = "FlowMatchEulerDiscreteScheduler"
  else:
    fields = tuple(field.name for field in dataclasses.fields(cfg) if field.name not in ("name", "shift"))
    name = "DDPMScheduler"
    module = "diffusers" if cfg.name == "diffusers_ddpm" else "diffnext.schedulers.scheduling_ddpm"
  values = {field: getattr(cfg, field) for field in fields}
  return {"_class_name": name, **values, "_noise_class_name": name, "_sample_class_name": name}, [module, name]
