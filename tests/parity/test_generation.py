"""Whole generations equal the published code's, given its order of tokens and its noise."""

import functools

import numpy as np
import pytest
from helpers import quick_if
from parity.reference import ROOT, channels_last, close, files, read, scheduler_of

from nova_jax import Pipeline
from nova_jax.diffusion import make_scheduler
from nova_jax.sampling.sampler import Noise

SAMPLES = files("*/sample_*.safetensors")
QUICK = ("cfg", "nocfg", "image_to_video")
INPUTS = ("text_embeds", "negative_text_embeds", "label", "order")

load = functools.cache(Pipeline.load)


def stored_noise(arrays, num_generated, time) -> Noise:
  """Return the noise of all sets of all generated frames, which is stored for non-empty sets only."""
  start = np.moveaxis(arrays["noise"], 2, -1)
  start = start.reshape(num_generated, -1, *start.shape[1:])
  if "step_noise" not in arrays:
    return Noise(start)
  steps = np.moveaxis(arrays["step_noise"], 3, -1)
  # Steps at time 0 add no noise, and none is stored for them.
  filled = np.zeros((steps.shape[0], len(time), *steps.shape[2:]), np.float32)
  filled[:, time > 0] = steps
  return Noise(start, filled.reshape(num_generated, -1, *filled.shape[1:]))


def test_there_are_reference_generations():
  assert SAMPLES


@pytest.mark.parametrize("path", quick_if(QUICK, SAMPLES), ids=str)
def test_generation(path):
  """Latents frame by frame, and pixels where there is an autoencoder."""
  arrays, metadata = read(ROOT / path)
  pipe, arguments = load(ROOT / path.parent / "pipeline"), dict(metadata["arguments"])
  pipe.scheduler = make_scheduler(scheduler_of(metadata["scheduler"]))
  num_frames = arguments.pop("max_latent_length", 1)
  given = channels_last(arrays["given_latents"]) if "given_latents" in arrays else None
  given = given[:, None] if given is not None and given.ndim == 4 else given
  time = pipe.scheduler.steps(arguments["num_diffusion_steps"], arguments.get("flow_shift")).time
  if not pipe.cfg.has_motion:
    arguments = {name: value for name, value in arguments.items() if name not in ("motion_flow", "fps")}
  latents = pipe(
      **{name: arrays[name] for name in INPUTS if name in arrays}, **arguments, given=given, output="latent",
      num_frames=num_frames if pipe.autoencoder is None else pipe.autoencoder.num_frames(num_frames),
      noise=stored_noise(arrays, num_frames - (0 if given is None else given.shape[1]), time))
  expected = channels_last(arrays["latents_out"])
  assert latents.shape == expected.shape
  for t in range(num_frames):
    close(latents[:, t], expected[:, t], 1e-3, f"frame {t}")
  if "pixels_uint8" in arrays:
    pixels = pipe.autoencoder.decode(latents).astype(int)
    off = np.abs(pixels - arrays["pixels_uint8"].reshape(pixels.shape)).max()
    assert off <= 1, f"pixels are off by {off}"
