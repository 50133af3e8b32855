"""A shorter training of the digits' model on clips alone, for the ablations in `configs/sweeps`.

Launch: `python -m launch.train --config configs/ablation.py --workdir runs/ablation`
"""

from nova_jax.configs import demo


def get_config():
  config = demo.get_config()
  # As when the results of docs/ablations.md were made: guidance was stronger, and noise was whole.
  config.sample.guidance_scale, config.sample.temperature = 2.5, 1.0
  # They cost what 1300 of the digits' steps did then, a quarter of which were on single frames.
  config.train.steps, config.train.sample_every, config.model.canvas = 1166, 0, False
  return config
