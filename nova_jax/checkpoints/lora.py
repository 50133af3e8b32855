"""LoRA folders, in the layout that peft loads, with the published names of the model's matrices.

  adapter_config.json          rank, alpha, targets, and modules with parameters that were trained themselves
  adapter_model.safetensors    base_model.model.NAME.lora_A.weight [r, in] and ….lora_B.weight [out, r]; of those
                               parameters base_model.model.NAME, of the model's shape
  nova_lora.json               the model that it was trained for; peft doesn't read it

The workdir of a run that trains a LoRA serves as such a folder, too.
Invariants: a LoRA is added to weights as they are read, W + weight · (alpha / r) · B·A in float32, or of a parameter P
that was trained itself, W + weight · (P − W). It is never taken off again: without it the weights are those of the
folder, bit for bit. The sums are the same on every machine.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx

from nova_jax.checkpoints import key_table, model_card
from nova_jax.checkpoints.arrays import LazyArray
from nova_jax.checkpoints.components import TRANSFORMER, Part, open_trained_arrays
from nova_jax.checkpoints.hub import identity, local_folder, parse_id
from nova_jax.checkpoints.model_card import LoraCard
from nova_jax.checkpoints.part_digest import listed_digest, weights_digest
from nova_jax.checkpoints.weight_files import open_file, shorten_name
from nova_jax.config import LoraConfig, ModelConfig
from nova_jax.models.nova import NOVA
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict, shown
from nova_jax.utils.files import check_regular, read_json

# Which LoRAs are added with which weights: one folder, or several folders and their weights.
Loras = str | Path | Mapping[str | Path, float]

CONFIG, WEIGHTS, OURS = "adapter_config.json", "adapter_model.safetensors", "nova_lora.json"
FORMAT = {"format": "nova_jax lora", "version": 1}
PREFIX = "base_model.model."  # Before the names of matrices.
_NAME = re.compile(r"(?:base_model\.model\.|transformer\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
_PLAIN = {"use_dora": (False,), "bias": ("none",), "rank_pattern": ({},), "alpha_pattern": ({},)}


class Update(NamedTuple):
  """The two matrices of a published matrix: A [r, in] and B [out, r]."""

  a: LazyArray
  b: LazyArray


@dataclasses.dataclass(frozen=True, eq=False)
class Lora:
  """An opened LoRA, none of whose matrices is in memory.

  Attributes:
    path: folder of the LoRA.
    updates: matrices by the published name of the weight that they change.
    full: parameters that were trained themselves, by published name.
    scale: factor alpha / r.
    rank: rank r.
    card: what it was trained for; None if the folder doesn't say.
  """

  path: Path
  updates: Mapping[str, Update]
  full: Mapping[str, LazyArray]
  scale: float
  rank: int
  card: LoraCard | None


def open_lora(path: str | Path, weights: str = "ema", step: int | str | None = None) -> Lora:
  """Open a LoRA.

  Args:
    path: folder of a LoRA, workdir of a run that trained one, or id on the Hugging Face hub.
    weights: set of weights of a training run, one of `choice.WEIGHTS`.
    step: step of the checkpoint of a training run, or "best"; None takes the newest.

  Raises:
    UserError: there is none, or it is of a kind that can't be added.
  """
  path = local_folder(path)
  if not path.is_dir():
    raise UserError(f"lora: there is no folder {path}; expected one with {CONFIG} and {WEIGHTS}")
  if (path / model_card.NAME).is_file():
    return _open_trained(path, weights, step)
  for name in (CONFIG, WEIGHTS):
    if not (path / name).is_file():
      raise UserError(
          f"lora: {path} has no {name}; expected a folder as peft and nova_jax write it, or the workdir of a run that "
          "trained a LoRA")
  rank, scale, modules = _read_config(path / CONFIG)
  stored = open_file(check_regular(path / WEIGHTS))
  own = {name: found for name in stored if (found := _full_name(name, modules))}
  updates = _pair(path, {name: array for name, array in stored.items() if name not in own}, rank)
  full = {found: stored[name] for name, found in own.items()}
  if not updates and not full:
    raise UserError(f"{path / WEIGHTS} has no matrices of a LoRA")
  card = None
  if (path / OURS).is_file():
    values = read_json(path / OURS, limits.CONFIG_BYTES)
    if (found := {key: values.pop(key, None) for key in FORMAT}) != FORMAT:
      raise UserError(f"{path / OURS}: expected {FORMAT}, got {shown(found)}")
    card = from_dict(LoraCard, values, str(path / OURS))
  return Lora(path, updates, full, scale, rank, card)


def read_loras(loras: Loras | None) -> tuple[tuple[Lora, float], ...]:
  """Open LoRAs by their folders.

  Raises:
    UserError: one can't be opened, or its weight is no finite number.
  """
  return tuple((open_lora(place), weight) for place, weight in weights_by_place(loras).items())


def weights_by_place(loras: Loras | None) -> dict[str, float]:
  """Return the weight of each LoRA by its id and commit on the hub, or the whole path of its folder.

  Raises:
    UserError: a weight that is no finite number, a LoRA that is named twice, or one that the hub doesn't have.
  """
  given = {} if loras is None else loras if isinstance(loras, Mapping) else {loras: 1.0}
  for path, weight in given.items():
    if not isinstance(weight, (int, float)) or not math.isfinite(weight):
      raise UserError(f"lora: expected a finite number as the weight of {path}, got {weight!r}")
  found: dict[str, float] = {}
  for path, weight in given.items():
    folder = local_folder(path)
    place = (identity(folder) if parse_id(path) else None) or str(folder.absolute())
    if place in found:
      raise UserError(f"lora: {path} is there twice, also by another name; give each LoRA once")
    found[place] = float(weight)
  return found


def base_folder(workdir: Path, card: LoraCard) -> Path:
  """Return the folder of the model for which a LoRA was trained.

  Raises:
    UserError: it isn't there any more.
  """
  folder = local_folder(card.base, (TRANSFORMER,), download=False)
  if not folder.is_dir():
    raise UserError(
        f"{workdir} trained a LoRA for the model {card.base}, which isn't there; bring it back, or give the model "
        f"where it is now, and {workdir} as its LoRA")
  return folder


def with_loras(part: Part, loras: Sequence[tuple[Lora, float]], dtype: np.dtype | None = None) -> Part:
  """Return a transformer to whose weights LoRAs are added when they are read.

  Args:
    part: transformer, as its folder has it.
    loras: LoRAs and their weights.
    dtype: dtype of the weights that change; None keeps the stored one.

  Raises:
    UserError: a LoRA was trained for another model, or for one of other sizes.
  """
  digest = None
  for lora, _ in loras:
    if lora.card is not None:
      digest = digest or listed_digest(part) or weights_digest(part)
      if lora.card.digest != digest:
        removable = f", or remove {OURS} to use it with this one all the same" if (lora.path / OURS).is_file() else ""
        raise UserError(
            f"lora: {lora.path} was trained for another model than {part.folder}: for {lora.card.base}, whose weights "
            f"have the digest {lora.card.digest[:12]}, not {digest[:12]}; give that model{removable}")
    _check_fit(lora, part)
  merged = {}
  for name, stored in part.weights.items():
    updates = [(lora.updates[name], weight * lora.scale) for lora, weight in loras if name in lora.updates and weight]
    full = [(lora.full[name], weight) for lora, weight in loras if name in lora.full and weight]
    merged[name] = _merged(stored, updates, full, dtype or stored.dtype) if updates or full else stored
  return part._replace(weights=merged, ours=None) if loras else part


def _merged(
    stored: LazyArray, updates: Sequence[tuple[Update, float]], full: Sequence[tuple[LazyArray, float]], dtype: np.dtype
) -> LazyArray:
  def read() -> np.ndarray:
    total = stored.read().astype(np.float32)
    change, term = np.zeros_like(total), np.empty_like(total)
    for (a, b), factor in updates:
      rows, columns = a.read().astype(np.float32), np.float32(factor) * b.read().astype(np.float32)
      for i in range(len(rows)):  # A matrix product would round differently on other machines.
        change += np.multiply.outer(columns[:, i], rows[i], out=term)
    for own, weight in full:
      change += np.float32(weight) * (own.read().astype(np.float32) - total)
    return (total + change).astype(dtype)

  return LazyArray(stored.shape, np.dtype(dtype), read)


def _check_fit(lora: Lora, part: Part) -> None:
  shapes = {name: (b.shape[0], a.shape[1]) for name, (a, b) in lora.updates.items()}
  for name, shape in (shapes | {name: own.shape for name, own in lora.full.items()}).items():
    if name not in part.weights:
      raise UserError(
          f"lora: {lora.path} changes {shorten_name(name)}, which {part.folder} doesn't have; it was trained for "
          "another model")
    if part.weights[name].shape != shape:
      raise UserError(
          f"lora: {lora.path} changes {name} of shape {shape}, and that of {part.folder} is "
          f"{part.weights[name].shape}; it was trained for another model")


def _read_config(path: Path) -> tuple[int, float, list[str]]:
  """Return rank, scale, and the modules with parameters that were trained themselves, from a peft config."""
  values = read_json(path, limits.CONFIG_BYTES)
  if values.get("peft_type", "LORA") != "LORA":
    raise UserError(f"{path}: expected a LoRA, got {shown(values['peft_type'])}")
  for name, plain in _PLAIN.items():
    if values.get(name) not in (None, *plain):
      raise UserError(f"{path}: {name}={shown(values[name])} is not supported; expected a plain LoRA")
  rank, alpha = values.get("r"), values.get("lora_alpha")
  if not isinstance(rank, int) or rank < 1:
    raise UserError(f"{path}: expected a rank r of 1 or more, got {shown(rank)}")
  if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
    raise UserError(f"{path}: expected a number lora_alpha, got {shown(alpha)}")
  modules = values.get("modules_to_save") or []
  if not isinstance(modules, list) or not all(isinstance(name, str) for name in modules):
    raise UserError(f"{path}: expected a list of names as modules_to_save, got {shown(modules)}")
  return rank, alpha / (math.sqrt(rank) if values.get("use_rslora") else rank), modules


def _full_name(name: str, modules: Sequence[str]) -> str | None:
  """Return the published name of a parameter in or below modules whose names end, as peft has it, in one of these."""
  if _NAME.fullmatch(name):
    return None
  own = re.sub(r"^(base_model\.model\.|transformer\.)|\.modules_to_save(\.default)?(?=\.)", "", name)
  return own if any(f"{module}." in f".{own}" for module in modules) else None


def _pair(path: Path, weights: Mapping[str, LazyArray], rank: int) -> dict[str, Update]:
  """Return the pairs of matrices of a file."""
  found: dict[str, dict[str, LazyArray]] = {}
  for name, stored in weights.items():
    match = _NAME.fullmatch(name)
    if match is None:
      raise UserError(f"{path / WEIGHTS}: {shorten_name(name)} is not a matrix of a LoRA")
    found.setdefault(f"{match[1]}.weight", {})[match[2]] = stored
  for name, pair in found.items():
    a, b = pair.get("A"), pair.get("B")
    if a is None or b is None:
      raise UserError(f"{path / WEIGHTS}: {shorten_name(name)} has one of the matrices A and B alone")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
      raise UserError(
          f"{path / WEIGHTS}: A and B of {shorten_name(name)} have shapes {a.shape} and {b.shape}; expected "
          f"[{rank}, in] and [out, {rank}], as {CONFIG} says")
  return {name: Update(pair["A"], pair["B"]) for name, pair in found.items()}


def _open_trained(workdir: Path, weights: str, step: int | str | None) -> Lora:
  card = model_card.read_card(workdir)
  if card.lora is None:
    raise UserError(f"lora: {workdir} trained a whole model, not a LoRA; give it as the model, without a LoRA")
  _, stored = open_trained_arrays(workdir, weights, step)
  cfg = card.lora.config
  updates, full = _published(stored, card.transformer, cfg)
  return Lora(workdir, updates, full, cfg.scale, cfg.rank, card.lora)


def _published(
    stored: Mapping[str, LazyArray], model: ModelConfig, cfg: LoraConfig
) -> tuple[dict[str, Update], dict[str, LazyArray]]:
  """Return `Lora.updates` and `Lora.full` of a training run, in published layouts."""
  shapes = nnx.state(nnx.eval_shape(lambda: NOVA(model, rngs=nnx.Rngs(0))))
  updates, full = {}, {}
  for weight in key_table.published_weights(shapes, key_table.transformer_names(model)):
    prefix = weight.path.removesuffix("kernel") + "low_rank/"
    if prefix + "a" in stored:
      out, inputs = weight.shape
      updates[weight.name] = Update(
          _flat(stored[prefix + "a"], weight.layer, (inputs, cfg.rank)),
          _flat(stored[prefix + "b"], weight.layer, (cfg.rank, out)))
    elif weight.path in stored:
      full[weight.name] = LazyArray(
          weight.shape, stored[weight.path].dtype,
          lambda weight=weight: weight.to_published(stored[weight.path].read()))
  return updates, full


def _flat(stored: LazyArray, layer: int | None, shape: tuple[int, int]) -> LazyArray:
  """Return the published matrix, [r, in] or [out, r], of ours, whose axes are in the other order."""

  def read() -> np.ndarray:
    array = np.asarray(stored.read())
    return np.ascontiguousarray((array if layer is None else array[layer]).reshape(shape).T)

  return LazyArray(shape[::-1], stored.dtype, read)
