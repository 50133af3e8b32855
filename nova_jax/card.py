"""The model card: a JSON file that says what a folder holds and how to generate from it.

  nova.json   {"format": "nova_jax", "version": 1, "model": {…}, "scheduler": {…}, "text_encoder": "words", …}

It lies beside `checkpoints/`. Invariant: a folder with a card can be loaded without the config that trained it.
"""

import dataclasses
import json
from pathlib import Path

from nova_jax.config import Experiment, ModelConfig, SampleConfig, SchedulerConfig, from_dict, to_dict
from nova_jax.files import write_atomically

NAME = "nova.json"
FORMAT = {"format": "nova_jax", "version": 1}


@dataclasses.dataclass(frozen=True)
class Card:
  """What a model is."""

  model: ModelConfig
  scheduler: SchedulerConfig
  text_encoder: str
  autoencoder: str
  num_frames: int  # Latent frames of the longest clip it was trained on.
  sample: SampleConfig


def card_of(experiment: Experiment) -> Card:
  """Return the card of the model that an experiment trains."""
  return Card(
      model=experiment.model, scheduler=experiment.scheduler, text_encoder=experiment.text_encoder,
      autoencoder=experiment.autoencoder, num_frames=max(stage.num_frames for stage in experiment.train.stages),
      sample=experiment.sample)


def write_card(folder: str | Path, card: Card) -> None:
  """Write the card into a folder, whole or not at all."""
  write_atomically(Path(folder) / NAME, json.dumps(FORMAT | to_dict(card), indent=2) + "\n")


def read_card(folder: str | Path) -> Card:
  """Read the card of a folder.

  Raises:
    ValueError: there is none, or it isn't one that this version reads.
  """
  folder = Path(folder)
  path = folder / NAME
  if not folder.is_dir():
    raise ValueError(f"{folder} is not a folder; expected one with a {NAME}, as training writes it")
  if not path.is_file():
    raise ValueError(f"{folder} has no {NAME}; expected the workdir of a training run")
  try:
    values = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is not a model card: {error}") from None
  if not isinstance(values, dict):
    raise ValueError(f"{path} is not a model card: expected a JSON object, got {values!r}")
  found = {key: values.pop(key, None) for key in FORMAT}
  if found != FORMAT:
    raise ValueError(f"{path}: expected {FORMAT}, got {found}")
  return from_dict(Card, values, str(path))
