"""From the settings of clips to their files: all that `launch.sample` asks for once the model is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nova_jax import media
from nova_jax.pipeline.batch_sampling import STACK, prepare, run, warm_up
from nova_jax.pipeline.loading import say_first_compiles
from nova_jax.pipeline.pipeline import Pipeline
from nova_jax.pipeline.provenance import Provenance
from nova_jax.utils.notes import tell
from nova_jax.utils.progress import Progress

SHEET_CLIPS = 64  # Contact sheets that are stacked in one picture, at most.


class Made(NamedTuple):
  """Clips of a run, those that were there before included.

  Attributes:
    files: files of each clip of all hosts.
    count: number of clips that are this host's.
  """

  files: list[list[Path]]
  count: int


def sample_files(
    pipe: Pipeline, checkpoint: str, weights: str, clips: Sequence[Mapping[str, Any]], places: Sequence[str],
    output: Path, formats: tuple[str, ...], *, batch_size: int = 8, share: tuple[int, int] = (0, 1),
    again: Provenance | None = None, compile_only: bool = False,
) -> Made:
  """Generate clips and write their files, those that aren't there.

  Args:
    pipe: model; its text encoder is replaced by the texts it has encoded.
    checkpoint, weights: folder of the model and which weights of a training run, for provenances.
    clips: settings of each clip, as `prompts.expand` returns them.
    places: where errors say that each clip stands.
    output: folder of the files.
    formats: formats to write.
    batch_size: number of clips that are generated together, at most.
    share: number of this host, from 0, and how many make the batches in turn.
    again: provenance of the one clip, if an output is made again.
    compile_only: whether to compile the programs that the clips need, and make none.

  Raises:
    UserError: a setting that the model can't do, or a file that can't be read; the text begins with the place.
  """
  kind = "latent" if formats == ("latents",) else "pixels"
  work = prepare(pipe, checkpoint, weights, clips, places, batch_size, kind, again)
  for note in work.notes:
    tell(note)
  say_first_compiles()
  if compile_only:
    warm_up(pipe, work)
    return Made([], 0)
  with Progress("set") as progress:
    files = run(pipe, work, output, formats, progress, share)
  sheets = [path for paths in files for path in paths if path.name.endswith("-sheet.png")]
  if sheets and (share[1] == 1 or all(path.exists() for path in sheets)):  # The last host writes it.
    media.write_stack(output / STACK, sheets[:SHEET_CLIPS])
  return Made(files, sum(map(len, work.batches[share[0] :: share[1]])))
