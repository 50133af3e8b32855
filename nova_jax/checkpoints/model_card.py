"""The model card: a JSON file that describes the model in a folder and how to generate with it.

  nova.json   {"format": "nova_jax", "version": 1, "model": {…}, "scheduler": {…}, "text_encoder": "words", …}

It is beside the `checkpoints/` of a training run, or in a folder that was converted from a published one.
Invariant: a folder with a card can be loaded without the config that trained its model.
"""

import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from nova_jax import autoencoders, text
from nova_jax.config import Experiment, LoraConfig, ModelConfig, SampleConfig, SchedulerConfig
from nova_jax.storage import as_path
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
    name: name of its folder.
    class_name: name of its class in the published code.
    weights: number of weights.
    dtype: dtype of the stored weights.
    sha256: digest of names, dtypes, shapes and values of the published weights (`part_digest.Digest`).
  """

  name: str
  class_name: str
  weights: int
  dtype: str
  sha256: str


@dataclasses.dataclass(frozen=True)
class LoraCard:
  """The LoRA that a run trains.

  Attributes:
    base: folder of the model that it changes, or its id and commit on the hub.
    digest: digest of that model's published weights (`part_digest.Digest`).
    config: rank, scale and targets.
  """

  base: str
  digest: str
  config: LoraConfig


@dataclasses.dataclass(frozen=True)
class ModelCard:
  """Describes a model.

  The text encoder and the autoencoder are names of built-in ones, or folders relative to that of the card.
  """

  model: ModelConfig | None  # None in a folder without a transformer.
  scheduler: SchedulerConfig
  text_encoder: str | None
  autoencoder: str | None
  num_frames: int  # Latent frames of the longest training clip.
  sample: SampleConfig
  parts: tuple[PartCard, ...] = ()  # This field and the next two: converted folders only.
  source: str = ""  # Folder that was converted, or ORG/NAME@COMMIT on the hub.
  versions: str = ""  # Versions of the packages that converted it.
  words: tuple[str, ...] = ()  # Words of the training captions, for the built-in text encoder; empty if unknown.
  lora: LoraCard | None = None  # Of a run that trains a LoRA, whose checkpoints hold that alone.

  @property
  def transformer(self) -> ModelConfig:
    """Config of the transformer, `model`.

    Raises:
      UserError: the folder has no transformer.
    """
    if self.model is None:
      raise UserError("the model folder has no transformer")
    return self.model


def card_from_experiment(experiment: Experiment, words: Sequence[str] = (), lora: LoraCard | None = None) -> ModelCard:
  """Return the card of the model that an experiment trains.

  Args:
    experiment: config of the run.
    words: words of the captions, for the built-in text encoder; empty if they are unknown.
    lora: LoRA that it trains; None for a whole model.
  """
  return ModelCard(
      model=experiment.model, scheduler=experiment.scheduler,
      text_encoder=_place(experiment.text_encoder, text.BUILT_IN),
      autoencoder=_place(experiment.autoencoder, autoencoders.BUILT_IN),
      num_frames=max(stage.num_frames for stage in experiment.train.stages), sample=experiment.sample,
      words=tuple(words), lora=lora)


def _place(name: str, built_in: Collection[str]) -> str:
  """Return a name that is valid wherever the card is read."""
  return name if name in built_in else str(as_path(name).absolute())


def write_card(folder: str | Path, card: ModelCard) -> None:
  """Write the card into a folder atomically."""
  write_atomically(as_path(folder) / NAME, json.dumps(FORMAT | to_dict(card), indent=2) + "\n")


def read_card(folder: str | Path) -> ModelCard:
  """Read the card of a folder.

  Raises:
    UserError: there is no card, or this version can't read it.
  """
  folder = as_path(folder)
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
  return from_dict(ModelCard, values, str(path))
