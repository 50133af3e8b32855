"""Programs of an experiment, which are not compiled here."""

import dataclasses
import types

import jax
import pytest

from nova_jax.checkpoints.model_card import card_from_experiment
from nova_jax.config import PRESETS, Experiment, SampleConfig, StageConfig, TrainConfig
from nova_jax.diffusion import make_scheduler
from nova_jax.pipeline.model_parts import ModelParts
from nova_jax.pipeline.request import Request
from nova_jax.pipeline.resolve import plan_for
from nova_jax.sampling.flops import spatial_flops
from nova_jax.tools.aot.programs import make_jobs
from nova_jax.train.flops import forward_parts
from nova_jax.train.masking import padded_sizes
from nova_jax.utils.chips import CHIPS

EXPERIMENT = Experiment(
    model=PRESETS["digits"],
    train=TrainConfig(steps=2, stages=(StageConfig(name="video", batch_size=2, num_frames=2),)))


def jobs(chip, what, preset="exact", experiment=EXPERIMENT):
  topology = types.SimpleNamespace(chip=CHIPS[chip], devices=lambda: jax.devices()[:1])
  return make_jobs(experiment, topology, what, preset)


def test_narrow_heads_take_as_long_as_the_matrix_unit_is_wide():
  """Heads of the digits have 32 values, a quarter of the unit of a v5e and an eighth of that of a v6e."""
  chips = (jobs(chip, "sample") for chip in ("v5e", "v5p", "v6e"))
  programs = [row for row in zip(*chips, strict=True) if row[0].flops]
  assert [row[0].name for row in programs] == ["sample first frame", "sample next frame", "sample set"]
  for v5e, v5p, v6e in programs:
    assert v5e.flops == v5p.flops == v6e.flops and v5e.executed == v5p.executed > v5e.flops
    assert v6e.executed - v6e.flops == pytest.approx(7 / 3 * (v5e.executed - v5e.flops))


@pytest.mark.parametrize("preset", ["exact", "fast", "faster"])
def test_sets_that_reuse_different_things_are_programs_of_their_own(preset):
  sample = SampleConfig(num_inference_steps=8, num_diffusion_steps=20)
  experiment = dataclasses.replace(EXPERIMENT, sample=sample)
  sets = [job for job in jobs("v5e", "sample", preset, experiment) if job.name.startswith("sample set")]
  parts = ModelParts(card_from_experiment(experiment), experiment.model, make_scheduler(experiment.scheduler))
  plan = plan_for(Request(preset=preset), parts, 2)
  assert len({job.name for job in sets}) == len(sets) and (len(sets) == 1) == (preset == "exact")
  padding = sum(job.runs * job.flops for job in sets) / spatial_flops(plan).total
  assert 1 < padding < 1.4
  lowered = [job.lower() for job in sets]
  assert all(each.out_info is not None for each in lowered)


def test_training_multiplies_as_the_kernels_do():
  (v5e,), (v6e,) = jobs("v5e", "train"), jobs("v6e", "train")
  num_visible = padded_sizes(16, EXPERIMENT.train.mask_ratio, EXPERIMENT.train.visible_sizes)[-1]
  attention = forward_parts(EXPERIMENT.model, 2, num_visible, EXPERIMENT.train.loss_repeat).attention
  # Two clips, forwards and backwards, where splash attention makes five products for four.
  assert v6e.executed - v5e.executed == pytest.approx(2 * (3 + 0.5) * (8 - 4) * attention)
