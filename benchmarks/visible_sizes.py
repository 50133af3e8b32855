"""What padding the visible tokens costs: `python -m benchmarks.visible_sizes`.

Prints, for 1 to 8 padded sizes, the FLOPs of 2,000 training steps over those of the tokens alone that are needed, by
the formula of `nova_jax/train/flops.py`: more for visible tokens that are padding, and for the denoiser of tokens that
are visible. Every size is one more compilation of the step.
"""

from nova_jax.config import PRESETS, TrainConfig
from nova_jax.train.flops import train_flops
from nova_jax.train.masking import draw_num_visible, visible_range

MODELS = {"nova-d48w1024-osp480": 9, "nova-d48w1024-sdxl1024": 1, "digits": 4}  # Latent frames of a clip.
SIZES = (1, 2, 4, 8)
STEPS = 2000


def overhead(name: str, num_frames: int, num_sizes: int) -> float:
  """Return the share of FLOPs that are not needed."""
  model, train = PRESETS[name], TrainConfig()
  cost = lambda visible, spared: train_flops(model, 1, num_frames, visible, train.loss_repeat, spared)
  done = needed = 0.0
  for step in range(STEPS):
    count = draw_num_visible(0, step, model.num_image_tokens, train.mask_ratio)
    least, most = visible_range(count, model.num_image_tokens, train.mask_ratio, num_sizes)
    done, needed = done + cost(most, least), needed + cost(count, count)
  return done / needed - 1


def main() -> None:
  print(f"{'padded sizes':<24}" + "".join(f"{size:>8}" for size in SIZES))
  for name, num_frames in MODELS.items():
    print(f"{name:<24}" + "".join(f"{overhead(name, num_frames, size):>8.1%}" for size in SIZES))


if __name__ == "__main__":
  main()
