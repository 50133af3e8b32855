"""Checks of an experiment before anything is made or trained: what would fail hours later fails at once.

Invariant: an experiment that passes doesn't fail for its settings, in whatever stage.
"""

import dataclasses
import fnmatch

from jax.sharding import Mesh

from nova_jax.autoencoders import Autoencoder
from nova_jax.config import DATASETS, EvalConfig, Experiment, LoraConfig
from nova_jax.data.digits.datasets import check_fields
from nova_jax.data.sources import CacheData
from nova_jax.data.videos import check_mid_clips, check_single_frames
from nova_jax.diffusion import make_scheduler
from nova_jax.evals.digits import two_digits
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.plan import make_plan
from nova_jax.train.callbacks.scores import check_scores, score_names
from nova_jax.train.masking import padded_sizes
from nova_jax.train.metrics import EVALUATED
from nova_jax.train.optimizer import make_schedule
from nova_jax.train.trackers import check_trackers
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import did_you_mean

NUM_DIGITS = 10


def check(experiment: Experiment, mesh: Mesh, autoencoder: Autoencoder, caches: CacheData | None = None) -> None:
  """Raise a ValueError that names the fields which don't fit each other.

  Args:
    experiment: to check.
    mesh: to train on.
    autoencoder: of the model.
    caches: what it learns from; None for moving digits.
  """
  model, data, train, optimizer = experiment.model, experiment.data, experiment.train, experiment.optimizer
  if optimizer.learning_rate * optimizer.weight_decay >= 1:
    raise UserError(
        "optimizer.weight_decay: a step takes learning_rate x weight_decay of a weight, which must be less than all of "
        f"it, got {optimizer.learning_rate} x {optimizer.weight_decay}")
  decays = (train.ema_decay, *train.ema_decays)
  if len(set(decays)) < len(decays):
    raise UserError(f"train.ema_decays: expected each decay once, beside train.ema_decay={train.ema_decay}, got "
                    f"{train.ema_decays}")
  for name, value in (("data.history_noise", data.history_noise), ("train.rollout_fraction", train.rollout_fraction)):
    if value and not (model.history and any(stage.num_frames > 1 for stage in train.stages)):
      raise UserError(
          f"{name}: no frame of this run sees an earlier one (model.history, num_frames of train.stages), so {value} "
          "would do nothing; leave it out")
  padded_sizes(model.num_image_tokens, train.mask_ratio, train.visible_sizes)
  make_schedule(optimizer, train.steps)
  unused = [f.name for f in dataclasses.fields(LoraConfig) if getattr(train.lora, f.name) != f.default]
  if unused and not train.lora.rank:
    raise UserError(
        f"train.lora.{unused[0]}: it is a setting of a LoRA, and with train.lora.rank=0 the whole model would be "
        "trained without one; give a rank, or leave it out")
  if train.lora.rank and not experiment.init:
    raise UserError(
        "train.lora.rank: a LoRA changes a model that was trained before; say which: --config.init=FOLDER")
  if data.name not in DATASETS:
    raise UserError(f"data.name: {data.name!r} is not known{did_you_mean(data.name, DATASETS)}")
  check_scores(experiment)
  check_trackers(train.trackers)
  _check_held_out(experiment)
  if caches is None:
    _check_digits(experiment, autoencoder)
  shards = mesh.shape["data"] * mesh.shape["fsdp"]
  for stage in train.stages:
    if caches is not None:
      caches.feed(stage)
      if experiment.eval.every:
        caches.held_out(stage)
    if stage.batch_size // train.accumulation % shards:
      raise UserError(
          f"train.stages: a micro-batch of {stage.batch_size // train.accumulation} clips of {stage.name!r} does not "
          f"spread over {shards} devices (mesh.data x mesh.fsdp)")
  sample = experiment.sample
  make_plan(
      model, make_scheduler(experiment.scheduler), num_frames=1, num_sets=sample.num_inference_steps,
      num_steps=sample.num_diffusion_steps, guidance=Guidance(sample.guidance_scale))


def _check_held_out(experiment: Experiment) -> None:
  cfg, stages = experiment.eval, experiment.train.stages
  losses = ("loss", "loss_t2i", "loss_i2i") if stages and stages[-1].num_frames > 1 else ("loss",)
  averages = [f"ema_{decay}_" for decay in experiment.train.ema_decays]
  metrics = [f"{EVALUATED}{which}{name}" for which in ("", "ema_", *averages) for name in losses]
  metrics = [*(metrics if cfg.every else ()), *score_names(experiment)]
  unset = not cfg.every and cfg.best_metric == EvalConfig.best_metric
  if metrics and not unset and not any(fnmatch.fnmatchcase(cfg.best_metric, metric) for metric in metrics):
    raise UserError(
        f"eval.best_metric: {cfg.best_metric!r} is not a metric of the last stage"
        f"{did_you_mean(cfg.best_metric, metrics)}")
  if cfg.patience and (unset or not metrics):
    raise UserError(
        f"eval.patience: nothing computes eval.best_metric={cfg.best_metric}; give eval.every, or name a score in "
        "eval.best_metric")
  if experiment.data.name != "caches":
    if cfg.fraction or cfg.sources:
      name = "eval.fraction" if cfg.fraction else "eval.sources"
      raise UserError(f"{name}: the digits have a test split, which is held out; only caches need another one")
  elif cfg.fraction and cfg.sources:
    raise UserError("eval.sources: caches of held-out records are an alternative to eval.fraction; give one of the two")
  elif cfg.every and not cfg.fraction and not cfg.sources:
    raise UserError(
        "eval.every: there are no held-out records; give a fraction of the caches' records (eval.fraction) or caches "
        "of their own (eval.sources)")


def _check_digits(experiment: Experiment, autoencoder: Autoencoder) -> None:
  model, data = experiment.model, experiment.data
  latents = (data.canvas // autoencoder.spatial_stride,) * 2
  if (model.latent_size, model.latent_dim) != (latents, autoencoder.latent_dim):
    raise UserError(
        f"data.canvas={data.canvas} makes latents of {latents} x {autoencoder.latent_dim}, but the model has "
        f"model.latent_size={model.latent_size} and model.latent_dim={model.latent_dim}")
  if model.num_classes is not None and model.num_classes < NUM_DIGITS:
    raise UserError(f"model.num_classes: the digits have {NUM_DIGITS} classes, got {model.num_classes}")
  if data.name == "two_digits" and model.num_classes is not None:
    raise UserError("model.num_classes: a label says nothing of two digits; give the model text (model.text_dim)")
  check_fields(data)
  check_single_frames(data.single_frames)
  if data.turning_fraction and not data.mid_clip_fraction:
    raise UserError(
        "data.turning_fraction: clips are cut from before the first turn, unless data.mid_clip_fraction is above 0")
  for stage in experiment.train.stages:
    frames = autoencoder.num_frames(stage.num_frames)
    if frames > data.num_frames:
      raise UserError(
          f"train.stages: {stage.name!r} takes clips of {frames} frames, but data.num_frames={data.num_frames}")
    if data.mid_clip_fraction and stage.num_frames > 1:
      check_mid_clips(data.mid_clip_fraction, data.num_frames, stage.num_frames, autoencoder, data.turning_fraction)
  stage = experiment.train.stages[-1]
  frames = autoencoder.num_frames(stage.num_frames)
  if "two_digits" in experiment.eval.scores and experiment.eval.score_every and frames < two_digits.NUM_FRAMES:
    raise UserError(
        f"eval.scores: two_digits needs clips of {two_digits.NUM_FRAMES} frames in the last stage; {stage.name!r} has "
        f"{frames}")
