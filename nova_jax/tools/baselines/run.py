"""NOVA and its rivals at equal compute: a point of a sweep that has a `paradigm`.

Trains "nova", "one_block", "quantized" or "full_clip" on one digit that moves or two that cross, whichever the
experiment's data are, generates the clips of that task's scores, and returns scores and cost. All have the data,
batches, optimizer and average of one experiment, blocks of the same width, and about the same parameters. Compute is
equal by formula (`train/flops.py`): NOVA's number of steps is the experiment's, and its operations, with the visible
tokens of these very steps, are what the others may spend.
Each is guided as strongly as suits it best: the scale is chosen on clips of other seeds than those that are reported.
They learn from clips that begin at the beginning, and from their first frames if the experiment has such a stage.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from nova_jax.checkpoints.model_folder import load_autoencoder, load_text_encoder
from nova_jax.config import Experiment, ModelConfig
from nova_jax.data.sources import digit_records, open_digits
from nova_jax.diffusion import make_scheduler
from nova_jax.evals.digits.one_digit import DigitClassifier, Proportion
from nova_jax.evals.digits.score import TASKS, DigitsScore, score_generator
from nova_jax.models.condition import Condition
from nova_jax.models.nova import count_parameters
from nova_jax.pipeline import Pipeline
from nova_jax.pipeline.resolve import sample_keys
from nova_jax.sampling.frame_context import Model
from nova_jax.storage import as_path
from nova_jax.tools.baselines.backbone import clip_model, tokens_of
from nova_jax.tools.baselines.full_clip import FullClip
from nova_jax.tools.baselines.one_block import MASK_RATIO, OneBlock, block_model
from nova_jax.tools.baselines.quantized import Quantized, fit_codebook, round_trip
from nova_jax.tools.baselines.task import Baseline, equal_compute, total_flops
from nova_jax.train.callbacks import SaveCheckpoints
from nova_jax.train.callbacks.evaluation import HeldOutLoss
from nova_jax.train.flops import train_flops
from nova_jax.train.masking import draw_num_visible
from nova_jax.train.nova import finish_nova
from nova_jax.train.stages import plan_stages
from nova_jax.train.trainer import Trainer
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict
from nova_jax.utils.files import write_atomically

PARADIGMS = ("nova", "one_block", "quantized", "full_clip")
SCORED = {"moving_digits": "digits", "two_digits": "two_digits"}  # The task that is scored, by `data.name`.
NUM_CODES = 1024
SCALES = (1.0, 1.5, 2.5, 4.0)  # Of guidance, to choose from.
CHOICE_CLIPS = 40  # Clips of each scale among which one is chosen.
# What results depend on beside a trial's experiment; trials have it, so that others have other folders.
CONSTANTS = {"num_codes": NUM_CODES, "scales": SCALES, "choice_clips": CHOICE_CLIPS, "mask_ratio": MASK_RATIO}

# (prompts, seeds, guidance scale) → uint8 clips [B, T, height, width, 1].
GuidedGenerator = Callable[[Sequence[str], Sequence[int], float], np.ndarray]


def nova_flops(experiment: Experiment) -> float:
  """Return the operations of NOVA's training."""
  cfg, total = experiment.train, 0.0
  for stage in plan_stages(cfg):
    for step in range(stage.first, stage.last):
      num_visible = draw_num_visible(experiment.seed, step, experiment.model.num_image_tokens, cfg.mask_ratio)
      total += train_flops(
          experiment.model, stage.cfg.batch_size, stage.cfg.num_frames, num_visible, cfg.loss_repeat)
  return total


