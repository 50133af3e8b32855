"""Batches on disk: the same files however often a run was interrupted, each with the provenance to make it again."""

import dataclasses
import json
import subprocess
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from pipeline.test_pipeline import CARD, fresh

from nova_jax import media
from nova_jax.checkpoints.model_folder import load_text_encoder
from nova_jax.cli import renamed, sampling_flags
from nova_jax.config import SampleConfig
from nova_jax.evals.benchmarks.sampling import SAMPLED
from nova_jax.media import footage, readers
from nova_jax.pipeline import batch_sampling, prompts
from nova_jax.pipeline.given_clips import GivenClips
from nova_jax.pipeline.known_texts import known_texts
from nova_jax.pipeline.provenance import Provenance, digest_weights, output_paths, parse, read_provenance, write_outputs
from nova_jax.pipeline.request import SETTINGS
from nova_jax.tools.sweeps.plan import SAMPLING
from nova_jax.utils.files import _host, _start_time
from nova_jax.utils.progress import Progress

LINES = [{"prompt": "one", "num_samples": 2}, {"prompt": "two", "negative_prompt": "one"}, {"prompt": "one", "seed": 9}]
FORMATS = ("mp4", "gif", "webp", "sheet")


@pytest.fixture(scope="module")
def pipe():
  pipe = fresh()
  pipe.text_encoder = known_texts(pipe.text_encoder, prompts.expand(LINES, {}, 0))
  return pipe


def run(pipe, folder, formats=FORMATS, stop_after=None):
  clips = prompts.expand(LINES, {"num_frames": 2}, 5)
  batches = list(batch_sampling.plan_batches(clips, 3))
  provenances = batch_sampling.make_provenances(pipe, "model", "ema", clips, batches, 3)
  with Progress("set") as progress:
    if stop_after is not None:
      show, progress.show = progress.show, lambda done, *rest: show(done, *rest) if done < stop_after else 1 / 0
    return provenances, batch_sampling.run(pipe, batch_sampling.Work(provenances, batches), folder, formats, progress)


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stopped_run_goes_on_to_the_same_files(pipe, tmp_path):
  provenances, files = run(pipe, tmp_path / "whole")
  assert [provenance.settings["seed"] for provenance in provenances] == [5, 6, 7, 9]
  whole = contents(tmp_path / "whole")
  assert len(whole) == sum(map(len, files)) == 16, "names don't collide"
  with pytest.raises(ZeroDivisionError):
    run(pipe, tmp_path / "stopped", stop_after=8)  # In the second batch.
  stopped = contents(tmp_path / "stopped")
  assert 0 < len(stopped) < 16
  first, writing = sorted(stopped)[0], subprocess.Popen(["sleep", "60"])
  (tmp_path / "stopped" / first).unlink()
  stem, ending = first.rsplit(".", 1)
  gone = subprocess.Popen(["true"])
  gone.wait()
  left = [
      tmp_path / "stopped" / f".{stem}.{_host()}-{process.pid}-{_start_time(process.pid)}-123456.{ending}"
      for process in (gone, writing)]
  for path in left:
    path.write_text("half a clip", encoding="utf-8")
  run(pipe, tmp_path / "stopped")
  left[1].unlink()  # Another run may be at it.
  writing.kill()
  assert contents(tmp_path / "stopped") == whole
  times = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").iterdir()}
  run(pipe, tmp_path / "stopped")
  assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").iterdir()}


def test_every_format_tells_its_provenance_and_it_gives_the_same_file(pipe, tmp_path):
  provenances, files = run(pipe, tmp_path)
  for path in files[3]:
    assert read_provenance(path) == provenances[3]
  again = read_provenance(files[2][0])
  batch_sampling.check_files(again)
  assert batch_sampling.check_weights(pipe, again) == []
  clip = np.concatenate([piece for (piece,) in batch_sampling.make(pipe, [again], "pixels")])
  write_outputs(tmp_path / "again", again.name(2), again, FORMATS, clip, pipe.card.sample.fps)
  assert contents(tmp_path / "again") == {path.name: path.read_bytes() for path in files[2]}


def test_frames_are_written_as_they_are_finished(pipe, tmp_path):
  clips = [{"prompt": "one", "num_frames": 3, "seed": 0}]
  provenance, = batch_sampling.make_provenances(pipe, "model", "ema", clips, [[0]], 1)
  with Progress("set") as progress:
    (path,), = batch_sampling.run(pipe, batch_sampling.Work([provenance], [[0]]), tmp_path, ("mp4",), progress)
  pieces = [piece for (piece,) in batch_sampling.make(pipe, [provenance], "pixels")]
  assert [len(piece) for piece in pieces] == [1, 1, 1]
  clip = np.concatenate(pieces)
  write_outputs(tmp_path / "whole", provenance.name(0), provenance, ("mp4",), clip, pipe.card.sample.fps)
  assert (tmp_path / "whole" / path.name).read_bytes() == path.read_bytes()


