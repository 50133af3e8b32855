"""Hosts that share out the samples write what one host writes."""

import dataclasses

import pytest
from pipeline.test_pipeline import CARD, TINY, save

from nova_jax.cli import evaluate, sample

CFG = dataclasses.replace(TINY, width=64, latent_size=(16, 16), patch_size=4, text_len=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  save(folder, dataclasses.replace(CARD, model=CFG), CFG)
  return folder


def run(command, *args):
  return command.COMMAND.execute(["program", *map(str, args)])


def files(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_hosts_share_out_the_clips(model, tmp_path, capsys):
  (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
  common = ("--checkpoint", model, "--prompts", tmp_path / "prompts.txt", "--batch_size=1", "--formats=gif,sheet",
            "--compilation_cache=off", "--num_frames=2")
  assert run(sample, *common, "--output", tmp_path / "whole") == 0
  shared = (*common, "--output", tmp_path / "shared", "--num_processes=2")
  assert run(sample, *shared, "--process_id=0") == 0
  assert "2 clips in" in capsys.readouterr().out
  assert len(files(tmp_path / "shared")) == 4
  assert run(sample, *shared, "--process_id=1") == 0
  assert "1 clip in" in capsys.readouterr().out
  assert files(tmp_path / "shared") == files(tmp_path / "whole") and len(files(tmp_path / "whole")) == 7
  assert run(sample, *common, "--output", tmp_path, "--num_processes=2") == 2
  assert "--num_processes and --process_id: give both or none" in capsys.readouterr().err


def test_hosts_share_out_a_benchmark(model, tmp_path, capsys):
  (tmp_path / "prompts.txt").write_text("one moves\ntwo moves\n", encoding="utf-8")
  common = ("--benchmark=t2i_compbench", "--batch_size=2", "--checkpoint", model, "--prompts", tmp_path / "prompts.txt",
            "--output", tmp_path / "out", "--num_processes=2")
  assert run(evaluate, *common, "--process_id=0") == 0
  assert run(evaluate, *common, "--process_id=1") == 0
  out = capsys.readouterr().out
  assert "shard 0/2 is done; other shards are not" in out and "is complete" in out
  assert run(evaluate, *common, "--process_id=1", "--shard=1/2") == 2
  assert run(evaluate, "--benchmark=digits", "--checkpoint", model, "--output", tmp_path, "--num_processes=2",
             "--process_id=0") == 2
  err = capsys.readouterr().err
  assert "--shard: the number of hosts" in err and "--coordinator: the digits are scored by one host" in err
