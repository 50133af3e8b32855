"""Pictures and videos are opened in one place."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPENS = re.compile(r"\b(Image\.open|av\.open|imread|VideoCapture)\(")


def test_nothing_but_the_reader_opens_pictures_and_videos():
  found = {
      path.relative_to(ROOT).as_posix() for folder in ("nova_jax", "launch", "benchmarks", "configs")
      for path in (ROOT / folder).rglob("*.py") if OPENS.search(path.read_text(encoding="utf-8"))}
  makers = {"nova_jax/media/write.py", "nova_jax/media/lossless.py"}
  assert found == {"nova_jax/media/formats.py", *makers}, "the others make videos"
