"""Does a small text-to-image model compose what it never saw? Emoji in five skin tones, of which one is held out each.

  python -m benchmarks.emoji --pictures clips/emoji                                  # draws pictures and captions
  python -m launch.cache --source clips/emoji/train --output caches/emoji --config configs/emoji_cache.py
  python -m launch.train --config configs/emoji.py --workdir runs/emoji
  python -m benchmarks.emoji --pictures clips/emoji --checkpoint runs/emoji --output out/emoji

Pictures are those of Noto's colour font, captions the names that Unicode gives; both come with Debian's packages
fonts-noto-color-emoji and unicode-data. Of each subject that has five skin tones one is held out, another one for
another subject, so that every subject and every tone is seen, but not these pairs. A generated picture counts as what
the nearest real one shows, of all subjects in all tones: the right subject, the right tone, both. The Fréchet distance
is that of the mean colours of 4 × 4 cells, from the real pictures of the same captions.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import einops
import numpy as np
from absl import flags
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from nova_jax import media
from nova_jax.cli import Command
from nova_jax.evals.digits.one_digit import proportion
from nova_jax.evals.features.frechet import FeatureStatistics, frechet_distance
from nova_jax.media.readers import read_picture
from nova_jax.pipeline import Pipeline
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import write_atomically

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
NAMES = "/usr/share/unicode/emoji/emoji-test.txt"
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
SIDE = 32
_FONT_SIZE, _GLYPH = 109, (136, 128)  # The only size of the font's pictures, and theirs in pixels.
_LINE = re.compile(r"([0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[\d.]+ (.*)")
_TONED = re.compile(rf"(.*): ({'|'.join(TONES)}) skin tone")
_COLUMNS = 12  # Of a sheet.
_CELLS = 4  # A side.


class Emoji(NamedTuple):
  """A picture of the font, and what it shows.

  Attributes:
    text: its code points.
    name: its name in Unicode.
    subject: what it shows, if it has a skin tone and the subject has all five; else empty.
    tone: its skin tone; else empty.
  """

  text: str
  name: str
  subject: str = ""
  tone: str = ""

  @property
  def is_held_out(self) -> bool:
    """Whether training must not see it: one tone of each subject, which a digest of its name chooses."""
    return bool(self.subject) and self.tone == TONES[hashlib.sha256(self.subject.encode()).digest()[0] % len(TONES)]

  @property
  def caption(self) -> str:
    return self.name.replace(":", ",")


def read_emoji(lines: Sequence[str]) -> list[Emoji]:
  """Return all emoji of Unicode's list, but those of several skin tones."""
  found = [Emoji("".join(chr(int(code, 16)) for code in match[1].split()), match[2])
           for match in map(_LINE.fullmatch, map(str.rstrip, lines)) if match and match[2].count("skin tone") < 2]
  toned = {emoji.name: match for emoji in found if (match := _TONED.fullmatch(emoji.name))}
  subjects = [match[1] for match in toned.values()]
  whole = {subject for subject in subjects if subjects.count(subject) == len(TONES)}
  return [
      emoji._replace(subject=match[1], tone=match[2]) if (match := toned.get(emoji.name)) and match[1] in whole
      else emoji for emoji in found]


