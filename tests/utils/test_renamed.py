"""Fields with an old name: taken wherever a config comes from, and the new one is said."""

import copy
import dataclasses
import json

import pytest
from commands import run
from ml_collections import config_flags
from train import toy_run

from nova_jax.cli import entry
from nova_jax.config import DataConfig, EvalConfig, Experiment, StageConfig
from nova_jax.data.digits.datasets import MovingDigitsConfig
from nova_jax.tools.sweeps.plan import Sweep, experiment_for_point
from nova_jax.train.workdir.claim import claim
from nova_jax.train.workdir.status import read_status
from nova_jax.utils.fields import from_dict, to_config_dict, to_dict

OLD_DATA = DataConfig(mid_clip_fraction=0.7, paraphrase_fraction=0.5, turning_fraction=0.8)


def show(args):
  experiment = from_dict(Experiment, args.config)
  print(json.dumps(to_dict(experiment)))


COMMAND = entry.Command(show, lambda values: config_flags.DEFINE_config_file("config", flag_values=values))


@pytest.fixture
def experiment():
  return toy_run.make_experiment(steps=4, log_every=2)


def test_a_dataclass_takes_and_shows_old_names(caplog):
  assert DataConfig(later=0.7, free_captions=0.5, turning=0.8) == OLD_DATA
  assert dataclasses.replace(OLD_DATA, later=0.1).mid_clip_fraction == 0.1
  assert StageConfig(share=0.3) == StageConfig(fraction=0.3) and EvalConfig(share=0.3).fraction == 0.3
  assert (OLD_DATA.later, StageConfig().share) == (0.7, 1.0)
  for old, new in (("later", "mid_clip_fraction"), ("free_captions", "paraphrase_fraction"),
                   ("turning", "turning_fraction"), ("share", "fraction")):
    assert f"{old} is called {new} now" in caplog.text
  with pytest.raises(TypeError, match="latr"):
    DataConfig(latr=0.1)
  with pytest.raises(TypeError, match="share"):
    DataConfig(share=0.1)


def test_a_config_file_sets_and_reads_old_names(experiment, caplog):
  for config in (to_config_dict(experiment), copy.deepcopy(to_config_dict(experiment))):
    config.data.later, config.train.stages[0].share, config.eval.share = 0.3, 0.5, 0.1
    assert config.data.later == config.data.mid_clip_fraction == 0.3 and "later" in config.data
    changed = from_dict(Experiment, config)
    assert (changed.data.mid_clip_fraction, changed.train.stages[0].fraction, changed.eval.fraction) == (0.3, 0.5, 0.1)
    assert "share is called fraction now" in caplog.text
    with pytest.raises(AttributeError, match="latr"):
      config.data.latr = 0.1
    assert "later" not in config.train


def test_flags_with_old_names_say_the_new_ones(caplog):
  done = run(
      COMMAND, "--config=digits", "--config.data.later=0.25", "--config.data.free_captions", "0.75",
      "--config.data.turning=0", "--config.train.stages[1].share=0.5", "--config.eval.share=0.125")
  assert done.returncode == 0, done.stderr
  config = json.loads(done.stdout)
  data = config["data"]
  assert (data["mid_clip_fraction"], data["paraphrase_fraction"], data["turning_fraction"]) == (0.25, 0.75, 0)
  assert (config["train"]["stages"][1]["fraction"], config["eval"]["fraction"]) == (0.5, 0.125)
  assert "turning is called turning_fraction now" in caplog.text
  failed = run(COMMAND, "--config=digits", "--config.data.later=x")
  assert failed.returncode == 2 and "--config.data.later" in failed.stderr and failed.stderr.count("\n") == 1
  failed = run(COMMAND, "--config=digits", "--config.model.later=1")
  assert failed.returncode == 2 and "later is not a field of model" in failed.stderr


def test_a_workdir_of_an_older_version_continues_without_a_word(experiment, tmp_path, caplog):
  with claim(tmp_path, experiment):
    pass
  config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
  data, stage = config["data"], config["train"]["stages"][0]
  for part, old, new in ((data, "later", "mid_clip_fraction"), (data, "turning", "turning_fraction"),
                         (stage, "share", "fraction"), (config["eval"], "share", "fraction")):
    part[old] = part.pop(new)
  (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
  with claim(tmp_path, experiment):
    pass
  assert not caplog.records
  (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
  other = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, mid_clip_fraction=0.5))
  with pytest.raises(ValueError, match=r"data.mid_clip_fraction was 0.0, now 0.5"), claim(tmp_path, other):
    pass


def test_a_sweeps_points_may_have_old_names(caplog):
  sweep = Sweep("", "", [])
  assert experiment_for_point(sweep, {"config.data.later": 0.25}).data.mid_clip_fraction == 0.25
  stages = ({"name": "video", "share": 0.5, "num_frames": 4},)
  assert experiment_for_point(sweep, {"config.train.stages": stages}).train.stages[0].fraction == 0.5
  assert "later is called mid_clip_fraction now" in caplog.text


def test_metrics_of_an_older_version_are_read(experiment, tmp_path):
  with claim(tmp_path, experiment):
    pass
  row = {"step": 2, "stage": "video", "loss": 1.0, "videos_per_sec": 4.0, "matmul_share": 0.25}
  rows = [row | {"step": 1, "loss": float("nan")}, row]  # A line that no training writes.
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
  status = read_status(tmp_path)
  assert status.rows[-1]["mfu"] == 0.25 and any(line.endswith("left at this rate, 25% MFU") for line in status.lines())


def test_datasets_of_an_older_version_are_found():
  assert MovingDigitsConfig(paraphrase_fraction=0.5, turning_fraction=0.8).name == (
      "canvas_16-num_frames_4-jitter_0-free_captions_0.5-num_train_4000-num_test_400-seed_0-turning_0.8")
