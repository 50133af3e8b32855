"""Statistics of the motion scores of a folder's videos; the scores are those of the training data."""

from pathlib import Path

import numpy as np

from nova_jax.data.cache.clips.motion import motion_score
from nova_jax.evals.features.extract import VIDEOS, find, read_clip
from nova_jax.utils.errors import UserError
from nova_jax.utils.progress import Progress


def motion_statistics(folder: Path) -> dict[str, float]:
  """Return the number of videos, and the mean, standard deviation and quartiles of their motion scores.

  Raises:
    UserError: there are no videos, or one can't be read or has a single frame.
  """
  paths, scores = find(folder, VIDEOS), []
  with Progress("video", len(paths)) as progress:
    for done, path in enumerate(paths, 1):
      clip = read_clip(path)
      if len(clip) < 2:
        raise UserError(f"{path} has one frame; expected two or more, which is what moves")
      scores.append(motion_score(clip))
      progress.show(done, what=folder.name)
  quartiles = {f"motion_{percent}": float(np.percentile(scores, percent)) for percent in (25, 50, 75)}
  return {"motion_mean": float(np.mean(scores)), "motion_deviation": float(np.std(scores))} | quartiles | {
      "videos": len(scores)}
