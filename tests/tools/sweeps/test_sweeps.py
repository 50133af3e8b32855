"""Sweeps: what runs when, what is kept, what fails alone, and the table, plots and page of it."""

import csv
import dataclasses
import io
import json
import os
import re
import signal
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from configs import digits
from nova_jax import config
from nova_jax.config import Experiment
from nova_jax.tools.baselines import run as baselines
from nova_jax.tools.sweeps import engine, plots, point
from nova_jax.tools.sweeps.plan import Bars, Front, Plot, Sweep, experiment_for_point, grid, label, load_sweep
from nova_jax.tools.sweeps.report import write_report
from nova_jax.utils.fields import from_dict, to_changes

# What an experiment consists of.
CONFIGS = (
    config.DataConfig, config.EvalConfig, config.Experiment, config.LoraConfig, config.MeshConfig, config.ModelConfig,
    config.OptimizerConfig, config.SampleConfig, config.SchedulerConfig, config.SourceConfig, config.StageConfig,
    config.TrainConfig)
ROOT = Path(__file__).resolve().parents[3]
# Stands for a point's process: it notes that it ran, and scores an eighth of its guidance, fails at 3 and dies at 4.
SCRIPT = """
import json, os, sys, time
trial = json.load(open(sys.argv[1]))
with open(os.environ["RAN"], "a") as file:
  file.write(trial["label"] + "\\n")
scale = trial["sampling"]["guidance_scale"]
time.sleep(float(os.environ.get("NAP", 0)))
if scale == 3:
  sys.exit("Traceback …\\nValueError: three is <bad>")
if scale == 4:
  os.kill(os.getpid(), 9)
json.dump({"digit": scale / 8, "seconds_per_clip": 1 / scale}, open(trial["result"], "w"))
"""


