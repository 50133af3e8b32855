"""Whole model folders: what lies in one, in any of three forms.

  published                                   converted                        trained
  model_index.json (nova_jax.json)            nova.json, model_index.json      nova.json
  scheduler/scheduler_config.json             the same
  tokenizer/…                                 the same
  transformer/config.json, *.safetensors      transformer/config.json, state/  checkpoints/…
  vae/…  text_encoder/…                       vae/…  text_encoder/…            built in, or named by nova.json

A published training run leaves `transformer/` alone, and a folder with nothing but one part's `config.json` and weights
is read as that part.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from nova_jax import autoencoders, text
from nova_jax.checkpoints import model_card as cards
from nova_jax.checkpoints import published_configs
from nova_jax.checkpoints.components import (
  PARTS,
  TEXT_ENCODER,
  TRANSFORMER,
  VAE,
  Part,
  kind_of,
  open_part,
  open_trained,
)
from nova_jax.checkpoints.export import has_export, with_export
from nova_jax.checkpoints.hints import meant
from nova_jax.checkpoints.model_card import Card
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
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_regular

TOKENIZER = "tokenizer"
CLIP = 9  # Latent frames of the released video model; a config only says what positions are stretched to.


@dataclasses.dataclass(frozen=True)
class Folder:
  """A model folder, opened; no weight is in memory.

  Attributes:
    path: of the folder.
    card: what it is.
    parts: how to open each of its parts.
    files: what else belongs to it, by its name within the folder.
    notes: what a person should know of how it was read.
  """

  path: Path
  card: Card
  parts: Mapping[str, Callable[[], Part]]
  files: Mapping[str, Path]
  notes: tuple[str, ...] = ()

  @property
  def knows_scheduler(self) -> bool:
    """Whether the card's scheduler is this model's, and not a default."""
    return SCHEDULER in self.files or is_ours(self.path)

  def completed(self, base: "Folder") -> "Folder":
    """Return this folder with what it lacks taken from another."""
    card, other = self.card, base.card
    # A published folder doesn't say how long clips are, nor how to generate, unless it was exported from here.
    told = card if is_ours(self.path) or has_export(self.path) or other.model is None else other
    card = dataclasses.replace(
        card, model=card.model or other.model, num_frames=told.num_frames, sample=told.sample,
        scheduler=card.scheduler if self.knows_scheduler else other.scheduler,
        text_encoder=card.text_encoder or other.text_encoder, autoencoder=card.autoencoder or other.autoencoder)
    # What is built into this folder's model needs no part.
    built_in = {
        name for name, part, known in (
            (VAE, self.card.autoencoder, autoencoders.BUILT_IN), (TEXT_ENCODER, self.card.text_encoder, text.BUILT_IN))
        if part in known}
    parts = {name: part for name, part in base.parts.items() if name not in built_in}
    return Folder(self.path, card, {**parts, **self.parts}, {**base.files, **self.files}, self.notes)


def is_ours(path: Path) -> bool:
  """Return whether a folder was converted or trained here."""
  return (path / cards.NAME).is_file()


def is_trained(path: Path) -> bool:
  """Return whether a folder is the workdir of a training run."""
  return is_ours(path) and (path / "checkpoints").is_dir()


def open_folder(path: Path, weights: str = "ema", step: int | None = None) -> Folder:
  """Open a model folder of any form.

  Args:
    path: the folder.
    weights: of a training run, "ema" or "params".
    step: of the checkpoint of a training run; None takes the newest.

  Raises:
    ValueError: it isn't one, or holds what we can't do.
  """
  if not path.is_dir():
    what = f"{path} is a file; expected a folder" if path.exists() else f"there is no folder {path}"
    raise UserError(what + meant(path))
  if is_trained(path):
    return _open_trained(path, cards.read_card(path), weights, step)
  if step is not None or weights != "ema":
    raise UserError(f"{path} is not a training run: it has one set of weights, so give neither weights nor step")
  parts = _part_folders(path)
  openers = {name: functools.partial(open_of_kind, folder, name) for name, folder in parts.items()}
  if is_ours(path):
    card = cards.read_card(path)
    _check_card(card, parts, path)
    return Folder(path, card, openers, _companions(path))
  notes, model, scheduler = [], None, SchedulerConfig()
  if TRANSFORMER in parts:
    model = published_model(parts[TRANSFORMER], notes)
    scheduler = published_scheduler(path)
  card = Card(
      model=model, scheduler=scheduler, text_encoder=TEXT_ENCODER if TEXT_ENCODER in parts else None,
      autoencoder=VAE if VAE in parts else None, num_frames=min(model.base_frames, CLIP) if model else 1,
      sample=SampleConfig())
  return Folder(path, with_export(path, card), openers, _companions(path), tuple(notes))


def check_complete(folder: Folder, wanted: Collection[str]) -> None:
  """Raise a ValueError if there is no transformer, or one of the parts that are `wanted` lies beside it or was lost."""
  path, card = folder.path, folder.card
  if TRANSFORMER not in folder.parts:
    raise UserError(f"{path} has {', '.join(folder.parts)}, but no {TRANSFORMER}{meant(path)}")
  listed = read_config(folder.files[INDEX]) if INDEX in folder.files else {}
  for part, place in ((VAE, card.autoencoder), (TEXT_ENCODER, card.text_encoder)):
    if part not in wanted or place is not None or part == TEXT_ENCODER and card.model.text_dim is None:
      continue
    if isinstance(listed.get(part), list) and all(listed[part]):
      raise UserError(f"{path}: {INDEX} names a {part}, but there is no {part}/{CONFIG}: fetch the folder again")
    if path.name == TRANSFORMER and (path.parent / part / CONFIG).exists():
      raise UserError(f"{path} is the {TRANSFORMER} alone{meant(path)}")


def load_transformer(path: str | Path, cfg: ModelConfig) -> nnx.State:
  """Read the weights of a model folder of any form, to train from.

  Raises:
    ValueError: it has none, or of a model other than `cfg`; the error names the fields that differ.
  """
  folder = open_folder(Path(path))
  found = folder.card.model
  if found is None:
    raise UserError(f"{path} has {', '.join(folder.parts)}, but no {TRANSFORMER}")
  differing = [
      f"model.{field.name} is {getattr(found, field.name)!r} there, {getattr(cfg, field.name)!r} here"
      for field in dataclasses.fields(cfg)
      if field.name not in ("dtype", "remat") and getattr(found, field.name) != getattr(cfg, field.name)]
  if differing:
    raise UserError(f"{path} holds another model: {'; '.join(differing)}")
  return folder.parts[TRANSFORMER]().state("float32")


def load_autoencoder(name: str | None, base: str | Path = "", **options: Any) -> autoencoders.Autoencoder | None:
  """Make the autoencoder that a card or config names.

  Args:
    name: a built-in one, or a folder; None for none.
    base: what a relative folder is relative to.
    options: of `NeuralAutoencoder`, if it is a folder.

  Raises:
    ValueError: there is neither.
  """
  if name is None or name in autoencoders.BUILT_IN:
    return None if name is None else autoencoders.make_autoencoder(name)
  return autoencoders.wrap(open_of_kind(Path(base) / name, VAE, autoencoders.BUILT_IN).load(), **options)


def load_text_encoder(
    name: str | None, cfg: ModelConfig, base: str | Path = "", words: Collection[str] = ()
) -> text.TextEncoder | None:
  """Make the text encoder that a card or config names.

  Args:
    name, base: as of `load_autoencoder`, which also raises the same errors.
    cfg: the model's.
    words: those that it was trained on, for a built-in one; empty if they aren't known.
  """
  if name is None or cfg.text_dim is None:
    return None
  if name in text.BUILT_IN:
    return text.make_text_encoder(name, cfg, words)
  part = open_of_kind(Path(base) / name, TEXT_ENCODER, text.BUILT_IN)
  cfg.check_fit(text_dim=part.dim)
  return text.PhiEncoder(part.load(), text.load_tokenizer(part.folder.parent / TOKENIZER), cfg.text_len)


def open_of_kind(folder: Path, kind: str, built_in: Collection[str] = ()) -> Part:
  """Open the folder of one part.

  Args:
    folder: of the part.
    kind: which part it must be.
    built_in: names that would also do.

  Raises:
    ValueError: there is none, or it holds another part.
  """
  if not folder.is_dir():
    raise UserError(f"{folder} is neither a folder nor a built-in {kind} ({', '.join(built_in)}){meant(folder)}")
  if not (folder / CONFIG).exists() and (folder / kind / CONFIG).exists():
    raise UserError(f"{folder} is a whole model; expected its {kind} alone: give {folder / kind}")
  part = open_part(folder)
  if part.name != kind:
    raise UserError(f"{folder} holds a {part.name}; expected a {kind}")
  return part


def _check_card(card: Card, parts: Mapping[str, Path], path: Path) -> None:
  """Refuse a converted folder whose card names parts elsewhere, or is of another transformer than the one in it."""
  for name, kind, built_in in (
      (card.autoencoder, VAE, autoencoders.BUILT_IN), (card.text_encoder, TEXT_ENCODER, text.BUILT_IN)):
    if name not in (None, kind, *built_in):
      raise UserError(
          f"{path / cards.NAME}: expected {kind!r}, one of {', '.join(built_in)} or null for the {kind}, got {name!r}")
    if name == kind and kind not in parts:
      raise UserError(f"{path}: {cards.NAME} names a {kind}, but there is no {kind}/{CONFIG}: fetch the folder again")
  if (card.model is None) != (TRANSFORMER not in parts):
    raise UserError(f"{path}: {cards.NAME} and the folder disagree on whether there is a {TRANSFORMER}")
  if card.model is not None:
    file = parts[TRANSFORMER] / CONFIG
    model = naming(file, published_configs.model_config, read_config(file))
    if dataclasses.replace(card.model, dtype=model.dtype, remat=model.remat) != model:
      raise UserError(f"{path}: {cards.NAME} describes another model than {file}; convert it anew")


def _open_trained(path: Path, card: Card, weights: str, step: int | None) -> Folder:
  if card.model is None:
    raise UserError(f"{path / cards.NAME} has no model, but there are checkpoints")
  parts, files = {TRANSFORMER: lambda: open_trained(path, card, weights, step)}, {}
  for kind, name, built_in in (
      (VAE, card.autoencoder, autoencoders.BUILT_IN), (TEXT_ENCODER, card.text_encoder, text.BUILT_IN)):
    if name is not None and name not in built_in:
      parts[kind] = functools.partial(open_of_kind, path / name, kind, built_in)
  if TEXT_ENCODER in parts:
    tokenizer = (path / card.text_encoder).parent / TOKENIZER
    files = {f"{TOKENIZER}/{file.name}": file for file in _files(tokenizer)}
  return Folder(path, card, parts, files)


def _part_folders(path: Path) -> dict[str, Path]:
  found = {}
  for name in PARTS:
    if (path / name).is_symlink() and not (path / name).exists():
      check_regular(path / name)
    if is_there(path / name / CONFIG):
      found[name] = path / name
  is_run = (path / "checkpoints").is_dir()  # Whose config.json is of another kind.
  if not found and not is_run and is_there(path / CONFIG):
    return {naming(path / CONFIG, kind_of, read_config(path / CONFIG)).part: path}
  if not found:
    raise UserError(
        f"{path} is no model folder; expected {', '.join(f'{name}/{CONFIG}' for name in PARTS)} (published or "
        f"converted), or {cards.NAME} and checkpoints/ (a training run){meant(path)}")
  return found


def _companions(path: Path) -> dict[str, Path]:
  """Return the files beside the parts that belong to a published pipeline."""
  names = [INDEX, SCHEDULER, *(f"{TOKENIZER}/{file.name}" for file in _files(path / TOKENIZER))]
  return {name: path / name for name in names if is_there(path / name)}


def _files(folder: Path) -> list[Path]:
  return sorted(filter(Path.is_file, folder.iterdir())) if folder.is_dir() else []
