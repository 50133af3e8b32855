"""Configuration: frozen dataclasses and their defaults.

A config file's `get_config()` returns `to_config_dict(Experiment(...))`. Each field is declared here, once, with its
default and with the range of its values in its type. `utils/fields.py` converts to flags and files, and back.
The model is in `model.py`; all else is here.
Invariant: an invalid value is a `UserError` that names the field.
"""

import dataclasses
from typing import Annotated

from nova_jax.config.model import ATTENTION, NORMS, PRESETS, REMAT, ModelConfig
from nova_jax.config.numbers import LARGEST, Count, CountOrNone, Decay, Fraction, NotNegative, Positive, Size
from nova_jax.utils.errors import UserError
from nova_jax.utils.ranges import Range, check_ranges
from nova_jax.utils.renamed import takes_old_names

__all__ = (
    "ATTENTION", "Bucket", "CacheConfig", "Count", "CountOrNone", "DATASETS", "DEFAULT_FPS", "DEFAULT_MOTION_FLOW",
    "DataConfig", "Decay", "EvalConfig", "Experiment", "Fraction", "LARGEST", "LoraConfig", "MeshConfig",
    "ModelConfig", "NORMS", "NotNegative", "OptimizerConfig", "PRESETS", "Positive", "REMAT", "SampleConfig",
    "SINGLE_FRAMES", "SchedulerConfig", "Size", "SourceConfig", "StageConfig", "TrainConfig")

DATASETS = ("moving_digits", "two_digits", "caches")
SINGLE_FRAMES = ("any", "first")
DEFAULT_MOTION_FLOW = 5.0
DEFAULT_FPS = 12.0
Bucket = tuple[Size, Size, Size]  # Frames, and height and width in pixels, of clips.


@dataclasses.dataclass(frozen=True)
class SchedulerConfig:
  """The diffusion process, with the field names of the published `scheduler_config.json`."""

  name: str = "flow_matching"  # "flow_matching", "ddpm" (NOVA's) or "diffusers_ddpm".
  num_train_timesteps: Size = 1000
  shift: Positive = 1.0  # Flow matching only. The fields below are for DDPM only.
  beta_schedule: str = "linear"  # "linear", "scaled_linear", "squaredcos_cap_v2" or "sigmoid".
  beta_start: Decay = 0.0001
  beta_end: Decay = 0.02
  prediction_type: str = "epsilon"  # "epsilon", "sample" or "v_prediction".
  variance_type: str = "fixed_small"  # "fixed_small", "fixed_small_log" or "fixed_large".
  timestep_spacing: str = "leading"  # "leading", "trailing" or "linspace".
  steps_offset: Annotated[int, Range(0, LARGEST)] = 0
  rescale_betas_zero_snr: bool = False
  clip_sample: bool = True  # This field and those below: diffusers' DDPM only.
  clip_sample_range: Positive = 1.0
  thresholding: bool = False
  dynamic_thresholding_ratio: Fraction = 0.995
  sample_max_value: Positive = 1.0

  def __post_init__(self):
    check_ranges(self, "scheduler")


@dataclasses.dataclass(frozen=True)
class SourceConfig:
  """A latent cache to draw records from."""

  path: str  # Folder that `launch.cache` wrote.
  weight: Positive = 1.0  # Relative frequency of its records.


