"""The programs of an experiment, ready to be compiled for a mesh without its devices.

They are what training, sampling and decoding run: the very functions of `train/program.py`, `sampling/sampler.py` and
`autoencoders/`. Invariant: no array is created; all values are shapes with shardings.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from nova_jax.autoencoders import BUILT_IN, NETWORKS, make_network
from nova_jax.autoencoders.neural import run_network
from nova_jax.autoencoders.published import published_autoencoder
from nova_jax.checkpoints.model_card import card_from_experiment
from nova_jax.config import Experiment
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.batch import Batch
from nova_jax.models.condition import Condition
from nova_jax.models.nova import NOVA
from nova_jax.models.transformer import Cache
from nova_jax.parallel.sharding import fitting_spec, make_mesh, replicated, state_shardings, use_mesh
from nova_jax.pipeline.model_parts import ModelParts
from nova_jax.pipeline.request import Request
from nova_jax.pipeline.resolve import plan_for
from nova_jax.sampling import sampler
from nova_jax.sampling.feature_cache import Features
from nova_jax.sampling.flops import sample_flops, set_flops
from nova_jax.sampling.frame_context import begin_video, continue_video, prepare
from nova_jax.sampling.plan import Plan
from nova_jax.tools.aot.topology import Topology
from nova_jax.train.flops import executed_flops, train_flops
from nova_jax.train.masking import VisibleRange, padded_sizes
from nova_jax.train.nova import NovaTask
from nova_jax.train.program import TrainProgram
from nova_jax.train.stages import Stage, plan_stages
from nova_jax.utils.errors import UserError

WHAT = ("train", "sample", "decode")


@dataclasses.dataclass(frozen=True)
class Job:
  """A program to compile."""

  name: str
  mesh: Mesh
  lower: Callable[[], jax.stages.Lowered]
  dtype: str  # Dtype of its products.
  runs: float = 1  # Number of runs in a whole generation; shorter ones count by their operations.
  samples: int = 0  # Clips that one run of all jobs generates or trains on.
  flops: float = 0.0  # FLOPs of the model on all devices, by formula; 0 takes XLA's count.
  executed: float = 0.0  # FLOPs with recomputation, and with heads as wide as the chip's matrix unit.
  inputs: dict[str, int] = dataclasses.field(default_factory=dict)  # Bytes per device by kind of input.
  state: Any = None  # Shardings of a state that the program takes as its first argument and must return unchanged.
  stacks: tuple[tuple[int, ...], ...] = ()  # Shapes of stacked parameters.
  gathers_once: bool = False  # Whether it gathers all of these at once on purpose.


def make_jobs(experiment: Experiment, topology: Topology, what: str, preset: str = "exact") -> list[Job]:
  """Return the programs of `what`, in the order in which they run; `preset` says how clips are generated.

  Raises:
    UserError: the mesh does not fit the slice, or the batch can't be sharded over it.
  """
  devices = topology.devices()
  if what == "decode":
    return [decode_job(experiment, Mesh(np.array(devices[:1]).reshape(1), ("data",)))]
  mesh = make_mesh(experiment.mesh, devices)
  if experiment.model.attention == "auto":
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, attention="splash"))
  if what == "sample":
    return sample_jobs(experiment, mesh, topology.chip.matrix_unit, preset)
  return [train_job(experiment, mesh, stage, topology.chip.matrix_unit) for stage in plan_stages(experiment.train)]


def lower_job(experiment: Experiment, topology: Topology, what: str, number: int, preset: str) -> jax.stages.Lowered:
  """Return program `number` of those of `make_jobs`, lowered; a process of its own can call it."""
  return make_jobs(experiment, topology, what, preset)[number].lower()


def train_job(experiment: Experiment, mesh: Mesh, stage: Stage, unit: int) -> Job:
  """Return a stage's training step, with the largest padded number of visible tokens.

  Args:
    experiment: what is trained.
    mesh: mesh of the devices.
    stage: stage of the training.
    unit: side of the chip's matrix unit.
  """
  model, train, cfg = experiment.model, experiment.train, stage.cfg
  shards = num_shards(mesh)
  if cfg.batch_size // train.accumulation % shards:
    raise UserError(
        f"train.stages: a micro-batch of {cfg.batch_size // train.accumulation} clips of {cfg.name!r} does not spread "
        f"over {shards} devices (mesh.data x mesh.fsdp)")
  program = TrainProgram(NovaTask.from_experiment(experiment), experiment, mesh)
  abstract, shape = program.abstract, (cfg.num_frames, *model.latent_size, model.latent_dim)
  step = program.step(stage, shape)
  batch = Batch(
      _spread(mesh, (cfg.batch_size, *shape)), _condition(experiment, mesh, cfg.batch_size),
      index=_spread(mesh, (cfg.batch_size,), jnp.int32))
  # Of the programs for several sizes, one that takes no less than any.
  most = VisibleRange(0, padded_sizes(model.num_image_tokens, train.mask_ratio, train.visible_sizes)[-1])
  visible = (1 - sum(train.mask_ratio) / 2) * model.num_image_tokens
  count = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
  amount = (cfg.batch_size, cfg.num_frames)
  return Job(
      f"train {cfg.name}", mesh, lambda: step.run.lower(abstract, batch, count, most), model.dtype,
      samples=cfg.batch_size, flops=train_flops(model, *amount, visible, train.loss_repeat),
      executed=executed_flops(model, *amount, most.most, train.loss_repeat, unit),
      inputs={
          "parameters": device_bytes((abstract.params, abstract.buffers)),
          "average": device_bytes((abstract.ema, abstract.emas)),
          "optimizer": device_bytes(abstract.opt_state), "batch": device_bytes(batch)},
      state=abstract, stacks=_stacks(abstract.params), gathers_once=train.gather_once)


def sample_jobs(experiment: Experiment, mesh: Mesh, unit: int, preset: str = "exact") -> list[Job]:
  """Return the programs that generate one clip per data × fsdp part of the mesh, with the largest sets of tokens.

  Args:
    experiment: what generates.
    mesh: mesh of the devices.
    unit: side of the chip's matrix unit.
    preset: how clips are generated, one of `request.PRESETS`.
  """
  model, cfg = experiment.model, experiment.sample
  card, num_frames = card_from_experiment(experiment), max(stage.num_frames for stage in experiment.train.stages)
  parts = ModelParts(card, model, make_scheduler(experiment.scheduler))
  plan = plan_for(Request(preset=preset), parts, num_frames)
  batch, guidance = num_shards(mesh), plan.guidance
  passes = guidance.num_passes
  rows = passes * batch
  weights = abstract_model(experiment, mesh)
  condition = _condition(experiment, mesh, batch)
  size = model.num_condition_tokens + num_frames * model.num_video_tokens
  cache = jax.eval_shape(lambda: Cache.empty(model, model.temporal_depth, rows, size))
  cache = _place_cache(mesh, cache)
  array = functools.partial(_spread, mesh, dtype=model.dtype)
  cond = array((rows, model.num_video_tokens, model.width))
  prefix = array((rows, model.num_condition_tokens, model.width))
  positions = None if model.rotary else jax.ShapeDtypeStruct(
      (num_frames, model.num_video_tokens, model.width), model.dtype, sharding=replicated(mesh))
  patches = _spread(mesh, (batch, model.num_image_tokens, model.patch_dim))
  order = _spread(mesh, (batch, model.num_image_tokens), jnp.int32)
  noise = None
  if plan.adds_noise:
    noise = _place(mesh, jax.ShapeDtypeStruct((len(plan.table.time), *patches.shape), np.float32),
                   (None, "batch", None, None))
  features = jax.eval_shape(
      lambda: Features.for_frame(model, batch, passes, plan.refresh_every, plan.guidance_every))
  if features is not None:
    caches = (None if each is None else _place_cache(mesh, each) for each in features[:2])
    differences = features.differences
    features = Features(
        *caches, None if differences is None else _place(mesh, differences, (None, "batch", None, None)))
  number = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
  latents = _spread(mesh, (batch, *model.latent_size, model.latent_dim))
  one = functools.partial(sample_flops, model, batch, num_passes=passes, num_steps=cfg.num_diffusion_steps)

  def lower(function: Any, *args: Any, **options: Any) -> Callable[[], jax.stages.Lowered]:
    def run():
      with use_mesh(mesh):
        return function.lower(weights, *args, **options)
    return run

  inputs = {"parameters": device_bytes(weights.state), "cache": device_bytes(cache)}
  job = functools.partial(Job, mesh=mesh, dtype=model.dtype, inputs=inputs, stacks=_stacks(weights.state))

  def work(num_frames: int, before: int) -> dict[str, float]:
    plain, padded = (one(num_frames, (), unit=each) - one(before, (), unit=each) for each in (1, unit))
    return {"flops": plain, "executed": padded}

  jobs = [
      job("sample text", lower=lower(prepare, condition, condition, num_passes=passes, num_frames=num_frames)),
      job("sample first frame", lower=lower(begin_video, prefix, positions, cache, num_passes=passes),
          **work(1, 0))]
  if num_frames > 1:
    jobs.append(job(
        "sample next frame", runs=num_frames - 1, **work(num_frames, num_frames - 1),
        lower=lower(continue_video, latents, cond, positions, cache, number, num_passes=passes)))
  for kind in set_kinds(plan, features):
    shape, phase = kind.shape, kind.phase
    flops, executed = (shape_flops(plan, shape, phase, features, batch, side) for side in (1, unit))
    state = sampler.SetState(
        patches, cond, order, number, number, patches, noise, plan.table_at(phase), guidance.strength(0, 1), number)
    jobs.append(job(
        set_name(shape, features), runs=kind.runs, samples=batch, flops=flops, executed=executed,
        lower=lower(sampler.denoise_set, state, features, shape=shape)))
  return jobs


class SetKind(NamedTuple):
  """Sets of a clip that reuse the same things.

  Attributes:
    shape, phase: those of the set that takes most operations.
    runs: operations of all, in those of that one.
  """

  shape: sampler.SetShape
  phase: float
  runs: float


def set_kinds(plan: Plan, features: Features | None) -> list[SetKind]:
  """Return the kinds of a clip's sets; `features` are what a frame reuses, as shapes, or None if that is nothing."""
  kinds: dict[tuple[bool, bool], list[tuple[float, sampler.SetShape, float]]] = {}
  for frame in range(plan.num_frames):
    sets = plan.sets_for(frame)
    for each, shape in zip(sets, sampler.set_shapes(plan, sets, features), strict=True):
      flops = shape_flops(plan, shape, each.phase, features)
      kinds.setdefault((shape.max_new is None, shape.max_kept is None), []).append((flops, shape, each.phase))
  found = []
  for kind in kinds.values():
    most, shape, phase = max(kind, key=operator.itemgetter(0))
    found.append(SetKind(shape, phase, sum(flops for flops, *_ in kind) / most))
  return found


