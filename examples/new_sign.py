"""Clips of a sign that the digits model doesn't know: `python examples/new_sign.py FOLDER`.

It draws 120 clips of triangles by an unsteady hand, which move as the digits do, and 120 clips of the ten digits, so
that a LoRA which learns the triangle keeps them. Each clip is a GIF with its caption in a .txt file.
docs/finetuning.md goes on from here.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from nova_jax import media
from nova_jax.data.digits import one_digit

NUM_CLIPS, SCALE = 120, 16
CORNERS = np.array([(3.5, 0.5), (7.0, 7.0), (0.5, 7.0)])


def draw(rng: np.random.Generator) -> np.ndarray:
  """Return a triangle, uint8 [8, 8], with its corners and its ink a little different each time."""
  picture = Image.new("L", (8 * SCALE, 8 * SCALE))
  corners = [tuple(corner) for corner in SCALE * (CORNERS + rng.uniform(-0.5, 0.5, (3, 2)))]
  ImageDraw.Draw(picture).line([*corners, *corners[:2]], fill=255, width=int(SCALE * rng.uniform(1.0, 1.5)))
  grey = np.asarray(picture.resize((8, 8), Image.Resampling.BOX), np.float32)
  return np.minimum(255, 1.3 * grey).astype(np.uint8)


def move(sign: np.ndarray, direction: str) -> np.ndarray:
  """Return a clip, uint8 [4, 16, 16, 1], in which a sign goes from one wall to the other as the digits do."""
  video = np.zeros((4, 16, 16, 1), np.uint8)
  for time, frame in enumerate(video):
    place = 2 * time if direction in ("right", "down") else 8 - 2 * time
    top, left = (place, 4) if direction in ("up", "down") else (4, place)
    frame[top : top + 8, left : left + 8, 0] = sign
  return video


def main(folder: Path) -> None:
  folder.mkdir(parents=True)
  rng = np.random.default_rng(0)
  for number, clip in enumerate(one_digit.make_clips("train", NUM_CLIPS)):
    shown = {
        "digit": (clip.video, clip.caption),
        "triangle": (move(draw(rng), clip.direction), f"the triangle moves {clip.direction}")}
    for name, (video, caption) in shown.items():
      media.write_gif(folder / f"{name}-{number:03}.gif", video, 4, short_side=16)
      (folder / f"{name}-{number:03}.txt").write_text(caption, encoding="utf-8")


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  main(Path(sys.argv[1]))
