"""Converted models, made once for all tests of this folder."""

import dataclasses

import pytest
from parity.reference import ROOT
from pipeline.test_pipeline import CARD, TINY, save

from nova_jax.checkpoints.convert import convert


@pytest.fixture(scope="session")
def ours(tmp_path_factory):
  """Models of the reference folder by their path there, each converted when it is asked for."""
  return Converted(tmp_path_factory.mktemp("ours"))


class Converted:
  def __init__(self, folder):
    self._folder = folder

  def __truediv__(self, path):
    if not (self._folder / path).exists():
      convert(ROOT / path, self._folder / path)
    return self._folder / path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
  """The workdir of a run of a model that the published code could build, with different averages and last weights."""
  folder = tmp_path_factory.mktemp("trained")
  cfg = dataclasses.replace(TINY, width=64, latent_size=(16, 16))
  save(folder, dataclasses.replace(CARD, model=cfg), cfg)
  return folder
