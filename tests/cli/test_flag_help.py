"""What `--help` prints of every command, and errors that name flags."""

import importlib
import re
from pathlib import Path

import pytest
from absl import flags
from commands import run
from ml_collections import config_dict

from nova_jax.cli import flag_help
from nova_jax.utils import fields

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = sorted(path.stem for path in (ROOT / "launch").glob("[a-z]*.py"))


def own_flags(command):
  values = flags.FlagValues()
  importlib.import_module(f"nova_jax.cli.{command}").COMMAND.define_flags(values)
  return flag_help.command_flags(values)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_flag(command):
  done = run(command, "--help")
  text, found = done.stdout, own_flags(command)
  assert (done.returncode, done.stderr) == (0, "")
  assert found and re.search(rf"^  python -m launch\.{command} ", text, re.MULTILINE), "an example comes first"
  for flag in found:
    assert re.search(rf"^  --(\[no\])?{flag.name}\b", text, re.MULTILINE), flag.name
    sentence = flag_help.explanation(flag)
    assert re.match(r"[A-Z]\w+,? .*[.)]$", sentence) and not re.match("(Of|What|How|Which) ", sentence), flag.name
  assert ("runs on your machine" in text) == any(flag.name == "config" for flag in found)
  assert "--logtostderr" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_each_launcher_runs_the_command_of_its_name(command):
  assert (ROOT / f"launch/{command}.py").read_text(encoding="utf-8") == (
      f'from nova_jax.cli.{command} import COMMAND\n\nif __name__ == "__main__":\n  COMMAND.run()\n')


def test_help_in_its_other_forms():
  text = run("sweep", "--config=x", "-h").stdout
  assert text.index("Required flags:") < text.index("--output=") < text.index("\nFlags:")
  text = run("convert", "--helpfull").stdout
  assert "--source=" in text and "--[no]logtostderr" in text
  assert flag_help.wants_help(["x", "start", "--", "--help"]) is None
  assert flag_help.wants_help(["x", "--help=false"]) is None
  assert flag_help.wants_help(["x", "--help=sample"]) == "help"


@pytest.mark.parametrize("argument, message", [
    ("--guidance=3", "--guidance is not a flag; did you mean --guidance_scale"),
    ("--output_dir=x", "did you mean --output?"), ("--ckpt=x", "did you mean --checkpoint?"),
    ("--xyzzy=1", "--xyzzy is not a flag; --help lists the flags"),
    ("--seed=one", "--seed: expected a whole number, got 'one'"), ("--seed", "--seed: expected a value behind it"),
    ("--batch_size=0", "--batch_size: expected a positive integer, got '0'"),
    ("--dtype=half", "--dtype: expected one of float32, bfloat16, got 'half'"),
    ("--compile_only=maybe", "--compile_only: expected true or false, got 'maybe'"),
    ("stray", "unexpected argument 'stray'")])
def test_what_can_not_be_parsed(argument, message):
  done = run("sample", "--output=x", argument)
  assert (done.returncode, done.stdout) == (2, "") and message in done.stderr, done.stderr
  assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("text, named", [
    ("guidance_scale: expected a finite number", "--guidance_scale: expected a finite number"),
    ("image and video: give one", "--image and --video: give one"),
    ("image, video and given: give one", "image, video and given: give one"),
    ("later_prompts: frame 8", "--prompt_at: frame 8"), ("a.csv:3: image: it is gone", "a.csv:3: image: it is gone"),
    ("config.train.stepz is not a field", "--config.train.stepz is not a field"),
    ("train.steps=0: expected more", "--config.train.steps=0: expected more"),
    ("train.stages[1].steps: expected more", "--config.train.stages[1].steps: expected more"),
    ("model.steps: expected more", "model.steps: expected more"),
    ("seed: expected more", "--config.seed: expected more"),
    ("--image: it is gone", "--image: it is gone"), ("nova.json: it is gone", "nova.json: it is gone")])
def test_errors_name_what_was_typed(text, named):
  values = flags.FlagValues()
  for name in ("guidance_scale", "image", "video", "prompt_at"):
    flags.DEFINE_string(name, None, "", flag_values=values)
  flags.DEFINE_string("config", None, "", flag_values=values)
  values.mark_as_parsed()
  values.config = config_dict.ConfigDict({"train": {"steps": 1, "stages": ({"steps": 1},)}, "seed": 0})
  assert flag_help.name_flags(text, values, {"later_prompts": "prompt_at"}) == named


def test_settings_of_a_list_of_prompts_are_not_called_flags():
  values = flags.FlagValues()
  for name in ("prompts", "num_frames", "fps"):
    flags.DEFINE_string(name, None, "", flag_values=values)
  values(["x", "--prompts=list.jsonl", "--fps=3"])
  assert flag_help.name_flags("num_frames: expected 1", values) == "num_frames: expected 1"
  assert flag_help.name_flags("fps: expected 1", values) == "--fps: expected 1"


@pytest.mark.parametrize("name, nearest", [
    ("guidance", "'guidance_scale', 'guidance_trunc' or 'guidance_renorm'"), ("Num-Frames", "'num_frames'"),
    ("frames", "'num_frames'"), ("guidence_scale", "'guidance_scale'"), ("nf", "'num_frames'"),
    ("num_frames_in_all", "'num_frames'")])
def test_the_nearest_name(name, nearest):
  known = ["num_frames", "guidance_scale", "guidance_trunc", "guidance_renorm"]
  assert fields.did_you_mean(name, known) == f"; did you mean {nearest}?"


def test_nothing_near():
  assert fields.did_you_mean("xyz", ["b", "a"]) == "; known: a, b"
