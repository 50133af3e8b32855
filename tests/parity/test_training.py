"""Training passes equal the published code's: every part's output, the losses and every gradient."""

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import quick_if
from parity.reference import ROOT, channels_last, close, condition_of, files, load_model, read, scheduler_of

from nova_jax.checkpoints.key_table import misfits, published_weights, to_ours, transformer_names
from nova_jax.checkpoints.store import LazyArray
from nova_jax.diffusion import make_scheduler
from nova_jax.diffusion.loss import TrainingNoise, forward, reduce_loss

PASSES = files("*/train_*.safetensors")


def inputs(path):
  """Return model, scheduler, batch, draws and number of visible tokens of a training pass."""
  file = read(ROOT / path)
  arrays, model = file.arrays, load_model(path.parent)
  latents = channels_last(arrays["latents"])
  latents = latents[:, None] if latents.ndim == 4 else latents
  batch_size, num_frames = latents.shape[:2]
  batch = {"latents": latents, **condition_of(arrays, model.cfg)}
  batch |= {key: arrays[key] for key in ("motion_flow", "fps") if key in arrays}
  # LazyArray with repeats outermost, then samples, then frames.
  per_sample = lambda x: np.moveaxis(x.reshape(-1, batch_size, num_frames, *x.shape[1:]), 0, 1)
  visible_ids = arrays["visible_ids"].reshape(batch_size, num_frames, -1)
  draws = TrainingNoise(visible_ids, per_sample(arrays["timesteps"]), per_sample(arrays["noise"]))
  assert draws.indices.shape[1] == file.metadata["loss_repeat"]
  scheduler = make_scheduler(scheduler_of(file.metadata["scheduler"]))
  return file, model, scheduler, batch, draws, visible_ids.shape[-1]


def test_there_are_reference_passes():
  assert PASSES


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("path", PASSES, ids=str)
def test_forward(path, padding):
  """Every part's output; visible ids behind the valid ones must not matter."""
  file, model, scheduler, batch, draws, num_visible = inputs(path)
  draws = draws._replace(visible_ids=np.pad(draws.visible_ids, ((0, 0), (0, 0), (0, padding))))
  out = jax.jit(lambda graph, state, *args: forward(nnx.merge(graph, state), scheduler, *args))(
      *nnx.split(model), batch, draws, num_visible)
  expected = file.arrays
  # [B, R, T, …] as stored: [R·B·T, …].
  stored = lambda x: np.moveaxis(np.asarray(x), 1, 0).reshape(-1, *x.shape[3:])
  grid, patch = model.cfg.image_grid, model.cfg.patch_size
  noised = expected["decoder_in"]
  noised = noised.reshape(len(noised), -1, grid[0], patch, grid[1], patch).transpose(0, 2, 4, 3, 5, 1)
  close(np.asarray(out["mask"]).reshape(expected["mask"].shape), expected["mask"], 0, "mask")
  close(out["temporal"].reshape(expected["temporal_out"].shape), expected["temporal_out"], 1e-4, "temporal_out")
  close(out["spatial"].reshape(expected["spatial_out"].shape), expected["spatial_out"], 1e-4, "spatial_out")
  close(stored(out["time"]), expected["decoder_timestep"], 1e-6, "decoder_timestep")
  close(stored(out["noised"]), noised.reshape(*noised.shape[:1], -1, model.cfg.patch_dim), 1e-5, "decoder_in")
  close(stored(out["prediction"]), expected["decoder_out"], 1e-4, "decoder_out")
  _, losses = reduce_loss(out["error"], out["mask"])
  for name in ("loss", "loss_t2i", "loss_i2i"):
    if name in expected:
      close(losses[name], expected[name], 1e-4, name)


@pytest.mark.parametrize("path", quick_if(("t2v/", "ddpm"), PASSES), ids=str)
def test_gradients(path):
  """The gradient's norm, and every parameter's gradient where the file has them."""
  file, model, scheduler, batch, draws, num_visible = inputs(path)
  graph, params, rest = nnx.split(model, nnx.Param, ...)

  @jax.jit
  @jax.grad
  def gradient(params):
    out = forward(nnx.merge(graph, params, rest), scheduler, batch, draws, num_visible)
    return reduce_loss(out["error"], out["mask"])[0]

  ours = gradient(params)
  norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(ours)))
  close(norm, file.arrays["grad_norm"], 1e-4, "grad_norm")
  theirs = {name.removeprefix("grad/"): array for name, array in file.arrays.items() if name.startswith("grad/")}
  if theirs:
    flat = {"/".join(path): variable[...] for path, variable in nnx.to_flat_state(ours)}
    theirs = {name: LazyArray(array.shape, array.dtype, lambda array=array: array) for name, array in theirs.items()}
    names = transformer_names(model.cfg)
    expected = {weight.name: weight.shape for weight in published_weights(params, names)}
    assert not misfits(theirs, expected, names.carried)
    for path, stored in to_ours(theirs, params, names).items():
      expected = stored.read()
      # Gradients that vanish (of a key's bias, which softmax ignores) are compared on the scale of the others.
      scale = max(np.abs(expected).max(), 1e-6 * norm)
      error = np.abs(np.asarray(flat[path]) - expected).max() / scale
      assert error <= 1e-4, f"gradient of {path}: relative error {error:.1e}"