def make_baseline(name: str, experiment: Experiment, workdir: Path) -> Baseline:
  """Make the baseline `name`; the codebook is fitted to the training split once, and kept in `workdir`."""
  scheduler, num_frames, sample = make_scheduler(experiment.scheduler), _num_frames(experiment), experiment.sample
  if name == "one_block":
    return OneBlock(
        block_model(experiment.model, num_frames), scheduler, num_frames * sample.num_inference_steps,
        sample.num_diffusion_steps, experiment.train.loss_repeat)
  if name == "full_clip":
    return as_large_as(experiment.model, lambda cfg: FullClip(cfg, scheduler, sample.num_diffusion_steps))
  path = workdir / "codebook.npy"
  if not path.exists():
    records = digit_records(experiment.data, workdir)["train"]
    videos = np.stack([record["video"][:num_frames] for record in records])
    tokens = tokens_of(load_autoencoder(experiment.autoencoder).encode(videos), clip_model(experiment.model, 1))
    codebook = fit_codebook(tokens.reshape(-1, tokens.shape[-1]), NUM_CODES, experiment.seed)
    write_atomically(path, lambda path: np.save(path, codebook))
  with path.open("rb") as file:
    codebook = np.load(file)
  return as_large_as(experiment.model, lambda cfg: Quantized(cfg, codebook))


B = TypeVar("B", bound=Baseline)


