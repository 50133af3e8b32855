"""NOVA's training: the task, and `train_nova`, which puts it together with data and callbacks as an experiment says."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from nova_jax import autoencoders, pretrained, text
from nova_jax.checkpoints.components import TEXT_ENCODER, TRANSFORMER, VAE
from nova_jax.checkpoints.hub import identity, local_folder, parse_id, part_folder
from nova_jax.checkpoints.load import load_transformer
from nova_jax.checkpoints.model_card import LoraCard, ModelCard, card_from_experiment, write_card
from nova_jax.checkpoints.model_folder import load_autoencoder, load_text_encoder, open_folder
from nova_jax.checkpoints.part_digest import weights_digest
from nova_jax.checkpoints.store import finished_steps
from nova_jax.config import Experiment, ModelConfig, TrainConfig
from nova_jax.data.sources import known_words, needs_text_encoder, open_caches, open_digits
from nova_jax.diffusion import Scheduler, make_scheduler
from nova_jax.diffusion.batch import Batch
from nova_jax.diffusion.history import make_history
from nova_jax.diffusion.loss import sample_training_noise, training_loss
from nova_jax.models.lora import add_lora
from nova_jax.models.nova import NOVA
from nova_jax.models.quantization import frozen_quantization
from nova_jax.parallel.processes import broadcast_from_first, exchange_host_names, is_first
from nova_jax.parallel.sharding import make_mesh
from nova_jax.pipeline.known_texts import known_texts
from nova_jax.pipeline.prompts import naming
from nova_jax.storage import as_path
from nova_jax.train.callbacks import Callback, SaveCheckpoints
from nova_jax.train.callbacks.evaluation import EarlyStopping, HeldOutLoss
from nova_jax.train.callbacks.profile import Profile
from nova_jax.train.callbacks.samples import SampleGrids, read_shown
from nova_jax.train.callbacks.scores import Scores
from nova_jax.train.callbacks.stop import StopOnSignal
from nova_jax.train.check import check
from nova_jax.train.flops import train_flops
from nova_jax.train.masking import VisibleRange, draw_num_visible, visible_range
from nova_jax.train.stages import plan_stages
from nova_jax.train.step import Metrics
from nova_jax.train.task import FIRST_EVAL_STEP, Task
from nova_jax.train.trainer import Trainer
from nova_jax.train.workdir.restart import notes
from nova_jax.utils.terminal import command, say


@dataclasses.dataclass(frozen=True, eq=False)
class NovaTask(Task):
  """NOVA and its loss.

  The number of visible tokens changes from step to step: it is the traced input. Its padded size is the static one.
  """

  model: ModelConfig
  scheduler: Scheduler
  cfg: TrainConfig
  weights: nnx.State | None = None  # What a new run starts from, or a LoRA changes; None takes random ones.
  history_noise: float = 0.0  # `data.history_noise`.

  @classmethod
  def from_experiment(cls, experiment: Experiment, weights: nnx.State | None = None) -> "NovaTask":
    """Make the task of an experiment."""
    scheduler, noise = make_scheduler(experiment.scheduler), experiment.data.history_noise
    return cls(experiment.model, scheduler, experiment.train, weights, noise)

  def init(self, rngs: nnx.Rngs) -> NOVA:
    model = NOVA(self.model, rngs=rngs)
    if self.cfg.lora.rank:
      add_lora(model, self.cfg.lora, self.model.dtype, rngs=rngs)
    if (quantization := frozen_quantization(self.cfg.lora)) is not None:
      quantization.prepare(model, jnp.zeros)
    return model

  def loss(
      self, model: NOVA, batch: Batch, keys: Key[Array, "B"], traced: Int[Array, ""], static: VisibleRange
  ) -> tuple[Float[Array, ""], Metrics]:
    num_frames = batch.latents.shape[1]
    noise = sample_training_noise(
        keys, self.model, self.scheduler, num_frames, static.most, self.cfg.loss_repeat, static.least)
    history = make_history(
        model, self.scheduler, batch, keys, self.history_noise, self.cfg.rollout_fraction)
    return training_loss(model, self.scheduler, batch, noise, traced, history)

  def eval_loss(
      self, model: NOVA, batch: Batch, keys: Key[Array, "B"], traced: Int[Array, ""], static: VisibleRange
  ) -> tuple[Float[Array, ""], Metrics]:
    cfg = dataclasses.replace(self.cfg, rollout_fraction=0.0)
    return dataclasses.replace(self, cfg=cfg, history_noise=0.0).loss(model, batch, keys, traced, static)

  def host_inputs(self, seed: int, step: int) -> tuple[np.int32, VisibleRange]:
    num_visible = draw_num_visible(seed, step, self.model.num_image_tokens, self.cfg.mask_ratio)
    return np.int32(num_visible), self._range(num_visible, self.cfg.visible_sizes)

  def eval_inputs(self, number: int) -> tuple[np.int32, VisibleRange]:
    num_visible, _ = self.host_inputs(0, FIRST_EVAL_STEP + number)
    return num_visible, self._range(int(num_visible), 1)

  def flops(self, batch: Batch, traced: np.int32) -> float:
    batch_size, num_frames = batch.latents.shape[:2]
    spared = self._range(int(traced), self.cfg.visible_sizes).least
    flops = train_flops(self.model, batch_size, num_frames, int(traced), self.cfg.loss_repeat, spared)
    return flops * (2 / 3 if self.cfg.lora.rank else 1)  # Frozen matrices have no gradients.

  def _range(self, num_visible: int, num_sizes: int) -> VisibleRange:
    return visible_range(num_visible, self.model.num_image_tokens, self.cfg.mask_ratio, num_sizes)

  def for_shape(self, shape: tuple[int, ...]) -> "NovaTask":
    """Return the task for latents [B, *shape]: the positions alone tell its model from others."""
    return dataclasses.replace(self, model=dataclasses.replace(self.model, latent_size=shape[1:3]))

  def initial_weights(self) -> nnx.State | None:
    return self.weights


class ModelCard(Callback):
  """Writes the card of the model into the workdir, and says what a person should know before the run begins."""

  def __init__(self, card: ModelCard, lines: Sequence[str] = ()):
    self._card, self._lines = card, lines

  def open(self, trainer: Trainer) -> None:
    if is_first():
      write_card(trainer.workdir, self._card)
      for line in self._lines:
        say(f"note: {line}")


def _with_local_folders(experiment: Experiment, reads_init: bool) -> Experiment:
  """Return an experiment with the folders of parts in place of whole models and of ids on the hub.

  The path of what the hub holds tells its commit.

  Args:
    experiment: of the run.
    reads_init: whether the weights of `init` are read.
  """
  found = {}
  for name, kind, built_in in (
      ("autoencoder", VAE, autoencoders.BUILT_IN), ("text_encoder", TEXT_ENCODER, text.BUILT_IN)):
    place = getattr(experiment, name)
    if place not in built_in and (parse_id(place) or (as_path(place) / kind).is_dir()):
      with naming(name):
        found[name] = str(part_folder(place, kind))
  if reads_init and parse_id(experiment.init or ""):
    with naming("init"):
      found["init"] = str(local_folder(experiment.init, (TRANSFORMER,)))
  return dataclasses.replace(experiment, **found)


def _lora_card(experiment: Experiment) -> LoraCard:
  """Return what the workdir says of the LoRA, and of the model that it changes."""
  folder = local_folder(experiment.init)
  digest = weights_digest(open_folder(folder).transformer())
  place = identity(folder) or pretrained.name_of(experiment.init) or str(folder.absolute())
  return LoraCard(place, digest, experiment.train.lora)


def finish_nova(experiment: Experiment, workdir: str | Path) -> None:
  """Train in `workdir` unless it is done; a finished run isn't claimed, since several processes may read it."""
  if experiment.train.steps not in finished_steps(as_path(workdir) / "checkpoints"):
    train_nova(experiment, workdir)