@pytest.fixture
def ran(tmp_path, monkeypatch):
  """Run points by the script; return what ran so far."""
  (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
  monkeypatch.setattr(engine, "COMMAND", (sys.executable, str(tmp_path / "script.py")))
  monkeypatch.setenv("RAN", str(tmp_path / "ran"))
  return lambda: (tmp_path / "ran").read_text(encoding="utf-8").splitlines() if (tmp_path / "ran").exists() else []


def sweep_of(*scales, **fields):
  return Sweep("A <title>", "About.", grid(weights=("ema", "params"), guidance_scale=scales), **fields)


def run(sweep, output, shard=(0, 1), processes=1, results=None):
  trials = engine.plan_trials(sweep, "model", output, results=results)
  engine.run_trials(trials, processes, shard, lambda line: None)
  return trials


def test_points_run_in_order_and_once(tmp_path, ran):
  run(sweep_of(1.0, 2.0), tmp_path / "out")
  expected = [f"weights={w}, guidance_scale={s}" for w in ("ema", "params") for s in (1.0, 2.0)]
  assert ran() == expected
  trials = run(sweep_of(1.0, 1.5, 2.0), tmp_path / "out")
  assert ran() == expected + [f"weights={w}, guidance_scale=1.5" for w in ("ema", "params")], "results are kept"
  assert [trial.result["digit"] for trial in trials] == 2 * [1 / 8, 1.5 / 8, 2 / 8]
  run(dataclasses.replace(sweep_of(1.0), num_prompts=40), tmp_path / "out")
  assert len(ran()) == 8, "another measure, another result"


def test_what_fails_fails_alone_and_is_tried_again(tmp_path, ran):
  sweep = dataclasses.replace(
      sweep_of(1.0, 3.0, 4.0), plots=(Plot("guidance_scale", "digit", line="weights"), Plot("step", "digit")))
  trials = run(sweep, tmp_path / "out", processes=2)
  assert [trial.error for trial in trials[:3]] == [None, "ValueError: three is <bad>", "ended by signal 9"]
  paths = write_report(sweep, trials, tmp_path / "out")
  rows = list(csv.DictReader(io.StringIO(paths[0].read_text(encoding="utf-8"))))
  assert [row["status"] for row in rows[:3]] == [
      "done", "failed: ValueError: three is <bad>", "failed: ended by signal 9"]
  assert rows[0]["digit"] == "0.125" and rows[1]["digit"] == ""
  assert "| ema | 1 | 0.125 (0.096–0.161) | 1 | done |" in paths[1].read_text(encoding="utf-8")
  assert [path.name for path in paths] == ["results.csv", "results.md", "digit-over-guidance-scale.png", "index.html"]
  assert Image.open(paths[2]).size == (720, 480)
  page = paths[3].read_text(encoding="utf-8")
  assert "A &lt;title&gt;" in page and "three is &lt;bad&gt;" in page and page.count("<tr class=failed>") == 4
  assert set(re.findall(r'(?:src|href)="(.{22})', page)) == {"data:image/png;base64,"}, "no other file"
  run(sweep, tmp_path / "out")
  assert len(ran()) == 6 + 4


def test_a_front_names_presets_and_what_they_are_compared_with():
  points = [{}, {"preset": "fast"}, {"guidance_scale": 2.0}]
  trials = [
      types.SimpleNamespace(point=point, content={"num_prompts": 400}, result={"digit": 0.25, "spatial_gflops": 1 + i})
      for i, point in enumerate(points)]
  axes = Figure().subplots()
  assert plots.draw_front(axes, Front("spatial_gflops", "digit"), trials)
  assert [text.get_text() for text in axes.texts] == ["defaults", "preset=fast"]
  (low, high) = axes.collections[0].get_segments()[0][:, 1]
  assert (low, high) == pytest.approx((0.210, 0.295), abs=1e-3)  # Of 400 clips.
  assert len(axes.lines) == 3, "a dot each"


def test_logarithmic_axes_have_plain_numbers_at_the_values_that_were_swept():
  trials = [
      types.SimpleNamespace(point={"num_inference_steps": steps}, result={"digit": 0.5, "seconds_per_clip": steps / 3})
      for steps in (2, 16)]
  axes = Figure().subplots()
  assert plots.draw_lines(axes, Plot("num_inference_steps", "digit", log=True), trials)
  assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "16"]
  assert plots.draw_lines(axes := Figure().subplots(), Plot("seconds_per_clip", "digit", log=True), trials)
  assert "1" in [text.get_text() for text in axes.get_xticklabels()], "no power of ten"
  trials[0].point["num_inference_steps"] = None
  assert plots.draw_lines(axes := Figure().subplots(), Plot("num_inference_steps", "digit", log=True), trials)
  assert axes.get_xscale() == "linear", "there is no logarithm of None"


def test_what_a_preset_is_belongs_to_a_point(tmp_path, monkeypatch):
  plan = lambda: engine.plan_trials(dataclasses.replace(sweep_of(2.0), points=[{"preset": "fast"}]), "model", tmp_path)
  before = plan()[0].folder
  monkeypatch.setattr(
      engine, "APPROXIMATE", {"fast": dataclasses.replace(engine.APPROXIMATE["fast"], refresh_every=2)})
  assert plan()[0].folder != before, "its numbers may change"


def test_bars_show_what_is_done_with_intervals(tmp_path, ran):
  sweep = dataclasses.replace(sweep_of(2.0, 3.0), plots=(Bars("weights", ("digit",)),))
  trials = run(sweep, tmp_path / "out")
  figure = plots.draw_bars(Bars("weights", ("digit",)), trials, ())
  (axes,) = figure.axes
  assert [bar.get_height() for bar in axes.patches] == [0.25, 0.25]
  assert [text.get_text() for text in figure.legends[0].texts] == ["ema", "params"]
  (low, high) = axes.collections[0].get_segments()[0][:, 1]
  assert (low, high) == pytest.approx((0.210, 0.295), abs=1e-3)  # Of 400 clips.
  assert write_report(sweep, trials, tmp_path / "out")[2].name == "scores-by-weights.png"


