"""Two handwritten digits that cross, one in front of the other, from text: the task that methods are compared on.

A 4 M parameter NOVA learns clips of eight frames, in some 100 minutes on two old CPU cores; docs/two_digits.md
says how. Three in ten clips are cut from later in longer ones, so that it can go on when eight frames are over.
Launch: `python -m launch.train --config configs/two_digits.py --workdir runs/two_digits`
"""

from nova_jax.config import (
  DEFAULT_FPS,
  PRESETS,
  DataConfig,
  Experiment,
  OptimizerConfig,
  SampleConfig,
  StageConfig,
  TrainConfig,
)
from nova_jax.utils.fields import to_config_dict


def get_config():
  return to_config_dict(Experiment(
      model=PRESETS["two_digits"], text_encoder="phrases",
      data=DataConfig(
          name="two_digits", num_records=8640, num_frames=22, canvas=32, paraphrase_fraction=0.5,
          mid_clip_fraction=0.3, single_frames="first"),
      train=TrainConfig(
          steps=3300,
          stages=(
              StageConfig(name="image", fraction=0.15, batch_size=64, num_frames=1),
              StageConfig(name="video", fraction=0.85, batch_size=16, num_frames=8)),
          loss_repeat=2, ema_decay=0.998, sample_every=500, save_every=250, log_every=20),
      optimizer=OptimizerConfig(
          name="muon", learning_rate=5e-3, schedule="cosine", warmup_steps=100, final_fraction=0.02,
          weight_decay=0.02),
      # Eight frames last two seconds; the digits have no rate of their own, so training tells the model the default.
      sample=SampleConfig(
          num_inference_steps=8, num_diffusion_steps=20, guidance_scale=1.25, temperature=0.6, fps=4.0,
          told_fps=DEFAULT_FPS)))
