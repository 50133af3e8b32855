"""Pictures of the training's progress."""

from pathlib import Path

from nova_jax.autoencoders import Autoencoder
from nova_jax.checkpoints.model_card import ModelCard
from nova_jax.media import write_sheet
from nova_jax.parallel.processes import is_first
from nova_jax.pipeline import Pipeline
from nova_jax.text import TextEncoder
from nova_jax.train.callbacks import Callback
from nova_jax.train.trainer import Trainer

NUM_CLIPS = 8


class SampleGrids(Callback):
  """Generates clips for the captions (or classes) of some records, and writes them as a PNG with a clip in each row."""

  def __init__(self, every: int, card: ModelCard, text_encoder: TextEncoder | None, autoencoder: Autoencoder):
    """Plan a grid every `every` steps and after the last one; 0 writes none.

    Args:
      every: steps between grids.
      card: card of the model.
      text_encoder: text encoder of the model; None for one whose records have embeddings or classes.
      autoencoder: autoencoder of the model.
    """
    self._every, self._card, self._text_encoder, self._autoencoder = every, card, text_encoder, autoencoder

  def evaluate(self, trainer: Trainer) -> None:
    if self._every and (trainer.step % self._every == 0 or trainer.step == trainer.num_steps):
      path = trainer.workdir / f"samples/step_{trainer.step:06}.png"
      self.write(trainer, path)
      trainer.show("samples", path)

  def write(self, trainer: Trainer, path: Path) -> None:
    """Generate with the averaged weights, and write the grid, whole or not at all."""
    pipe = Pipeline(self._card, trainer.average(), self._text_encoder, self._autoencoder)
    stage = trainer.stage.cfg
    examples = trainer.data.examples(stage, NUM_CLIPS)
    # All processes generate: the model may be spread over them.
    clips = pipe(
        **examples.condition, num_frames=self._autoencoder.num_frames(stage.num_frames), seed=trainer.cfg.seed)
    if is_first():
      write_sheet(path, list(clips), examples.captions)