def test_latents_and_pictures(pipe, tmp_path):
  provenances, files = run(pipe, tmp_path, ("latents",))
  assert read_provenance(files[0][0]) == provenances[0]
  assert [path.suffix for path in output_paths(tmp_path, "a", FORMATS, 1).values()] == [".png", ".webp", ".png"]
  media.write_png(tmp_path / "a.png", np.zeros((4, 4, 1), np.uint8), note="note")
  assert media.read_note(tmp_path / "a.png") == "note"
  media.write_png(tmp_path / "b.png", np.zeros((4, 4, 1), np.uint8))
  for name, message in (("a.png", "is not of"), ("b.png", "doesn't say"), ("none.mp4", "does not exist")):
    with pytest.raises(ValueError, match=message):
      read_provenance(tmp_path / name)


def test_warming_up_leaves_nothing(pipe):
  clips = prompts.expand(LINES, {"num_frames": 3}, 5)
  batches = list(batch_sampling.plan_batches(clips, 3))
  provenances = batch_sampling.make_provenances(pipe, "model", "ema", clips, batches, 3)
  batch_sampling.warm_up(pipe, batch_sampling.Work(provenances, batches))


def test_another_model_or_picture_is_not_the_same(pipe, tmp_path):
  media.write_png(tmp_path / "start.png", np.zeros((8, 8, 1), np.uint8))
  clips = [{"prompt": "one", "image": str(tmp_path / "start.png"), "seed": 0}]
  (provenance,) = batch_sampling.make_provenances(pipe, "model", "ema", clips, [[0]], 1)
  batch_sampling.check_files(provenance)
  media.write_png(tmp_path / "start.png", np.ones((8, 8, 1), np.uint8))
  with pytest.raises(ValueError, match="start.png is not what it was"):
    batch_sampling.check_files(provenance)


def test_what_is_left_out_and_what_is_stated_are_one_provenance(pipe, tmp_path, monkeypatch):
  for folder in ("a", "b"):
    media.write_png(tmp_path / folder / "start.png", np.zeros((8, 8, 1), np.uint8))
  monkeypatch.chdir(tmp_path)
  base = {"prompt": "Ein Käse, 八", "seed": 0, "image": str(tmp_path / "a/start.png")}

  def made(**settings):
    (provenance,) = batch_sampling.make_provenances(pipe, "model", "ema", [base | settings], [[0]], 1)
    return provenance

  name = made().name(3)
  assert name.startswith("003-ein-käse-八-")
  same = {"num_frames": 3, "num_inference_steps": 3, "guidance_scale": 2.0, "refresh_every": 1, "fps": 12.0,
          "diffusion_grid": "published", "token_order": "random", "set_schedule": "cosine",
          "guidance_start": 1000, "guidance_every": 1, "temperature": 1}
  assert made(**same) == made() and made(image="a/start.png") == made(), "provenances hold in any folder"
  for same in (
      {"guidance_scale": 2}, {"fps": 12}, {"negative_prompt": ""}, {"later_inference_steps": 3}, {"window": 3},
      {"min_guidance_scale": 2.0}, {"flow_shift": pipe.scheduler.shift}, {"later_context": 2}, {"later_prompts": {}},
      {"solver": "euler"}, {"later_token_order": "random"}, {"later_set_schedule": "cosine"},
      {"last_temperature": 1.0}):
    assert made(**same) == made(), same
  unguided = made(guidance_scale=1, guidance_renorm=0.5, guidance_every=3, guidance_start=9)
  assert unguided == made(guidance_scale=0.0, negative_prompt="two"), "no guidance"
  (tmp_path / "link").symlink_to("a")
  assert made(image="link/start.png") == made(image="b/../a//start.png") == made()
  assert made(image="a/start.png", mask=(0, 0, 4, 4)) == made(mask=[0, 0, 4, 4])
  assert made(image="b/start.png").name(3) == name, "the same picture"
  others = [made(num_frames=2), made(seed=1), dataclasses.replace(made(), space_tile=4)]
  assert len({name, *(provenance.name(3) for provenance in others)}) == 4
  assert len(made(prompt="八" * 300).name(3).encode()) < 100 and made(prompt="!").name(3).count("-") == 1
  monkeypatch.setattr(pipe, "card", dataclasses.replace(pipe.card, sample=SampleConfig(4, 2, 2.0)))
  assert made().name(3) != name, "the model's own settings are in it"