@takes_old_names
@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where training records come from."""

  name: str = "moving_digits"  # One of `DATASETS`.
  num_workers: Annotated[int, Range(0, 4096)] = 0  # Loader processes; 0 reads in threads of this process.
  # Moving digits, one or two. Two need a canvas of 32; jitter and turning_fraction are for one.
  data_dir: str = ""  # Folder of the dataset; empty for `data/` in the workdir.
  num_records: Count = 4000  # Number of clips in the training split.
  num_frames: Size = 4  # Number of frames of a stored clip.
  canvas: Size = 16  # Side of a frame in pixels.
  jitter: CountOrNone = 0  # Largest offset in pixels of a digit's first position.
  paraphrase_fraction: Fraction = 0.0  # Fraction of captions that are paraphrased.
  turning_fraction: Fraction = 0.0  # Fraction of stored clips in which digit and caption change direction.
  # Fraction of training clips that are cut from the middle of stored ones; their first frames are given.
  mid_clip_fraction: Fraction = 0.0
  single_frames: str = "any"  # What stages of one frame learn: "any" frame of a clip, or its "first".
  # Largest standard deviation of the noise on the latents of earlier frames that later ones see.
  history_noise: NotNegative = 0.0
  # Caches.
  sources: tuple[SourceConfig, ...] = ()  # Caches of stages that don't name their own.
  buckets: tuple[tuple[Size, Size], ...] = ()  # Heights and widths of latents to train on; empty for the model's.
  short_captions: Fraction = 0.5  # Fraction of visits that show the short caption, if there is one.
  motion_dropout: Fraction = 0.0  # Fraction of visits that show default motion score and rate.
  max_damaged: CountOrNone = 10  # Number of damaged records that a process skips before it ends.
  # Number of neighbouring records that follow each other in the shuffled order, and are read from a bucket at once.
  shuffle_block: Size = 1


@dataclasses.dataclass(frozen=True)
class CacheConfig:
  """How `launch.cache` encodes clips and stills into a latent cache."""

  # Frames, height and width in pixels that clips are cut, resized and cropped to. Stills go into buckets of one frame.
  buckets: tuple[Bucket, ...] = ((33, 480, 768),)
  fps: NotNegative = 0.0  # Frames per second to take before `stride`; 0 takes the file's rate.
  stride: Size = 1  # Distance of the frames to store.
  autoencoder: str = "rgb"  # Built-in name, folder of a published or converted model, or id of one on the hub.
  text_encoder: str = ""  # Empty stores captions alone.
  text_dim: Size = 64  # Width of the embeddings of a built-in text encoder.
  text_len: Size = 256  # Largest number of tokens in a caption.
  path_field: str = "path"  # Names in tables and TFDS datasets: of files, video or image,
  caption_field: str = "caption"  # of captions, also in .json files beside clips,
  short_caption_field: str = "short_caption"  # and of shorter ones, which may be missing.
  shard_items: Size = 256  # Number of source items per shard, which a crash makes it repeat.
  batch_size: Size = 4  # Number of clips that are encoded at once.
  dtype: str = "float32"  # Dtype of the autoencoder's activations, or "bfloat16".
  # Largest fraction of rejected items with which a cache of 20 items or more is finished. It does not change the bytes
  # of a cache.
  max_rejected: Fraction = 0.5

  def __post_init__(self):
    if not self.buckets or any(min(bucket) < 1 or max(bucket) > LARGEST for bucket in self.buckets):
      raise UserError(f"buckets: expected some (frames, height, width), each 1 or more, got {self.buckets}")
    if len(set(self.buckets)) < len(self.buckets):
      raise UserError(f"buckets: expected each once, got {self.buckets}")
    check_ranges(self)
    if self.dtype not in ("float32", "bfloat16"):
      raise UserError(f'dtype: expected "float32" or "bfloat16", got {self.dtype!r}')


@takes_old_names
@dataclasses.dataclass(frozen=True)
class StageConfig:
  """A part of a training run with its own length of clips; it starts with the weights of the previous stage."""

  name: str = "video"
  fraction: NotNegative = 1.0  # Fraction of `train.steps`, in proportion to those of all stages.
  batch_size: Size = 32  # Number of clips in a global batch.
  num_frames: Size = 1  # Number of latent frames; 1 trains on images.
  sources: tuple[SourceConfig, ...] = ()  # Caches of this stage; empty for those of `data`.


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Optimizer and learning rate, which restart in each stage."""

  name: str = "adamw"  # "adamw", or "muon" for matrices with AdamW for the rest.
  learning_rate: NotNegative = 1e-4
  b1: Decay = 0.9
  b2: Decay = 0.95
  weight_decay: NotNegative = 0.02
  clip_norm: NotNegative = 1.0  # Largest norm of the whole gradient; 0 for no clipping.
  # "constant", "cosine", "multistep" or "wsd" (stable, then decay), after the warm-up.
  schedule: str = "constant"
  warmup_steps: CountOrNone = 0
  final_fraction: Fraction = 0.0  # Cosine and WSD: final fraction of the learning rate.
  decay_fraction: Fraction = 0.2  # WSD: final fraction of the stage, in which the learning rate falls.
  # Multi-step: fractions of the stage after which the rate is multiplied by `gamma`.
  milestones: tuple[Annotated[float, Range(0, 1, "both")], ...] = ()
  gamma: Fraction = 0.1


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank updates (LoRA) of the matrices of the model in `init`, which stay as they are."""

  rank: CountOrNone = 0  # Rank r of the updates; 0 trains the model itself.
  alpha: Positive | None = None  # Updates are scaled by alpha / rank; None for the rank, which scales by 1.
  # Regular expressions over the paths of matrices, "video_encoder/blocks/attn/qkv/kernel".
  targets: tuple[str, ...] = (r"blocks/(attn|mlp)/", r"text_embed/proj/")
  # Regular expressions over the paths of parameters that are trained themselves, without a LoRA: "/norm[12]?/scale$".
  full: tuple[str, ...] = ()
  quantize: str = ""  # 8-bit numbers that the blocks of the model are kept in, "int8" or "fp8"; empty for none.

  @property
  def scale(self) -> float:
    """Factor of the updates."""
    return 1.0 if self.alpha is None else self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The training run."""

  steps: Count = 1000  # Number of steps of all stages together.
  stages: tuple[StageConfig, ...] = (StageConfig(),)
  accumulation: Size = 1  # Number of micro-batches per step.
  gather_once: bool = False  # Whether `fsdp` devices gather all weights once a step, not in each micro-batch.
  loss_repeat: Size = 4  # Number of noised copies of each token.
  # Bounds of the truncated normal distribution of the fraction of masked tokens.
  mask_ratio: tuple[Fraction, Fraction] = (0.7, 1.0)
  visible_sizes: Size = 1  # Number of padded sizes for visible tokens; each needs a compilation.
  caption_dropout: Fraction = 0.1
  ema_decay: Decay = 0.99
  ema_decays: tuple[Decay, ...] = ()  # Decays of further averages of the weights, to choose from after training.
  # Fraction of clips whose frames after the first are the model's own, where later frames see them.
  rollout_fraction: Fraction = 0.0
  freeze: tuple[str, ...] = ()  # Regular expressions over parameter paths, "video_encoder/patch_embed".
  lora: LoraConfig = LoraConfig()
  log_every: Count = 20
  trackers: tuple[str, ...] = ("jsonl", "tensorboard")  # Where lines and pictures go; also "wandb".
  sample_every: CountOrNone = 0  # Steps between sample grids; 0 writes none.
  save_every: Count = 1000
  save_minutes: NotNegative = 0.0  # Minutes after which a checkpoint is saved as well; 0 counts steps alone.
  keep: Count = 2  # Number of newest checkpoints to keep.
  keep_every: CountOrNone = 0  # Steps whose multiples are kept as well, for evaluation; 0 keeps no others.


