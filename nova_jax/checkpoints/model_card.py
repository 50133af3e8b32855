"""The model card: a JSON file that says what a folder holds and how to generate from it.

  nova.json   {"format": "nova_jax", "version": 1, "model": {…}, "scheduler": {…}, "text_encoder": "words", …}

It lies beside the `checkpoints/` of a training run, or in a folder that was converted from a published one.
Invariant: a folder with a card can be loaded without the config that trained it.
"""

import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from nova_jax import autoencoders, text
from nova_jax.config import Experiment, ModelConfig, SampleConfig, SchedulerConfig
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict, shown, to_dict
from nova_jax.utils.files import read_json, write_atomically

NAME = "nova.json"
FORMAT = {"format": "nova_jax", "version": 1}


@dataclasses.dataclass(frozen=True)
class PartCard:
  """A part of a converted folder.

  Attributes:
    name: of its folder.
    class_name: of the published code.
    weights: how many there are.
    dtype: they are stored in.
    sha256: of the published weights' names, dtypes, shapes and values (`convert.digest.Digest`).
  """

  name: str
  class_name: str
  weights: int
  dtype: str
  sha256: str


@dataclasses.dataclass(frozen=True)
class Card:
  """What a model is.

  The text encoder and the autoencoder are built-in ones, by name, or folders, relative to the card's.
  """

  model: ModelConfig | None  # None in a folder of other parts alone.
  scheduler: SchedulerConfig
  text_encoder: str | None
  autoencoder: str | None
  num_frames: int  # Latent frames of the longest clip it was trained on.
  sample: SampleConfig
  parts: tuple[PartCard, ...] = ()  # This and the following: converted folders only.
  source: str = ""  # What was converted.
  versions: str = ""  # Of what converted it.
  words: tuple[str, ...] = ()  # Of the captions it was trained on, for the built-in text encoder; empty: not known.


def card_of(experiment: Experiment, words: Sequence[str] = ()) -> Card:
  """Return the card of the model that an experiment trains.

  Args:
    experiment: what is trained, and on which data.
    words: words of the captions, for the built-in text encoder; empty if they aren't known.
  """
  return Card(
      model=experiment.model, scheduler=experiment.scheduler,
      text_encoder=_place(experiment.text_encoder, text.BUILT_IN),
      autoencoder=_place(experiment.autoencoder, autoencoders.BUILT_IN),
      num_frames=max(stage.num_frames for stage in experiment.train.stages), sample=experiment.sample,
      words=tuple(words))


def _place(name: str, built_in: Collection[str]) -> str:
  """Return a name that holds wherever the card is read."""
  return name if name in built_in else str(Path(name).absolute())


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
    raise UserError(f"{folder} is not a folder; expected one with a {NAME}, as training and conversion write it")
  if not path.is_file():
    raise UserError(f"{folder} has no {NAME}; expected the workdir of a training run, or a converted folder")
  values = read_json(path, limits.CONFIG_BYTES)
  found = {key: values.pop(key, None) for key in FORMAT}
  if found != FORMAT:
    newer = found["format"] == FORMAT["format"] and isinstance(found["version"], int) and (
        found["version"] > FORMAT["version"])
    hint = "; it was written by a newer version of nova_jax" if newer else ""
    raise UserError(f"{path}: expected {FORMAT}, got {shown(found)}{hint}")
  return from_dict(Card, values, str(path))