def test_a_temperature_is_the_same_whatever_the_card_says_later(monkeypatch):
  pipes = {own: fresh(dataclasses.replace(CARD, sample=dataclasses.replace(CARD.sample, temperature=own)))
           for own in (1.0, 0.5)}
  changed, told = fresh(dataclasses.replace(CARD, sample=dataclasses.replace(CARD.sample, temperature=0.7))), []
  monkeypatch.setattr(type(changed), "stream", lambda self, **settings: told.append(settings["temperature"]) or [])
  for own, settings in ((1.0, {}), (0.5, {}), (0.5, {"temperature": 1})):
    clip = {"prompt": "one", "seed": 0} | settings
    (provenance,) = batch_sampling.make_provenances(pipes[own], "model", "ema", [clip], [[0]], 1)
    assert list(batch_sampling.make(changed, [provenance], "pixels")) == []
  assert told == [1.0, 0.5, 1.0]


def test_what_is_edited_keeps_its_length_and_is_made_once(tmp_path):
  pipe = fresh()
  media.write_png(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8))
  media.write_gif(tmp_path / "b.gif", np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1), 4)
  (tmp_path / "lines.jsonl").write_text("".join(
      json.dumps({"prompt": "one", name: str(tmp_path / path)}) + "\n" for name, path in
      [("image", "a.png"), ("video", "b.gif")]), encoding="utf-8")
  args = types.SimpleNamespace(**dict.fromkeys([*sampling_flags.NAMES.values(), "preset"]))
  args.prompts, args.mask, args.seed = tmp_path / "lines.jsonl", "0,0,4,8", 0
  clips, places = sampling_flags.clips(args)
  assert places == [f"{args.prompts}:1", f"{args.prompts}:2"]
  clips = GivenClips(pipe.parts).complete(clips, places)
  assert [clip["num_frames"] for clip in clips] == [1, 2]
  batches = list(batch_sampling.plan_batches(clips, 2))
  provenances = batch_sampling.make_provenances(pipe, "model", "ema", clips, batches, 2)
  times = []
  for _ in range(2):
    with Progress("set") as progress:
      files = batch_sampling.run(pipe, batch_sampling.Work(provenances, batches), tmp_path / "out", ("gif",), progress)
    assert [path.suffix for (path,) in files] == [".png", ".gif"]
    times.append([path.stat().st_mtime_ns for (path,) in files])
  assert times[0] == times[1]


@pytest.fixture
def decoded(monkeypatch):
  """The names of files, each time one is decoded."""
  names, open_footage = [], footage.open_footage
  monkeypatch.setattr(
      footage, "open_footage", lambda path, **options: names.append(Path(path).name) or open_footage(path, **options))
  return names


