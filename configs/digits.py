"""Moving handwritten digits from text: the training of the model that comes with the package.

A 2 M parameter NOVA learns images first, then clips of four frames, in some 20 minutes on two CPU cores.
Seven in ten clips are cut from later in longer ones, so that it can go on when four frames are over. Most of the digits
in these turn on their way, so that another prompt can take over.
Launch: `python -m launch.train --config configs/digits.py --workdir runs/digits`
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
      model=PRESETS["digits"],
      data=DataConfig(
          num_records=4000, num_frames=16, canvas=16, paraphrase_fraction=0.5, turning_fraction=0.8,
          mid_clip_fraction=0.7),
      train=TrainConfig(
          steps=3600,
          stages=(
              StageConfig(name="image", fraction=0.05, batch_size=64, num_frames=1),
              StageConfig(name="video", fraction=0.95, batch_size=32, num_frames=4)),
          loss_repeat=2, ema_decay=0.995, sample_every=500, save_every=500, log_every=50),
      optimizer=OptimizerConfig(
          name="muon", learning_rate=5e-3, schedule="cosine", warmup_steps=60, final_fraction=0.02, weight_decay=0.02),
      # Four frames last a second; the digits have no rate of their own, so training tells the model the default.
      sample=SampleConfig(
          num_inference_steps=8, num_diffusion_steps=20, guidance_scale=1.5, temperature=0.6, fps=4.0,
          told_fps=DEFAULT_FPS)))
