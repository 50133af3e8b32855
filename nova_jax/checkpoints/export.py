"""What the published form of a model can't say: `nova_jax.json`, beside `model_index.json`.

It names parts that are built into nova_jax, how long the clips were, and the defaults of generation. The published code
reads no such file, so whatever it reads stays as it is; a folder whose published files say everything has none.
"""

import dataclasses
import json
from pathlib import Path

from nova_jax import autoencoders, text
from nova_jax.checkpoints.model_card import Card
from nova_jax.checkpoints.weight_files import read_config
from nova_jax.config import SampleConfig
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict, to_dict

NAME = "nova_jax.json"
FORMAT = {"format": "nova_jax export", "version": 1}


@dataclasses.dataclass(frozen=True)
class Export:
  """Fields of a `Card` under their names there; parts are built-in ones, or null where the folder's own count."""

  text_encoder: str | None
  autoencoder: str | None
  num_frames: int
  sample: SampleConfig

  def __post_init__(self):
    for name, built_in in (("text_encoder", text.BUILT_IN), ("autoencoder", autoencoders.BUILT_IN)):
      if getattr(self, name) not in (None, *built_in):
        raise UserError(f"{name}: expected one of {', '.join(built_in)} or null, got {getattr(self, name)!r}")
    if self.num_frames < 1:
      raise UserError(f"num_frames: expected 1 or more, got {self.num_frames}")


def write_export(folder: Path, card: Card, published: Card) -> None:
  """Write into a published folder what a card says beyond it, if anything.

  Args:
    folder: of the published form.
    card: of the model that was written there.
    published: the card that the folder's published files lead to.
  """
  export = Export(
      card.text_encoder if card.text_encoder in text.BUILT_IN else None,
      card.autoencoder if card.autoencoder in autoencoders.BUILT_IN else None, card.num_frames, card.sample)
  if export != Export(None, None, published.num_frames, published.sample):
    path = folder / NAME
    path.write_text(json.dumps(FORMAT | to_dict(export), indent=2) + "\n", encoding="utf-8")


def has_export(folder: Path) -> bool:
  """Whether a published folder was written here and says more than its published files."""
  return (folder / NAME).is_file()


def with_export(folder: Path, card: Card) -> Card:
  """Return the card of a published folder with what `write_export` wrote, if it did.

  Raises:
    ValueError: the file isn't one that this version reads.
  """
  if card.model is None or not has_export(folder):
    return card
  values = read_config(folder / NAME)
  found = {key: values.pop(key, None) for key in FORMAT}
  if found != FORMAT:
    raise UserError(f"{folder / NAME}: expected {FORMAT}, got {str(found)[:200]}")
  try:
    export = from_dict(Export, values, NAME)
  except ValueError as error:
    raise UserError(f"{folder / NAME}: {error}") from None
  parts = {"text_encoder": export.text_encoder, "autoencoder": export.autoencoder}
  return dataclasses.replace(
      card, num_frames=export.num_frames, sample=export.sample,
      **{name: part for name, part in parts.items() if part is not None})
