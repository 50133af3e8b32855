"""What helps clips beyond the trained length: `python -m benchmarks.drift --checkpoint runs/long`.

Generates the same clips with each remedy of drift alone and with all, and prints by frame how many show their digit and
how many show the very digit of their first frame (retrieval), as `nova_jax/evals/digits/one_digit.py` asks. Then the
time of a frame, early and late in the clip, and how much memory grew between.
"""

import resource
import time

import numpy as np
from absl import flags

from nova_jax.cli import Command
from nova_jax.data.digits import captions
from nova_jax.evals.digits import one_digit as digits_lib
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.request import PRESETS

REMEDIES = {
    "none": {}, "sink_frames=1": {"sink_frames": 1}, "last_temperature=0.3": {"last_temperature": 0.3},
    "history_noise=0.1": {"history_noise": 0.1}, "history_noise=0.3": {"history_noise": 0.3},
    "the first three": {"sink_frames": 1, "last_temperature": 0.3, "history_noise": 0.1}}


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string("checkpoint", "digits", "Model of the moving digits.", flag_values=values)
  flags.DEFINE_multi_enum(
      "remedy", list(REMEDIES), list(REMEDIES), "Remedy of generation; repeat the flag for several.",
      flag_values=values)
  flags.DEFINE_enum("preset", "exact", PRESETS, "Preset that clips are generated with.", flag_values=values)
  flags.DEFINE_integer("num_clips", 100, "Number of clips of each row.", lower_bound=1, flag_values=values)
  flags.DEFINE_integer("length", 16, "Length of clips, in trained lengths.", lower_bound=2, flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Generate and print a row of each remedy."""
  pipe = Pipeline.load(args.checkpoint)
  trained = pipe.card.num_frames
  _, digits, directions = digits_lib.real_clips(args.num_clips, pipe.cfg.latent_size[0], trained)
  classifier = digits_lib.DigitClassifier()
  prompts = list(map(captions.caption, digits, directions))
  shown = trained * np.unique(np.linspace(1, args.length, 4).astype(int))
  for name in args.remedy:
    frames, times, memory = [], [], []
    for piece in pipe.stream(prompts, num_frames=trained * args.length, preset=args.preset, **REMEDIES[name]):
      frames.append(piece)
      times.append(time.perf_counter())
      memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    clips = np.concatenate(frames, axis=1)[..., 0]
    right = np.stack([classifier.read(frame) == digits for frame in clips.swapaxes(0, 1)])
    found = [
        digits_lib.score(clips[:, :length], digits, directions, classifier)["retrieval@last"].value for length in shown]
    early, late = (np.median(part) * 1000 / len(clips) for part in np.split(np.diff(times), [len(times) // 2]))
    print(f"{name}: at frames {shown} digit {right[shown - 1].mean(1).round(3)}, retrieval {np.round(found, 3)}; digit "
          f"in every frame {right.all(0).mean():.3f}; {early:.1f} ms a frame in the first half, {late:.1f} in the "
          f"second, in which memory grew by {memory[-1] - memory[len(memory) // 2]:.0f} MB", flush=True)


if __name__ == "__main__":
  Command(main, define_flags).run()
