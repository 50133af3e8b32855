"""Pictures from text: emoji of 32 x 32 pixels, of which benchmarks/emoji.py tells whether they compose what is new.

Launch: `python -m launch.train --config configs/emoji.py --workdir runs/emoji`, once caches/emoji is made.
"""

from nova_jax.config import (
  DataConfig,
  Experiment,
  ModelConfig,
  OptimizerConfig,
  SampleConfig,
  SourceConfig,
  StageConfig,
  TrainConfig,
)
from nova_jax.utils.fields import to_config_dict


def get_config():
  return to_config_dict(Experiment(
      model=ModelConfig(
          latent_dim=3, latent_size=(32, 32), patch_size=4, width=160, num_heads=5, temporal_depth=3, spatial_depth=6,
          denoiser_depth=3, denoiser_width=192, text_dim=64, text_len=16, remat="dots"),
      autoencoder="rgb", text_encoder="words",
      data=DataConfig(name="caches", sources=(SourceConfig("caches/emoji"),)),
      train=TrainConfig(
          steps=3000, stages=(StageConfig(name="image", batch_size=64, num_frames=1),), loss_repeat=2,
          ema_decay=0.998, sample_every=500, save_every=250, log_every=20),
      optimizer=OptimizerConfig(
          name="muon", learning_rate=5e-3, schedule="cosine", warmup_steps=100, final_fraction=0.02,
          weight_decay=0.02),
      sample=SampleConfig(num_inference_steps=16, num_diffusion_steps=20, guidance_scale=2.0)))
