"""A LoRA for a model; docs/finetuning.md leads through it.

Behind the colon stands the model that it changes, of any form, which itself stays as it is. "digits", the default, is
the model that comes with the package: its LoRA of rank 2 learns another sign on two CPU cores in minutes.
Launch: `python -m launch.train --config configs/lora.py:MODEL --config.data.sources[0].path=CACHE --workdir DIR`
"""

from ml_collections import ConfigDict

from nova_jax import pretrained
from nova_jax.configs import finetune


def get_config(checkpoint: str = pretrained.DEFAULT) -> ConfigDict:
  config = finetune.get_config(checkpoint)
  config.train.lora.rank = 8
  config.optimizer.learning_rate = 2e-4
  if checkpoint == pretrained.DEFAULT:
    config.train.lora.rank = 2
    config.train.steps, config.train.stages[0].batch_size, config.train.loss_repeat = 400, 16, 2
    config.train.log_every, config.train.sample_every, config.train.save_every = 20, 200, 200
    config.optimizer.update({"learning_rate": 1e-2, "schedule": "cosine", "warmup_steps": 20, "final_fraction": 0.02})
    config.data.motion_dropout = 1.0  # The digits have neither motion scores nor rates of their own.
  return config
