"""The transformer of a model folder, ready to be called, trained further or taken apart."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from nova_jax import pretrained
from nova_jax.checkpoints.components import TEXT_ENCODER, TRANSFORMER, VAE
from nova_jax.checkpoints.hints import suggestion
from nova_jax.checkpoints.hub import local_folder
from nova_jax.checkpoints.lora import Loras
from nova_jax.checkpoints.model_folder import Folder, open_folder
from nova_jax.checkpoints.published_files import INDEX
from nova_jax.checkpoints.weight_files import CONFIG, read_config
from nova_jax.config import MeshConfig, ModelConfig
from nova_jax.models.nova import NOVA
from nova_jax.models.quantization import Quantization, read_quantize
from nova_jax.parallel.sharding import make_mesh, state_shardings
from nova_jax.utils.errors import UserError


def load_model(
    path: str | Path = pretrained.DEFAULT, weights: str = "ema", step: int | str | None = None, *,
    dtype: str = "float32", remat: str = "none", mesh: MeshConfig | None = None, lora: Loras | None = None,
    quantize: Mapping[str, str] | None = None,
) -> NOVA:
  """Load the transformer of a model folder: a published one, a converted one, or the workdir of a training run.

  Args:
    path: the folder, name of a model that comes with the package (`digits`, the default), or id of a model on the
      Hugging Face hub, ORG/NAME or ORG/NAME@REVISION.
    weights: weights of a training run: "ema" for the averaged ones, "params" for the last ones, "ema_0.999" for a
      further average with that decay.
    step: step of the checkpoint of a training run, or "best"; None takes the newest.
    dtype: precision of activations, "float32" or "bfloat16"; parameters are float32.
    remat: activations that a backward pass recomputes; see `nova_jax.config.REMAT`.
    mesh: mesh over which the parameters are spread; None keeps them on the first device.
    lora: folder of a LoRA that is added to the weights, or several folders and the weight of each.
    quantize: numbers in 8 bits that matrices are stored in, {"blocks": "int8"} or {"blocks": "fp8"}; None keeps them as
      they are.

  Returns:
    The model, whose `cfg` has its sizes.

  Raises:
    UserError: the folder, its transformer, the checkpoint or a LoRA is missing, or isn't what the folder says it is.
    FloatingPointError: weights that are not finite.
  """
  folder = open_folder(local_folder(path, (TRANSFORMER,)), weights, step)
  check_complete(folder, ())
  return make_transformer(folder, dtype=dtype, remat=remat, mesh=mesh, lora=lora,
      quantization=read_quantize(quantize).get("blocks"))


def make_transformer(
    folder: Folder, *, dtype: str = "float32", remat: str = "none", mesh: MeshConfig | None = None,
    lora: Loras | None = None, quantization: Quantization | None = None,
) -> NOVA:
  """Read the transformer of an opened folder; arguments as of `load_model`."""
  part = folder.transformer(lora, np.dtype(np.float32))
  model = nnx.eval_shape(
      lambda: NOVA(dataclasses.replace(folder.card.transformer, dtype=dtype, remat=remat), rngs=nnx.Rngs(0)))
  if quantization is not None:
    quantization.prepare(model)
  nnx.update(model, part.state("float32", quantization))
  if mesh is not None:
    state = nnx.state(model)
    nnx.update(model, jax.device_put(state, state_shardings(make_mesh(mesh, jax.local_devices()), state)))
  return model


def load_transformer(path: str | Path, cfg: ModelConfig, quantization: Quantization | None = None) -> nnx.State:
  """Read the transformer's weights from a model folder of any form, to start training from.

  Args:
    path: folder of the model.
    cfg: sizes that it must have.
    quantization: how matrices are quantized; None for not.

  Raises:
    UserError: the folder has no transformer, or one that differs from `cfg`; the error names the fields that differ.
  """
  folder = open_folder(local_folder(path, (TRANSFORMER,)))
  found = folder.card.model
  if found is None:
    raise UserError(f"{path} has {', '.join(folder.parts)}, but no {TRANSFORMER}")
  differing = [
      f"model.{field.name} is {getattr(found, field.name)!r} there, {getattr(cfg, field.name)!r} here"
      for field in dataclasses.fields(cfg)
      if field.name not in ("dtype", "remat") and getattr(found, field.name) != getattr(cfg, field.name)]
  if differing:
    raise UserError(f"{path} holds another model: {'; '.join(differing)}")
  return folder.transformer(dtype=np.dtype(np.float32)).state("float32", quantization)


def check_complete(folder: Folder, wanted: Collection[str]) -> None:
  """Raise UserError if the folder lacks the transformer or a wanted part that it should have."""
  path, card = folder.path, folder.card
  if TRANSFORMER not in folder.parts:
    raise UserError(f"{path} has {', '.join(folder.parts)}, but no {TRANSFORMER}{suggestion(path)}")
  listed = read_config(folder.files[INDEX]) if INDEX in folder.files else {}
  for part, place in ((VAE, card.autoencoder), (TEXT_ENCODER, card.text_encoder)):
    if part not in wanted or place is not None or part == TEXT_ENCODER and card.transformer.text_dim is None:
      continue
    if isinstance(listed.get(part), list) and all(listed[part]):
      raise UserError(f"{path}: {INDEX} names a {part}, but there is no {part}/{CONFIG}: fetch the folder again")
    if path.name == TRANSFORMER and (path.parent / part / CONFIG).exists():
      raise UserError(f"{path} is the {TRANSFORMER} alone{suggestion(path)}")
