"""Configuration: frozen dataclasses and their defaults.

A config file's `get_config()` returns `to_config_dict(Experiment(...))`, so each field exists once, with its default,
here, and its type says which numbers it may be; `fields.py` leads to flags and files, and back.
Invariant: an impossible value is a `ValueError` that names the field.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Annotated

from nova_jax.utils.errors import UserError
from nova_jax.utils.ranges import Range, check_ranges

LARGEST = 2**20  # What any size of a model may be; a larger one is a mistake, found before anything is built.
# What the backward pass does about the activations of a block.
REMAT = {
    "none": "keeps all of them",
    "dots": "keeps the results of matrix products and attention, recomputes the rest",
    "block": "keeps the block's input alone, recomputes the block",
    "offload": "the same, and keeps the input in the host's memory",
}
# Where a transformer block normalises.
NORMS = {
    "post": "what attention and MLP return, before it is added: NOVA's way",
    "pre": "what attention and MLP see",
}
# Who computes attention.
ATTENTION = {
    "auto": "the fastest for the platform: splash on TPU, mapped on CPU, dense elsewhere",
    "dense": "one matrix of scores for all heads: the reference",
    "mapped": "head after head, recomputed in the backward pass: for CPU",
    "splash": "the Pallas kernel for TPU (interpreted, slowly, elsewhere)",
}
DATASETS = ("moving_digits", "caches")
DEFAULT_MOTION_FLOW = 5.0
DEFAULT_FPS = 12.0
# Kinds of numbers.
Size = Annotated[int, Range(1, LARGEST)]
Count = Annotated[int, Range(1, 2**31 - 1)]  # Of steps and records; the step is an int32.
CountOrNone = Annotated[int, Range(0, 2**31 - 1)]  # 0 for none.
Share = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, "high")]  # At 1 nothing would move any more.
Positive = Annotated[float, Range(0, open="low")]
NotNegative = Annotated[float, Range(0)]
Bucket = tuple[Size, Size, Size]  # Of clips: frames, height and width, in pixels.


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Sizes of one NOVA transformer and how it computes. `PRESETS` has the released ones."""

  latent_dim: Size  # C, channels of a latent.
  latent_size: tuple[Size, Size]  # Height and width of a latent frame.
  patch_size: Size  # Side of an image token, in latents; a video token is twice as wide.
  width: Size  # D, of both encoders.
  num_heads: Size  # H, of both encoders.
  temporal_depth: Size  # Blocks of the temporal encoder.
  spatial_depth: Annotated[int, Range(2, LARGEST)]  # Blocks of the spatial encoder, at least one for each half.
  denoiser_depth: Size
  denoiser_width: Size
  base_frames: Size = 1  # Latent frames that absolute time positions are stretched to; > 1 adds the motion tokens.
  text_dim: Size | None = None  # Width of a text embedding; None for a class-conditional model.
  text_len: Size = 256  # L, text tokens.
  num_classes: Size | None = None  # Classes, without the "no class" row; None for a text-conditional model.
  # Scaling & shift: None absent, negative full rank, else the rank.
  mixer_rank: Annotated[int, Range(-LARGEST, LARGEST)] | None = None
  rotary: bool = False  # 3-D rotary positions instead of absolute ones.
  norm: str = "post"  # Where blocks normalise; see `NORMS`.
  history: bool = True  # Whether frames see earlier ones; else each is made independently, by its time and the text.
  dtype: str = "float32"  # Of activations; parameters are always float32.
  remat: str = "none"  # What the backward pass recomputes; see `REMAT`.
  attention: str = "auto"  # Who computes attention; see `ATTENTION`.

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
    if self.dtype not in ("float32", "bfloat16"):
      raise UserError(f'model.dtype: expected "float32" or "bfloat16", got {self.dtype!r}')
    for name, choices in (("norm", NORMS), ("remat", REMAT), ("attention", ATTENTION)):
      if getattr(self, name) not in choices:
        raise UserError(f"model.{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")

  def check_fit(self, latent_dim: int | None = None, text_dim: int | None = None) -> None:
    """Refuse an autoencoder or a text encoder of other channels than the model's; None is not checked."""
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
    """N."""
    return self.image_grid[0] * self.image_grid[1]

  @property
  def num_video_tokens(self) -> int:
    """M."""
    return self.video_grid[0] * self.video_grid[1]

  @property
  def patch_dim(self) -> int:
    """Values in an image token."""
    return self.patch_size**2 * self.latent_dim

  @property
  def has_motion(self) -> bool:
    return self.base_frames > 1

  @property
  def num_condition_tokens(self) -> int:
    """P, length of the prefix: text or label, then motion."""
    return (self.text_len if self.text_dim else 1) + 2 * self.has_motion