def test_seeds_share_a_bar_and_are_dots_of_their_own(tmp_path, ran):
  points = [{"weights": weights, "guidance_scale": scale} for weights in ("ema", "params") for scale in (1.0, 2.0)]
  trials = run(Sweep("", "", points), tmp_path / "out")
  bars = Bars("weights", ("digit",), over="guidance_scale")
  (axes,) = plots.draw_bars(bars, trials, ()).axes
  assert [bar.get_height() for bar in axes.patches] == [1.5 / 8, 1.5 / 8]
  assert [line.get_ydata().tolist() for line in axes.lines] == 2 * [[1 / 8, 2 / 8]] and not axes.collections
  _, text, *_, page = write_report(Sweep("", "", points, (bars,)), trials, tmp_path / "report")
  assert "| ema | 2 | 0.188 (0.125–0.250) | 0.75 |" in text.read_text(encoding="utf-8")
  assert page.read_text(encoding="utf-8").count("<table>") == 2


def test_panels_have_bars_of_their_own_and_lines_of_real_clips():
  done = [
      ("small", "nova", {"digit": 0.5, "real/digit": 0.9}), ("small", "nova", {"digit": 0.75, "real/digit": 0.9}),
      ("small", "quantized", {"digit": 0.25, "quantized/digit": 0.75}),
      ("small", "quantized", {"digit": 0.25, "quantized/digit": 0.25}), ("large", "quantized", {"digit": 0.625})]
  trials = [
      types.SimpleNamespace(
          point={"size": size, "paradigm": name, "seed": i}, content={"num_prompts": 40}, result=result)
      for i, (size, name, result) in enumerate(done)]
  figure = plots.draw_bars(Bars("paradigm", over="seed", panel="size"), trials, ("digit",))
  small, large = figure.axes
  assert [bar.get_height() for bar in small.patches] == [0.625, 0.25]
  assert [bar.get_height() for bar in large.patches] == [0.625]
  assert large.patches[0].get_facecolor() == small.patches[1].get_facecolor()
  assert {text.get_text() for text in figure.legends[0].texts} == {
      "nova", "quantized", "real clips", "real clips, quantised"}
  heights = {lines.get_label(): lines.get_segments()[0][0, 1] for lines in small.collections}
  assert (heights["real clips"], heights["real clips, quantised"]) == (0.9, 0.5)


def test_results_outlive_the_folder_of_a_sweep(tmp_path, ran):
  run(sweep_of(1.0), tmp_path / "out", results=tmp_path / "kept")
  kept = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "kept").iterdir()}
  assert sorted(found["point"] for found in kept.values()) == [
      f"weights={weights}, guidance_scale=1.0" for weights in ("ema", "params")]
  assert all(found["processor"] and found["result"] == {"digit": 1 / 8, "seconds_per_clip": 1}
             for found in kept.values())
  trials = run(sweep_of(1.0, 2.0), tmp_path / "elsewhere", results=tmp_path / "kept")
  assert len(ran()) == 4 and [trial.result["digit"] for trial in trials] == 2 * [1 / 8, 2 / 8]
  assert len(list((tmp_path / "kept").iterdir())) == 4
  run(sweep_of(5.0), tmp_path / "out")
  run(sweep_of(5.0), tmp_path / "out", results=tmp_path / "kept")
  assert len(list((tmp_path / "kept").iterdir())) == 6, "what was measured before is kept, too"


def test_another_task_has_results_of_its_own(tmp_path):
  one, two = (
      engine.plan_trials(sweep_of(1.0, **fields), "model", tmp_path)[0] for fields in ({}, {"task": "two_digits"}))
  assert one.folder != two.folder and (one.content["task"], two.content["task"]) == ("digits", "two_digits")


def test_a_stopped_sweep_stops_its_points_and_goes_on(tmp_path, ran, monkeypatch):
  def stop():
    while not ran():
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setenv("NAP", "60")
  threading.Thread(target=stop).start()
  with pytest.raises(SystemExit, match="143"):
    run(sweep_of(1.0, 2.0), tmp_path / "out")
  assert len(ran()) == 1
  monkeypatch.delenv("NAP")
  assert not list((tmp_path / "out").rglob("error.txt"))
  assert all(trial.result for trial in run(sweep_of(1.0, 2.0), tmp_path / "out")) and len(ran()) == 5


