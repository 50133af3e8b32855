"""One part of a model (transformer, autoencoder, text encoder), stored in any of three forms.

  published   config.json, *.safetensors or *.bin     the files of PyTorch users
  converted   config.json, state/                     our arrays in Orbax, the same config
  trained     a checkpoint of a training run          the run's nova.json has the config

All three forms appear here as a published config and lazy weights under their published names.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from nova_jax import autoencoders
from nova_jax.checkpoints import key_table, published_configs, store
from nova_jax.checkpoints.arrays import LazyArray, summarize_names
from nova_jax.checkpoints.choice import stored_under
from nova_jax.checkpoints.model_card import ModelCard
from nova_jax.checkpoints.weight_files import CONFIG, open_weights, read_config
from nova_jax.models.nova import NOVA
from nova_jax.models.quantization import Quantization
from nova_jax.text.phi import Phi, PhiConfig
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean
from nova_jax.utils.finite import is_finite
from nova_jax.utils.terminal import command

PARTS = TRANSFORMER, VAE, TEXT_ENCODER = "transformer", "vae", "text_encoder"

_CLASSES = {
    published_configs.TRANSFORMER_CLASS: TRANSFORMER,
    published_configs.OUR_CLASS: TRANSFORMER,
    **dict.fromkeys(autoencoders.NETWORKS, VAE),
    **dict.fromkeys(("PhiEncoderModel", "PhiForCausalLM"), TEXT_ENCODER),
}


class PartKind(NamedTuple):
  """A kind of part: its name, a function that creates our module, and the table of its parameter names."""

  part: str
  make: Callable[[nnx.Rngs], Any]
  names: key_table.Names


class Part(NamedTuple):
  """An opened part, none of whose weights is in memory.

  Attributes:
    name: name of the part, one of `PARTS`.
    folder: folder of the part.
    config: published config.
    weights: weights by published name.
    ours: weights as our arrays; None if the part is stored in the published form.
    graph: our module without its arrays.
    shapes: shapes of the module's arrays.
    names: table of published names and ours.
    dim: channels of its latents or embeddings; None for a transformer.
    wrappers: prefixes of the stored names that `weights` omits, "_orig_mod.", "module." or both; "" for none.
  """

  name: str
  folder: Path
  config: Mapping[str, Any]
  weights: Mapping[str, LazyArray]
  ours: Mapping[str, LazyArray] | None
  graph: nnx.GraphDef
  shapes: nnx.State
  names: key_table.Names
  dim: int | None
  wrappers: str = ""

  @property
  def class_name(self) -> str:
    return published_configs.class_name_from_config(self.config)

  @property
  def is_converted(self) -> bool:
    """Whether the part is in a converted folder, which has our arrays and a published config."""
    return self.ours is not None and (self.folder / CONFIG).is_file()

  @property
  def num_bytes(self) -> int:
    return sum(stored.nbytes for stored in self.weights.values())

  @property
  def dtypes(self) -> str:
    return ", ".join(sorted({str(stored.dtype) for stored in self.weights.values()}))

  def misfits(self) -> list[list[str]]:
    """Return a line for each weight that does not fit our module; see `key_table.misfits`."""
    if self.ours is not None:
      return key_table.misfits(self.ours, key_table.our_shapes(self.shapes), key_table.CARRIED + ".*")
    expected = {weight.name: weight.shape for weight in key_table.published_weights(self.shapes, self.names)}
    return key_table.misfits(self.weights, expected, self.names.carried)

  def arrays(self) -> Mapping[str, LazyArray]:
    """Return our arrays. All weights must fit our module."""
    return key_table.to_ours(self.weights, self.shapes, self.names) if self.ours is None else self.ours

  def state(
      self, dtype: np.dtype | str | None = None, quantization: Quantization | None = None
  ) -> nnx.State:
    """Read our module's state onto a device of this host, one array at a time.

    Args:
      dtype: dtype of the weights; None keeps the stored one.
      quantization: how matrices are quantized once they are read, which gives the state their scales; None for not.

    Raises:
      UserError: weights don't fit the config, or their names have a wrapper's prefix.
      FloatingPointError: weights are not finite; the error names them.
    """
    problems = self.misfits()
    if self.wrappers and not problems:
      raise UserError(
          f"{self.folder}: names of weights have {self.wrappers} before them, as torch.compile or "
          f"DistributedDataParallel leaves them; take it off: {command('convert')} --source "
          f"{self.folder.parent if self.folder.name == self.name else self.folder} --target NEW_FOLDER")
    if problems:
      raise UserError(f"{self.folder} does not fit its config. {describe({self.name: problems})}")
    arrays, device, broken = self.arrays(), jax.local_devices()[0], []
    module, scales = nnx.merge(self.graph, self.shapes), {}
    quantized = {} if quantization is None else quantization.axes(module)
    if quantization is not None:
      quantization.prepare(module)

    def read(path, variable):
      name = "/".join(map(str, path))
      if name in scales:
        return variable.replace(jax.device_put(scales.pop(name), device))
      array = arrays[name].read()
      if not is_finite(array):
        broken.append(name)
      if name in quantized and quantization is not None:
        array, scales[f"{name}_scale"] = quantization.apply(array, quantized[name])
      elif dtype is not None:
        array = array.astype(dtype)
      return variable.replace(jax.device_put(array, device))

    state = nnx.map_state(read, nnx.state(module))  # In the order of names: a kernel's scale comes after it.
    if broken:
      raise FloatingPointError(
          f"{self.folder}: the {self.name} has weights that are not finite: {summarize_names(broken)}; the file is "
          "damaged, or its training had failed")
    return state

  def load(self, quantization: Quantization | None = None) -> Any:
    """Create our module (NOVA, an autoencoder's network, Phi) with weights in their stored dtype; see `state`."""
    module = nnx.merge(self.graph, self.shapes)
    if quantization is not None:
      quantization.prepare(module)
    nnx.update(module, self.state(quantization=quantization))
    return module


def kind_from_config(config: Mapping[str, Any]) -> PartKind:
  """Return the kind of part that a published `config.json` describes.

  Raises:
    UserError: its class is unknown, or its sizes are not supported.
  """
  class_name = published_configs.class_name_from_config(config)
  if not class_name:
    raise UserError("it names no class; expected \"_class_name\", or \"architectures\" of a text encoder")
  if class_name not in _CLASSES:
    raise UserError(f"class {class_name!r} is not known{did_you_mean(class_name, _CLASSES)}")
  part = _CLASSES[class_name]
  if part == TRANSFORMER:
    cfg = published_configs.model_config(config)
    return PartKind(part, lambda rngs: NOVA(cfg, rngs=rngs), key_table.transformer_names(cfg))
  if part == VAE:
    return PartKind(
        part, lambda rngs: autoencoders.make_network({**config, "_class_name": class_name}, rngs),
        key_table.AUTOENCODER_NAMES)
  phi = PhiConfig.from_published(config)
  return PartKind(part, lambda rngs: Phi(phi, rngs=rngs), key_table.PHI_NAMES)


def open_part(folder: Path) -> Part:
  """Open a published or a converted part.

  Raises:
    UserError: the folder is neither, or its config is not supported.
  """
  config = read_config(folder / CONFIG)
  converted = (folder / store.STATE).is_dir()
  weights, wrappers = ({}, "") if converted else open_unwrapped(folder)
  config = published_configs.with_mixer(config, weights)
  try:
    name, make, names = kind_from_config(config)
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  except ValueError as error:
    raise UserError(f"{folder / CONFIG}: {error}") from None
  dim = {VAE: lambda: module.latent_dim, TEXT_ENCODER: lambda: module.cfg.hidden_size}.get(name, lambda: None)()
  graph, shapes = nnx.split(module)
  if converted:
    ours = store.open_arrays(folder)
    return Part(name, folder, config, key_table.to_published(ours, shapes, names), ours, graph, shapes, names, dim)
  try:
    weights = key_table.renamed(weights, names)
  except UserError as error:
    raise UserError(f"{folder}: {error}") from None
  return Part(name, folder, config, weights, None, graph, shapes, names, dim, wrappers)


def open_unwrapped(folder: Path) -> tuple[dict[str, LazyArray], str]:
  """Open a published part's weights by names without wrappers' prefixes; see `key_table.unwrapped`."""
  weights = open_weights(folder)
  try:
    return key_table.unwrapped(weights)
  except UserError as error:
    raise UserError(f"{folder}: {error}") from None


def open_trained(workdir: Path, card: ModelCard, which: str, step: int | str | None) -> Part:
  """Open the transformer of a training run, which has no published config.

  Args:
    workdir: workdir of the run.
    card: model card of the run.
    which: set of weights, one of `choice.WEIGHTS`.
    step: step of the checkpoint, or "best"; None takes the newest.

  Raises:
    UserError: there is no such checkpoint, or it has no such weights.
  """
  cfg = card.transformer
  names = key_table.transformer_names(cfg)
  graph, shapes = nnx.split(nnx.eval_shape(lambda: NOVA(cfg, rngs=nnx.Rngs(0))))
  folder, ours = open_trained_arrays(workdir, which, step)
  return Part(TRANSFORMER, folder, {}, key_table.to_published(ours, shapes, names), ours, graph, shapes, names, None)


def open_trained_arrays(workdir: Path, which: str, step: int | str | None) -> tuple[Path, dict[str, LazyArray]]:
  """Return the checkpoint of a training run, and its weights and buffers by path; see `open_trained`."""
  folder = store.find(workdir / "checkpoints", which, step)
  stored, prefix = store.open_arrays(folder), stored_under(which)
  if not any(name.startswith(prefix) for name in stored):
    known = sorted({name.split("/")[1] for name in stored if name.startswith("emas/")})
    raise UserError(f"weights: {folder} has no {which}; known: ema, params" + "".join(f", ema_{x}" for x in known))
  return folder, {
      name.removeprefix(start): array for name, array in stored.items()
      for start in (prefix, "buffers/") if name.startswith(start)}


def describe(problems: Mapping[str, list[list[str]]]) -> str:
  """Return one line about weights of all parts that don't fit: their number, and the first of each kind."""
  shown = 2 if sum(map(bool, problems.values())) == 1 else 1
  texts = []
  for name, kinds in problems.items():
    if kinds:
      lines = ", ".join(
          ", ".join(kind[:shown]) + (f" and {len(kind) - shown} more" if len(kind) > shown else "") for kind in kinds)
      texts.append(f"{name}: {sum(map(len, kinds))} weights don't fit the config: {lines}")
  return "; ".join(texts)
