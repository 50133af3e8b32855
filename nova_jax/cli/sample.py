"""Generate pictures and videos from text, pictures or videos.

Example:
  python -m launch.sample --prompt "the digit seven moves up"

Each output says how it was made, `--reproduce FILE` makes it again, and a run that was killed continues where it was.
docs/generation.md shows every task.
"""

from absl import flags

from nova_jax.checkpoints.hub import pinned
from nova_jax.cli import sampling_flags, shares
from nova_jax.cli.checkpoint_flags import checkpoint, step
from nova_jax.cli.entry import Command
from nova_jax.cli.started import seconds_since_start
from nova_jax.pipeline.batch_sampling import check_files
from nova_jax.pipeline.known_texts import encode_first
from nova_jax.pipeline.loading import load_pipeline
from nova_jax.pipeline.prompts import naming
from nova_jax.pipeline.provenance import read_provenance
from nova_jax.pipeline.sample_files import sample_files
from nova_jax.storage import as_path
from nova_jax.utils import compilation_cache
from nova_jax.utils.files import check_folder_writable


def main(args: flags.FlagValues) -> None:
  """Generate a clip for each prompt or class, or one again."""
  with naming("--reproduce"):
    again = read_provenance(as_path(args.reproduce)) if args.reproduce else None
  if again:
    sampling_flags.check_alone(args)
    check_files(again)
  clips, places = ([again.settings], [""]) if again else sampling_flags.clips(args)
  formats, share = sampling_flags.formats(args), shares.share(args)
  output = check_folder_writable("output", args.output)
  compilation_cache.use(args.compilation_cache, on_cpu=True)
  model = again.checkpoint if again and not args.checkpoint else checkpoint(args)
  model = pinned(model, download=bool(args.checkpoint))  # A file that a stranger made downloads nothing.
  lora = sampling_flags.loras(args)
  if again:
    lora = {pinned(place, download=False): weight for place, weight in again.lora.items()}
  weights = again.weights.split()[0] if again else args.weights
  quantize = again.quantize if again else sampling_flags.quantize(args)
  guide = again.guide if again else args.guide
  guide = pinned(guide, download=not again) if guide else None
  texts = encode_first(model, clips, places, quantize) if args.free_text_encoder else None
  pipe = load_pipeline(
      model, weights=weights, step=step(args),
      parts=("vae",) if args.free_text_encoder else ("vae", "text_encoder"),
      dtype=again.dtype if again else args.dtype, space_tile=again.space_tile if again else args.space_tile,
      mesh=sampling_flags.mesh(args), lora=lora,
      quantize=quantize, guide=guide)
  pipe.text_encoder = texts or pipe.text_encoder
  batch_size = again.batch[1] if again else min(args.batch_size, len(clips))
  made = sample_files(
      pipe, model, weights, clips, places, output, formats, batch_size=batch_size, share=share, again=again,
      compile_only=args.compile_only)
  seconds = seconds_since_start()
  if args.compile_only:
    print(f"all programs are compiled, after {seconds:.1f} s")
    return
  files, count = made
  print(f"{count} clip{'s' * (count != 1)} in {seconds:.1f} s, start and compilation included; see {output}")
  print(f"the first is {files[0][0]}; next: --reproduce={files[0][0]} makes it again")


COMMAND = Command(
    main, sampling_flags.define_flags, aliases=sampling_flags.NAMES | {"output": "formats"}, own_chips=True)
