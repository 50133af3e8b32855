"""Sizes of a NOVA transformer, and the presets of the released models."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Annotated, Any

from nova_jax.config.numbers import LARGEST, Size
from nova_jax.utils.errors import UserError
from nova_jax.utils.ranges import Range, check_ranges

# What the backward pass does with the activations of a block.
REMAT = {
    "none": "keeps all of them",
    "dots": "keeps the results of matrix products and attention, recomputes the rest",
    "mlp": "keeps what dots does, but for the hidden values of the MLP, which are the largest",
    "block": "keeps only the block's input, recomputes the block",
    "offload": "keeps only the block's input, in the host's memory",
}
# What a transformer block normalises.
NORMS = {
    "post": "the outputs of attention and MLP, before they are added, as in NOVA",
    "pre": "the inputs of attention and MLP",
}
# Implementations of attention.
ATTENTION = {
    "auto": "the fastest for the platform: splash on TPU, mapped on CPU, cudnn on NVIDIA GPUs where it can, else dense",
    "dense": "one matrix of scores for all heads: the reference",
    "mapped": "one head at a time, recomputed in the backward pass unless heads are small: for CPU",
    "cudnn": "cuDNN's flash attention for NVIDIA GPUs from Ampere on, in bfloat16; by XLA, slowly, elsewhere",
    "splash": "the Pallas kernel for TPU (interpreted, slowly, elsewhere)",
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Sizes of a NOVA transformer, and how it computes. `PRESETS` has the released models."""

  latent_dim: Size  # C, the number of channels of a latent.
  latent_size: tuple[Size, Size]  # Height and width of a latent frame.
  patch_size: Size  # Side of an image token in latents; the side of a video token is twice as long.
  width: Size  # Width D of both encoders.
  num_heads: Size  # Number of heads H of both encoders.
  temporal_depth: Size  # Number of blocks of the temporal encoder.
  spatial_depth: Annotated[int, Range(2, LARGEST)]  # Number of blocks of the spatial encoder.
  denoiser_depth: Size
  denoiser_width: Size
  base_frames: Size = 1  # Latent frames that absolute time positions are stretched to; > 1 adds the motion tokens.
  text_dim: Size | None = None  # Width of a text embedding; None for a class-conditional model.
  text_len: Size = 256  # Number of text tokens L.
  num_classes: Size | None = None  # Number of classes, without the "no class" row; None with text.
  # Rank of scaling & shift; None for no such layer, negative for full rank.
  mixer_rank: Annotated[int, Range(-LARGEST, LARGEST)] | None = None
  rotary: bool = False  # 3-D rotary positions instead of absolute ones.
  norm: str = "post"  # What blocks normalise; see `NORMS`.
  history: bool = True  # Whether frames attend to earlier ones; otherwise each is generated independently.
  told_noise: bool = False  # Whether the model is told how much noise is on earlier frames (`data.history_noise`).
  canvas: bool = False  # Whether a blurred prediction of each frame is added to its mask tokens, as in CanvasMAR.
  dtype: str = "float32"  # Dtype of activations; parameters are always float32.
  remat: str = "none"  # What the backward pass recomputes; see `REMAT`.
  attention: str = "auto"  # Implementation of attention; see `ATTENTION`.

  def __post_init__(self):
    if (self.text_dim is None) == (self.num_classes is None):
      raise UserError(
          "model: give either text_dim or num_classes, not both or none "
          f"(got {self.text_dim} and {self.num_classes})")
    check_ranges(self, "model")
    if self.mixer_rank == 0:
      raise UserError("model.mixer_rank: expected a rank, a negative number for full rank or None for no layer, got 0")
    if self.width % 4:
      raise UserError(f"model.width: sines and cosines of two axes need a multiple of 4, got {self.width}")
    if self.rotary and (self.width // self.num_heads) % 32:
      raise UserError(
          "model.num_heads: rotary positions need a multiple of 32 channels a head, got "
          f"{self.width // self.num_heads}")
    if self.width % self.num_heads:
      raise UserError(f"model.width: {self.width} does not divide into {self.num_heads} heads")
    for side in self.latent_size:
      if side % (2 * self.patch_size):
        raise UserError(
            f"model.latent_size: {self.latent_size} must divide into video patches of {2 * self.patch_size} latents")
    if self.told_noise and not self.history:
      raise UserError("model.told_noise: a model without history sees no earlier frames, so there is no noise to tell")
    if self.dtype not in ("float32", "bfloat16"):
      raise UserError(f'model.dtype: expected "float32" or "bfloat16", got {self.dtype!r}')
    for name, choices in (("norm", NORMS), ("remat", REMAT), ("attention", ATTENTION)):
      if getattr(self, name) not in choices:
        raise UserError(f"model.{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")

  @property
  def identity(self) -> dict[str, Any]:
    """Fields as they tell models apart in digests; younger ones are left out while they are off."""
    fields = dataclasses.asdict(self)
    return {name: value for name, value in fields.items() if value or name not in ("told_noise", "canvas")}

  def check_fit(self, latent_dim: int | None = None, text_dim: int | None = None) -> None:
    """Refuse an autoencoder or a text encoder whose channels differ from the model's; None is not checked."""
    if latent_dim is not None and latent_dim != self.latent_dim:
      raise UserError(f"the autoencoder's latents have {latent_dim} channels, the model's {self.latent_dim}")
    if text_dim is not None and self.text_dim is None:
      raise UserError("there is a text encoder, but the model takes class labels")
    if text_dim is not None and text_dim != self.text_dim:
      raise UserError(f"the text encoder's embeddings have {text_dim} values, the model takes {self.text_dim}")

  @property
  def image_grid(self) -> tuple[int, int]:
    return (self.latent_size[0] // self.patch_size, self.latent_size[1] // self.patch_size)

  @property
  def video_grid(self) -> tuple[int, int]:
    return (self.image_grid[0] // 2, self.image_grid[1] // 2)

  @property
  def num_image_tokens(self) -> int:
    """Number N of image tokens per frame."""
    return self.image_grid[0] * self.image_grid[1]

  @property
  def num_video_tokens(self) -> int:
    """Number M of video tokens per frame."""
    return self.video_grid[0] * self.video_grid[1]

  @property
  def patch_dim(self) -> int:
    """Number of values in an image token."""
    return self.patch_size**2 * self.latent_dim

  @property
  def has_motion(self) -> bool:
    return self.base_frames > 1

  @property
  def num_condition_tokens(self) -> int:
    """Length P of the prefix: text or label, then motion."""
    return (self.text_len if self.text_dim else 1) + 2 * self.has_motion


def _released(
    width: int, num_heads: int, denoiser: tuple[int, int], latent_size: tuple[int, int], **fields,
) -> ModelConfig:
  """Return a model of the released family: 16 temporal and 32 spatial blocks, 4-channel latents, Phi-2 text."""
  return ModelConfig(
      latent_dim=4, latent_size=latent_size, patch_size=2, width=width, num_heads=num_heads, temporal_depth=16,
      spatial_depth=32, denoiser_depth=denoiser[0], denoiser_width=denoiser[1], text_dim=2560, text_len=256, **fields)


PRESETS: Mapping[str, ModelConfig] = types.MappingProxyType({
    "nova-d48w768-sdxl1024": _released(768, 12, (6, 768), (128, 128)),
    "nova-d48w1024-sdxl1024": _released(1024, 16, (6, 1024), (128, 128)),
    "nova-d48w1536-sdxl1024": _released(1536, 16, (6, 1536), (128, 128)),
    "nova-d48w1024-sd512": _released(1024, 16, (6, 1024), (64, 64)),
    "nova-d48w1024-osp480": _released(1024, 16, (3, 1280), (60, 96), base_frames=16, mixer_rank=24),
    "digits": ModelConfig(
        latent_dim=1, latent_size=(16, 16), patch_size=4, width=128, num_heads=4, temporal_depth=3, spatial_depth=4,
        denoiser_depth=3, denoiser_width=128, base_frames=4, text_dim=64, text_len=8, mixer_rank=-1, remat="dots"),
    "two_digits": ModelConfig(
        latent_dim=1, latent_size=(32, 32), patch_size=4, width=160, num_heads=5, temporal_depth=4, spatial_depth=6,
        denoiser_depth=3, denoiser_width=160, base_frames=8, text_dim=64, text_len=20, mixer_rank=-1, canvas=True,
        remat="dots"),
})
