"""Conversion between published folders and ours.

Invariants: a folder is written under a temporary name and renamed when it is complete. Weights that are converted and
written back in the same dtype have the same bytes, which a digest checks.
"""

import dataclasses
import functools
import importlib.metadata
import json
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nova_jax import autoencoders, text
from nova_jax.checkpoints import export, key_table, model_card, published_configs, store
from nova_jax.checkpoints.components import PARTS, TEXT_ENCODER, TRANSFORMER, VAE, Part, describe
from nova_jax.checkpoints.hub import identity, local_folder
from nova_jax.checkpoints.lora import Loras
from nova_jax.checkpoints.model_card import ModelCard, PartCard
from nova_jax.checkpoints.model_folder import TOKENIZER, Folder, is_ours, open_folder
from nova_jax.checkpoints.new_folder import is_taken, new_folder
from nova_jax.checkpoints.part_digest import Digest, check_same, listed_digest
from nova_jax.checkpoints.published_files import INDEX, SCHEDULER
from nova_jax.checkpoints.store import LazyArray
from nova_jax.checkpoints.weight_files import CONFIG, DTYPES, read_config, write_safetensors
from nova_jax.config import ModelConfig
from nova_jax.storage import as_path, local_copy
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean

# Called with the name of a part, and the bytes of all parts that are done and in total.
ProgressCallback = Callable[[str, int, int], None]

CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_DIFFUSERS_VERSION = "0.32.2"  # Version that saved the published folders.

_WEIGHTS = {
    TRANSFORMER: "diffusion_pytorch_model.safetensors", VAE: "diffusion_pytorch_model.safetensors",
    TEXT_ENCODER: "model.safetensors"}
_MODULES = {
    published_configs.TRANSFORMER_CLASS: "diffnext.models.transformers.transformer_nova",
    published_configs.OUR_CLASS: "nova_jax",
    "AutoencoderKL": "diffnext.models.autoencoders.autoencoder_kl",
    "AutoencoderKLOpenSora": "diffnext.models.autoencoders.autoencoder_kl_opensora",
    "AutoencoderKLCogVideoX": "diffnext.models.autoencoders.autoencoder_kl_cogvideox",
    "AutoencoderKLLTXVideo": "diffnext.models.autoencoders.autoencoder_kl_ltx",
    "PhiEncoderModel": "diffnext.models.text_encoders.phi",
    "PhiForCausalLM": "diffnext.models.text_encoders.phi"}


def convert(
    source: str | Path,
    target: str | Path,
    *,
    parts: Sequence[str] | None = None,
    dtype: str | None = None,
    base: str | Path | None = None,
    weights: str = "ema",
    step: int | str | None = None,
    lora: Loras | None = None,
    progress: ProgressCallback = lambda part, done, total: None,
) -> list[str]:
  """Convert a published folder to ours, or ours to a published one; the form of `source` decides which.

  A model that LoRAs are added to becomes a published one.

  Args:
    source: published folder or a part of one, converted folder, workdir of a training run, or the id of a model on the
      Hugging Face hub.
    target: new folder, which must not exist.
    parts: names of the parts to convert; None for all.
    dtype: dtype to write weights in, "float32", "float16" or "bfloat16"; None keeps the stored one.
    base: model folder of any form that provides what `source` lacks.
    weights: set of weights of a training run, one of `choice.WEIGHTS`.
    step: step of the checkpoint of a training run, or "best"; None takes the newest.
    lora: folder of a LoRA that is added to the transformer, or several folders and the weight of each.
    progress: function that is called for every weight.

  Returns:
    Notes for the user on what was decided or left out.

  Raises:
    UserError: the source can't be converted. One error counts the unknown, missing or misshapen weights of all parts,
      and names the first of them. Nothing is left at `target`.
  """
  source, target = local_folder(source, parts or PARTS), as_path(target)
  for part in parts or ():
    if part not in PARTS:
      raise UserError(f"parts: {part!r} is not a part{did_you_mean(part, PARTS)}")
  if dtype is not None and dtype not in CODES:
    raise UserError(f"dtype: expected one of {', '.join(CODES)}, got {dtype!r}")
  if target.name in ("", ".."):
    raise UserError(f"target: expected the name of a new folder, got {target}")
  if target.is_symlink() or target.exists() and (not target.is_dir() or is_taken(target)):
    raise UserError(f"target: {target} exists; give a new name, or remove it")
  opened = open_folder(source, weights, step)
  if base is not None:
    opened = opened.completed(open_folder(base))
  if lora:  # It may have taught the model other words.
    opened = dataclasses.replace(opened, card=dataclasses.replace(opened.card, words=()))
  missing = [name for name in parts or () if name not in opened.parts]
  if missing:
    raise UserError(f"{source} has no {' and no '.join(missing)}; it has {', '.join(opened.parts)}")
  chosen = [
      opened.transformer(lora, None if dtype is None else np.dtype(np.float32)) if name == TRANSFORMER  # Cast below.
      else opened.parts[name]()
      for name in PARTS if name in (parts or PARTS) and name in opened.parts]
  chosen = [_with_config(part, opened.card) for part in chosen]
  _check(chosen, opened, None if dtype is None else DTYPES[CODES[dtype]])
  watch = _Watch(None if dtype is None else DTYPES[CODES[dtype]], progress, sum(part.num_bytes for part in chosen))
  write = _write_published if is_ours(source) or lora else _write_ours
  with new_folder(target, sum(watch.size(part) for part in chosen)) as folder:
    write(folder, opened, chosen, watch)
  return [*opened.notes, *_decisions(opened, chosen)]