def shape_flops(
    plan: Plan, shape: sampler.SetShape, phase: float, features: Features | None, batch: int = 1, unit: int = 1
) -> float:
  """Return the operations of a set with its padding."""
  num_kept = None if features is None or features.differences is None else shape.max_kept or 0
  return set_flops(plan, phase, shape.max_visible, shape.max_size, shape.max_new, num_kept, batch, unit).total


def set_name(shape: sampler.SetShape, features: Features | None) -> str:
  """Return the name of the program of a kind of sets."""
  reused = ["features"] if shape.max_new is not None else []
  if features is not None and features.differences is not None and shape.max_kept is None:
    reused.append("guidance")
  return f"sample set{', reusing ' * bool(reused)}{' and '.join(reused)}"


def decode_job(experiment: Experiment, mesh: Mesh) -> Job:
  """Return the program that decodes one tile in time of one clip on one device."""
  if experiment.autoencoder in BUILT_IN:
    raise UserError(f"autoencoder: {experiment.autoencoder!r} has no network to compile")
  published = published_autoencoder(experiment.autoencoder)
  graph, state = nnx.split(nnx.eval_shape(lambda: make_network(published, nnx.Rngs(0))))
  state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)), state)
  model, tiles = experiment.model, NETWORKS[published["_class_name"]].time_tiles
  frames = min(tiles.latents, max(stage.num_frames for stage in experiment.train.stages))
  tile = jax.ShapeDtypeStruct((1, frames, *model.latent_size, model.latent_dim), np.float32, sharding=replicated(mesh))
  decode = jax.jit(functools.partial(run_network, graph, "decode", model.dtype))
  return Job(
      f"decode {tiles.frames_of_tile(frames)} frames", mesh, lambda: decode.lower(state, tile), model.dtype, samples=1,
      inputs={"parameters": device_bytes(state)})