def as_large_as(nova: ModelConfig, make: Callable[[ModelConfig], B]) -> B:
  """Return the baseline whose number of blocks makes it nearest to a NOVA in parameters."""

  def size(depth: int) -> int:
    model = nnx.eval_shape(lambda: make(clip_model(nova, depth)).init(nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

  block = size(2) - size(1)
  return make(clip_model(nova, 1 + max(0, round((count_parameters(nova) - size(1)) / block))))


def train_baseline(baseline: Baseline, experiment: Experiment, workdir: Path) -> nnx.Module:
  """Train in `workdir`, from its newest checkpoint if it has one; return the model with averaged weights.

  Of the experiment's model only the sizes of text and latents count. Errors are those of `Trainer.run`.
  """
  autoencoder = load_autoencoder(experiment.autoencoder)
  text_encoder = load_text_encoder(experiment.text_encoder, experiment.model)
  trainer = Trainer(
      baseline, lambda: open_digits(experiment, workdir, autoencoder, text_encoder), experiment, workdir,
      [HeldOutLoss(experiment.eval), SaveCheckpoints(experiment.train.save_every)])
  trainer.run()
  return trainer.average()


def measure(trial: Mapping[str, Any]) -> dict[str, float]:
  """Train and score; return scores and cost, and what real clips reach as `real/NAME` and `quantized/NAME`."""
  name, output, workdir = trial["paradigm"], as_path(trial["output"]), as_path(trial["checkpoint"])
  experiment = from_dict(Experiment, trial["experiment"])
  budget, quantized = nova_flops(experiment), {}
  if name == "nova":
    finish_nova(experiment, workdir)
    pipe = Pipeline.load(workdir)
    # The others know no other temperature.
    generate = lambda prompts, seeds, scale: pipe(prompts, seed=seeds, guidance_scale=scale, temperature=1.0)
    parameters, flops = count_parameters(experiment.model), budget
  else:
    baseline = make_baseline(name, experiment, workdir)
    experiment = equal_compute(baseline, experiment, budget)
    model = train_baseline(baseline, experiment, workdir)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    flops = total_flops(baseline, experiment)
    generate = make_generator(baseline, model, experiment)
    if name == "quantized":
      quantized = quantized_clips(baseline, experiment, trial["num_prompts"])
  choice = trial | {"num_prompts": CHOICE_CLIPS}
  seed = choice_seed(trial["seed"], trial["num_prompts"])
  scale = choose_scale(lambda scale: score(generate, scale, experiment, choice, output / "guidance", seed))
  result = score(generate, scale, experiment, trial, output, trial["seed"])
  return values(result.scores) | {
      "guidance_scale": scale, "steps": experiment.train.steps, "parameters": parameters, "train_flops": flops,
      "seconds_per_clip": result.seconds_per_clip} | values(result.real, "real/") | values(quantized, "quantized/")


def check_comparable(name: str, experiment: Experiment, task: str) -> None:
  """Check that a paradigm can learn the experiment's data, and be scored by a task.

  Raises:
    UserError: other data than the task's, parts of clips, or pictures for clips in one block.
  """
  data = experiment.data
  if SCORED.get(data.name) != task:
    raise UserError(f"data.name: paradigms learn the task that is scored, {task!r} here, got {data.name!r}")
  if data.mid_clip_fraction:
    raise UserError(
        "data.mid_clip_fraction: a full-clip model can't be told that a clip begins in the middle, so paradigms learn "
        f"from clips that begin at the beginning; expected 0, got {data.mid_clip_fraction}")
  if data.single_frames != "first" and any(stage.num_frames == 1 for stage in experiment.train.stages):
    raise UserError(
        'data.single_frames: a stage of one frame learns first frames here; expected "first", got '
        f"{data.single_frames!r}")
  lengths = {stage.num_frames for stage in experiment.train.stages}
  if name == "one_block" and len(lengths) > 1:
    raise UserError(
        f"train.stages: a model of clips in one block learns one length of clips, got {sorted(lengths)} frames")


def choice_seed(seed: int, num_prompts: int) -> int:
  """Return the seed of the choice among scales, whose clips have later seeds than those that are reported.

  Clip i of n has the seed `seed * n + i`: see `make_clips`.
  """
  return -(-(seed + 1) * num_prompts // CHOICE_CLIPS)


def choose_scale(measure: Callable[[float], DigitsScore]) -> float:
  """Return the scale of guidance with the highest mean of all scores, and print those of each."""
  means = {}
  for scale in SCALES:
    scores = values(measure(scale).scores)
    means[scale] = sum(scores.values()) / len(scores)
    print(f"guidance {scale:g}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()), flush=True)
  return max(SCALES, key=means.__getitem__)


def score(
    generate: GuidedGenerator, scale: float, experiment: Experiment, trial: Mapping[str, Any], output: Path, seed: int,
) -> DigitsScore:
  """Score clips that are guided at a scale."""
  return score_generator(
      lambda prompts, seeds: generate(prompts, seeds, scale), output, canvas=experiment.model.latent_size[0],
      num_frames=_num_frames(experiment), num_prompts=trial["num_prompts"], captions=trial["captions"],
      batch_size=trial["batch_size"], seed=seed, task=trial["task"])


def make_generator(baseline: Baseline, module: nnx.Module, experiment: Experiment) -> GuidedGenerator:
  """Return what makes clips of prompts by a trained baseline."""
  autoencoder = load_autoencoder(experiment.autoencoder)
  text_encoder = load_text_encoder(experiment.text_encoder, experiment.model)
  model = Model.from_module(module)

  def generate(prompts, seeds, scale):
    embeds, lengths = text_encoder.encode(prompts)
    condition = Condition(text_embeds=embeds, text_lengths=lengths)
    latents = baseline.generate(model, condition, sample_keys(seeds, len(prompts)), _num_frames(experiment), scale)
    return np.asarray(autoencoder.decode(latents))

  return generate


def quantized_clips(baseline: Quantized, experiment: Experiment, num_clips: int) -> dict[str, Proportion]:
  """Return the scores of real held-out clips whose tokens are replaced by their codes."""
  autoencoder = load_autoencoder(experiment.autoencoder)
  task = TASKS[SCORED[experiment.data.name]]
  real, *shown_by = task.real_clips(num_clips, experiment.model.latent_size[0], _num_frames(experiment))
  shown = autoencoder.decode(round_trip(autoencoder.encode(real[..., None]), baseline.codebook, baseline.cfg))
  return task.score(np.asarray(shown)[..., 0], *shown_by, DigitClassifier())


def values(scores: Mapping[str, Proportion], prefix: str = "") -> dict[str, float]:
  """Return the shares themselves, by prefixed name."""
  return {prefix + name: share.value for name, share in scores.items()}


def _num_frames(experiment: Experiment) -> int:
  return max(stage.num_frames for stage in experiment.train.stages)