class Painter:
  """Draws emoji on white, with a font that has coloured pictures."""

  def __init__(self, font: str):
    if not Path(font).is_file():
      raise UserError(f"--font: there is no {font}; on Debian and Ubuntu the package fonts-noto-color-emoji has it")
    self._font = ImageFont.truetype(font, _FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)

  def draw(self, emoji: Emoji) -> UInt8[np.ndarray, "32 32 3"] | None:
    """Return a picture; None if the font shows it as several."""
    if self._font.getlength(emoji.text) > _GLYPH[0]:
      return None
    picture = Image.new("RGB", (_GLYPH[0], _GLYPH[0]), "white")
    ImageDraw.Draw(picture).text((0, (_GLYPH[0] - _GLYPH[1]) // 2), emoji.text, font=self._font, embedded_color=True)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))


def write_pictures(folder: Path, painter: Painter, emoji: Sequence[Emoji]) -> dict[str, int]:
  """Write pictures and captions into `train/` and `held_out/`; return how many are there."""
  counts = {}
  for part, chosen in (("train", [e for e in emoji if not e.is_held_out]), ("held_out", [
      e for e in emoji if e.is_held_out])):
    rows = []
    for number, one in enumerate(chosen):
      picture = painter.draw(one)
      if picture is not None:
        name = f"{number:04}-{re.sub('[^a-z0-9]+', '-', one.name.lower()).strip('-')}.png"
        media.write_png(folder / part / name, picture, SIDE)
        rows.append({"file_name": name, "caption": one.caption, "subject": one.subject, "tone": one.tone})
    content = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(folder / part / "metadata.jsonl", content)
    counts[part] = len(rows)
  return counts


def read_pictures(folder: Path) -> Iterator[tuple[dict[str, str], UInt8[np.ndarray, "32 32 3"]]]:
  """Yield the rows of both parts whose subject is in five tones, with their pictures, and whether they are held out."""
  for part in ("train", "held_out"):
    path = folder / part / "metadata.jsonl"
    if not path.is_file():
      raise UserError(f"--pictures: there is no {path}; the same command without --checkpoint draws them")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
      try:
        row = json.loads(line)
      except ValueError:
        raise UserError(
            f"--pictures: line {number} of {path} is no JSON; the same command without --checkpoint writes it anew"
        ) from None
      if row["subject"]:
        yield row | {"part": part}, read_picture(folder / part / row["file_name"], (SIDE, SIDE), 3)


def nearest(pictures: UInt8[np.ndarray, "n h w 3"], real: UInt8[np.ndarray, "m h w 3"]) -> list[int]:
  """Return the number of the real picture that is nearest to each one, by squared error of pixels."""
  flat = real.reshape(len(real), -1).astype(np.float32)
  return [int(np.square(flat - picture.reshape(-1)).sum(1).argmin()) for picture in pictures]


def distance(pictures: UInt8[np.ndarray, "n h w 3"], others: UInt8[np.ndarray, "m h w 3"]) -> float:
  """Return the squared Fréchet distance of the mean colours of cells, from 0 to 255, between two sets of pictures."""
  found = []
  for each in (pictures, others):
    features = einops.reduce(each.astype(np.float64), "n (i h) (j w) c -> n (i j c)", "mean", i=_CELLS, j=_CELLS)
    found.append(FeatureStatistics(features.shape[1]))
    found[-1].add(features)
  return frechet_distance(*found)


def score(pipe: Pipeline, folder: Path, output: Path, batch_size: int, seed: int) -> dict[str, dict[str, Any]]:
  """Generate the held-out pairs, and as many that were trained on; write and return their scores by part.

  Scores of pictures have an interval; the part "real" tells the distance between the real ones of both parts.
  """
  rows, real = zip(*read_pictures(folder), strict=True)
  real, rng, scores = np.stack(real), np.random.default_rng(seed), {}
  held_out = [row for row in rows if row["part"] == "held_out"]
  trained = [row for row in rows if row["part"] == "train"]
  chosen = {"held out": held_out, "trained on": [trained[i] for i in rng.permutation(len(trained))[: len(held_out)]]}
  places = {row["caption"]: i for i, row in enumerate(rows)}
  shown = {part: real[[places[row["caption"]] for row in asked]] for part, asked in chosen.items()}
  for part, asked in chosen.items():
    made = np.concatenate([
        pipe([row["caption"] for row in asked[start : start + batch_size]],
             seed=[seed + start + i for i in range(len(asked[start : start + batch_size]))])[:, 0]
        for start in range(0, len(asked), batch_size)])
    if made.shape[1:] != real.shape[1:]:
      raise UserError(
          f"--checkpoint: expected a model of pictures of {list(real.shape[1:])}, got one of {list(made.shape[1:])}")
    seen = [rows[i] for i in nearest(made, real)]
    right = {name: np.array([a[name] == b[name] for a, b in zip(asked, seen, strict=True)])
             for name in ("subject", "tone")}
    right["both"] = right["subject"] & right["tone"]
    scores[part] = {name: list(proportion(values)[:3]) for name, values in right.items()}
    scores[part]["distance"] = distance(made, shown[part])
    # Rows of generated ones, each above the real ones of the same captions.
    columns = min(_COLUMNS, len(made))
    some = np.linspace(0, len(made) - 1, columns * min(2, len(made) // columns)).astype(int).reshape(-1, columns)
    sheet = [pictures[row] for row in some for pictures in (made, shown[part])]
    media.write_sheet(output / f"{part.replace(' ', '_')}.png", sheet, ["generated", "real"] * len(some))
  scores["real"] = {"distance": distance(*shown.values())}
  write_atomically(output / "scores.json", json.dumps(scores, indent=1) + "\n")
  return scores


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_string(
      "pictures", None, "Folder of pictures and captions, which is written or read.", flag_values=values)
  flags.DEFINE_string("checkpoint", None, "Model to score; without one, pictures are drawn.", flag_values=values)
  flags.DEFINE_string("output", "out/emoji", "Folder that scores are written to.", flag_values=values)
  flags.DEFINE_string("font", FONT, "Font to draw with.", flag_values=values)
  flags.DEFINE_string("names", NAMES, "Unicode's list of emoji, emoji-test.txt.", flag_values=values)
  flags.DEFINE_integer("batch_size", 64, "Number of pictures that are generated at once.", flag_values=values)
  flags.DEFINE_integer("seed", 0, "Seed of the generation.", flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Draw the pictures, or score a model."""
  folder = Path(args.pictures)
  if args.checkpoint is None:
    if not Path(args.names).is_file():
      raise UserError(f"--names: there is no {args.names}; on Debian and Ubuntu the package unicode-data has it")
    emoji = read_emoji(Path(args.names).read_text(encoding="utf-8").splitlines())
    counts = write_pictures(folder, Painter(args.font), emoji)
    print(", ".join(f"{count} pictures in {folder / part}" for part, count in counts.items()))
    return
  scores = score(Pipeline.load(args.checkpoint), folder, Path(args.output), args.batch_size, args.seed)
  for part, values in scores.items():
    far = values.pop("distance")
    shown = [f"{name} {p:.3f} ({low:.3f}–{high:.3f})" for name, (p, low, high) in values.items()]
    print(f"{part:<12}{', '.join([*shown, f'distance {far:.0f}'])}")


if __name__ == "__main__":
  Command(main, define_flags, required=("pictures",)).run()
