"""Train NOVA: `python -m launch.train --config configs/digits.py --workdir DIR [--config.train.steps=…]`.

The same command again continues the run where its newest checkpoint ends.
"""

from absl import flags
from ml_collections import config_flags

from nova_jax import cli
from nova_jax.config import Experiment, from_dict
from nova_jax.train.loop import train

config_flags.DEFINE_config_file("config", None, "Python file with get_config(); --config.a.b=… overrides a field.")
flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, logs, samples.")


def main() -> None:
  """Train the experiment of --config in --workdir."""
  train(from_dict(Experiment, flags.FLAGS.config), flags.FLAGS.workdir)


if __name__ == "__main__":
  cli.run(main, required=("config", "workdir"))
