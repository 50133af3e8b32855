"""Pictures of the training's progress."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nova_jax.autoencoders import Autoencoder
from nova_jax.checkpoints.model_card import ModelCard
from nova_jax.config import Experiment
from nova_jax.media import write_sheet
from nova_jax.parallel.processes import is_first
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.prompts import read_named
from nova_jax.text import TextEncoder
from nova_jax.train.callbacks import Callback
from nova_jax.train.trainer import Trainer
from nova_jax.utils.errors import UserError

NUM_CLIPS = 8


class SampleGrids(Callback):
  """Generates clips for the captions (or classes) of some records, and writes them as a PNG with a clip in each row.

  Prompts of the user's own have a second PNG.
  """

  def __init__(
      self, every: int, card: ModelCard, text_encoder: TextEncoder | None, autoencoder: Autoencoder,
      shown: Sequence[Mapping[str, Any]] = (),
  ):
    """Plan a grid every `every` steps and after the last one; 0 writes none.

    Args:
      every: steps between grids.
      card: card of the model.
      text_encoder: text encoder of the model; None for one whose records have embeddings or classes.
      autoencoder: autoencoder of the model.
      shown: prompts (or labels) of the second grid; see `read_shown`.
    """
    self._every, self._card, self._text_encoder, self._autoencoder = every, card, text_encoder, autoencoder
    self._shown = shown

  def evaluate(self, trainer: Trainer) -> None:
    if self._every and (trainer.step % self._every == 0 or trainer.step == trainer.num_steps):
      path = trainer.workdir / f"samples/step_{trainer.step:06}.png"
      self.write(trainer, path)
      trainer.show("samples", path)
      if self._shown:
        path = trainer.workdir / f"samples/prompts_{trainer.step:06}.png"
        self._write_shown(trainer, path)
        trainer.show("prompts", path)

  def write(self, trainer: Trainer, path: Path) -> None:
    """Generate with the averaged weights, and write the grid, whole or not at all."""
    examples = trainer.data.examples(trainer.stage.cfg, NUM_CLIPS)
    clips = self._generate(trainer, examples.condition)
    if is_first():
      write_sheet(path, list(clips), examples.captions)

  def _write_shown(self, trainer: Trainer, path: Path) -> None:
    clips, captions = [], []
    for start in range(0, len(self._shown), NUM_CLIPS):
      rows = self._shown[start : start + NUM_CLIPS]
      (name,) = {name for row in rows for name in row}
      clips += list(self._generate(trainer, {name: [row[name] for row in rows]}))
      captions += [str(row[name]) for row in rows]
    if is_first():
      write_sheet(path, clips, captions)

  def _generate(self, trainer: Trainer, condition: Mapping[str, Any]) -> np.ndarray:
    pipe = Pipeline(self._card, trainer.average(), self._text_encoder, self._autoencoder)
    num_frames = self._autoencoder.num_frames(trainer.stage.cfg.num_frames)
    # All processes generate: the model may be spread over them.
    return pipe(**condition, num_frames=num_frames, seed=trainer.cfg.seed)


def read_shown(experiment: Experiment) -> list[dict[str, Any]]:
  """Return the prompts (or labels) of `eval.prompts`, {"prompt": …} or {"label": …} each; none without a file.

  Raises:
    UserError: the file can't be read, or says more than what to show.
  """
  if not experiment.eval.prompts:
    return []
  kind, shown = "prompt" if experiment.model.text_dim else "label", []
  for where, settings in read_named(experiment.eval.prompts):
    if settings.keys() != {kind}:
      raise UserError(f"{where}: expected a {kind} alone, got {', '.join(sorted(settings))}")
    shown.append(dict(settings))
  return shown
