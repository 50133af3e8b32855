"""One part of a model (transformer, autoencoder, text encoder), whichever form it is stored in.

  published   config.json, *.safetensors or *.bin     as PyTorch users have it
  converted   config.json, state/                     our arrays in Orbax, the same config
  trained     a checkpoint of a training run          the run's nova.json has the config

All three look alike here: the published config, and the weights under their published names, read when asked for.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from nova_jax import autoencoders
from nova_jax.checkpoints import key_table, published_configs, store
from nova_jax.checkpoints.model_card import Card
from nova_jax.checkpoints.store import Stored
from nova_jax.checkpoints.weight_files import CONFIG, open_weights, read_config
from nova_jax.models.nova import NOVA
from nova_jax.text.phi import Phi, PhiConfig
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean
from nova_jax.utils.finite import is_finite, listed
from nova_jax.utils.terminal import command

PARTS = TRANSFORMER, VAE, TEXT_ENCODER = "transformer", "vae", "text_encoder"

_CLASSES = {
    published_configs.TRANSFORMER_CLASS: TRANSFORMER,
    **dict.fromkeys(autoencoders.NETWORKS, VAE),
    **dict.fromkeys(("PhiEncoderModel", "PhiForCausalLM"), TEXT_ENCODER),
}


class Kind(NamedTuple):
  """What a config says: which part it is of, how to make our module, and the table of its names."""

  part: str
  make: Callable[[nnx.Rngs], nnx.Module]
  names: key_table.Names


class Part(NamedTuple):
  """A part that has been opened; none of its weights is in memory.

  Attributes:
    name: one of `PARTS`.
    folder: where it lies.
    config: the published one.
    weights: by published name.
    ours: the same as our arrays, or None if it is stored as published.
    graph: our module without its arrays.
    shapes: their shapes.
    names: the table between the two.
    dim: channels of its latents or embeddings; None for a transformer.
    wrappers: what stands before the stored names and not before those of `weights`: "_orig_mod.", "module.", both or
      nothing.
  """

  name: str
  folder: Path
  config: Mapping[str, Any]
  weights: Mapping[str, Stored]
  ours: Mapping[str, Stored] | None
  graph: nnx.GraphDef
  shapes: nnx.State
  names: key_table.Names
  dim: int | None
  wrappers: str = ""

  @property
  def class_name(self) -> str:
    return published_configs.class_of(self.config)

  @property
  def is_converted(self) -> bool:
    """Whether it is stored as our arrays with a published config: neither published nor of a training run."""
    return self.ours is not None and (self.folder / CONFIG).is_file()

  @property
  def num_bytes(self) -> int:
    return sum(stored.nbytes for stored in self.weights.values())

  @property
  def dtypes(self) -> str:
    return ", ".join(sorted({str(stored.dtype) for stored in self.weights.values()}))

  def misfits(self) -> list[list[str]]:
    """Return a line for each weight that doesn't fit our module; see `keys.misfits`."""
    if self.ours is not None:
      return key_table.misfits(self.ours, key_table.our_shapes(self.shapes), key_table.CARRIED + ".*")
    expected = {weight.name: weight.shape for weight in key_table.published_weights(self.shapes, self.names)}
    return key_table.misfits(self.weights, expected, self.names.carried)

  def arrays(self) -> Mapping[str, Stored]:
    """Return our arrays; there must be no misfits."""
    return key_table.to_ours(self.weights, self.shapes, self.names) if self.ours is None else self.ours

  def state(self, dtype: np.dtype | str | None = None) -> nnx.State:
    """Read our module's state onto a device of this host, one array after the other.

    Args:
      dtype: of the weights; None keeps what is stored.

    Raises:
      ValueError: weights that don't fit the config, or whose names are a wrapper's.
      FloatingPointError: weights that are not finite, by their names.
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

    def read(path, variable):
      name = "/".join(map(str, path))
      array = arrays[name].read()
      array = array if dtype is None else array.astype(dtype)
      if not is_finite(array):
        broken.append(name)
      return variable.replace(jax.device_put(array, device))

    state = nnx.map_state(read, self.shapes)
    if broken:
      raise FloatingPointError(
          f"{self.folder}: the {self.name} has weights that are not finite: {listed(broken)}; the file is damaged, or "
          "its training had failed")
    return state

  def load(self) -> nnx.Module:
    """Build our module, its weights in the dtype that is stored; see `state`."""
    return nnx.merge(self.graph, self.state())


def kind_of(config: Mapping[str, Any]) -> Kind:
  """Return what a published `config.json` describes.

  Raises:
    ValueError: a class that isn't known, or sizes that we can't build.
  """
  class_name = published_configs.class_of(config)
  if class_name not in _CLASSES:
    raise UserError(f"class {class_name!r} is not known{did_you_mean(class_name, _CLASSES)}")
  part = _CLASSES[class_name]
  if part == TRANSFORMER:
    cfg = published_configs.model_config(config)
    return Kind(part, lambda rngs: NOVA(cfg, rngs=rngs), key_table.transformer_names(cfg))
  if part == VAE:
    return Kind(
        part, lambda rngs: autoencoders.make_network({**config, "_class_name": class_name}, rngs),
        key_table.AUTOENCODER_NAMES)
  cfg = PhiConfig.from_published(config)
  return Kind(part, lambda rngs: Phi(cfg, rngs=rngs), key_table.PHI_NAMES)


def open_part(folder: Path) -> Part:
  """Open a published or a converted part.

  Raises:
    ValueError: it is neither, or its config says what we can't do.
  """
  config = read_config(folder / CONFIG)
  converted = (folder / store.STATE).is_dir()
  weights, wrappers = ({}, "") if converted else open_unwrapped(folder)
  config = published_configs.with_mixer(config, weights)
  try:
    name, make, names = kind_of(config)
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
  except ValueError as error:
    raise UserError(f"{folder / CONFIG}: {error}") from None
  dim = {VAE: lambda: module.latent_dim, TEXT_ENCODER: lambda: module.cfg.hidden_size}.get(name, lambda: None)()
  graph, shapes = nnx.split(module)
  if converted:
    ours = store.stored_arrays(folder)
    return Part(name, folder, config, key_table.to_published(ours, shapes, names), ours, graph, shapes, names, dim)
  try:
    weights = key_table.renamed(weights, names)
  except ValueError as error:
    raise UserError(f"{folder}: {error}") from None
  return Part(name, folder, config, weights, None, graph, shapes, names, dim, wrappers)


def open_unwrapped(folder: Path) -> tuple[dict[str, Stored], str]:
  """Open a published part's weights by their plain names; see `keys.unwrapped`."""
  weights = open_weights(folder)
  try:
    return key_table.unwrapped(weights)
  except ValueError as error:
    raise UserError(f"{folder}: {error}") from None


