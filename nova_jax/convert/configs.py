"""Configs of published models: from their JSON to ours."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from nova_jax.config import ModelConfig, SchedulerConfig

NUM_CLASSES = 1000  # Of class-conditional models; their config doesn't say.

# Heads by width. The published sizes are the last three; the small ones are those of reference models.
_HEADS = {64: 2, 96: 3, 128: 4, 768: 12, 1024: 16, 1536: 16}


def parse_arch(arch: str, kind: str) -> tuple[int, int]:
  """Return depth and width from a name like "vit_d16w1024"."""
  match = re.fullmatch(rf"{kind}_d(\d+)w(\d+)", arch)
  if not match:
    raise ValueError(f"arch: expected {kind}_dDEPTHwWIDTH, got {arch!r}")
  return int(match[1]), int(match[2])


def num_heads(width: int) -> int:
  """Return the published number of heads for a width."""
  if width not in _HEADS:
    raise ValueError(
        f"arch: the number of heads for width {width} is not known; known widths: {', '.join(map(str, _HEADS))}")
  return _HEADS[width]


def model_config(published: Mapping[str, Any]) -> ModelConfig:
  """Turn a published `transformer/config.json` into a `ModelConfig`.

  Raises:
    ValueError: sizes that don't fit each other.
  """
  stride = published["image_stride"]
  size = published["image_size"]
  height, width = (size, size) if isinstance(size, int) else size
  temporal, spatial, denoiser = published["arch"]
  temporal_depth, temporal_width = parse_arch(temporal, "vit")
  spatial_depth, spatial_width = parse_arch(spatial, "vit")
  if temporal_width != spatial_width:
    raise ValueError(f"arch: both encoders must have one width, got {temporal_width} and {spatial_width}")
  denoiser_depth, denoiser_width = parse_arch(denoiser, "mlp")
  text_dim = published["text_token_dim"] or None
  cfg = ModelConfig(
      latent_dim=published["image_dim"], latent_size=(height // stride, width // stride), patch_size=15 // stride + 1,
      width=spatial_width, num_heads=num_heads(spatial_width), temporal_depth=temporal_depth,
      spatial_depth=spatial_depth, denoiser_depth=denoiser_depth, denoiser_width=denoiser_width,
      base_frames=published["video_base_size"][0],
      text_dim=text_dim, num_classes=None if text_dim else NUM_CLASSES,
      # 0 and null both mean that the layer is absent.
      mixer_rank=published.get("video_mixer_rank") or None, rotary=bool(published.get("rotary_pos_embed", False)))
  if text_dim:
    cfg = dataclasses.replace(cfg, text_len=published["text_token_len"])
  grids = tuple(published["image_base_size"]), tuple(published["video_base_size"][1:])
  if grids != (cfg.image_grid, cfg.video_grid):
    raise ValueError(f"image_base_size and video_base_size: image_size {size} makes grids of {cfg.image_grid} and "
                     f"{cfg.video_grid} tokens, got {grids[0]} and {grids[1]}")
  return cfg


def scheduler_config(published: Mapping[str, Any], library: str) -> SchedulerConfig:
  """Turn a published `scheduler_config.json` into a `SchedulerConfig`.

  Args:
    published: its fields; the class is under "_class_name".
    library: whose class of that name it is, "nova" or "diffusers".
  """
  name = published["_class_name"]
  if name == "FlowMatchEulerDiscreteScheduler" and library == "nova":
    if published.get("use_dynamic_shifting"):
      raise ValueError(
          "scheduler: use_dynamic_shifting needs a shift for each image, which NOVA never gives; set it to false")
    ours = "flow_matching"
  elif name == "DDPMScheduler":
    ours = "ddpm" if library == "nova" else "diffusers_ddpm"
    if published.get("trained_betas"):
      raise ValueError("scheduler: trained_betas are not supported; use a beta_schedule")
  else:
    raise ValueError(
        f"scheduler: expected NOVA's FlowMatchEulerDiscreteScheduler or a DDPMScheduler, got {library}'s {name}")
  known = {field.name for field in dataclasses.fields(SchedulerConfig)}
  return SchedulerConfig(name=ours, **{key: value for key, value in published.items() if key in known})
