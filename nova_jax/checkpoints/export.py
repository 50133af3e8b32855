"""`nova_jax.json`, which holds what the published form of a model can't express, beside `model_index.json`.

It names parts that are built into nova_jax, the length of clips, the defaults of generation, and the words that a
built-in text encoder has seen. The published code ignores the file. A folder whose published files are complete has
none.
"""

import dataclasses
import json
from pathlib import Path

from nova_jax import autoencoders, text
from nova_jax.checkpoints.model_card import ModelCard
from nova_jax.checkpoints.weight_files import read_config
from nova_jax.config import SampleConfig
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict, to_dict

NAME = "nova_jax.json"
FORMAT = {"format": "nova_jax export", "version": 1}


@dataclasses.dataclass(frozen=True)
class Export:
  """Fields of a `ModelCard` under the same names; a part is a built-in one, or null if the folder contains it."""

  text_encoder: str | None
  autoencoder: str | None
  num_frames: int
  sample: SampleConfig
  words: tuple[str, ...] = ()

  def __post_init__(self):
    for name, built_in in (("text_encoder", text.BUILT_IN), ("autoencoder", autoencoders.BUILT_IN)):
      if getattr(self, name) not in (None, *built_in):
        raise UserError(f"{name}: expected one of {', '.join(built_in)} or null, got {getattr(self, name)!r}")
    if self.num_frames < 1:
      raise UserError(f"num_frames: expected 1 or more, got {self.num_frames}")


def write_export(folder: Path, card: ModelCard, published: ModelCard) -> None:
  """Write the information of a card that a published folder lacks, if there is any.

  Args:
    folder: published folder.
    card: card of the model in the folder.
    published: card that follows from the published files alone.
  """
  export = Export(
      card.text_encoder if card.text_encoder in text.BUILT_IN else None,
      card.autoencoder if card.autoencoder in autoencoders.BUILT_IN else None, card.num_frames, card.sample, card.words)
  if export != Export(None, None, published.num_frames, published.sample):
    path = folder / NAME
    fields = to_dict(export)
    if not export.words:
      del fields["words"]  # Earlier versions don't know it.
    path.write_text(json.dumps(FORMAT | fields, indent=2) + "\n", encoding="utf-8")


def has_export(folder: Path) -> bool:
  """Return whether a published folder has a file written by `write_export`."""
  return (folder / NAME).is_file()


def with_export(folder: Path, card: ModelCard) -> ModelCard:
  """Return the card of a published folder, completed with the file written by `write_export` if there is one.

  Raises:
    UserError: this version can't read the file.
  """
  if card.model is None or not has_export(folder):
    return card
  values = read_config(folder / NAME)
  found = {key: values.pop(key, None) for key in FORMAT}
  if found != FORMAT:
    raise UserError(f"{folder / NAME}: expected {FORMAT}, got {str(found)[:200]}")
  try:
    export = from_dict(Export, values, NAME)
  except UserError as error:
    raise UserError(f"{folder / NAME}: {error}") from None
  parts = {"text_encoder": export.text_encoder, "autoencoder": export.autoencoder}
  return dataclasses.replace(
      card, num_frames=export.num_frames, sample=export.sample, words=export.words,
      **{name: part for name, part in parts.items() if part is not None})
