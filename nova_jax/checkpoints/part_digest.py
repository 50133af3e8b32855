"""Digests by which a converted part that is written back is told to be the one that was converted."""

import hashlib

import numpy as np

from nova_jax.checkpoints import model_card as cards
from nova_jax.checkpoints.components import Part
from nova_jax.utils.errors import UserError


class Digest:
  """A checksum of a part's published weights that depends neither on their order nor on the form of the file."""

  def __init__(self):
    self._lines: list[str] = []

  def add(self, name: str, array: np.ndarray) -> None:
    content = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
    self._lines.append(f"{name} {array.dtype} {array.shape} {content}\n")

  def hexdigest(self) -> str:
    return hashlib.sha256("".join(sorted(self._lines)).encode()).hexdigest()


def listed_digest(part: Part) -> str | None:
  """Return the digest that a converted part was given; None for one of a run, a published one or one without a card.

  Raises:
    ValueError: there is a card, but no digest.
  """
  folder = part.folder.parent
  if not part.is_converted or not (folder / cards.NAME).is_file():
    return None
  digests = {listed.name: listed.sha256 for listed in cards.read_card(folder).parts}
  if part.name not in digests:
    raise UserError(
        f"{folder / cards.NAME} has no digest of the {part.name}: whether its weights are still those that were "
        "converted can't be told; convert the model anew")
  return digests[part.name]


def check_same(part: Part, digest: Digest) -> None:
  """Refuse weights of a converted part that aren't those that were converted."""
  if listed_digest(part) not in (None, digest.hexdigest()):
    raise UserError(f"{part.folder}: the weights are not the ones that were converted; convert them anew")
