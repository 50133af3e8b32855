"""Print what a GPU's memory must hold for the released models: `python -m benchmarks.gpu_memory`.

Sizes of weights are exact. Activations are reckoned by the formulas below, in bfloat16, with attention that stores no
scores (cuDNN's) and, in training, rematerialised blocks. What decoding takes is the TPU compiler's number for its
program (docs/pods.md). Nothing is measured, and nothing is added for fragmentation or for what XLA holds back.
"""

import math
from collections.abc import Callable

import jax
from flax import nnx

from nova_jax.config import PRESETS, ModelConfig
from nova_jax.models.nova import NOVA
from nova_jax.text.phi import Phi, PhiConfig

GIB = 2**30
SIZES = (8, 16, 24, 80)  # GB of common GPUs.
FREE = 0.9  # Fraction of the memory that a program may use; CUDA and its libraries take the rest.
REPEAT = 4  # Noised copies of a token in training.
GUIDED = 2  # Passes of classifier-free guidance.
RANK = 8  # Of a LoRA.
TEMPORARIES = 34  # Bytes per value of a block's input that the block keeps for its gradient, in bfloat16.
# Frames that a clip has in latents, and GiB of the program that decodes a tile in time, weights included.
RELEASED = {
    "nova-d48w768-sdxl1024": (1, 1.91), "nova-d48w1024-sdxl1024": (1, 1.91), "nova-d48w1536-sdxl1024": (1, 1.91),
    "nova-d48w1024-sd512": (1, 0.76), "nova-d48w1024-osp480": (9, 9.30)}


def num_weights(make: Callable[[nnx.Rngs], nnx.Module]) -> int:
  """Return the number of weights of a model."""
  state = nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))


def transformer_weights(cfg: ModelConfig) -> int:
  """Return the number of weights of a transformer."""
  return num_weights(lambda rngs: NOVA(cfg, rngs=rngs))


def text_encoder_bytes() -> int:
  """Return the size of Phi-2 in half precision, as it is published."""
  phi = PhiConfig(
      vocab_size=51200, hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, num_attention_heads=32)
  return 2 * num_weights(lambda rngs: Phi(phi, rngs=rngs))


def sampling_bytes(cfg: ModelConfig, num_frames: int, decode: float, with_text: bool) -> int:
  """Return the peak of generating one clip with guidance: the transformer, with its temporaries or the decoder."""
  tokens = cfg.num_video_tokens + cfg.num_image_tokens
  sequence = cfg.num_condition_tokens + num_frames * cfg.num_video_tokens
  caches = 2 * 2 * GUIDED * cfg.temporal_depth * sequence * cfg.width  # Keys and values.
  temporaries = caches + TEMPORARIES * GUIDED * max(tokens, sequence) * cfg.width
  # Weights are float32, and a copy in bfloat16 exists while they are used.
  transformer = (4 + 2) * transformer_weights(cfg)
  return transformer + max(temporaries, round(decode * GIB)) + with_text * text_encoder_bytes()


def activation_bytes(cfg: ModelConfig, num_frames: int) -> int:
  """Return what a step keeps of one clip: the inputs of all blocks, and all of the largest block."""
  temporal = cfg.num_condition_tokens + num_frames * cfg.num_video_tokens
  spatial = num_frames * (cfg.num_video_tokens + cfg.num_image_tokens)
  denoiser = REPEAT * num_frames * cfg.num_image_tokens
  inputs = 2 * (
      cfg.width * (cfg.temporal_depth * temporal + cfg.spatial_depth * spatial)
      + cfg.denoiser_width * cfg.denoiser_depth * denoiser)
  return inputs + TEMPORARIES * max(cfg.width * temporal, cfg.width * spatial, cfg.denoiser_width * denoiser)


def training_bytes(cfg: ModelConfig, num_frames: int, lora: bool) -> int:
  """Return the peak of training on one clip a micro-batch, from a cache with text embeddings."""
  weights = transformer_weights(cfg)
  # Weights, their average, gradients and two moments; or weights in bfloat16 alone, and as much of a thin update.
  update = 2 * RANK * cfg.width * 12 * (cfg.temporal_depth + cfg.spatial_depth)
  state = 2 * weights + 20 * update if lora else (4 + 4 + 4 + 8 + 2) * weights
  return state + activation_bytes(cfg, num_frames)


def fits(size: int) -> str:
  """Return gibibytes, and the smallest GPU that has them."""
  gpu = next((f"{gpu} GB" for gpu in SIZES if size <= FREE * gpu * 1e9), "more than one")
  return f"{size / GIB:.1f}, {gpu}"


def main() -> None:
  """Print the table."""
  print("| model | generation | generation, `--free_text_encoder` | fine-tuning | LoRA |\n|---|---|---|---|---|")
  for name, (num_frames, decode) in RELEASED.items():
    cfg = PRESETS[name]
    cells = [
        fits(sampling_bytes(cfg, num_frames, decode, True)),
        fits(max(sampling_bytes(cfg, num_frames, decode, False), text_encoder_bytes())),
        fits(training_bytes(cfg, num_frames, False)), fits(training_bytes(cfg, num_frames, True))]
    print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
  main()