@takes_old_names
@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Losses on held-out records, and scores of generated clips, while training. The digits hold out their test split."""

  every: CountOrNone = 0  # Steps between evaluations, of which the last step has one; 0 evaluates never.
  batches: Count = 8  # Number of micro-batches of held-out records per evaluation, the same ones each time.
  # Fraction of the records of each cache that is held out, for good: a workdir keeps its value.
  fraction: Annotated[float, Range(0, 1, "high")] = 0.0
  sources: tuple[SourceConfig, ...] = ()  # Caches of held-out records, in place of a fraction of the others.
  # Scores of clips that the averaged weights generate: "digits", "two_digits", "frechet", or your own MODULE:FUNCTION.
  scores: tuple[str, ...] = ()
  score_every: CountOrNone = 0  # Steps between scores, of which the last step has some; 0 computes none.
  num_clips: Count = 80  # Number of clips that are generated for each score, of the same captions and noise each time.
  real: str = ""  # Folder of real pictures or videos, for "frechet".
  features: str = "inception"  # Network whose features "frechet" compares; see `launch.score`.
  features_weights: str = ""  # File with its weights.
  prompts: str = ""  # File of prompts that are shown, beside captions of the data, every `train.sample_every` steps.
  best_metric: str = "eval/ema_loss"  # Metric that tells which checkpoint is best.
  best_is: str = "auto"  # "lowest" or "highest" value; "auto" is the highest for the scores of digits.
  keep_best: CountOrNone = 1  # Number of best checkpoints to keep beside the newest ones.
  patience: CountOrNone = 0  # Evaluations in a row without a new best value that stop the run; 0 never stops it.


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Number of devices along each mesh axis; -1, for at most one axis, takes the remaining devices."""

  data: Annotated[int, Range(-1, LARGEST)] = 1  # The axis that spans slices if there are several.
  fsdp: Annotated[int, Range(-1, LARGEST)] = -1
  tensor: Annotated[int, Range(-1, LARGEST)] = 1
  context: Annotated[int, Range(-1, LARGEST)] = 1


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """Defaults of generation, which are stored with a checkpoint."""

  num_inference_steps: Size = 64  # Number of token sets per frame.
  num_diffusion_steps: Size = 25  # Number of diffusion steps K.
  guidance_scale: Annotated[float, Range(-100, 1000)] = 5.0
  temperature: Annotated[float, Range(0, 2)] = 1.0  # Factor on all noise.
  motion_flow: Annotated[float, Range(-1e6, 1e6)] = DEFAULT_MOTION_FLOW
  fps: Positive = DEFAULT_FPS  # Frames per second of files.
  # Frame rate to condition the model on, if it was trained with only one rate; None for `fps`.
  told_fps: Positive | None = None

  def __post_init__(self):
    check_ranges(self, "sample")


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that defines a run: the same experiment gives the same numbers."""

  model: ModelConfig
  seed: Annotated[int, Range(0, 2**32 - 1)] = 0
  init: str = ""  # Model folder of any form, or id of a model on the hub, to start from; empty for random weights.
  text_encoder: str = "words"  # Built-in name, folder of a published or converted model, or id of one on the hub.
  autoencoder: str = "pixels"
  scheduler: SchedulerConfig = SchedulerConfig()
  data: DataConfig = DataConfig()
  train: TrainConfig = TrainConfig()
  eval: EvalConfig = EvalConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  mesh: MeshConfig = MeshConfig()
  sample: SampleConfig = SampleConfig()

  def __post_init__(self):
    check_ranges(self)
