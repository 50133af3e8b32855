"""Write a published folder of full size with random weights: `python -m benchmarks.synthetic_checkpoint --target DIR`.

It has the parts, names and shapes of nova-d48w1024-osp480 with the OpenSora-Plan 1.2 autoencoder and Phi-2, in half
precision: 7.3 GB. What conversion and generation take can be measured with it without a download; its pictures are
noise. Configs are those of `tests/tables`, the tokenizer is a small one of `tests/reference`.
"""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
from absl import flags
from flax import nnx

from nova_jax.checkpoints import key_table
from nova_jax.checkpoints.components import kind_from_config
from nova_jax.checkpoints.store import LazyArray
from nova_jax.checkpoints.weight_files import CONFIG, write_safetensors
from nova_jax.cli import Command
from nova_jax.utils.errors import UserError
from nova_jax.utils.progress import Progress

TESTS = Path(__file__).resolve().parents[1] / "tests"
PARTS = {"transformer": "nova-d48w1024-osp480", "vae": "opensora-plan", "text_encoder": "phi-2"}
SCALE = 0.02


def weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
  """Return norms of 1, biases of 0 and small random matrices."""
  if len(shape) == 1:
    return np.full(shape, float("norm" in name and name.endswith("weight")), np.float16)
  return (SCALE * np.random.default_rng(seed).standard_normal(shape, np.float32)).astype(np.float16)


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string("target", None, "Folder to write; it must not exist.", flag_values=values)


def main(args: flags.FlagValues) -> None:
  target = Path(args.target)
  if target.exists():
    raise UserError(f"--target {target} exists; give a new name")
  index = {"_class_name": "NOVAPipeline"}
  for part, table in PARTS.items():
    config = json.loads((TESTS / "tables" / f"{table}.json").read_text(encoding="utf-8"))["config"]
    _, make, names = kind_from_config(config)
    shapes = nnx.state(nnx.eval_shape(lambda make=make: make(nnx.Rngs(0))))
    weights = {}
    for seed, listed in enumerate(key_table.published_weights(shapes, names)):
      read = functools.partial(weight, listed.name, listed.shape, seed)
      weights[listed.name] = LazyArray(listed.shape, np.dtype(np.float16), read)
    (target / part).mkdir(parents=True)
    (target / part / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    name = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
    with Progress("B", sum(stored.nbytes for stored in weights.values())) as progress:
      write_safetensors(target / part / name, counted(weights, progress, part))
    index[part] = ["diffnext", config.get("_class_name") or config["architectures"][0]]
  shutil.copytree(TESTS / "reference/t2v/pipeline/tokenizer", target / "tokenizer")
  (target / "scheduler").mkdir()
  scheduler = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
  (target / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler, indent=2), encoding="utf-8")
  index |= {"scheduler": ["diffusers", "DDPMScheduler"], "tokenizer": ["transformers", "CodeGenTokenizerFast"]}
  (target / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
  print(f"wrote {target}")


def counted(weights: dict[str, LazyArray], progress: Progress, part: str) -> dict[str, LazyArray]:
  """Return the weights with their bytes counted as they are read."""
  done = 0

  def read(stored: LazyArray) -> np.ndarray:
    nonlocal done
    done += stored.nbytes
    progress.show(done, what=part)
    return stored.read()

  return {
      name: LazyArray(stored.shape, stored.dtype, functools.partial(read, stored)) for name, stored in weights.items()}


if __name__ == "__main__":
  Command(main, define_flags, required=("target",)).run()
