"""README.md of a model on the hub: tags for the hub's search, what the model is, how to use it, how it was trained."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from nova_jax import pretrained, text
from nova_jax.checkpoints.components import TEXT_ENCODER, VAE
from nova_jax.checkpoints.hub.ids import identity, parse_id
from nova_jax.checkpoints.hub.library import hub_library
from nova_jax.checkpoints.lora import Lora
from nova_jax.checkpoints.model_folder import Folder
from nova_jax.checkpoints.weight_files import CONFIG
from nova_jax.config import Experiment, ModelConfig
from nova_jax.storage import as_path
from nova_jax.utils.errors import UserError
from nova_jax.utils.fields import from_dict
from nova_jax.utils.files import read_json

NAME = "README.md"
PAPER = "[Autoregressive Video Generation without Vector Quantization](https://arxiv.org/abs/2412.14169)"
_DIGITS = "the digit seven moves left"  # What a model with the built-in text encoder knows.
_CITATION = """@inproceedings{deng2025nova,
  title={Autoregressive Video Generation without Vector Quantization},
  author={Deng, Haoge and Pan, Ting and Diao, Haiwen and Luo, Zhengxiong and Cui, Yufeng and Lu, Huchuan and Shan,
    Shiguang and Qi, Yonggang and Wang, Xinlong},
  booktitle={International Conference on Learning Representations},
  year={2025}
}"""


@dataclasses.dataclass(frozen=True)
class About:
  """What a model folder does not say of itself.

  Attributes:
    repo: ORG/NAME on the hub.
    license: identifier of a license, as the hub knows them; None leaves it out.
    origin: path that the model was converted from; None if it is not known.
    experiment: config of the run that trained it; None if it is not known.
    pictures: paths of samples within the folder.
  """

  repo: str
  license: str | None = None
  origin: Path | None = None
  experiment: Experiment | None = None
  pictures: Sequence[str] = ()


def read_experiment(workdir: Path) -> Experiment | None:
  """Return the config of a training run; None if there is none that this version can read."""
  try:
    return from_dict(Experiment, read_json(workdir / CONFIG))
  except UserError:
    return None


def render(model: Folder | Lora, about: About) -> str:
  """Return the text of README.md.

  Args:
    model: opened folder, of a model with a transformer or of a LoRA.
    about: what the folder does not say.
  """
  repo, tag = about.repo, None
  if isinstance(model, Folder) and model.card.transformer.text_dim is not None:
    tag = "text-to-video" if model.card.num_frames > 1 else "text-to-image"
  base = _base_model(model, about)
  data = hub_library().ModelCardData(
      library_name="nova_jax", pipeline_tag=tag, license=about.license, base_model=base and base.partition("@")[0],
      tags=["nova", "jax", "flax", "autoregressive", *(["lora"] if isinstance(model, Lora) else [])])
  sections = [
      f"---\n{data.to_yaml()}\n---\n\n# {repo.partition('/')[2]}", _what(model, base),
      f"## How to use\n\n{_usage(repo, model, base)}"]
  if isinstance(model, Folder):
    sections.append(f"## The model\n\n{_sizes(model)}")
  if about.experiment is not None:
    sections.append(f"## Training\n\n{_training(about.experiment)}")
  if about.pictures:
    sections.append("## Samples\n\n" + "\n".join(f"![{Path(name).stem}]({name})" for name in about.pictures))
  sections.append(f"## Citation\n\n```bibtex\n{_CITATION}\n```")
  return "\n\n".join(sections) + "\n"


def sample_flags(place: str, model: Folder | Lora) -> str:
  """Return the flags by which `launch.sample` generates from a model, or from a LoRA and its base."""
  if isinstance(model, Lora):
    return f'--checkpoint {_base_place(model, _base_model(model, About(place)))} --lora {place} --prompt "what to show"'
  card = model.card
  prompt = _DIGITS if card.text_encoder in text.BUILT_IN else "a fox runs through snow"
  return f"--checkpoint {place} " + (f'--prompt "{prompt}"' if card.transformer.text_dim else "--label 0")


def _base_model(model: Folder | Lora, about: About) -> str | None:
  """Return the model on the hub that this one was made from, ORG/NAME@COMMIT; None if it is not known to be one."""
  places = [about.origin, "" if about.experiment is None else about.experiment.init]
  if isinstance(model, Lora) and model.card is not None:
    places.insert(0, model.card.base)
  for place in places:
    if place and (found := str(place) if parse_id(place) else identity(place)):
      return found
  return None


def _base_place(lora: Lora, base: str | None) -> str:
  """Return what to give as the model of a LoRA: its id on the hub, or its name if it comes with the package."""
  return base or (pretrained.name_of(lora.card.base) if lora.card else None) or "MODEL"


def _what(model: Folder | Lora, base: str | None) -> str:
  made = f"[{base.partition('@')[0]}](https://huggingface.co/{base.partition('@')[0]})" if base else ""
  if isinstance(model, Lora):
    return (
        f"This is a LoRA of rank {model.rank}, which changes {len(model.updates)} matrices "
        f"{f'and {len(model.full)} other weights ' if model.full else ''}of a NOVA"
        f"{', ' + made if made else ''}, the model of {PAPER}.")
  card = model.card
  given = "from text" if card.transformer.text_dim else "of one of its classes"
  return (
      f"This model generates {'videos' if card.num_frames > 1 else 'pictures'} {given}. It is a NOVA, the model of "
      f"{PAPER}{', made from ' + made if made else ''}.")


def _usage(repo: str, model: Folder | Lora, base: str | None) -> str:
  flags = sample_flags(repo, model)
  asked = flags.partition("--prompt ")[2] or "label=0"
  load = f'"{repo}"' if isinstance(model, Folder) else f'"{_base_place(model, base)}", lora="{repo}"'
  ending = "png" if isinstance(model, Folder) and model.card.num_frames == 1 else "mp4"
  return (
      f"```sh\nnova-jax sample {flags} --output out\n```\n\nor from Python:\n\n```python\nimport nova_jax\n\n"
      f'pipe = nova_jax.Pipeline.load({load})\nclips = pipe({asked}, seed=1)\nclips.save("clip.{ending}")\n```')


def _sizes(folder: Folder) -> str:
  card = folder.card
  cfg: ModelConfig = card.transformer
  rows = {
      "width": cfg.width, "attention heads": cfg.num_heads,
      "blocks": f"{cfg.temporal_depth} temporal, {cfg.spatial_depth} spatial, {cfg.denoiser_depth} of the denoiser",
      "latents": f"{card.num_frames} frames of {cfg.latent_size[0]} x {cfg.latent_size[1]}, {cfg.latent_dim} channels",
      "autoencoder": _kind(folder, VAE, card.autoencoder),
      "text encoder": _kind(folder, TEXT_ENCODER, card.text_encoder),
      "diffusion": f"{card.scheduler.name}, shift {card.scheduler.shift:g}",
      "steps by default": f"{card.sample.num_inference_steps} sets of tokens, {card.sample.num_diffusion_steps} of "
                          f"diffusion, guidance {card.sample.guidance_scale:g}"}
  return _table({name: value for name, value in rows.items() if value})


def _kind(folder: Folder, part: str, name: str | None) -> str:
  """Return what kind a part is: the class of one with weights, or the name of a built-in one."""
  if name is None or part not in folder.parts:
    return f"{name}, built into nova_jax" if name else ""
  return folder.parts[part]().class_name


def _training(experiment: Experiment) -> str:
  cfg, optimizer = experiment.train, experiment.optimizer
  stages = "; ".join(
      f"{stage.name}: {stage.num_frames} latent frames, batches of {stage.batch_size}" for stage in cfg.stages)
  data = experiment.data.name.replace("_", " ")
  if experiment.data.name == "caches":  # Their names alone: where they lie is nobody's business.
    data = f"latent caches: {', '.join(as_path(source.path).name for source in experiment.data.sources)}"
  return _table({
      "steps": f"{cfg.steps:,}", "stages": stages,
      "optimizer": f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, {optimizer.schedule} schedule, "
                   f"weight decay {optimizer.weight_decay:g}",
      "average of the weights": f"decay {cfg.ema_decay:g}",
      "data": data, "seed": experiment.seed})


def _table(rows: dict[str, object]) -> str:
  return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