def _with_config(part: Part, card: ModelCard) -> Part:
  """Return the part with its stored config, which the transformer of a training run lacks."""
  return part if part.config else part._replace(config=published_configs.stored_model(card.transformer))


def _check(parts: Sequence[Part], opened: Folder, dtype: np.dtype | None) -> None:
  """Refuse parts whose weights don't fit their configs, or that don't fit each other; the error covers all parts."""
  problems, hint = {part.name: part.misfits() for part in parts}, ""
  if not any(problems.values()) and dtype is None:
    problems = {part.name: key_table.mixed_dtypes(part.weights, part.shapes, part.names) for part in parts}
    hint = "; give a dtype for all weights"
  if any(problems.values()):
    raise UserError(f"{opened.path} does not fit its config; nothing was written. {describe(problems)}{hint}")
  for part in parts:
    listed_digest(part)
  dims = {part.name: part.dim for part in parts}
  if TRANSFORMER in dims:
    opened.card.transformer.check_fit(latent_dim=dims.get(VAE), text_dim=dims.get(TEXT_ENCODER))
  if TEXT_ENCODER in dims and any(name.startswith(TOKENIZER) for name in opened.files):
    text.load_tokenizer(next(file.parent for name, file in opened.files.items() if name.startswith(TOKENIZER)))


def _decisions(opened: Folder, parts: Sequence[Part]) -> Iterator[str]:
  """Yield notes for the user on a conversion."""
  card, kept = opened.card, {part.name for part in parts}
  for part in parts:
    if part.class_name == published_configs.OUR_CLASS:
      yield f"{_unpublished(card.transformer)}: so what is written is for nova_jax alone"
    if part.wrappers:
      yield f"{part.folder}: {part.wrappers} before names of weights was taken off"
  if TRANSFORMER in kept and not opened.knows_scheduler:
    yield f"{opened.path} has no {SCHEDULER}: taken as {card.scheduler.name} with shift {card.scheduler.shift}"
  if TEXT_ENCODER in kept and not any(name.startswith(TOKENIZER) for name in opened.files):
    yield f"{opened.path} has no {TOKENIZER}/: the text encoder can't read prompts without one"
  for name, kind, built_in in (
      (card.autoencoder, VAE, autoencoders.BUILT_IN), (card.text_encoder, TEXT_ENCODER, text.BUILT_IN)):
    if name in built_in and is_ours(opened.path) and TRANSFORMER in kept:
      yield (
          f"the {kind} {name!r} is built into nova_jax and has no published form: {export.NAME} names it, for nova_jax "
          "alone")


def _unpublished(cfg: ModelConfig) -> str:
  """Return why the published code can't build a model."""
  try:
    published_configs.published_model(cfg)
  except UserError as reason:
    return str(reason)
  return "the source was written for nova_jax alone"