def write_steps(path, num_frames, fps):
  """Write a clip each frame of which is another grey."""
  media.write_gif(path, np.arange(0, 10 * num_frames, 10, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(
      8, 2), fps)


def test_a_clip_keeps_its_rate_and_is_decoded_once(tmp_path, monkeypatch, decoded):
  pipe = fresh()
  write_steps(tmp_path / "a.gif", 5, 4)
  monkeypatch.chdir(tmp_path)
  base = {"prompt": "one", "video": "a.gif"}
  clips = [
      base | {"mask": [0, 0, 4, 8], "seed": 0}, base | {"mask": [0, 0, 4, 8], "num_frames": 2, "seed": 1},
      base | {"seed": 2}, base | {"fps": 20.0, "seed": 3}]
  given = GivenClips(pipe.parts)
  clips = given.complete(clips)
  assert [clip.get("num_frames") for clip in clips] == [5, 2, None, None]
  assert [clip["fps"] for clip in clips] == [4.0, 4.0, 4.0, 20.0]
  assert len(decoded) == 3 and [note.partition(": ")[2] for note in given.notes] == [
      "its first 2 frames are edited (num_frames), those after them are not used",
      "its last 2 frames are continued, the 3 before them are not used"]
  batches = list(batch_sampling.plan_batches(clips, 2))
  assert batches == [[0], [1], [2], [3]], "a batch has one length and rate"
  provenances = batch_sampling.make_provenances(pipe, "model", "ema", clips, batches, 1)
  told, stream = [], pipe.stream
  monkeypatch.setattr(pipe, "stream", lambda *args, **settings: told.append(settings["fps"]) or stream(**settings))
  with Progress("set") as progress:
    files = batch_sampling.run(
        pipe, batch_sampling.Work(provenances, batches, given), tmp_path / "out", ("gif",), progress)
  assert len(decoded) == 3, "and not for each batch"
  assert told == [4.0, 4.0, 4.0, 20.0]
  for (path,), (num_frames, fps), first in zip(files, [(5, 4), (2, 4), (3, 4), (3, 20)], [0, 0, 30, 30], strict=True):
    clip = readers.open_clip(path, (8, 8), 1)
    assert (len(clip.frames), clip.fps) == (num_frames, fps) and clip.frames[0, 4:] == pytest.approx(first, abs=1)
  again = read_provenance(files[0][0])
  assert again == provenances[0] and again.settings["fps"] == 4.0
  (clip,), = [np.concatenate(rows) for rows in zip(*batch_sampling.make(pipe, [again], "pixels"), strict=True)],
  assert np.array_equal(clip, readers.read_clip(files[0][0], (8, 8), 1)), "the same from the file"


def test_no_more_is_kept_than_the_limit(tmp_path, decoded):
  pipe = fresh()
  for name in "ab":
    write_steps(tmp_path / f"{name}.gif", 5, 4)
  clips = [{"prompt": "one", "video": str(tmp_path / f"{name}.gif"), "mask": [0, 0, 4, 8]} for name in "aab"]
  given = GivenClips(pipe.parts, limit=5 * 64)
  given.complete(clips)
  assert decoded == ["a.gif", "b.gif"]
  given.complete(clips)
  assert decoded == ["a.gif", "b.gif"] * 2


def test_prompts_from_files(tmp_path):
  (tmp_path / "a.txt").write_text("# fruit\nan apple\n\na pear\n", encoding="utf-8")
  (tmp_path / "a.csv").write_text(
      'prompt,seed,later_prompts\nan apple,3,"{""4"": ""a pear""}"\n"a pear, ripe",,\n', encoding="utf-8")
  lines = [{"prompt": "an\u2028apple", "num_frames": 2}, {"label": 3}]
  (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
  assert prompts.read_prompts(tmp_path / "a.txt") == [{"prompt": "an apple"}, {"prompt": "a pear"}]
  assert prompts.read_prompts(tmp_path / "a.csv") == [
      {"prompt": "an apple", "seed": 3, "later_prompts": {4: "a pear"}}, {"prompt": "a pear, ripe"}]
  assert prompts.read_prompts(tmp_path / "a.jsonl") == lines
  (tmp_path / "b.csv").write_text(
      '\ufeffprompt,image,mask\n"an apple\nor two",a.png,"0,0,4,8"\none,a.png,m.png\n', encoding="utf-8")
  assert prompts.read_prompts(tmp_path / "b.csv") == [
      {"prompt": "an apple\nor two", "image": "a.png", "mask": [0, 0, 4, 8]},
      {"prompt": "one", "image": "a.png", "mask": "m.png"}], "as a spreadsheet saves it"
  (tmp_path / "b.jsonl").write_text(
      '{"prompt": "a", "image": "a.png", "mask": [0, 0, 4, 8], "guidance_scale": 3}', encoding="utf-8")
  (line,) = prompts.read_prompts(tmp_path / "b.jsonl")
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
  renamed.tell_renamed(values)
  for old, new in (("then", "prompt_at"), ("place", "outpaint_box"), ("low_memory", "free_text_encoder")):
    assert f"--{old} is called --{new} now" in caplog.text
  (tmp_path / "a.jsonl").write_text('{"prompt": "a", "image": "a.png", "place": [0, 0, 4, 8]}', encoding="utf-8")
  (line,) = prompts.read_prompts(tmp_path / "a.jsonl")
  assert line["outpaint_box"] == [0, 0, 4, 8] and "a.jsonl:1: place is called outpaint_box now" in caplog.text


def test_notes_of_outputs_keep_the_names_that_they_had():
  provenance = Provenance("model", f"ema {'0' * 16}", "float32", {
      "prompt": "one", "seed": 0, "image": "a.png", "outpaint_box": [0, 0, 4, 8]}, {"image": "0" * 16}, (0, 1))
  assert '"place": [0, 0, 4, 8]' in provenance.text() and parse(provenance.text()) == provenance
  assert provenance.name(0) == "000-one-cdadb6be", "what was made before is found"


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
    ("a.jsonl", "[1]", "a.jsonl:1: expected a JSON object"), ("a.csv", "prompt,seed\na,b", "expected int"),
    ("a.jsonl", '{"prompt": "a"}\n{"promt": "b"}', "a.jsonl:2: promt is not a setting of a line; did you"),
    ("a.jsonl", '{"prompt": "a", "seed": "b"}', "seed: expected int, got 'b'"),
    ("a.csv", "prompt\na,b", "expected 1 cells"), ("a.jsonl", '{"seed": 1}', "give a prompt"),
    ("a.csv", "prompt,fps\na,nan", "a.csv:2: fps: expected a finite"),
    ("a.jsonl", '{"prompt": "a", "later_prompts": {"4": 5}}', "a.jsonl:1: later_prompts: expected texts by frame"),
    ("a.jsonl", '{"prompt": "a", "later_prompts": {"x": "b"}}', "a.jsonl:1: later_prompts: expected texts by frame"),
    ("a.jsonl", '{"prompt": "a", "fps": 1' + "0" * 400 + "}", "a.jsonl:1: ")])
