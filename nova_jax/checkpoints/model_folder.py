"""Model folders in any of three forms.

  published                                   converted                        trained
  model_index.json (nova_jax.json)            nova.json, model_index.json      nova.json
  scheduler/scheduler_config.json             the same
  tokenizer/…                                 the same
  transformer/config.json, *.safetensors      transformer/config.json, state/  checkpoints/…
  vae/…  text_encoder/…                       vae/…  text_encoder/…            built in, or named by nova.json

A training run of the published code writes only `transformer/`. A folder that has only the `config.json` and the
weights of one part is read as that part.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, overload

import numpy as np

from nova_jax import autoencoders, pretrained, text
from nova_jax.checkpoints import model_card, published_configs
from nova_jax.checkpoints.components import (
  PARTS,
  TEXT_ENCODER,
  TRANSFORMER,
  VAE,
  Part,
  kind_from_config,
  open_part,
  open_trained,
)
from nova_jax.checkpoints.export import has_export, with_export
from nova_jax.checkpoints.hints import suggestion
from nova_jax.checkpoints.hub import local_folder, named_part
from nova_jax.checkpoints.lora import Lora, Loras, base_folder, open_lora, read_loras, with_loras
from nova_jax.checkpoints.model_card import ModelCard
from nova_jax.checkpoints.published_files import (
  INDEX,
  SCHEDULER,
  is_there,
  naming,
  published_model,
  published_scheduler,
)
from nova_jax.checkpoints.weight_files import CONFIG, read_config
from nova_jax.config import ModelConfig, SampleConfig, SchedulerConfig
from nova_jax.models.quantization import Quantization
from nova_jax.storage import join
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean
from nova_jax.utils.files import check_regular

TOKENIZER = "tokenizer"
CLIP = 9  # Latent frames of the released video model. Its config only has the length that positions are stretched to.


@dataclasses.dataclass(frozen=True)
class Folder:
  """An opened model folder, none of whose weights is in memory.

  Attributes:
    path: path of the folder.
    card: model card.
    parts: functions that open the parts, by name.
    files: other files of the model, by path within the folder.
    notes: notes for the user on how the folder was read.
    loras: LoRAs that belong to the model, and their weights.
  """

  path: Path
  card: ModelCard
  parts: Mapping[str, Callable[[], Part]]
  files: Mapping[str, Path]
  notes: tuple[str, ...] = ()
  loras: tuple[tuple[Lora, float], ...] = ()

  def transformer(self, loras: Loras | None = None, dtype: np.dtype | None = None) -> Part:
    """Open the transformer, to which the folder's LoRA and others are added when its weights are read.

    Args:
      loras: other LoRAs, by folder, and their weights.
      dtype: dtype of the weights that change; None keeps the stored one.

    Raises:
      UserError: a LoRA doesn't fit the model.
    """
    return with_loras(self.parts[TRANSFORMER](), (*self.loras, *read_loras(loras)), dtype)

  @property
  def knows_scheduler(self) -> bool:
    """Whether the folder defines a scheduler, so that the card's is not a default."""
    return SCHEDULER in self.files or is_ours(self.path)

  def completed(self, base: "Folder") -> "Folder":
    """Return this folder, with missing parts and files taken from `base`."""
    card, other = self.card, base.card
    # A published folder doesn't say how long clips are, nor how to generate, unless it was exported from here.
    told = card if is_ours(self.path) or has_export(self.path) or other.model is None else other
    card = dataclasses.replace(
        card, model=card.model or other.model, num_frames=told.num_frames, sample=told.sample,
        scheduler=card.scheduler if self.knows_scheduler else other.scheduler,
        text_encoder=card.text_encoder or other.text_encoder, autoencoder=card.autoencoder or other.autoencoder)
    # Built-in encoders need no part.
    built_in = {
        name for name, part, known in (
            (VAE, self.card.autoencoder, autoencoders.BUILT_IN), (TEXT_ENCODER, self.card.text_encoder, text.BUILT_IN))
        if part in known}
    parts = {name: part for name, part in base.parts.items() if name not in built_in}
    return Folder(self.path, card, {**parts, **self.parts}, {**base.files, **self.files}, self.notes, self.loras)


def is_ours(path: Path) -> bool:
  """Return whether a folder was written by conversion or training with nova_jax."""
  return (path / model_card.NAME).is_file()


