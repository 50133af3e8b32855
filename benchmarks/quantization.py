"""What matrices in 8 bits save of a model, and how far its results are from those of the model as it is.

  python -m benchmarks.quantization --checkpoint digits

For the transformer and the text encoder it prints the megabytes of all weights, and the relative error |y − x| / |x|:
of what the transformer predicts for noised latents, of the embeddings of a few prompts, and of the product of random
inputs and a random matrix of Phi-2's size.
"""

import jax
import numpy as np
from absl import flags
from flax import nnx

import nova_jax
from nova_jax.checkpoints.model_folder import load_text_encoder
from nova_jax.cli import Command
from nova_jax.config import ModelConfig
from nova_jax.diffusion import Scheduler
from nova_jax.diffusion.loss import forward, sample_training_noise
from nova_jax.models.quantization import KINDS, Quantization, read_quantize
from nova_jax.text import PhiEncoder

PROMPTS = ("a fox runs through snow", "two cats sit on a wall and look at the sea", "the digit seven moves left")
BATCH = 2
MATRIX = (2560, 10240)  # Inputs and outputs of the largest matrices of Phi-2.


def predict(model: nova_jax.NOVA, scheduler: Scheduler) -> np.ndarray:
  """Return what a transformer predicts for random latents and conditions, a quarter of whose tokens are visible."""
  cfg, rng = model.cfg, np.random.default_rng(0)
  num_frames, num_visible = (2 if cfg.base_frames > 1 else 1), cfg.num_image_tokens // 4
  draw = lambda *shape: rng.standard_normal((BATCH, *shape)).astype(np.float32)
  batch = {"latents": draw(num_frames, *cfg.latent_size, cfg.latent_dim)} | _condition(cfg, draw)
  keys = jax.random.split(jax.random.key(0), BATCH)
  noise = sample_training_noise(keys, cfg, scheduler, num_frames, num_visible, 1)
  run = nnx.jit(lambda model: forward(model, scheduler, batch, noise, num_visible)["prediction"])
  return np.asarray(run(model))


def _condition(cfg: ModelConfig, draw) -> dict[str, np.ndarray]:
  if cfg.text_dim is None:
    return {"labels": np.arange(BATCH)}
  return {"text_embeds": draw(cfg.text_len, cfg.text_dim), "text_lengths": np.full(BATCH, cfg.text_len)}


def define_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_string("checkpoint", "digits", "Model: a folder, or the name of one.", flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Measure both parts with each kind of numbers, and print a table."""
  folder = nova_jax.open_folder(args.checkpoint)
  card, scheduler = folder.card, nova_jax.make_scheduler(folder.card.scheduler)

  def transformer(kind):
    model = nova_jax.load_model(folder.path, quantize={} if kind is None else {"blocks": kind})
    return nnx.state(model), predict(model, scheduler)

  def text_encoder(kind):
    quantization = None if kind is None else read_quantize({"text_encoder": kind})["text_encoder"]
    encoder = load_text_encoder(card.text_encoder, card.model, folder.path, quantization=quantization)
    return encoder.weights, encoder.encode(PROMPTS)[0]

  def matrix(kind):
    rng = np.random.default_rng(0)
    inputs, kernel = (rng.standard_normal(shape, np.float32) for shape in ((64, MATRIX[0]), MATRIX))
    if kind is None:
      return kernel, inputs @ kernel
    quantized, scales = Quantization(kind, "").apply(kernel, (0,))
    return (quantized, scales), inputs @ quantized.astype(np.float32) * scales

  parts = [matrix, transformer]
  if isinstance(load_text_encoder(card.text_encoder, card.model, folder.path), PhiEncoder):
    parts.append(text_encoder)
  print("part          numbers     megabytes  relative error")
  for part in parts:
    exact = None
    for kind in (None, *KINDS):
      weights, result = part(kind)
      exact = result if exact is None else exact
      error = np.linalg.norm(result - exact) / np.linalg.norm(exact)
      size = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
      print(f"{part.__name__:<14}{kind or 'as stored':<10}{size / 1e6:11.3f}  {error:14.5f}", flush=True)


COMMAND = Command(main, define_flags)

if __name__ == "__main__":
  COMMAND.run()
