"""What is found out about a list of clips before the first of them is made; an error begins with the line it is about.

Invariant: nothing is generated, and of a picture or a video no more is read than tells that it is one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nova_jax.media import readers
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.prompts import naming
from nova_jax.pipeline.request import FILES

Clips = Sequence[Mapping[str, Any]]


def check_files(clips: Clips, places: Sequence[str]) -> None:
  """Refuse pictures and videos that aren't there, or that are none.

  Args:
    clips: the settings of each.
    places: where each stands; "" for on the command line.

  Raises:
    ValueError: it names place, setting and file.
  """
  seen = set()
  for settings, place in zip(clips, places, strict=True):
    for name in FILES:
      path = settings.get(name)
      if isinstance(path, str) and (name, path) not in seen:
        seen.add((name, path))
        with naming(place):
          readers.check_file(path, name)


def check_clips(
    pipe: Pipeline, clips: Clips, places: Sequence[str], batch_size: int, output: str = "pixels"
) -> None:
  """Refuse settings that the model can't do.

  Args:
    pipe: the model.
    clips, places: as of `check_files`.
    batch_size: clips that are generated together.
    output: "pixels" or "latent".

  Raises:
    ValueError: it names place and setting.
  """
  for settings, place in zip(clips, places, strict=True):
    with naming(place):
      pipe.check(**settings, rows=batch_size, output=output)