def is_trained(path: Path) -> bool:
  """Return whether a folder is the workdir of a training run."""
  return is_ours(path) and (path / "checkpoints").is_dir()


def open_folder(path: str | Path, weights: str = "ema", step: int | str | None = None) -> Folder:
  """Open a model folder of any form.

  Args:
    path: path of the folder, name of a model that comes with the package, or id of a model on the Hugging Face hub,
      ORG/NAME or ORG/NAME@REVISION.
    weights: set of weights of a training run, one of `choice.WEIGHTS`.
    step: step of the checkpoint of a training run, or "best"; None takes the newest.

  Raises:
    UserError: it is not a model folder, or the model is not supported.
  """
  if not (path := local_folder(path)).is_dir():
    if path.exists():
      raise UserError(f"{path} is a file; expected a folder{suggestion(path)}")
    raise UserError(f"there is no folder {path}" + (suggestion(path) or (
        "; expected the folder of a model, an id on the Hugging Face hub (ORG/NAME), or a model that comes with "
        f"nova_jax{did_you_mean(str(path), pretrained.names())}")))
  if is_trained(path):
    return _open_trained(path, model_card.read_card(path), weights, step)
  if step is not None or weights != "ema":
    raise UserError(f"{path} is not a training run: it has one set of weights, so give neither weights nor step")
  parts = _part_folders(path)
  openers = {name: functools.partial(open_single_part, folder, name) for name, folder in parts.items()}
  if is_ours(path):
    card = model_card.read_card(path)
    _check_card(card, parts, path)
    return Folder(path, card, openers, _companions(path))
  notes, model, scheduler = [], None, SchedulerConfig()
  if TRANSFORMER in parts:
    model, scheduler = published_model(parts[TRANSFORMER], notes), published_scheduler(path)
  card = ModelCard(
      model=model, scheduler=scheduler, text_encoder=TEXT_ENCODER if TEXT_ENCODER in parts else None,
      autoencoder=VAE if VAE in parts else None, num_frames=min(model.base_frames, CLIP) if model else 1,
      sample=SampleConfig())
  return Folder(path, with_export(path, card), openers, _companions(path), tuple(notes))


@overload
def load_autoencoder(name: str, base: str | Path = "", **options: Any) -> autoencoders.Autoencoder: ...


@overload
def load_autoencoder(name: str | None, base: str | Path = "", **options: Any) -> autoencoders.Autoencoder | None: ...


def load_autoencoder(name: str | None, base: str | Path = "", **options: Any) -> autoencoders.Autoencoder | None:
  """Load the autoencoder that a card or config names.

  Args:
    name: name of a built-in one, a folder, or without a `base` a model's id on the Hugging Face hub; None for none.
    base: folder to which a relative `name` is relative.
    options: options of `NeuralAutoencoder`, which apply to a folder.

  Raises:
    UserError: there is no such autoencoder.
  """
  if name is None or name in autoencoders.BUILT_IN:
    return None if name is None else autoencoders.make_autoencoder(name)
  return autoencoders.wrap(open_single_part(named_part(base, name, VAE), VAE, autoencoders.BUILT_IN).load(), **options)


def load_text_encoder(
    name: str | None, cfg: ModelConfig, base: str | Path = "", words: Collection[str] = (),
    quantization: Quantization | None = None,
) -> text.TextEncoder | None:
  """Load the text encoder that a card or config names; raises as `load_autoencoder` does.

  Args:
    name: name of a built-in one, or a folder; None for none.
    cfg: model configuration.
    base: folder to which a relative `name` is relative.
    words: words of the training captions, for a built-in encoder; empty if they are unknown.
    quantization: how matrices of a network are quantized; None for not.
  """
  if quantization is not None and (name is None or name in text.BUILT_IN):
    raise UserError(f"quantize: the text encoder {name!r} has no weights" if name else "quantize: no text encoder")
  if name is None or cfg.text_dim is None:
    return None
  if name in text.BUILT_IN:
    return text.make_text_encoder(name, cfg, words)
  part = open_single_part(named_part(base, name, TEXT_ENCODER), TEXT_ENCODER, text.BUILT_IN)
  cfg.check_fit(text_dim=part.dim)
  return text.PhiEncoder(
      part.load(quantization), text.load_tokenizer(part.folder.parent / TOKENIZER), cfg.text_len)