def _write_ours(folder: Path, opened: Folder, parts: Sequence[Part], watch: "_Watch") -> None:
  listed = []
  for part in parts:
    watched, before, digest = watch(part)
    store.save_arrays(folder / part.name, watched.arrays())
    check_same(part, before)
    _write_json(folder / part.name / CONFIG, part.config)
    listed.append(PartCard(part.name, part.class_name, len(watched.weights), watched.dtypes, digest.hexdigest()))
  _copy(opened, folder, parts)
  kept = {part.name for part in parts}
  model_card.write_card(folder, dataclasses.replace(
      opened.card, model=opened.card.model if TRANSFORMER in kept else None,
      autoencoder=_location(opened.card.autoencoder, VAE in kept, VAE, autoencoders.BUILT_IN),
      text_encoder=_location(opened.card.text_encoder, TEXT_ENCODER in kept, TEXT_ENCODER, text.BUILT_IN),
      parts=tuple(listed), source=identity(opened.path) or str(opened.path),
      versions=", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "orbax-checkpoint"))))


def _location(name: str | None, is_here: bool, folder: str, built_in: Collection[str]) -> str | None:
  """Return the name of a part of a converted folder: its folder, a built-in name, or None."""
  return folder if is_here else name if name in built_in else None


def _write_published(folder: Path, opened: Folder, parts: Sequence[Part], watch: "_Watch") -> None:
  for part in parts:
    watched, digest, _ = watch(part)
    (folder / part.name).mkdir()
    write_safetensors(folder / part.name / _WEIGHTS[part.name], watched.weights)
    _write_json(folder / part.name / CONFIG, part.config)
    check_same(part, digest)
  _copy(opened, folder, parts)
  kept = {part.name: [_MODULES[part.class_name], part.class_name] for part in parts}
  if TRANSFORMER in kept:
    config, kept["scheduler"] = published_configs.published_scheduler(opened.card.scheduler)
    if not (folder / SCHEDULER).exists():
      _write_json(folder / SCHEDULER, config)
  if TEXT_ENCODER in kept:
    kept[TOKENIZER] = ["transformers", "CodeGenTokenizerFast"]
  model = opened.card.model
  index = {
      "_class_name": "NOVAC2IPipeline" if model and model.num_classes else "NOVAPipeline",
      "_diffusers_version": _DIFFUSERS_VERSION} | kept
  if (folder / INDEX).exists():
    found = read_config(folder / INDEX)
    index = {name: found[name] for name in found if name in index} | {
        name: value for name, value in index.items() if name not in found}
  _write_json(folder / INDEX, index)
  if TRANSFORMER in kept:
    export.write_export(folder, opened.card, open_folder(folder).card)


class _Watch:
  """Casts, digests and counts weights as they are read."""

  def __init__(self, dtype: np.dtype | None, progress: ProgressCallback, total: int):
    self.dtype, self.progress, self.done, self.total = dtype, progress, 0, total

  def __call__(self, part: Part) -> tuple[Part, Digest, Digest]:
    """Return the part with watched weights, and the digests of the weights as read and as written."""
    before = Digest()
    after = before if self.dtype is None else Digest()

    def read(name: str, stored: LazyArray) -> np.ndarray:
      array = stored.read()
      self.done += array.nbytes
      before.add(name, array)
      if self.dtype is not None:
        array = self._cast(name, array)
        after.add(name, array)
      self.progress(part.name, self.done, self.total)
      return array

    weights = {
        name: LazyArray(stored.shape, self.dtype or stored.dtype, functools.partial(read, name, stored))
        for name, stored in part.weights.items()}
    return part._replace(weights=weights, ours=None), before, after

  def size(self, part: Part) -> int:
    """Return the number of bytes to write for a part."""
    return sum(math.prod(stored.shape) * (self.dtype or stored.dtype).itemsize for stored in part.weights.values())

  def _cast(self, name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
      cast = array.astype(self.dtype)
    if np.isfinite(array).all() and not np.isfinite(cast).all():
      raise UserError(f"dtype: {name} has values up to {np.abs(array).max():.3g}, too large for {self.dtype}")
    return cast


def _copy(opened: Folder, folder: Path, parts: Sequence[Part]) -> None:
  """Copy the other files of a published pipeline that belong to these parts."""
  kept = {part.name for part in parts}
  for name, file in opened.files.items():
    if (TEXT_ENCODER if name.startswith(TOKENIZER) else TRANSFORMER) in kept:
      (folder / name).parent.mkdir(exist_ok=True)
      shutil.copyfile(local_copy(file), folder / name)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
