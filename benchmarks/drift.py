"""What helps clips beyond the trained length: `python -m benchmarks.drift --checkpoint digits`.

Generates the same clips with each remedy of drift alone and with all, and prints by frame how many show their digit and
how many show the very digit of their first frame (retrieval), as `nova_jax/evals/digits/one_digit.py` asks.
"""

import numpy as np
from absl import flags

from nova_jax.cli import Command
from nova_jax.data.digits import captions
from nova_jax.evals.digits import one_digit as digits_lib
from nova_jax.pipeline import Pipeline

REMEDIES = {
    "none": {}, "sink_frames=1": {"sink_frames": 1}, "last_temperature=0.3": {"last_temperature": 0.3},
    "history_noise=0.1": {"history_noise": 0.1}, "history_noise=0.3": {"history_noise": 0.3},
    "the first three": {"sink_frames": 1, "last_temperature": 0.3, "history_noise": 0.1}}


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string("checkpoint", "digits", "Model of the moving digits.", flag_values=values)
  flags.DEFINE_integer("num_clips", 40, "Clips of each row.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("length", 4, "Length of clips, in trained lengths.", lower_bound=1, flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Generate and print a row of each remedy."""
  pipe = Pipeline.load(args.checkpoint)
  trained = pipe.card.num_frames
  _, digits, directions = digits_lib.real_clips(args.num_clips, pipe.cfg.latent_size[0], trained)
  classifier = digits_lib.DigitClassifier()
  prompts = list(map(captions.caption, digits, directions))
  lengths = [trained * i for i in range(1, args.length + 1)]
  for name, settings in REMEDIES.items():
    clips = pipe(prompts, seed=0, num_frames=lengths[-1], **settings)[..., 0]
    right = np.stack([classifier.read(frame) == digits for frame in clips.swapaxes(0, 1)])
    found = [
        digits_lib.score(clips[:, :length], digits, directions, classifier)["retrieval@last"].value
        for length in lengths]
    print(f"{name}: at frames {lengths} digit {right[np.array(lengths) - 1].mean(1).round(3)}, "
          f"retrieval {np.round(found, 3)}; digit in every frame {right.all(0).mean():.3f}", flush=True)


if __name__ == "__main__":
  Command(main, define_flags).run()
