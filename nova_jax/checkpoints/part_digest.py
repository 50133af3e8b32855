"""Digests that show whether a converted part is unchanged when it is written back."""

import hashlib

import numpy as np

from nova_jax.checkpoints import model_card
from nova_jax.checkpoints.components import Part
from nova_jax.utils.errors import UserError


class Digest:
  """A checksum of a part's published weights, which depends on neither their order nor the file format."""

  def __init__(self):
    self._lines: list[str] = []

  def add(self, name: str, array: np.ndarray) -> None:
    content = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
    self._lines.append(f"{name} {array.dtype} {array.shape} {content}\n")

  def hexdigest(self) -> str:
    return hashlib.sha256("".join(sorted(self._lines)).encode()).hexdigest()


def weights_digest(part: Part) -> str:
  """Return the digest of a part's weights, as a converted folder's card has it."""
  digest = Digest()
  for name, stored in part.weights.items():
    digest.add(name, stored.read())
  return digest.hexdigest()


def listed_digest(part: Part) -> str | None:
  """Return the digest of a converted part from its card; None for other parts and without a card.

  Raises:
    UserError: the card has no digest.
  """
  folder = part.folder.parent
  if not part.is_converted or not (folder / model_card.NAME).is_file():
    return None
  digests = {listed.name: listed.sha256 for listed in model_card.read_card(folder).parts}
  if part.name not in digests:
    raise UserError(
        f"{folder / model_card.NAME} has no digest of the {part.name}: whether its weights are still those that were "
        "converted can't be told; convert the model anew")
  return digests[part.name]


def check_same(part: Part, digest: Digest) -> None:
  """Refuse weights of a converted part that changed since the conversion."""
  if listed_digest(part) not in (None, digest.hexdigest()):
    raise UserError(f"{part.folder}: the weights are not the ones that were converted; convert them anew")
