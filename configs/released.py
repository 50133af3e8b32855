"""What the configs of the released models share: they differ in size, data and length alone.

They learn from a latent cache of the model's size, `caches/train` by default (`--config.data.sources[0].path`), as
launch.cache writes it with the released model's autoencoder and text encoder. These are a folder's, by default one of
the model's name (`--config.autoencoder`, `--config.text_encoder`). Compiling needs none of it. The chip stands behind a
colon: v4, v5e (the default), v5p, v6e or tpu7x.

  python -m launch.compile --config configs/nova_d48w1024_sd512.py:v5e --topology v5e:16x16
  python -m launch.train --config configs/nova_d48w1024_sd512.py:v5e --workdir runs/sd512      (on all hosts)
"""

import dataclasses

import ml_collections

from nova_jax.config import (
  PRESETS,
  DataConfig,
  Experiment,
  OptimizerConfig,
  SampleConfig,
  SchedulerConfig,
  SourceConfig,
  StageConfig,
  TrainConfig,
)
from nova_jax.tools.aot.pods import num_micro_batches, recipe
from nova_jax.utils.fields import to_config_dict


def released(
    name: str, chip: str, *, steps: int, stages: tuple[StageConfig, ...], remat: str | None = None,
    scheduler: SchedulerConfig = SchedulerConfig(name="flow_matching", shift=1.0),
) -> ml_collections.ConfigDict:
  """Return the config of a released model for one kind of chip."""
  how, accumulation = recipe(chip), num_micro_batches(chip, [stage.batch_size for stage in stages])
  return to_config_dict(Experiment(
      model=dataclasses.replace(PRESETS[name], dtype="bfloat16", remat=remat or how.remat),
      autoencoder=name,
      text_encoder=name,
      scheduler=scheduler,
      data=DataConfig(name="caches", sources=(SourceConfig("caches/train"),)),
      train=TrainConfig(
          steps=steps, stages=stages, visible_sizes=4, ema_decay=0.99, log_every=20, save_every=1000,
          accumulation=accumulation,
          gather_once=how.gather_once and accumulation > 2),  # Each of two gathers takes less than memory is worth.
      optimizer=OptimizerConfig(learning_rate=1e-4, b1=0.9, b2=0.95, weight_decay=0.02),
      mesh=how.mesh,
      # As the paper evaluates.
      sample=SampleConfig(num_inference_steps=128, num_diffusion_steps=100, guidance_scale=7.0)))
