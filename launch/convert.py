"""Convert a model: `python -m launch.convert --source DIR --target DIR`.

A published (diffusers-style) folder becomes ours, with its weights in Orbax; a converted folder or the workdir of a
training run becomes a published one. Which way, is told from what --source is.
"""

import sys
import time

from absl import flags

from nova_jax import cli
from nova_jax.convert.convert import CODES, convert
from nova_jax.convert.parts import PARTS
from nova_jax.progress import Progress

flags.DEFINE_string("source", None, "Published folder (whole or one part of it), converted folder, or workdir.")
flags.DEFINE_string("target", None, "Folder to write; it must not exist.")
flags.DEFINE_list("parts", None, f"What to convert, of {', '.join(PARTS)}. Default: all there is.")
flags.DEFINE_enum("dtype", None, list(CODES), "Of the weights written. Default: as stored.")
flags.DEFINE_string("base", None, "Model folder that gives the parts that --source lacks.")
flags.DEFINE_enum("weights", "ema", ["ema", "params"], "Of a training run: averaged weights or the last ones.")
flags.DEFINE_integer("step", None, "Of a training run: which checkpoint. Default: the newest.")


def main() -> None:
  """Convert --source to --target."""
  args = flags.FLAGS
  started = time.perf_counter()
  with Progress("B") as bar:
    notes = convert(
        args.source, args.target, parts=args.parts, dtype=args.dtype, base=args.base, weights=args.weights,
        step=args.step, progress=lambda part, done, total: bar.show(done, total, part))
  for note in notes:
    print(f"note: {note}", file=sys.stderr)
  print(f"wrote {args.target} in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
  cli.run(main, required=("source", "target"))
