"""The page of the browser demo.

Every browser session has its own list of what it made; all share one model and wait in one line for their turn.
Invariants: nothing is asked of any other host, by the server or by the page; whoever waits can cancel.
"""

import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from absl import logging

from nova_jax.pipeline.provenance import clip_title
from nova_jax.pipeline.request import SETTINGS
from nova_jax.tools.demo import views
from nova_jax.tools.demo.line import Line
from nova_jax.tools.demo.space import UPLOADS, keep_room
from nova_jax.tools.demo.studio import News, Studio, generate
from nova_jax.tools.demo.users import is_loopback
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError, shorten

LABELS = {name: declared.label for name, declared in SETTINGS.items() if declared.label}
HINTS = {
    "prompt": "What to show", "negative_prompt": "What not to show", "image": "first frame", "mask": "white is new"}
CACHE_CHECK, CACHE_AGE = 3600, 86400  # Seconds: how often copies of uploads are looked at, and how old they get.
THREADS = 40  # For all but generations.
MAX_UPLOAD = "64mb"
MADE = 50  # Clips that a session lists.
LOOK = 0.5  # Seconds between two looks at the line of those who wait.
IDLE = "What you make appears here, frame by frame."
# Letters that the machine has: none are loaded.
THEME = gr.themes.Default(
    primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
STYLE = views.STYLE + """
footer { display: none !important; }
.html-container { padding: 0 !important; }
"""


@dataclasses.dataclass
class Session:
  """What belongs to one browser session."""

  made: list[views.Made] = dataclasses.field(default_factory=list)  # Newest first.
  cancelled: threading.Event | None = None  # Of the generation that waits or runs.


def make_page(studio: Studio) -> gr.Blocks:
  """Return the page; `launch` serves it."""
  with gr.Blocks(title="nova_jax", analytics_enabled=False, delete_cache=(CACHE_CHECK, CACHE_AGE)) as page:
    session = gr.State(Session())
    name = Path(studio.checkpoint).absolute().name
    gr.Markdown(f"# NOVA\nPictures and videos from text, by `{name}`.")
    with gr.Row():
      with gr.Column(scale=2):
        form = _make_form(studio)
        with gr.Row():
          start = gr.Button("Generate", variant="primary", elem_id="generate")
          stop = gr.Button("Cancel", variant="stop", interactive=False, elem_id="cancel")
      with gr.Column(scale=3):
        out = {
            "stage": gr.HTML(views.show_nothing(IDLE), elem_id="stage"),
            "strip": gr.HTML(views.show_strip(None), elem_id="strip"),
            "status": gr.HTML("", elem_id="status"),
            "download": gr.DownloadButton("Download", interactive=False, elem_id="download"),
            "command": gr.Code(
                label="The same file by command line", language="shell", interactive=False, visible=False, lines=1,
                wrap_lines=True, elem_id="command"),
            "start": start, "stop": stop}
    out["made"] = gr.HTML("", elem_id="made")
    names, parts = list(form), list(form.values())
    bounds = studio.bounds
    line = Line(bounds.waiting, bounds.each, bounds.seconds)

    def make(session: Session, request: gr.Request, *values: Any) -> Iterator[dict]:
      user = request.username or request.client.host
      for changes in _make(studio, line, session, user, dict(zip(names, values, strict=True))):
        yield {out[name]: value for name, value in changes.items()}

    def cancel(session: Session) -> None:
      if session.cancelled is not None:
        session.cancelled.set()

    # All who wait are in our own line, which can be left, and one more is told that it is full.
    start.click(
        make, [session, *parts], list(out.values()), concurrency_limit=bounds.waiting + 1, show_progress="minimal",
        show_progress_on=out["status"], api_visibility="private")
    stop.click(cancel, session, None, queue=False, api_visibility="private")
  return page.queue(max_size=bounds.waiting + 1)


def serve(
    studio: Studio, host: str, port: int, block: bool = True, users: Sequence[tuple[str, str]] = ()
) -> str:
  """Serve the page; return its address, once it is closed if `block`.

  Args:
    studio: the model, and what may be asked of it.
    host: the address to listen at.
    port: its port.
    block: whether to wait until the page is closed.
    users: names and passwords; without any, whoever reaches the address is let in.
  """
  os.environ["GRADIO_TEMP_DIR"] = str(studio.output.absolute() / UPLOADS)  # Else uploads would be anywhere.
  page = make_page(studio)
  if not users and not is_loopback(host):
    print(f"warning: whoever reaches {host}:{port} can use this page; --password_file asks for a password", flush=True)
  try:
    _, address, _ = page.launch(
        server_name=host, server_port=port, theme=THEME, css=STYLE, allowed_paths=[str(studio.output.absolute())],
        max_file_size=MAX_UPLOAD, footer_links=[], share=False, ssr_mode=False, mcp_server=False, pwa=False,
        enable_monitoring=False, quiet=True, prevent_thread_lock=True, auth=list(users) or None,
        max_threads=studio.bounds.waiting + THREADS)
  except OSError:
    raise UserError(f"--port: {port} can't be used on {host}; choose another") from None
  print(f"open {address}; Ctrl-C ends it; clips go to {studio.output}", flush=True)
  keep_room(studio.output, studio.bounds.bytes, studio.closed)
  if block:
    page.block_thread()
    studio.close()
  return address


def _make_form(studio: Studio) -> dict[str, gr.components.Component]:
  """Return the fields that the model has, by setting."""
  cfg, own = studio.pipe.cfg, studio.defaults

  def number(name: str) -> gr.Number:
    precision = 0 if SETTINGS[name].kind is int else None
    return gr.Number(own.get(name), label=LABELS[name], elem_id=name, min_width=100, precision=precision)

  form = {}
  if cfg.num_classes:
    form["label"] = number("label")
  else:
    for name, lines in (("prompt", 2), ("negative_prompt", 1)):
      form[name] = gr.Textbox(
          label=LABELS[name], placeholder=HINTS[name], lines=lines, max_length=limits.CAPTION_BYTES, elem_id=name)
  with gr.Row():
    for name in ("image", "mask"):
      form[name] = picture = gr.Image(
          label=f"{LABELS[name]}: {HINTS[name]}", sources=["upload", "clipboard"], height=210, elem_id=name,
          min_width=150)
      # As the file that was given: it is kept unchanged, and read where all pictures are.
      picture.preprocess = lambda payload: None if payload is None else payload.path
  with gr.Row():
    if studio.makes_clips:
      form["num_frames"] = number("num_frames")
    if cfg.has_motion:
      form["motion_flow"] = number("motion_flow")
    form["seed"] = number("seed")
  form["preset"] = gr.Radio(
      list(SETTINGS["preset"].choices), value="exact", label=LABELS["preset"], elem_id="preset")
  with gr.Row():
    form["num_inference_steps"] = number("num_inference_steps")
    form["num_diffusion_steps"] = number("num_diffusion_steps")
    form["guidance_scale"] = number("guidance_scale")
  return form


def _make(studio: Studio, line: Line, session: Session, user: str, form: dict[str, Any]) -> Iterator[dict[str, Any]]:
  """Yield what changes on the page while a clip is waited for and made."""
  if session.cancelled is not None:
    yield {"status": views.show_error("This page is making something already; cancel it first.")}
    return
  session.cancelled = threading.Event()
  try:
    yield from _wait_and_make(studio, line, session, user, form)
  finally:
    session.cancelled = None


def _wait_and_make(
    studio: Studio, line: Line, session: Session, user: str, form: dict[str, Any]
) -> Iterator[dict[str, Any]]:
  """Yield what changes on the page while a clip is waited for and made; `session.cancelled` ends both."""
  cancelled = session.cancelled
  yield {
      "status": views.show_message("Starts; programs are compiled the first time."), "strip": views.show_strip(None),
      "stage": views.show_nothing(IDLE), "start": gr.update(interactive=False), "stop": gr.update(interactive=True),
      "download": gr.update(value=None, interactive=False), "command": gr.update(visible=False)}
  changes: dict[str, Any] = {"status": views.show_message("Cancelled.")}
  try:
    settings, num_frames, fps = studio.settings(form), 0, studio.pipe.card.sample.fps
    with line.join(user) as ticket:
      while (before := ticket.before()) and not cancelled.wait(LOOK):
        yield {"status": views.show_message(f"Waits; {before} before this one.")}
      for news in () if cancelled.is_set() else generate(studio, settings, cancelled):
        if news.path is not None:
          changes = _finish(studio, session, settings, news)
          break
        changed = {"strip": views.show_strip(news), "status": views.show_progress(news)}
        if len(news.frames) > num_frames:
          num_frames, changed["stage"] = len(news.frames), views.show_loop(news.frames, fps)
        yield changed
  except (ValueError, OSError, FloatingPointError) as error:
    changes = {"status": views.show_error(explain(error))}
  except Exception:
    logging.exception("a generation failed")
    changes = {"status": views.show_error("Something went wrong; the server's log says what.")}
  yield changes | {"start": gr.update(interactive=True), "stop": gr.update(interactive=False)}


def _finish(studio: Studio, session: Session, settings: dict[str, Any], news: News) -> dict[str, Any]:
  """Return what a finished clip changes on the page."""
  session.made.insert(0, views.Made(news.path, clip_title(settings), news.frames[0]))
  del session.made[MADE:]
  done = f"Done: {len(news.frames)} frame{'s' * (len(news.frames) > 1)} in {news.path.name}"
  return {
      "stage": views.show_file(session.made[0]),
      "status": views.show_message("; ".join([done, *studio.notes(settings)])),
      "download": gr.update(value=str(news.path), interactive=True),
      "command": gr.update(value=studio.command(settings), visible=True),
      "made": views.show_made(session.made)}


def explain(error: Exception) -> str:
  """Return an error in one line, with the names of the page's fields."""
  name, colon, text = shorten(error).partition(": ")
  return f"{LABELS.get(name, name)}{colon}{text}"
