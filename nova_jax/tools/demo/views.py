"""What the page shows of a generation, as HTML: the clip so far, its frames side by side, and messages.

Pictures are within the HTML, so that nothing is left behind by what is not finished.
"""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

from nova_jax.media import enlarge
from nova_jax.tools.demo.studio import Frame, News

LOOP_SIDE, THUMB_SIDE = 384, 96  # Pixels of the longer side, at most.
LOOP_FRAMES, STRIP_FRAMES = 64, 48  # The last ones that are shown.

STYLE = """
.stage { display: flex; align-items: center; justify-content: center; min-height: 320px; border-radius: 8px;
  text-align: center; background: var(--background-fill-secondary); color: var(--body-text-color-subdued); }
.stage img, .stage video { height: 320px; max-width: 100%; object-fit: contain; border-radius: 4px; }
.strip { display: flex; flex-wrap: wrap; gap: 4px; min-height: 68px; align-items: center; }
.strip img { height: 64px; border-radius: 3px; border: 2px solid transparent; }
.strip img.making { border-color: var(--color-accent); }
.made { display: flex; flex-wrap: wrap; gap: 12px; }
.made figure { margin: 0; width: 132px; }
.made a { display: block; line-height: 0; }
.made img, .made video { width: 132px; margin: 0; border-radius: 4px; }
.made figcaption { font-size: 12px; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.small { image-rendering: pixelated; }
.message { padding: 8px 12px; border-radius: 6px; background: var(--background-fill-secondary); }
.bar { height: 6px; margin-top: 6px; border-radius: 3px; background: var(--border-color-primary); }
.bar div { height: 100%; border-radius: 3px; background: var(--color-accent); }
.message.error { background: var(--error-background-fill); border: 1px solid var(--error-border-color); }
"""


class Made(NamedTuple):
  """A clip or picture that is finished."""

  path: Path
  title: str
  frame: Frame  # The first.


def show_loop(frames: Sequence[Frame], fps: float) -> str:
  """Return the clip so far, over and over."""
  images = [_image(frame, LOOP_SIDE) for frame in frames[-LOOP_FRAMES:]]
  data = io.BytesIO()
  images[0].save(
      data, "WEBP", save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0, quality=90, method=0)
  return f'<div class="stage">{_img(data.getvalue(), "webp", frames[0], "the clip so far")}</div>'


def show_file(made: Made) -> str:
  """Return a finished clip or picture, as the server hands it out."""
  return f'<div class="stage">{_file(made, "controls")}</div>'


def show_made(made: Sequence[Made]) -> str:
  """Return the gallery; each is a link to its file."""
  figures = [
      f'<figure><a href="{_address(one.path)}" download="{one.path.name}">{_file(one)}</a>'
      f"<figcaption>{html.escape(one.title)}</figcaption></figure>" for one in made]
  return f'<h3>Made here</h3><div class="made">{"".join(figures)}</div>' if made else ""


def show_nothing(text: str) -> str:
  """Return the empty stage."""
  return f'<div class="stage">{html.escape(text)}</div>'


def show_strip(news: News | None) -> str:
  """Return the frames side by side, the one in the making last."""
  frames, making = (news.frames, news.making) if news else ((), None)
  first = max(0, len(frames) - STRIP_FRAMES)
  parts = [f"<span>{first} more and</span>"] if first else []
  parts += [_thumb(frame, f"frame {i + 1}") for i, frame in enumerate(frames[first:], first)]
  if making is not None:
    parts.append(_thumb(making, "the next frame, not finished", "making"))
  return f'<div class="strip" data-frames="{len(frames)}">{"".join(parts)}</div>'


def show_progress(news: News) -> str:
  """Return how far it is."""
  return (f'<div class="message">{html.escape(news.what)}'
          f'<div class="bar"><div style="width: {news.done:.1%}"></div></div></div>')


def show_message(text: str) -> str:
  """Return a line about the generation."""
  return f'<div class="message" role="status">{html.escape(text)}</div>'


def show_error(text: str) -> str:
  """Return why there is no generation."""
  return f'<div class="message error" role="alert">{html.escape(text)}</div>'


def _file(made: Made, options: str = "") -> str:
  source, small = _address(made.path), _small(made.frame)
  if made.path.suffix == ".mp4":
    return f'<video {small} src="{source}" autoplay loop muted playsinline {options}></video>'
  return f'<img {small} src="{source}" alt="{html.escape(made.title)}">'


def _address(path: Path) -> str:
  return f"gradio_api/file={quote(str(path.absolute()))}"


def _thumb(frame: Frame, title: str, kind: str = "") -> str:
  data = io.BytesIO()
  _image(frame, THUMB_SIDE).save(data, "PNG")
  return _img(data.getvalue(), "png", frame, title, kind)


def _image(frame: Frame, side: int) -> Image.Image:
  image = Image.fromarray(np.ascontiguousarray(enlarge(frame[None], 1)[0]))
  image.thumbnail((side, side))
  return image


def _img(data: bytes, kind: str, frame: Frame, title: str, name: str = "") -> str:
  source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
  return f'<img {_small(frame, name)} src="{source}" title="{title}" alt="{title}">'


def _small(frame: Frame, name: str = "") -> str:
  """Return the class of a picture: pixels of small ones stay squares."""
  return f'class="{name} {"small" if max(frame.shape[:2]) < THUMB_SIDE else ""}"'
