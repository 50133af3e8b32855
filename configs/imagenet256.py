"""Class to image: ImageNet at 256 x 256, 1,000 classes, 0.6 B parameters.

The sizes are those of NOVA's 0.6 B models without text; latents of the sd512 model's autoencoder make 16 x 16 tokens a
picture. Batch, epochs, warm-up, learning rate, average and sampling are those of MAR-L, the nearest published model:
2,048 pictures a step, 400 epochs, of which 100 warm up. No training with it has been run yet.

The table of the cache has a picture and the number of its class in each row (docs/evaluation.md has the program):

  python -m launch.cache --source imagenet.csv --output caches/imagenet --config configs/cache.py \
      --config.buckets="((1, 256, 256),)" --config.autoencoder=nova-d48w1024-sd512 --config.caption_field=label
  python -m launch.compile --config configs/imagenet256.py:v5e --topology v5e:16x16
  python -m launch.train --config configs/imagenet256.py:v5e --workdir runs/imagenet256      (on all hosts)
  python -m launch.evaluate --benchmark class_to_image --checkpoint runs/imagenet256 --output out/imagenet256 --npz
"""

from nova_jax.config import (
  DataConfig,
  Experiment,
  ModelConfig,
  OptimizerConfig,
  SampleConfig,
  SchedulerConfig,
  SourceConfig,
  StageConfig,
  TrainConfig,
)
from nova_jax.tools.aot.pods import recipe
from nova_jax.utils.fields import to_config_dict

PICTURES, BATCH, EPOCHS, WARMUP_EPOCHS = 1_281_167, 2048, 400, 100


def get_config(chip: str = "v5e"):
  how = recipe(chip)
  return to_config_dict(Experiment(
      model=ModelConfig(
          latent_dim=4, latent_size=(32, 32), patch_size=2, width=1024, num_heads=16, temporal_depth=16,
          spatial_depth=32, denoiser_depth=6, denoiser_width=1024, num_classes=1000, dtype="bfloat16", remat=how.remat),
      autoencoder="nova-d48w1024-sd512",
      scheduler=SchedulerConfig(name="flow_matching", shift=1.0),
      data=DataConfig(name="caches", sources=(SourceConfig("caches/imagenet"),)),
      train=TrainConfig(
          steps=EPOCHS * PICTURES // BATCH, stages=(StageConfig(name="image", batch_size=BATCH, num_frames=1),),
          accumulation=how.accumulation, ema_decay=0.9999, log_every=20, save_every=1000),
      optimizer=OptimizerConfig(
          learning_rate=8e-4, b1=0.9, b2=0.95, weight_decay=0.02, warmup_steps=WARMUP_EPOCHS * PICTURES // BATCH),
      mesh=how.mesh,
      sample=SampleConfig(num_inference_steps=64, num_diffusion_steps=100, guidance_scale=3.0)))
