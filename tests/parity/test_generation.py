"""Whole generations equal the published code's, given its order of tokens and its noise."""

import jax
import numpy as np
import pytest

from nova_jax.diffusion import make_scheduler
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.sampler import Model, Noise, generate, make_plan
from parity.reference import ROOT, channels_last, close, condition_of, files, load_model, read, scheduler_of

SAMPLES = files("*/sample_*.safetensors")

# The published call's names of guidance arguments, and ours.
GUIDANCE = {
    "guidance_scale": "scale", "min_guidance_scale": "min_scale", "guidance_trunc": "truncation",
    "guidance_renorm": "renorm", "image_guidance_scale": "image_scale"}


def stored_noise(arrays, num_generated, table) -> Noise:
  """Return the noise of all sets of all generated frames, which is stored for non-empty sets only."""
  start = np.moveaxis(arrays["noise"], 2, -1)
  start = start.reshape(num_generated, -1, *start.shape[1:])
  if "step_noise" not in arrays:
    return Noise(start)
  steps = np.moveaxis(arrays["step_noise"], 3, -1)
  # Steps at time 0 add no noise, and none is stored for them.
  filled = np.zeros((steps.shape[0], len(table.time), *steps.shape[2:]), np.float32)
  filled[:, table.time > 0] = steps
  return Noise(start, filled.reshape(num_generated, -1, *filled.shape[1:]))


def test_there_are_reference_generations():
  assert SAMPLES


@pytest.mark.parametrize("path", SAMPLES, ids=str)
def test_generation(path):
  file, model = read(ROOT / path), load_model(path.parent)
  arrays, arguments, cfg = file.arrays, dict(file.metadata["arguments"]), model.cfg
  scheduler = make_scheduler(scheduler_of(file.metadata["scheduler"]))
  guidance = Guidance(**{ours: arguments.pop(theirs) for theirs, ours in GUIDANCE.items() if theirs in arguments})
  condition = condition_of(arrays, cfg)
  null = {"labels": np.full_like(arrays["label"], cfg.num_classes)} if cfg.num_classes else (
      condition_of(arrays, cfg, "negative_") if "negative_text_embeds" in arrays else
      {**condition, "text_lengths": np.zeros_like(condition["text_lengths"])})
  for name in ("motion_flow", "fps"):
    value = arguments.pop(name, None)
    if cfg.has_motion and value is not None:
      motion = {name: np.full(len(arrays["order"]), value, np.float32)}
      condition, null = condition | motion, null | motion
  plan = make_plan(
      cfg, scheduler, num_frames=arguments.pop("max_latent_length", 1), num_sets=arguments.pop("num_inference_steps"),
      num_steps=arguments.pop("num_diffusion_steps"), guidance=guidance, flow_shift=arguments.pop("flow_shift", None))
  assert not arguments, f"arguments that this test doesn't pass on: {arguments}"
  given = channels_last(arrays["given_latents"][:, :, None]) if "given_latents" in arrays else None
  num_generated = plan.num_frames - (0 if given is None else given.shape[1])
  frames = list(generate(
      Model.of(model), scheduler, plan, condition, null, keys=jax.random.split(jax.random.key(0), len(arrays["order"])),
      given=given, order=arrays["order"], noise=stored_noise(arrays, num_generated, plan.table)))
  expected = channels_last(arrays["latents_out"])
  for t, frame in enumerate(frames):
    close(frame, expected[:, t], 1e-3, f"frame {t}")
  assert len(frames) == expected.shape[1]
