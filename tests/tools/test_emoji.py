"""Emoji: which are drawn, which are held out, and what a generated one counts as. Colours stand for the font."""

import json

import numpy as np
import pytest

from benchmarks import emoji
from nova_jax.utils.errors import UserError

TONED = ["1F44B|waving hand", "1F44D|thumbs up", "1F469 200D 1F692|woman firefighter"]
LINES = [
    "# group: People & Body", "", "1F600 ; fully-qualified # 😀 E1.0 grinning face",
    "263A ; unqualified # ☺ E0.6 smiling face",
    "1F9D1 1F3FB ; fully-qualified # 🧑 E1.0 person: light skin tone",
    "1F468 1F3FB ; fully-qualified # x E4.0 kiss: man, man, light skin tone, dark skin tone",
    *(f"{code.split('|')[0]} 1F3F{'BCDEF'[i]} ; fully-qualified # x E1.0 {code.split('|')[1]}: {tone} skin tone"
      for code in TONED for i, tone in enumerate(emoji.TONES))]


class Colours:
  """Draws a subject by its shade and a tone by its height, and can't draw one."""

  def draw(self, one):
    picture = np.full((32, 32, 3), 255, np.uint8)
    if one.name == "grinning face":
      return None
    if one.subject:
      subjects = [code.split("|")[1] for code in TONED]
      picture[: 5 * (1 + emoji.TONES.index(one.tone))] = 60 * subjects.index(one.subject)
    return picture


class Pipe:
  """Makes what a prompt asks for, but always in the tone "dark"."""

  def __call__(self, prompts, seed):
    assert len(prompts) == len(seed)
    return np.stack([
        Colours().draw(emoji.Emoji("", "", prompt.split(",")[0], "dark")) for prompt in prompts])[:, None]


def test_one_tone_of_each_subject_is_held_out():
  found = emoji.read_emoji(LINES)
  assert [one.name for one in found[:2]] == ["grinning face", "person: light skin tone"] and len(found) == 2 + 15
  assert found[2].text == "\U0001F44B\U0001F3FB" and found[2].caption == "waving hand, light skin tone"
  held_out = [one for one in found if one.is_held_out]
  assert sorted(one.subject for one in held_out) == ["thumbs up", "waving hand", "woman firefighter"]
  assert not found[1].subject, "a subject that lacks tones is no test of them"


def test_a_picture_counts_as_the_nearest_real_one(tmp_path):
  counts = emoji.write_pictures(tmp_path / "in", Colours(), emoji.read_emoji(LINES))
  assert counts == {"train": 13, "held_out": 3}, "what the font can't show is left out"
  scores = emoji.score(Pipe(), tmp_path / "in", tmp_path / "out", batch_size=2, seed=0)
  held_out = [one for one in emoji.read_emoji(LINES) if one.is_held_out]
  dark = np.mean([one.tone == "dark" for one in held_out])
  assert [scores["held out"][name][0] for name in ("subject", "tone", "both")] == [1, dark, dark]
  assert scores["trained on"]["subject"][0] == 1
  held_out_pictures = np.stack([Colours().draw(one) for one in held_out])
  made = np.stack([Colours().draw(one._replace(tone="dark")) for one in held_out])
  assert scores["held out"]["distance"] == pytest.approx(emoji.distance(made, held_out_pictures))
  assert scores["real"]["distance"] > 0
  assert json.loads((tmp_path / "out/scores.json").read_text(encoding="utf-8")) == scores
  assert {path.name for path in (tmp_path / "out").iterdir()} == {"scores.json", "held_out.png", "trained_on.png"}


def test_the_distance_is_of_colours_of_cells():
  rng = np.random.default_rng(0)
  pictures = rng.integers(0, 200, (8, 32, 32, 3), dtype=np.uint8)
  assert emoji.distance(pictures, pictures) == pytest.approx(0, abs=1e-3)
  assert emoji.distance(pictures, pictures + 10) == pytest.approx(48 * 100, rel=1e-3), "16 cells of three colours"
  dotted = pictures.copy()
  dotted[:, ::8, ::8] += 55
  assert emoji.distance(pictures, dotted) == pytest.approx(48 * (55 / 64) ** 2, rel=1e-3), "one pixel of a cell's 64"


def test_what_is_not_there_is_named(tmp_path):
  with pytest.raises(UserError, match="--font: there is no .*fonts-noto-color-emoji"):
    emoji.Painter(str(tmp_path / "none.ttf"))
  with pytest.raises(UserError, match="the same command without --checkpoint draws them"):
    list(emoji.read_pictures(tmp_path))
  (tmp_path / "train").mkdir()
  (tmp_path / "train/metadata.jsonl").write_text('{"file_name": "a', encoding="utf-8")
  with pytest.raises(UserError, match="--pictures: line 1 of .* is no JSON"):
    list(emoji.read_pictures(tmp_path))


def test_a_model_of_other_pictures_is_refused(tmp_path):
  emoji.write_pictures(tmp_path / "in", Colours(), emoji.read_emoji(LINES))
  small = lambda prompts, seed: np.zeros((len(prompts), 4, 16, 16, 1), np.uint8)
  with pytest.raises(UserError, match=r"--checkpoint: expected a model of pictures of \[32, 32, 3\], got one of \[16"):
    emoji.score(small, tmp_path / "in", tmp_path / "out", batch_size=2, seed=0)