def test_shards_run_each_point_once(tmp_path, ran):
  for i in range(3):
    trials = run(sweep_of(1.0, 2.0, 5.0, 6.0), tmp_path / "out", (i, 3))
  assert len(ran()) == len(set(ran())) == 8 and all(trial.result for trial in trials)


def test_points_of_one_training_share_it(tmp_path, ran):
  points = grid(config__model__mixer_rank=(2, None), guidance_scale=(1.0, 2.0))
  trials = engine.plan_trials(Sweep("", "", points, config=str(ROOT / "configs/digits.py")), None, tmp_path / "out")
  assert [trial.group for trial in trials] == [trials[0].group] * 2 + [trials[2].group] * 2 and len({
      trial.group for trial in trials}) == 2
  engine.run_trials(trials, 1, (1, 2), lambda line: None)
  assert ran() == [label(trial.point) for trial in trials[2:]]
  experiment = from_dict(Experiment, trials[3].content["experiment"])
  assert experiment.model.mixer_rank is None and experiment.train.steps == digits.get_config().train.steps


TINY = {
    "config.model.width": 32, "config.model.num_heads": 2, "config.model.temporal_depth": 1,
    "config.model.spatial_depth": 2, "config.model.denoiser_depth": 1, "config.model.denoiser_width": 16,
    "config.model.remat": "none", "config.data.num_records": 40, "config.train.steps": 2,
    "config.train.sample_every": 0, "config.optimizer.name": "adamw", "config.optimizer.warmup_steps": 0,
    "config.train.stages": ({"name": "video", "batch_size": 8, "num_frames": 4},)}
# A step on first frames and one on clips, all of which begin at the beginning.
WHOLE = {
    "config.data.mid_clip_fraction": 0.0, "config.data.turning_fraction": 0.0, "config.data.single_frames": "first",
    "config.train.stages": [{"name": "image", "batch_size": 8}, {"name": "video", "batch_size": 8, "num_frames": 4}]}


def test_a_paradigm_trains_a_model_of_its_own(tmp_path):
  points = [*grid(paradigm=("nova", "full_clip"), config__seed=(0, 1)), {"config.seed": 1}]
  *trials, plain = engine.plan_trials(Sweep("", "", points, config=str(ROOT / "configs/digits.py")), None, tmp_path)
  assert len({trial.folder for trial in trials}) == len({trial.group for trial in trials}) == 4
  assert plain.group == trials[1].group and plain.folder != trials[1].folder, "the training of NOVA is the same"
  assert [trial.content["paradigm"] for trial in trials] == 2 * ["nova"] + 2 * ["full_clip"]


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", baselines.PARADIGMS)
def test_a_paradigm_from_training_to_scores(tmp_path, monkeypatch, paradigm):
  for name, value in {"NUM_CODES": 16, "SCALES": (1.0, 2.0), "CHOICE_CLIPS": 40}.items():
    monkeypatch.setattr(baselines, name, value)
  stages = WHOLE["config.train.stages"][paradigm == "one_block":]
  points = [TINY | WHOLE | {"paradigm": paradigm, "config.train.stages": stages}]
  sweep = Sweep("", "", points, config=str(ROOT / "configs/digits.py"), num_prompts=80, batch_size=40)
  (trial,) = engine.plan_trials(sweep, None, tmp_path / "out")
  result = point.measure(json.loads(json.dumps(trial.content)))
  assert 0 <= result["digit"] < result["real/digit"] and result["guidance_scale"] in (1, 2)
  assert ("quantized/digit" in result) == (paradigm == "quantized")
  assert result["train_flops"] > 0 and result["parameters"] > 1e4 and result["seconds_per_clip"] > 0
  assert (trial.folder / "sheet.png").is_file() and (tmp_path / "out/runs").is_dir()