def _released(
    width: int, num_heads: int, denoiser: tuple[int, int], latent_size: tuple[int, int], **fields,
) -> ModelConfig:
  """A model of the released family: 16 temporal and 32 spatial blocks over 4-channel latents, Phi-2 text."""
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
})


@dataclasses.dataclass(frozen=True)
class SchedulerConfig:
  """The diffusion process, with the field names of the published `scheduler_config.json`."""

  name: str = "flow_matching"  # "flow_matching", "ddpm" (as NOVA defines it) or "diffusers_ddpm".
  num_train_timesteps: Size = 1000
  shift: Positive = 1.0  # Flow matching only; the fields below are DDPM's.
  beta_schedule: str = "linear"  # "linear", "scaled_linear", "squaredcos_cap_v2" or "sigmoid".
  beta_start: Decay = 0.0001
  beta_end: Decay = 0.02
  prediction_type: str = "epsilon"  # "epsilon", "sample" or "v_prediction".
  variance_type: str = "fixed_small"  # "fixed_small", "fixed_small_log" or "fixed_large".
  timestep_spacing: str = "leading"  # "leading", "trailing" or "linspace".
  steps_offset: Annotated[int, Range(0, LARGEST)] = 0
  rescale_betas_zero_snr: bool = False
  clip_sample: bool = True  # This and the following: diffusers' DDPM only.
  clip_sample_range: Positive = 1.0
  thresholding: bool = False
  dynamic_thresholding_ratio: Share = 0.995
  sample_max_value: Positive = 1.0

  def __post_init__(self):
    check_ranges(self, "scheduler")


