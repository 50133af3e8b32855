"""Fine-tuning on clips of one's own; docs/finetuning.md leads through it.

Behind the colon stands the model to start from, a folder of any form or an id on the Hugging Face hub; its own config
is taken, whatever it is. "small",
the default, is a model of 2 M parameters with random weights, for 4 frames of 32 x 48 pixels: it learns three clips by
heart on two CPU cores in minutes.
Launch: `python -m launch.train --config configs/finetune.py:FOLDER --config.data.sources[0].path=CACHE --workdir DIR`
"""

import dataclasses
from pathlib import Path

from nova_jax import autoencoders, text
from nova_jax.checkpoints.hub import local_folder
from nova_jax.checkpoints.model_folder import open_folder
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
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import to_config_dict

SMALL = ModelConfig(
    latent_dim=3, latent_size=(32, 48), patch_size=4, width=128, num_heads=4, temporal_depth=3, spatial_depth=4,
    denoiser_depth=3, denoiser_width=128, base_frames=4, text_dim=64, text_len=16, mixer_rank=-1)
# Few clips can be told apart by their motion scores and rates: left out at times, they leave captions something to say.
DATA = DataConfig(name="caches", sources=(SourceConfig("runs/cache"),), motion_dropout=0.5)


def get_config(checkpoint: str = "small"):
  return to_config_dict(_small() if checkpoint == "small" else _from(local_folder(checkpoint)))


def _small() -> Experiment:
  return Experiment(
      model=SMALL, text_encoder="words", autoencoder="rgb", data=DATA,
      train=TrainConfig(
          steps=400, stages=(StageConfig(name="video", batch_size=4, num_frames=4),), loss_repeat=2, ema_decay=0.98,
          sample_every=200, save_every=200, log_every=20),
      optimizer=OptimizerConfig(
          name="muon", learning_rate=5e-3, schedule="cosine", warmup_steps=30, final_fraction=0.02, weight_decay=0.02),
      sample=SampleConfig(num_inference_steps=8, num_diffusion_steps=20, guidance_scale=1.0))


def _from(folder: Path) -> Experiment:
  card = open_folder(folder).card
  parts = {}
  for name, built_in in (("text_encoder", text.BUILT_IN), ("autoencoder", autoencoders.BUILT_IN)):
    part = getattr(card, name)
    if part is None:
      raise UserError(f"{folder} has no {name}; launch.convert --base adds it")
    parts[name] = part if part in built_in else str(folder / part)
  return Experiment(
      model=card.model, scheduler=card.scheduler, init=str(folder), data=DATA, **parts,
      sample=dataclasses.replace(card.sample, told_fps=None),  # Clips of a cache have rates.
      train=TrainConfig(
          steps=2000, stages=(StageConfig(name="video", batch_size=8, num_frames=card.num_frames),), ema_decay=0.99,
          sample_every=500, save_every=500),
      optimizer=OptimizerConfig(learning_rate=2e-5, warmup_steps=100))
