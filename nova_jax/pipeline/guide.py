"""Guidance by a weaker model in place of unconditional passes (autoguidance, arXiv 2406.02507)."""

import re
from pathlib import Path

from nova_jax import pretrained
from nova_jax.checkpoints.components import TRANSFORMER
from nova_jax.checkpoints.hub import local_folder, parse_id
from nova_jax.checkpoints.load import check_complete, make_transformer
from nova_jax.checkpoints.model_card import ModelCard
from nova_jax.checkpoints.model_folder import open_folder
from nova_jax.config import MeshConfig
from nova_jax.pipeline.prompts import naming
from nova_jax.sampling.frame_context import Model
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError

# What a guide has in common with the model, besides the diffusion process.
_COMMON = ("latent_dim", "latent_size", "patch_size", "text_dim", "text_len", "num_classes", "has_motion")


def whole_place(guide: str) -> str:
  """Return where a guide is found from any folder: its weights' name, its name or id, or its whole path."""
  if _is_weights(guide) or parse_id(guide):
    return guide
  return pretrained.name_of(guide) or str(as_path(guide).absolute())


def load_guide(
    guide: str, path: str | Path, card: ModelCard, step: int | str | None, dtype: str, mesh: MeshConfig | None,
) -> Model:
  """Load the transformer of a guide.

  Args:
    guide: "params" or other weights of the same training run, or a model folder, a name or an id.
    path: folder of the model that it guides.
    card: of that model.
    step: checkpoint of the training run.
    dtype: precision of activations.
    mesh: mesh of the model.

  Raises:
    UserError: it is missing, or of another kind than the model.
  """
  with naming("guide"):
    if _is_weights(guide):
      folder = open_folder(as_path(path), guide, step)
    else:
      folder = open_folder(local_folder(guide, (TRANSFORMER,)))
    check_complete(folder, ())
  for name in _COMMON:
    ours, theirs = (getattr(each.transformer, name) for each in (card, folder.card))
    if ours != theirs:
      raise UserError(f"guide: {guide} has {name} {theirs}, the model {ours}; take one of the same kind")
  if folder.card.scheduler != card.scheduler:
    raise UserError(f"guide: {guide} has another diffusion process than the model; take one of the same kind")
  return Model.from_module(make_transformer(folder, dtype=dtype, mesh=mesh))


def _is_weights(guide: str) -> bool:
  return re.fullmatch(r"params|ema(_[0-9.e-]+)?", guide) is not None