@dataclasses.dataclass(frozen=True)
class SourceConfig:
  """A latent cache that records are drawn from."""

  path: str  # Folder that `launch.cache` wrote.
  weight: Positive = 1.0  # Its share of records is this over the sum of all weights.


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where training records come from."""

  name: str = "moving_digits"  # One of `DATASETS`.
  num_workers: Annotated[int, Range(0, 4096)] = 0  # Loader processes; 0 reads in threads of this one.
  # Moving digits.
  data_dir: str = ""  # Where the dataset is written and read; empty: `data/` in the workdir.
  num_records: Count = 4000  # Clips of the training split.
  num_frames: Size = 4  # Frames of a stored clip.
  canvas: Size = 16  # Pixels a side.
  jitter: CountOrNone = 0  # Pixels by which a digit may start off its place.
  free_captions: Share = 0.0  # Share of captions in free words instead of the one wording.
  turning: Share = 0.0  # Share of stored clips whose digit turns on its way, and whose caption changes with it.
  later: Share = 0.0  # Share of clips cut from later in stored ones: their first frames are given, not learned.
  # Caches.
  sources: tuple[SourceConfig, ...] = ()  # Of stages that don't name their own.
  buckets: tuple[tuple[Size, Size], ...] = ()  # Heights and widths of latents to train on; empty: the model's alone.
  short_captions: Share = 0.5  # Share of visits that show the short caption, where a record has one.
  motion_dropout: Share = 0.0  # Share of visits that show the default motion score and rate, not the record's.
  max_damaged: CountOrNone = 10  # Damaged records that a process skips before it gives up.


@dataclasses.dataclass(frozen=True)
class CacheConfig:
  """How `launch.cache` turns clips and stills into a latent cache."""

  # Frames, height and width that clips are cut, resized and cropped to, in pixels; stills go where there is one frame.
  buckets: tuple[Bucket, ...] = ((33, 480, 768),)
  fps: NotNegative = 0.0  # Frames a second that are taken before `stride`; 0 takes those that the file has.
  stride: Size = 1  # Every n-th of those frames is stored.
  autoencoder: str = "rgb"  # Built in, or a folder of a published or converted model, as is the text encoder.
  text_encoder: str = ""  # Empty stores captions alone.
  text_dim: Size = 64  # Of embeddings of a built-in text encoder.
  text_len: Size = 256  # Most tokens of a caption.
  path_field: str = "path"  # Names in tables and TFDS datasets: of files, video or image,
  caption_field: str = "caption"  # of captions, also in .json files beside clips,
  short_caption_field: str = "short_caption"  # and of shorter ones, which may be missing.
  shard_items: Size = 256  # Items of the source that shards are made of, and that are done anew after a crash.
  batch_size: Size = 4  # Clips that go through the autoencoder at once.
  dtype: str = "float32"  # Of the autoencoder's activations, or "bfloat16".
  # Largest share of items that may be rejected; with more, and 20 items or more, the cache is not finished. It changes
  # no byte of a cache.
  max_rejected: Share = 0.5

  def __post_init__(self):
    if not self.buckets or any(min(bucket) < 1 or max(bucket) > LARGEST for bucket in self.buckets):
      raise UserError(f"buckets: expected some (frames, height, width), each 1 or more, got {self.buckets}")
    if len(set(self.buckets)) < len(self.buckets):
      raise UserError(f"buckets: expected each once, got {self.buckets}")
    check_ranges(self)
    if self.dtype not in ("float32", "bfloat16"):
      raise UserError(f'dtype: expected "float32" or "bfloat16", got {self.dtype!r}')


@dataclasses.dataclass(frozen=True)
class StageConfig:
  """A part of a training run with its own length of clip; it starts from the weights of the stage before."""

  name: str = "video"
  share: NotNegative = 1.0  # Of `train.steps`.
  batch_size: Size = 32  # Global, in clips.
  num_frames: Size = 1  # Latent frames; 1 trains on images.
  sources: tuple[SourceConfig, ...] = ()  # Caches that this stage draws from; empty: those of `data`.


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Optimizer and learning rate, anew in each stage."""

  name: str = "adamw"  # "adamw", or "muon" for matrices with AdamW for the rest.
  learning_rate: NotNegative = 1e-4
  b1: Decay = 0.9
  b2: Decay = 0.95
  weight_decay: NotNegative = 0.02
  clip_norm: NotNegative = 1.0  # Of the whole gradient; 0 clips nothing.
  schedule: str = "constant"  # "constant", "cosine" or "multistep", after the warm-up.
  warmup_steps: CountOrNone = 0
  final_fraction: Share = 0.0  # Cosine: of the learning rate, at the end.
  # Multi-step: shares of the stage at which the rate is multiplied by `gamma`.
  milestones: tuple[Annotated[float, Range(0, 1, "both")], ...] = ()
  gamma: Share = 0.1


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The training run."""

  steps: Count = 1000  # Of all stages together.
  stages: tuple[StageConfig, ...] = (StageConfig(),)
  accumulation: Size = 1  # Micro-batches a step.
  loss_repeat: Size = 4  # Noised copies of each token.
  # Bounds of the truncated normal that share of masked tokens is drawn from.
  mask_ratio: tuple[Share, Share] = (0.7, 1.0)
  visible_sizes: Size = 1  # Padded sizes for the random number of visible tokens; each is one more compilation.
  caption_dropout: Share = 0.1
  ema_decay: Decay = 0.99
  freeze: tuple[str, ...] = ()  # Regular expressions over parameter paths, "video_encoder/patch_embed".
  log_every: Count = 20
  sample_every: CountOrNone = 0  # Steps between sample grids; 0 writes none.
  save_every: Count = 1000
  keep: Count = 2  # Newest checkpoints to keep.


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; -1 takes what is left (one axis at most)."""

  data: Annotated[int, Range(-1, LARGEST)] = 1  # Over several slices this is the axis that spans them.
  fsdp: Annotated[int, Range(-1, LARGEST)] = -1
  tensor: Annotated[int, Range(-1, LARGEST)] = 1
  context: Annotated[int, Range(-1, LARGEST)] = 1


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """Defaults of generation, stored with a checkpoint."""

  num_inference_steps: Size = 64  # S, sets a frame.
  num_diffusion_steps: Size = 25  # K.
  guidance_scale: Annotated[float, Range(-100, 1000)] = 5.0
  motion_flow: Annotated[float, Range(-1e6, 1e6)] = DEFAULT_MOTION_FLOW
  fps: Positive = DEFAULT_FPS  # Of files.
  # What the model is told, if it was trained with one rate alone; None tells it `fps`.
  told_fps: Positive | None = None

  def __post_init__(self):
    check_ranges(self, "sample")


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that defines a run: same experiment, same numbers."""

  model: ModelConfig
  seed: Annotated[int, Range(0, 2**32 - 1)] = 0
  init: str = ""  # Model folder of any form to start from; empty starts from random weights.
  text_encoder: str = "words"  # Built in, or a folder of a published or converted model, as is the autoencoder.
  autoencoder: str = "pixels"
  scheduler: SchedulerConfig = SchedulerConfig()
  data: DataConfig = DataConfig()
  train: TrainConfig = TrainConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  mesh: MeshConfig = MeshConfig()
  sample: SampleConfig = SampleConfig()

  def __post_init__(self):
    check_ranges(self)
