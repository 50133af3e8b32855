"""Noise schedules, noising, sampler steps and guidance equal the published code's and diffusers'."""

import jax
import numpy as np
import pytest
from parity.reference import ROOT, close, files, read, scheduler_of

from nova_jax.diffusion import make_scheduler
from nova_jax.sampling.guidance import Guidance

SCHEDULES = files("schedulers/*scheduler*.safetensors") + files("schedulers/*ddpm*.safetensors")
GUIDANCE = files("schedulers/*guidance*.safetensors")


def cases(paths):
  return [
      pytest.param(path, name, id=f"{path}-{name}") for path in paths for name in sorted(read(ROOT / path).metadata)]


def scheduler_and_steps(file, name):
  metadata = dict(file.metadata[name])
  num_steps = metadata.pop("num_inference_steps")
  scheduler = make_scheduler(scheduler_of(metadata))
  return scheduler, scheduler.steps(num_steps)


def case_arrays(file, name):
  return {key.removeprefix(name + "/"): array for key, array in file.arrays.items() if key.startswith(name + "/")}


def tokens(x):
  """[B, C, H, W] → [B, tokens, values]: steps are elementwise but for a quantile over a whole sample."""
  return x.reshape(len(x), -1, x.shape[-1])


@pytest.mark.parametrize("path, name", cases(SCHEDULES))
def test_tables(path, name):
  file = read(ROOT / path)
  scheduler, steps = scheduler_and_steps(file, name)
  case = case_arrays(file, name)
  close(steps.time, case["timesteps"], 1e-6, "timesteps")
  if "sigmas" in case:
    close(np.append(steps.time / scheduler.num_train_timesteps, 0), case["sigmas"], 1e-6, "sigmas")
    close(steps.delta, np.diff(case["sigmas"]), 1e-5, "differences of sigmas")
  if "alphas_cumprod" in case:
    close(scheduler.alphas_cumprod, case["alphas_cumprod"], 1e-5, "alphas_cumprod")


@pytest.mark.parametrize(
    "path, name",
    [case for case in cases(SCHEDULES) if f"{case.values[1]}/noisy" in read(ROOT / case.values[0]).arrays])
def test_noising(path, name):
  file = read(ROOT / path)
  case = case_arrays(file, name)
  scheduler, _ = scheduler_and_steps(file, name)
  x, noise = tokens(file.arrays["x"]), tokens(file.arrays["noise"])
  indices = np.broadcast_to(case["train_timesteps"][:, None], x.shape[:2])
  close(scheduler.add_noise(x, noise, indices), tokens(case["noisy"]), 1e-5, "noisy")


@pytest.mark.parametrize("path, name", cases(SCHEDULES))
def test_steps(path, name):
  file = read(ROOT / path)
  case = case_arrays(file, name)
  scheduler, steps = scheduler_and_steps(file, name)
  taken = [(case["step_index"], case.get("step_noise"), case["prev_sample"])] if "step_index" in case else [
      (case[f"step{i}/index"], case.get(f"step{i}/noise"), case[f"step{i}/prev_sample"])
      for i in range(sum(key.endswith("/index") for key in case))]
  assert taken
  x, output = tokens(file.arrays["x"]), tokens(file.arrays["model_output"])
  for index, noise, expected in taken:
    row = jax.tree.map(lambda column: column[int(index)], steps)
    noise = None if noise is None else tokens(noise)
    ours = scheduler.step(row, x, output, noise, np.ones(x.shape[1], bool))
    close(ours, tokens(expected), 1e-5, f"step {int(index)}")


@pytest.mark.parametrize("path, name", [case for case in cases(GUIDANCE) if case.values[1] != "decayed_scales"])
def test_guidance(path, name):
  file = read(ROOT / path)
  metadata, case = dict(file.metadata[name]), case_arrays(file, name)
  passes = metadata.pop("passes")
  guidance = Guidance(
      scale=metadata.pop("guidance_scale"), renorm=metadata.pop("guidance_renorm", 1.0),
      image_scale=metadata.pop("image_guidance_scale", 0.0))
  assert not metadata and guidance.num_passes == len(passes)
  predictions = case["predictions"]
  predictions = predictions.reshape(len(passes), -1, *predictions.shape[1:])
  guided = guidance.strength(0, 1).combine(predictions, np.ones(predictions.shape[2], bool))
  close(guided, case["guided"], 1e-5, "guided")


@pytest.mark.parametrize("path", GUIDANCE, ids=str)
def test_decayed_scales(path):
  file = read(ROOT / path)
  metadata = file.metadata["decayed_scales"]
  guidance = Guidance(scale=metadata["guidance_scale"], min_scale=metadata["min_guidance_scale"])
  ours = [guidance.strength(i, metadata["sets"]).scale for i in range(metadata["sets"])]
  close(np.float32(ours), file.arrays["decayed_scales"], 1e-6, "decayed scales")


@pytest.mark.parametrize("path", GUIDANCE, ids=str)
def test_padding_does_not_count_for_renormalisation(path):
  file = read(ROOT / path)
  for name in sorted(set(file.metadata) - {"decayed_scales"}):
    metadata, case = file.metadata[name], case_arrays(file, name)
    predictions = case["predictions"].reshape(len(metadata["passes"]), -1, *case["predictions"].shape[1:])
    padded = np.concatenate([predictions, 7 * np.ones_like(predictions)], axis=2)
    strength = Guidance(metadata["guidance_scale"], renorm=metadata.get("guidance_renorm", 1.0),
                        image_scale=metadata.get("image_guidance_scale", 0.0)).strength(0, 1)
    valid = np.arange(padded.shape[2]) < predictions.shape[2]
    close(strength.combine(padded, valid)[:, valid], case["guided"], 1e-5, f"{name}, padded")
