"""The command lines, as a user types them: what they write, and one line and exit code 2 for bad input."""

import json
import os
import re

import commands
import pytest
from launched import launch
from PIL import Image
from pipeline.test_pipeline import CARD, TINY, save


def run(*args):
  # What is kept in a home folder must not matter to a test.
  return launch(*args, XDG_CACHE_HOME=os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  save(folder, CARD, TINY)
  return folder


@pytest.mark.slow
def test_sample_writes_what_it_says(model, tmp_path):
  done = run(
      "launch.sample", "--checkpoint", model, "--output", tmp_path, "--prompt", "one", "--prompt", "One!", "--fps=7.5")
  assert done.returncode == 0, done.stderr
  names = sorted(path.name for path in tmp_path.iterdir())
  assert [re.sub("-[0-9a-f]{8}", "", name) for name in names] == [
      "000-one-sheet.png", "000-one.gif", "000-one.mp4", "001-one-sheet.png", "001-one.gif", "001-one.mp4", "sheet.png"]
  made = tmp_path / names[5]
  again = run(
      "launch.sample", "--output", tmp_path / "again", "--reproduce", made, "--formats=mp4", "--free_text_encoder")
  assert again.returncode == 0, again.stderr
  assert [path.read_bytes() for path in (tmp_path / "again").iterdir()] == [made.read_bytes()]
  for flag in ("--num_frames=2", "--seed=0"):
    other = commands.run("sample", "--output", tmp_path / "again", "--reproduce", made, flag)
    assert other.returncode == 2 and f"{flag[:-2]}: an output that is made again" in other.stderr, other.stderr


@pytest.mark.parametrize("args, message", [
    (("--num_diffusion_steps=0",), "num_diffusion_steps: expected at least 1, got 0"),
    (("--num_frames=0",), "num_frames: expected at least 1, got 0"),
    (("--prompt_at=up",), "--prompt_at: expected FRAME:PROMPT"),
    (("--formats=avi",), "--formats: expected some of mp4"),
    (("--formats=mp4,latents",), "--formats: latents must stand alone, got mp4,latents"),
    (("--prompts={file}",), "expected a file of .txt"),
    (("--image={file}",), "the file is empty"), (("--reproduce={file}.mp4",), "does not exist"),
    (("--prompt=a b c d e f",), "shorten it"), (("--checkpoint=/nowhere",), "there is no folder /nowhere"),
    (("--output={file}/sub",), "Not a directory"), (("--seed=-1",), "seed"),
    (("--prompt_at=4:a", "--prompt_at=4:b"), "--prompt_at: expected one prompt a frame"),
    (("--guidance=3",), "guidance_scale")])
def test_bad_input_of_sample(model, tmp_path, args, message):
  (tmp_path / "file").write_text("", encoding="utf-8")
  args = [arg.format(file=tmp_path / "file") for arg in args]
  failed = commands.run(
      "sample", "--checkpoint", model, "--output", tmp_path / "out", "--prompt", "one", "--compilation_cache=off",
      *args)
  assert failed.returncode == 2
  assert failed.stderr.count("\n") == 1 and message in failed.stderr, failed.stderr


@pytest.mark.parametrize("args, message", [
    (("--config.train.stepz=3",), "steps"), (("--config.sample.num_inference_steps=0",), "num_inference_steps"),
    (("--config.data.canvas=32",), "data.canvas=32"),
    (("--config.train.stages[1].num_frames=20",), "data.num_frames=16"),
    (("--config.data.mid_clip_fraction=2",), "data.mid_clip_fraction: expected 0 to 1"),
    (("--config.data.single_frames=last",), "data.single_frames: expected 'any' or 'first', got 'last'"),
    (("--config.seed=-1",), "seed: expected 0"), (("--config.data.name=cache",), "did you mean 'caches'"),
    (("--profile=9:5000",), "--profile: expected FIRST:LAST"),
    (("--coordinator=host", "--num_processes=2", "--process_id=1"), "expected HOST:PORT"),
    (("--config=configs/none.py",), "configs/none.py")])
def test_bad_input_of_train(tmp_path, args, message):
  failed = commands.run("train", "--config=configs/digits.py", "--workdir", tmp_path / "run", *args)
  assert failed.returncode == 2
  assert failed.stderr.count("\n") == 1 and message in failed.stderr, failed.stderr
  assert not (tmp_path / "run").exists()


def test_folders_for_a_benchmark_and_scores(model, tmp_path):
  (tmp_path / "color_val.txt").write_text("one two\n", encoding="utf-8")
  evaluate = ("evaluate", "--benchmark=t2i_compbench")
  prompts = tmp_path / "color_val.txt"
  done = commands.run(*evaluate, "--checkpoint", model, "--prompts", prompts, "--output", tmp_path / "out")
  assert done.returncode == 0 and "is complete" in done.stdout, done.stderr
  assert commands.run("evaluate", "--check", tmp_path / "out").returncode == 0
  (tmp_path / "out/t2i_compbench/samples/one two_000003.png").unlink()
  failed = commands.run("evaluate", "--check", tmp_path / "out")
  assert failed.returncode == 1 and "1 missing:\n  samples/one two_000003.png" in failed.stdout
  (tmp_path / "results.jsonl").write_text('{"tag": "colors", "correct": true}\n', encoding="utf-8")
  failed = commands.run("score", "--benchmark=geneval", "--results", tmp_path / "results.jsonl")
  assert failed.returncode == 2 and "the overall score is of the tasks" in failed.stderr


def test_folders_are_compared(tmp_path):
  for folder, greys in (("real", (0, 1, 3, 6)), ("made", (2, 7, 12, 13))):
    (tmp_path / folder).mkdir()
    for grey in greys:
      Image.new("RGB", (4, 4), (grey,) * 3).save(tmp_path / folder / f"{grey}.png")
  args = ("score", "--benchmark=frechet", "--generated", tmp_path / "made", "--real", tmp_path / "real")
  done = commands.run(*args, "--features=tests.evals.judges:Mean", "--weights=1", "--json", tmp_path / "scores.json")
  assert done.returncode == 0 and "features                           4" in done.stdout, done.stderr
  scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
  # In each of three equal colours: means 2.5 and 8.5, variances 7 and 77 / 3.
  assert scores["frechet"] == pytest.approx(3 * (6**2 + (7**0.5 - (77 / 3) ** 0.5) ** 2))
  # The ball of 6 reaches to 12.
  assert (scores["precision"], scores["recall"], scores["features_real"]) == (0.75, 1, 4)
  failed = commands.run(*args, "--weights=1", "--results=x")
  assert (failed.returncode, failed.stderr) == (2, "error: --results is given, but not used by frechet\n")


@pytest.mark.parametrize("args, message", [
    ((), "--output is needed"),
    (("--benchmark=vbench", "--checkpoint={model}", "--output={file}"), "--prompts: give the prompt file")])
def test_bad_input_of_evaluate(model, tmp_path, args, message):
  failed = commands.run("evaluate", *[arg.format(model=model, file=tmp_path / "out") for arg in args])
  assert failed.returncode == 2
  assert failed.stderr.count("\n") == 1 and message in failed.stderr, failed.stderr
