"""Files of prompts: settings of each line, and what is refused by file and line."""

import json

import numpy as np
import pytest
from absl import flags
from pipeline.test_pipeline import fresh

from nova_jax import media
from nova_jax.checkpoints.model_folder import load_text_encoder
from nova_jax.cli import renamed_flags, sampling_flags
from nova_jax.evals.benchmarks.settings import SAMPLED
from nova_jax.pipeline import batch_sampling, prompts
from nova_jax.pipeline.request import SETTINGS
from nova_jax.tools.sweeps.plan import SAMPLING


def settings_in(path):
  return [settings for _, settings in prompts.read_named(path)]


def test_prompts_from_files(tmp_path):
  (tmp_path / "a.txt").write_text("# fruit\nan apple\n\na pear\n", encoding="utf-8")
  (tmp_path / "a.csv").write_text(
      'prompt,seed,later_prompts\nan apple,3,"{""4"": ""a pear""}"\n"a pear, ripe",,\n', encoding="utf-8")
  lines = [{"prompt": "an\u2028apple", "num_frames": 2}, {"label": 3}]
  (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
  assert settings_in(tmp_path / "a.txt") == [{"prompt": "an apple"}, {"prompt": "a pear"}]
  assert settings_in(tmp_path / "a.csv") == [
      {"prompt": "an apple", "seed": 3, "later_prompts": {4: "a pear"}}, {"prompt": "a pear, ripe"}]
  assert settings_in(tmp_path / "a.jsonl") == lines
  (tmp_path / "b.csv").write_text(
      '\ufeffprompt,image,mask\n"an apple\nor two",a.png,"0,0,4,8"\none,a.png,m.png\n', encoding="utf-8")
  assert settings_in(tmp_path / "b.csv") == [
      {"prompt": "an apple\nor two", "image": "a.png", "mask": [0, 0, 4, 8]},
      {"prompt": "one", "image": "a.png", "mask": "m.png"}], "as a spreadsheet saves it"
  (tmp_path / "b.jsonl").write_text(
      '{"prompt": "a", "image": "a.png", "mask": [0, 0, 4, 8], "guidance_scale": 3}', encoding="utf-8")
  (line,) = settings_in(tmp_path / "b.jsonl")
  assert line["mask"] == [0, 0, 4, 8] and isinstance(line["guidance_scale"], float), "as the flag says it"


def test_flags_files_sweeps_and_benchmarks_take_what_a_request_declares():
  values = flags.FlagValues()
  sampling_flags.define_flags(values)
  for name, declared in SETTINGS.items():
    flag = declared.flag or name
    assert (flag in values and flag != "output") == (name in prompts.KINDS) == (declared.scope != "array"), name
    assert (name in SAMPLING) == (declared.scope == "sampling") == (name in SAMPLED and name != "num_frames"), name
  assert values["solver"].parser.enum_values == list(SETTINGS["solver"].choices)
  assert "--guidance_scale throughout" in values["min_guidance_scale"].help and "--prompt_at" in values[
      "later_context"].help, "other settings are called by their flags"


def test_flags_and_columns_with_an_old_name_work_and_the_new_one_is_said(tmp_path, caplog):
  values = flags.FlagValues()
  sampling_flags.define_flags(values)
  values(["x", "--then=4:a", "--then", "5:b", "--place=0,0,4,8", "--warmup", "--low_memory"])
  assert values.compile_only and values.free_text_encoder and values["prompt_at"].present
  assert sampling_flags.given_settings(values) == {
      "later_prompts": {4: "a", 5: "b"}, "outpaint_box": [0, 0, 4, 8]}
  renamed_flags.tell_renamed(values)
  for old, new in (("then", "prompt_at"), ("place", "outpaint_box"), ("low_memory", "free_text_encoder")):
    assert f"--{old} is called --{new} now" in caplog.text
  (tmp_path / "a.jsonl").write_text('{"prompt": "a", "image": "a.png", "place": [0, 0, 4, 8]}', encoding="utf-8")
  (line,) = settings_in(tmp_path / "a.jsonl")
  assert line["outpaint_box"] == [0, 0, 4, 8] and "a.jsonl:1: place is called outpaint_box now" in caplog.text


@pytest.mark.parametrize("lines, common, message", [
    ([{"prompt": "a"}], {"num_samples": 0}, "num_samples: expected at least 1, got 0"),
    ([{"prompt": "a"}, {"label": 3}], {}, "either prompts or classes"),
    ([{"prompt": "a"}], {"guidance_scale": float("nan")}, "guidance_scale: expected a finite number")])
def test_what_no_model_can_do_is_refused_before_one_is_loaded(lines, common, message):
  with pytest.raises(ValueError, match=message):
    prompts.expand(lines, common, 0)


@pytest.mark.parametrize("name, text, message", [
    ("a.yaml", "", "expected a file of .txt"), ("a.txt", "\n#1 fan", "no prompts; lines that begin with # are"),
    ("a.txt", "a fox\n\u200b\u200f", "a.txt:2: the prompt is empty"), ("a.csv", "prompt\n\x1b \n", "prompt is empty"),
    ("a.jsonl", "[1]", "a.jsonl:1: expected a JSON object"), ("a.csv", "prompt,seed\na,b", "expected a whole number"),
    ("a.jsonl", '{"prompt": "a"}\n{"promt": "b"}', "a.jsonl:2: promt is not a setting of a line; did you"),
    ("a.jsonl", '{"prompt": "a", "seed": "b"}', "seed: expected a whole number, got 'b'"),
    ("a.csv", "prompt\na,b", "expected 1 cells"), ("a.jsonl", '{"seed": 1}', "give a prompt"),
    ("a.csv", "prompt,fps\na,nan", "a.csv:2: fps: expected a finite"),
    ("a.jsonl", '{"prompt": "a", "later_prompts": {"4": 5}}', "a.jsonl:1: later_prompts: expected texts by frame"),
    ("a.jsonl", '{"prompt": "a", "later_prompts": {"x": "b"}}', "a.jsonl:1: later_prompts: expected texts by frame"),
    ("a.jsonl", '{"prompt": "a", "fps": 1' + "0" * 400 + "}", "a.jsonl:1: ")])
def test_bad_prompt_files(tmp_path, name, text, message):
  (tmp_path / name).write_text(text, encoding="utf-8")
  with pytest.raises(ValueError, match=message):
    settings_in(tmp_path / name)


def test_prompts_of_punctuation_and_emoji(tmp_path):
  (tmp_path / "a.txt").write_text("...\n\N{FOX FACE}\n", encoding="utf-8")
  assert settings_in(tmp_path / "a.txt") == [{"prompt": "..."}, {"prompt": "\N{FOX FACE}"}]


def test_lines_are_refused_by_name_before_anything_is_made(tmp_path):
  pipe = fresh()
  media.write_png(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8))
  (tmp_path / "cut.png").write_bytes(b"\x89PNG")
  for second, message in (
      ({"num_frames": 9, "later_prompts": {"9": "c"}}, "later_prompts: expected frames from 1 to 8"),
      ({"window": 9}, "window: this model sees 2 to 3"), ({"image": "none.png"}, "image: none.png does not exist"),
      ({"image": str(tmp_path / "cut.png")}, "image: .*cut.png"), ({"video": "/dev/zero"}, "video: /dev/zero is nei"),
      ({"image": str(tmp_path / "a.png"), "mask": [0, 0, 9, 9]}, "mask: expected TOP"), ({"seed": 2**32}, "seed: expe"),
      ({"seed": 2**32 - 1, "num_samples": 2}, "seed: clips have 4294967295"), ({"num_samples": 10**6 + 1}, "num_s"),
      ({"prompt": "one two three four five"}, "prompt 'one two three four five' has 5 tokens"),
      ({"prompt": " "}, "the prompt is empty"), ({"prompt": "\ud800"}, "the line: half"), ({"label": 3}, "give")):
    lines = [{"prompt": "one"}, {"prompt": "two"} | second]
    (tmp_path / "lines.jsonl").write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.raises(ValueError, match=f"lines.jsonl:3: {message}"):
      named = prompts.read_named(tmp_path / "lines.jsonl")
      clips, places = prompts.expand([settings for _, settings in named], {}, 0, [place for place, _ in named])
      pipe.text_encoder = load_text_encoder("words", pipe.cfg)
      batch_sampling.prepare(pipe, "model", "ema", clips, places, 2)
  with pytest.raises(ValueError, match="^seed: clips have 4294967295"):
    prompts.expand([{"prompt": "one"}], {"num_samples": 2}, 2**32 - 1)