def test_bad_prompt_files(tmp_path, name, text, message):
  (tmp_path / name).write_text(text, encoding="utf-8")
  with pytest.raises(ValueError, match=message):
    prompts.read_prompts(tmp_path / name)


def test_prompts_of_punctuation_and_emoji(tmp_path):
  (tmp_path / "a.txt").write_text("...\n\N{FOX FACE}\n", encoding="utf-8")
  assert prompts.read_prompts(tmp_path / "a.txt") == [{"prompt": "..."}, {"prompt": "\N{FOX FACE}"}]


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
      places = [place for place, _ in named]
      clips = prompts.expand([settings for _, settings in named], {}, 0, places)
      prompts.check_files(clips, places)
      pipe.text_encoder = load_text_encoder("words", pipe.cfg)
      batch_sampling.prepare(pipe, "model", "ema", clips, places, 2)
  with pytest.raises(ValueError, match="^seed: clips have 4294967295"):
    prompts.expand([{"prompt": "one"}], {"num_samples": 2}, 2**32 - 1)


def test_latents_need_no_autoencoder():
  alone = fresh()
  alone.autoencoder = None
  work = batch_sampling.prepare(alone, "model", "ema", [{"prompt": "one", "seed": 0}], [""], 1, "latent")
  assert work.batches == [[0]] and len(work.provenances) == 1
  with pytest.raises(ValueError, match="output: there is no autoencoder"):
    batch_sampling.prepare(alone, "model", "ema", [{"prompt": "one"}], [""], 1)


def test_every_bit_of_every_part_is_in_the_digest(pipe):
  whole, state = digest_weights(pipe), pipe.model.state
  digests = {whole}
  for i in range(0, len(jax.tree.leaves(state)), 7):
    leaves, tree = jax.tree.flatten(state)
    leaves[i] = leaves[i].at[(-1,) * leaves[i].ndim].add(1e-3)
    other = fresh()
    other.model = other.model._replace(state=jax.tree.unflatten(tree, leaves))
    digests.add(digest_weights(other))
  assert len(digests) > 3 and digest_weights(fresh()) == whole
  other = fresh()
  other.autoencoder = dataclasses.replace(other.autoencoder, std=0.5)
  assert other.digests["vae"] != pipe.digests["vae"] and digest_weights(other) not in digests
  old = Provenance("model", "ema 0123456789abcdef", "float32", {}, {}, (0, 1))
  assert "can't be told" in batch_sampling.check_weights(pipe, old)[0]
  with pytest.raises(ValueError, match="weights are not those"):
    batch_sampling.check_weights(pipe, dataclasses.replace(old, weights=f"ema {digest_weights(other)}"))


@pytest.mark.parametrize("second, message", [
    ({"mask": "black.png"}, "mask: it leaves nothing"), ({"mask": "two.gif"}, "mask: expected one of 8 x 8 or 1"),
    ({"image": "half.png", "mask": [0, 0, 4, 8]}, "image: half.png: can't be read"),
    ({"image": None, "video": "three.gif", "mask": "two.gif"}, "mask: expected one of 8 x 8 or 3")])
def test_pictures_and_masks_are_read_before_anything_is_made(tmp_path, monkeypatch, second, message):
  monkeypatch.chdir(tmp_path)
  media.write_png("a.png", np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8))
  Path("half.png").write_bytes(Path("a.png").read_bytes()[:-40])
  media.write_png("black.png", np.zeros((8, 8, 1), np.uint8))
  write_steps("two.gif", 2, 4)
  write_steps("three.gif", 3, 4)
  clips = [{"prompt": "one", "image": "a.png", "mask": [0, 0, 4, 8]}] * 2
  with pytest.raises(ValueError, match=f"^list:2: {message}"):
    GivenClips(fresh().parts).complete([clips[0], clips[1] | second], ["list:1", "list:2"])
