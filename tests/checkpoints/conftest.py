"""Converted models, made once for all tests of this folder."""

import dataclasses

import pytest
from checkpoints.published import AUTOENCODERS, PIPELINES
from parity.reference import ROOT
from pipeline.test_pipeline import CARD, TINY, save

from nova_jax.checkpoints.convert import convert


@pytest.fixture(scope="session")
def ours(tmp_path_factory):
  """Convert every model of the reference folder."""
  target = tmp_path_factory.mktemp("ours")
  for path in PIPELINES + AUTOENCODERS:
    convert(ROOT / path, target / path)
  return target


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
  """The workdir of a run of a model that the published code could build, with different averages and last weights."""
  folder = tmp_path_factory.mktemp("trained")
  cfg = dataclasses.replace(TINY, width=64, latent_size=(16, 16))
  save(folder, dataclasses.replace(CARD, model=cfg), cfg)
  return folder