def open_trained(workdir: Path, card: Card, which: str, step: int | None) -> Part:
  """Open the transformer of a training run; it has no published config yet.

  Args:
    workdir: of the run.
    card: the run's.
    which: "ema" or "params".
    step: of the checkpoint; None takes the newest.

  Raises:
    ValueError: no such checkpoint.
  """
  names = key_table.transformer_names(card.model)
  graph, shapes = nnx.split(nnx.eval_shape(lambda: NOVA(card.model, rngs=nnx.Rngs(0))))
  folder = store.find(workdir / "checkpoints", which, step)
  ours = {}
  for name, stored in store.stored_arrays(folder).items():
    item, _, path = name.partition("/")
    if item in (which, "buffers"):
      ours[path] = stored
  return Part(TRANSFORMER, folder, {}, key_table.to_published(ours, shapes, names), ours, graph, shapes, names, None)


def describe(problems: Mapping[str, list[list[str]]]) -> str:
  """Return one short line about the misfits of all parts: how many there are, and the first of each kind."""
  shown = 2 if sum(map(bool, problems.values())) == 1 else 1
  texts = []
  for name, kinds in problems.items():
    if kinds:
      lines = ", ".join(
          ", ".join(kind[:shown]) + (f" and {len(kind) - shown} more" if len(kind) > shown else "") for kind in kinds)
      texts.append(f"{name}: {sum(map(len, kinds))} weights don't fit the config: {lines}")
  return "; ".join(texts)