def abstract_model(experiment: Experiment, mesh: Mesh) -> sampler.Model:
  """Return the transformer as the sampler takes it, as shapes with shardings."""
  graph, state = nnx.eval_shape(lambda: sampler.Model.from_module(NOVA(experiment.model, rngs=nnx.Rngs(0))))
  place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
  leaves, structure = jax.tree.flatten(state)
  shardings = jax.tree.leaves(state_shardings(mesh, state))
  return sampler.Model(graph, jax.tree.unflatten(structure, map(place, leaves, shardings)))


def num_shards(mesh: Mesh) -> int:
  """Return the number of parts over which a batch is sharded."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def device_bytes(tree: Any) -> int:
  """Return the bytes per device of arrays with shardings."""
  return sum(
      int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(tree))


def _condition(experiment: Experiment, mesh: Mesh, batch: int) -> Condition:
  model = experiment.model
  if model.text_dim is None:
    return Condition(labels=_spread(mesh, (batch,), jnp.int32))
  return Condition(_spread(mesh, (batch, model.text_len, model.text_dim)), _spread(mesh, (batch,), jnp.int32))


def _spread(mesh: Mesh, shape: Sequence[int], dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
  """Return the shape of an array that is sharded over the mesh by samples."""
  return _place(mesh, jax.ShapeDtypeStruct(tuple(shape), dtype), ("batch", *[None] * (len(shape) - 1)))


def _place(mesh: Mesh, leaf: jax.ShapeDtypeStruct, axes: tuple[str | None, ...]) -> jax.ShapeDtypeStruct:
  sharding = NamedSharding(mesh, fitting_spec(mesh, leaf.shape, axes))
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _place_cache(mesh: Mesh, cache: Cache) -> Cache:
  arrays = (_place(mesh, leaf, (None, "batch", None, "heads", None)) for leaf in cache[:2])
  return Cache(*arrays, _place(mesh, cache.length, ()))


def _stacks(params: Any) -> tuple[tuple[int, ...], ...]:
  """Return the shapes of matrices that are stacked over layers."""
  paths = jax.tree_util.tree_leaves_with_path(params)
  return tuple({leaf.shape for path, leaf in paths if "blocks" in jax.tree_util.keystr(path) and len(leaf.shape) > 2})
