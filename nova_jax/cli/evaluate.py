"""Sample for a benchmark, or score the digits model.

Example:
  python -m launch.evaluate --benchmark digits --checkpoint runs/digits --output out/digits

--benchmark geneval, vbench, dpg and the like with --prompts FILE fills a folder for the official scorer; the same
command continues it, and --shard 0/4 … 3/4 share it out, as --coordinator=auto does on the hosts of a pod. --check DIR
verifies one. --benchmark class_to_image makes as many pictures of each class, 50,000 in all, and with --npz the archive
of ADM's evaluator. --benchmark ucf101, bair or kinetics600 with --prompts FOLDER predicts frames of real clips, for
launch.score. --benchmark digits generates clips of all digits and directions, prints each score beside what real clips
reach, and writes scores.json and pictures; two_digits does so with two digits that cross.
"""

import sys

from absl import flags

from nova_jax.cli import sampling_flags, shares
from nova_jax.cli.checkpoint_flags import checkpoint, define_checkpoint, define_step, step
from nova_jax.cli.common_flags import define_compilation_cache, define_shard
from nova_jax.cli.entry import Command
from nova_jax.evals.benchmarks import evaluate as benchmarks
from nova_jax.evals.benchmarks.classes import CLASS_TO_IMAGE, NUM_PICTURES
from nova_jax.evals.benchmarks.frame_prediction import PROTOCOLS
from nova_jax.evals.benchmarks.layout import NAMES
from nova_jax.evals.benchmarks.settings import SAMPLED
from nova_jax.evals.digits import one_digit as digits_lib
from nova_jax.evals.digits.score import TASKS, score_digits
from nova_jax.pipeline.loading import load_pipeline, say_first_compiles
from nova_jax.storage import as_path
from nova_jax.utils import compilation_cache
from nova_jax.utils.errors import FAILED, UserError
from nova_jax.utils.files import check_folder_writable
from nova_jax.utils.progress import Progress


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_enum(
      "benchmark", "digits", [*TASKS, *NAMES, CLASS_TO_IMAGE, *PROTOCOLS],
      "Benchmark to sample for; digits and two_digits also score the clips.", flag_values=values)
  define_checkpoint(values)
  flags.DEFINE_string("output", None, "Folder that samples and scores are written to.", flag_values=values)
  flags.DEFINE_string(
      "prompts", None, "File or folder with the prompts of the benchmark, as its authors publish it.",
      flag_values=values)
  flags.DEFINE_string(
      "rewritten", None,
      "File prompts.json of NOVA's authors for the benchmark, whose longer prompts the model reads instead.",
      flag_values=values)
  flags.DEFINE_string(
      "images", None, "Folder of the first frames for --benchmark=vbench_i2v, in the model's aspect ratio.",
      flag_values=values)
  flags.DEFINE_string(
      "check", None,
      "Folder to verify instead of sampling: the --output of an earlier run; or, with --prompts, a folder of any "
      "scorer's samples.", flag_values=values)
  define_shard(values)
  shares.define(values, "make a benchmark's samples")
  flags.DEFINE_integer(
      "num_prompts", 400,
      "Number of clips for --benchmark=digits and two_digits; multiples of 40, and of 120 for two, hold every digit "
      "and direction equally often.",
      lower_bound=1, flag_values=values)
  flags.DEFINE_enum(
      "captions", "plain", ["plain", "free"],
      "Captions for --benchmark=digits and two_digits: one wording (plain), or all paraphrases in turn (free).",
      flag_values=values)
  flags.DEFINE_integer(
      "num_pictures", None,
      f"Number of pictures for --benchmark={CLASS_TO_IMAGE}; multiples of the number of classes hold each equally "
      f"often. Default: {NUM_PICTURES:,}.", lower_bound=1, flag_values=values)
  for name, text in (
      ("context_frames", "Number of given frames of a clip"), ("num_samples", "Number of samples for each clip"),
      ("num_clips", "Number of real clips")):
    known = ", ".join(f"{getattr(protocol, name):,} for {benchmark}" for benchmark, protocol in PROTOCOLS.items())
    flags.DEFINE_integer(
        name, None, f"{text}, for benchmarks that predict frames. Default: {known}.", lower_bound=1,
        flag_values=values)
  flags.DEFINE_bool(
      "npz", False, f"Whether to write the pictures of --benchmark={CLASS_TO_IMAGE} as samples.npz, too, which ADM's "
      "evaluator reads.", flag_values=values)
  flags.DEFINE_integer(
      "batch_size", None,
      "Number of samples that are generated together. Default: 100 for digits, 8 for other benchmarks.", lower_bound=1,
      flag_values=values)
  flags.DEFINE_integer(
      "seed", 0, "Seed of all random numbers; the same seed gives the same samples.", flag_values=values)
  define_compilation_cache(values)
  sampling_flags.define_model_flags(values)
  define_step(values)
  sampling_flags.define_settings(SAMPLED, values)


def main(args: flags.FlagValues) -> None:
  """Check, score or sample."""
  if args.check:
    sys.exit(0 if benchmarks.check_folder(as_path(args.check), args.benchmark, args.prompts) else FAILED)
  if not args.output:
    raise UserError("--output is needed (only --check does without)")
  share = shares.share(args)
  if share[1] > 1 and (args.benchmark in TASKS or args.shard != "0/1"):
    raise UserError("--coordinator: the digits are scored by one host; leave it out" if args.benchmark in TASKS else
                    "--shard: the number of hosts and of this one say so already; give one of both")
  compilation_cache.use(args.compilation_cache, on_cpu=True)
  if args.benchmark in TASKS:
    _digits(args)
  elif not args.checkpoint:
    raise UserError(f"--checkpoint: say which model to sample for {args.benchmark}, a folder")
  else:
    if share[1] > 1:
      args.shard = f"{share[0]}/{share[1]}"
    benchmarks.sample(
        args, sampling_flags.given_settings(args, SAMPLED), step(args), sampling_flags.loras(args),
        sampling_flags.quantize(args))


def _digits(args) -> None:
  output = check_folder_writable("output", args.output)
  pipe = load_pipeline(
      checkpoint(args, default=args.benchmark), weights=args.weights, step=step(args), dtype=args.dtype,
      lora=sampling_flags.loras(args), quantize=sampling_flags.quantize(args), guide=args.guide)
  say_first_compiles()
  with Progress("clip", args.num_prompts) as progress:
    result = score_digits(
        pipe, output, num_prompts=args.num_prompts, captions=args.captions, batch_size=args.batch_size or 100,
        seed=args.seed, task=args.benchmark, show=lambda done: progress.show(done, what="generating"),
        **sampling_flags.given_settings(args, [name for name in SAMPLED if name != "num_frames"]))
  print(f"{args.num_prompts} prompts, {args.captions} captions")
  print(f"{digits_lib.table(result.scores, result.real)}\nwatch {output}/grid.gif, or see {output}/sheet.png")


COMMAND = Command(main, define_flags, own_chips=True)