def train_nova(
    experiment: Experiment, workdir: str | Path, profile: tuple[int, int] | None = None, *, mesh: Mesh | None = None
) -> None:
  """Train in `workdir`, from its newest checkpoint if it has one, to the last step or until asked to stop.

  Args:
    experiment: what to train.
    workdir: folder of the run, which all processes see.
    profile: first and last step of those that are profiled.
    mesh: devices to train on; None arranges all of them as the experiment says.

  Raises:
    UserError: an experiment that can't run, or a workdir of another one.
    FloatingPointError: the loss or the gradient is not finite; the message names the step and the last good checkpoint.
  """
  plan_stages(experiment.train)
  exchange_host_names()
  workdir = as_path(workdir)
  fresh = broadcast_from_first(not finished_steps(workdir / "checkpoints"))
  lora = experiment.train.lora.rank > 0
  reads_init = bool(experiment.init) and (fresh or lora)  # A checkpoint of a LoRA lacks the model's own weights.
  experiment = _with_local_folders(experiment, reads_init)
  with naming("autoencoder"):
    autoencoder = load_autoencoder(experiment.autoencoder)
  needed = needs_text_encoder(experiment)
  with naming("text_encoder"):
    text_encoder = load_text_encoder(experiment.text_encoder, experiment.model) if needed else None
  with naming("eval.prompts"):
    shown = read_shown(experiment)
    prompt_encoder = None
    if shown and not needed and experiment.model.text_dim:  # It is not kept: embeddings take little memory.
      prompt_encoder = known_texts(load_text_encoder(experiment.text_encoder, experiment.model), shown)
  caches = open_caches(experiment, autoencoder, text_encoder)
  mesh = make_mesh(experiment.mesh) if mesh is None else mesh
  check(experiment, mesh, autoencoder, caches)
  quantization = frozen_quantization(experiment.train.lora)
  with naming("init"):
    weights = load_transformer(experiment.init, experiment.model, quantization) if reads_init else None
    card = card_from_experiment(experiment, known_words(experiment), _lora_card(experiment) if lora else None)
  cfg = experiment.train
  callbacks = [
      ModelCard(card, [*notes(experiment, caches)] if fresh and is_first() else ()), StopOnSignal(),
      HeldOutLoss(experiment.eval), Scores(experiment.eval, card, text_encoder, autoencoder),
      EarlyStopping(experiment.eval.patience),
      SampleGrids(cfg.sample_every, card, text_encoder or prompt_encoder, autoencoder, shown),
      SaveCheckpoints(cfg.save_every, cfg.save_minutes),
      Profile(profile)]
  data = caches or (lambda: open_digits(experiment, workdir, autoencoder, text_encoder))
  if Trainer(NovaTask.from_experiment(experiment, weights), data, experiment, workdir, callbacks, mesh=mesh).run():
    what = "--label 0" if experiment.model.num_classes else '--prompt "what to show"'
    if is_first():
      say(f"next: {command('sample')} --checkpoint {workdir} --output out {what}")