@pytest.mark.slow
def test_one_point_from_training_to_scores(tmp_path, monkeypatch):
  points = [TINY | {"num_inference_steps": 1, "num_diffusion_steps": 1, "weights": "params"}]
  sweep = Sweep("", "", points, config=str(ROOT / "configs/digits.py"), num_prompts=40, batch_size=20)
  (trial,) = engine.plan_trials(sweep, None, tmp_path / "out")
  result = point.measure(json.loads(json.dumps(trial.content)))
  monkeypatch.setattr("nova_jax.train.nova.train_nova", None)
  again = point.measure(json.loads(json.dumps(trial.content)))
  assert again["digit"] == result["digit"], "a finished training is read, and not begun again"
  assert set(result) == {
      "digit", "direction", "same_digit", "retrieval@1", "retrieval@last", "seconds_per_clip", "spatial_gflops"}
  assert result["seconds_per_clip"] > 0 and 0 < result["spatial_gflops"] < 1 and (trial.folder / "grid.gif").is_file()


def test_a_point_is_of_a_model_and_not_of_its_path(tmp_path, monkeypatch):
  for name in ("a", "b"):
    (tmp_path / name / "vae").mkdir(parents=True)
    (tmp_path / name / "vae/config.json").write_text("{}", encoding="utf-8")
    (tmp_path / name / "vae/model.safetensors").write_bytes(b"weights")
    (tmp_path / name / "notes.txt").write_text(name, encoding="utf-8")
  monkeypatch.chdir(tmp_path)
  folder = lambda path: engine.plan_trials(sweep_of(1.0), path, tmp_path / "out")[0].folder
  assert folder("a") == folder("a/") == folder(str(tmp_path / "b")) == folder("b/../a")
  before = folder("a")
  (tmp_path / "a/vae/model.safetensors").write_bytes(b"weightz")
  assert folder("a") != before == folder("b")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs/sweeps").glob("*.py")))