def open_single_part(folder: Path, kind: str, built_in: Collection[str] = ()) -> Part:
  """Open a folder that contains one part of a model.

  Args:
    folder: folder of the part.
    kind: name of the expected part.
    built_in: built-in names, which the error lists as alternatives.

  Raises:
    UserError: there is no such folder, or it contains another part.
  """
  if not folder.is_dir():
    hint = suggestion(folder) or (did_you_mean(folder.name, built_in) if built_in else "")
    raise UserError(f"{folder} is neither a folder nor a built-in {kind}{hint}")
  if not (folder / CONFIG).exists() and (folder / kind / CONFIG).exists():
    raise UserError(f"{folder} is a whole model; expected its {kind} alone: give {folder / kind}")
  part = open_part(folder)
  if part.name != kind:
    raise UserError(f"{folder} holds a {part.name}; expected a {kind}")
  return part


def _check_card(card: ModelCard, parts: Mapping[str, Path], path: Path) -> None:
  """Refuse a converted folder if its card names missing parts, or describes another transformer."""
  for name, kind, built_in in (
      (card.autoencoder, VAE, autoencoders.BUILT_IN), (card.text_encoder, TEXT_ENCODER, text.BUILT_IN)):
    if name not in (None, kind, *built_in):
      raise UserError(
          f"{path / model_card.NAME}: expected {kind!r}, one of {', '.join(built_in)} or null for the {kind}, "
          f"got {name!r}")
    if name == kind and kind not in parts:
      raise UserError(
          f"{path}: {model_card.NAME} names a {kind}, but there is no {kind}/{CONFIG}: fetch the folder again")
  if (card.model is None) != (TRANSFORMER not in parts):
    raise UserError(f"{path}: {model_card.NAME} and the folder disagree on whether there is a {TRANSFORMER}")
  if card.model is not None:
    file = parts[TRANSFORMER] / CONFIG
    model = naming(file, published_configs.model_config, read_config(file))
    if dataclasses.replace(card.model, dtype=model.dtype, remat=model.remat) != model:
      raise UserError(f"{path}: {model_card.NAME} describes another model than {file}; convert it anew")


def _open_trained(path: Path, card: ModelCard, weights: str, step: int | str | None) -> Folder:
  if card.model is None:
    raise UserError(f"{path / model_card.NAME} has no model, but there are checkpoints")
  parts: dict[str, Callable[[], Part]] = {TRANSFORMER: lambda: open_trained(path, card, weights, step)}
  files, loras = {}, ()
  if card.lora is not None:
    parts[TRANSFORMER] = open_folder(base_folder(path, card.lora)).transformer
    loras = ((open_lora(path, weights, step), 1.0),)
  for kind, name, built_in in (
      (VAE, card.autoencoder, autoencoders.BUILT_IN), (TEXT_ENCODER, card.text_encoder, text.BUILT_IN)):
    if name is not None and name not in built_in:
      parts[kind] = functools.partial(open_single_part, join(path, name), kind, built_in)
  if TEXT_ENCODER in parts and card.text_encoder is not None:
    tokenizer = join(path, card.text_encoder).parent / TOKENIZER
    files = {f"{TOKENIZER}/{file.name}": file for file in _files(tokenizer)}
  return Folder(path, card, parts, files, loras=loras)


def _part_folders(path: Path) -> dict[str, Path]:
  found = {}
  for name in PARTS:
    if (path / name).is_symlink() and not (path / name).exists():
      check_regular(path / name)
    if is_there(path / name / CONFIG):
      found[name] = path / name
  is_run = (path / "checkpoints").is_dir()  # Its config.json is of another kind.
  if not found and not is_run and is_there(path / CONFIG):
    return {naming(path / CONFIG, kind_from_config, read_config(path / CONFIG)).part: path}
  if not found:
    raise UserError(
        f"{path} is no model folder; expected {', '.join(f'{name}/{CONFIG}' for name in PARTS)} (published or "
        f"converted), or {model_card.NAME} and checkpoints/ (a training run){suggestion(path)}")
  return found


def _companions(path: Path) -> dict[str, Path]:
  """Return the other files of a published pipeline by path."""
  names = [INDEX, SCHEDULER, *(f"{TOKENIZER}/{file.name}" for file in _files(path / TOKENIZER))]
  return {name: path / name for name in names if is_there(path / name)}


def _files(folder: Path) -> list[Path]:
  return sorted(filter(Path.is_file, folder.iterdir())) if folder.is_dir() else []