def test_shipped_sweeps_can_be_planned(name, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  sweep = load_sweep(f"configs/sweeps/{name}")
  assert len(engine.plan_trials(sweep, "model", tmp_path)) == len(sweep.points)


def test_kept_results_are_those_of_shipped_sweeps(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  labels, complete, fields = {}, set(), lambda text: frozenset(text.split(", "))  # In any order.
  for path in Path("configs/sweeps").glob("*.py"):
    trials = engine.plan_trials(load_sweep(path), "two_digits", tmp_path, results=tmp_path)
    for trial in trials:
      labels.setdefault(trial.kept.name, set()).add(fields(label(trial.point)))
    if all(list(Path("docs/ablations").glob(f"*/{trial.kept.name}")) for trial in trials):
      complete.add(path.stem)
  for path in Path("docs/ablations").glob("*/*.json"):
    assert fields(json.loads(path.read_text(encoding="utf-8"))["point"]) in labels.get(path.name, ()), path
  assert complete == {
      "canvas", "two_digits_canvas", "two_digits_history", "two_digits_image_stage", "two_digits_mixer_rank",
      "two_digits_norm", "two_digits_paradigms", "two_digits_speed"}, "the docs say so of these"


def test_ablations_have_no_canvas_of_their_own(monkeypatch):
  """They build on the demo's config, which has one, and their results were made without."""
  monkeypatch.chdir(ROOT)
  sweep = load_sweep("configs/sweeps/canvas.py")
  plain, *_ = [point for point in sweep.points if not point["config.model.canvas"]]
  assert experiment_for_point(sweep, {"config.seed": 0}) == experiment_for_point(sweep, plain)


def test_defaults_stay_since_results_are_named_without_them():
  kept = json.loads((Path(__file__).parent / "defaults.json").read_text(encoding="utf-8"))
  found = {
      f"{cls.__name__}.{field.name}": to_changes(field.default) for cls in CONFIGS for field in dataclasses.fields(cls)
      if field.default is not dataclasses.MISSING}
  changed = {name: (default, found[name]) for name, default in kept.items() if found.get(name, default) != default}
  assert not changed, "add a field that says what is new, or measure docs/ablations anew and rename its files"
  assert not found.keys() - kept.keys(), "add the new fields to defaults.json"


def test_a_field_that_is_new_leaves_the_names_of_results(tmp_path):
  later = dataclasses.make_dataclass("Later", [("added", int, 3)], bases=(Experiment,), frozen=True)
  before = from_dict(Experiment, digits.get_config())
  after = later(**{field.name: getattr(before, field.name) for field in dataclasses.fields(before)})
  assert to_changes(after) == to_changes(before) != to_changes(dataclasses.replace(after, added=4))
  assert to_changes(before)["train"]["stages"][1]["num_frames"] == 4


@pytest.mark.parametrize("name", ["image_stage", "two_digits_image_stage"])
def test_training_with_images_first_costs_the_same(monkeypatch, name):
  monkeypatch.chdir(ROOT)
  sweep = load_sweep(f"configs/sweeps/{name}.py")
  without, with_images = (baselines.nova_flops(experiment_for_point(sweep, point)) for point in sweep.points)
  assert with_images == pytest.approx(without, rel=1e-3)


@pytest.mark.parametrize("points, message", [
    ([{"guidance_scal": 1}], "did you mean 'guidance_scale'"), ([], "no points"),
    ([{"config.model.mixer_rang": 1}], "did you mean 'mixer_rank'"), ([{"config.model.mixer_rank": 0}], "got 0"),
    ([{"config.train.steps": 5, "step": 3}], "can't name the step"),
    ([{"paradigm": "fullclip"}], "did you mean 'full_clip'"), ([{"paradigm": ["nova"]}], "did you mean 'nova'"),
    ([{"paradigm": "nova", "guidance_scale": 2}], "can't set guidance_scale"),
    ([{"paradigm": "nova"}], "data.mid_clip_fraction: .* expected 0, got 0.7")])
def test_points_that_cannot_be_are_refused(tmp_path, points, message):
  (tmp_path / "sweep.py").write_text(
      f"from nova_jax.tools.sweeps.plan import Sweep\nget_sweep = lambda: Sweep('', '', {points!r}, "
      f"config={str(ROOT / 'configs/digits.py')!r})", encoding="utf-8")
  with pytest.raises(ValueError, match=message):
    load_sweep(tmp_path / "sweep.py")


def test_other_bad_input(tmp_path):
  with pytest.raises(ValueError, match="give one"):
    engine.plan_trials(sweep_of(1.0), None, tmp_path)
  with pytest.raises(ValueError, match="this point twice: weights=ema, guidance_scale=1.0"):
    engine.plan_trials(sweep_of(1.0, 1.0), "model", tmp_path)
  with pytest.raises(ValueError, match="there is no file"):
    load_sweep(tmp_path / "none.py")
  (tmp_path / "sweep.py").write_text(
      "from nova_jax.tools.sweeps.plan import Bars, Sweep\n"
      "get_sweep = lambda: Sweep('', '', [{'weights': 'ema'}], [Bars('weights', ['digits'])])", encoding="utf-8")
  with pytest.raises(ValueError, match="did you mean 'digit'"):
    load_sweep(tmp_path / "sweep.py")
  (tmp_path / "sweep.py").write_text(
      "from nova_jax.tools.sweeps.plan import Bars, Sweep, grid\n"
      "get_sweep = lambda: Sweep('', '', grid(weights=('ema',), fps=(1.0, 2.0)), [Bars('weights')])", encoding="utf-8")
  with pytest.raises(ValueError, match="several points have the same weights"):
    load_sweep(tmp_path / "sweep.py")
  (tmp_path / "sweep.py").write_text(
      "from nova_jax.tools.sweeps.plan import Sweep\nget_sweep = lambda: Sweep('', '', [{}], task='two_digit')",
      encoding="utf-8")
  with pytest.raises(ValueError, match="did you mean 'two_digits'"):
    load_sweep(tmp_path / "sweep.py")
  with pytest.raises(ValueError, match="is not a field"):
    experiment_for_point(Sweep("", "", [], config=str(ROOT / "configs/digits.py")), {"config.steps": 1})
