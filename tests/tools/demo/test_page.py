"""The demo in headless Chromium, as a person uses it. Skipped where Gradio, Playwright or Chromium is missing."""

import dataclasses
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pipeline.test_pipeline import CARD, CLASSES, fresh

from nova_jax.pipeline.batch_sampling import Work, make_provenances, run
from nova_jax.pipeline.provenance import read_provenance
from nova_jax.tools.demo.studio import Bounds, Studio
from nova_jax.utils.progress import Progress

# Before Gradio is imported, as launch.demo does.
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
gradio = pytest.importorskip("gradio", reason="needs the extra demo")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra dev")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="a browser is driven, and Chromium is not installed: make browser"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")]
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"]
# Notes how many frames are shown, whenever the page changes.
WATCH = """() => {
  window.counts = [];
  const look = () => {
    const count = Number(document.querySelector("#strip .strip")?.dataset.frames);
    if (count !== window.counts.at(-1)) window.counts.push(count);
  };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
  return Studio(fresh(), "tiny", "ema", tmp_path_factory.mktemp("demo"), bounds=Bounds())


@pytest.fixture(scope="module")
def address(studio):
  from nova_jax.tools.demo.page import serve
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  yield serve(studio, "127.0.0.1", port, block=False)
  gradio.close_all()


@pytest.fixture(scope="module")
def browser():
  with sync_api.sync_playwright() as playwright:
    yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def page(browser, address):
  page = browser.new_page()
  hosts, errors = set(), []
  page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if request.url.startswith("http") else None)
  page.on("pageerror", lambda error: errors.append(error))
  page.goto(address)
  page.locator("#generate").wait_for()
  page.evaluate(WATCH)
  yield page
  page.close()
  assert hosts == {address.split("/")[2]} and not errors, "nothing is asked of other hosts"


def generate(page, **fields):
  """Fill in the form and press the button."""
  for name, value in fields.items():
    if name in ("image", "mask"):
      page.locator(f"#{name} input[type=file]").set_input_files(value)
      page.locator(f"#{name} img, #{name} [aria-label='Remove Image']").first.wait_for()
    else:
      page.locator(f"#{name} textarea, #{name} input").fill(str(value))
  page.locator("#generate").click()


def expect(page, text):
  sync_api.expect(page.locator("#status")).to_contain_text(text, timeout=60000)
  sync_api.expect(page.locator("#generate")).to_be_enabled()


def download(page):
  with page.expect_download() as made:
    page.locator("#download").click()
  return Path(made.value.path()).read_bytes(), made.value.suggested_filename


def by_jobs(studio, settings, folder):
  """Return the file that launch.sample's own loop writes."""
  provenances = make_provenances(studio.pipe, studio.checkpoint, studio.weights, [settings], [[0]], 1)
  with Progress("set") as progress:
    (path,), = run(studio.pipe, Work(provenances, [[0]]), folder, ("mp4",), progress)
  return path.read_bytes(), path.name


def test_a_model_has_the_fields_that_it_takes(studio):
  from nova_jax.tools.demo.page import make_page
  pictures = fresh(dataclasses.replace(CARD, model=CLASSES, num_frames=1, text_encoder=None))
  fields = [{block.elem_id for block in make_page(dataclasses.replace(studio, pipe=pipe)).blocks.values()}
            for pipe in (studio.pipe, pictures)]
  assert fields[0] - fields[1] == {"prompt", "negative_prompt", "num_frames", "motion_flow"}
  assert fields[1] - fields[0] == {"label"}


def test_frames_arrive_one_by_one(page, studio, tmp_path):
  generate(page, prompt="one", num_frames=5, seed=3)
  expect(page, "Done: 5 frames")
  counts = page.evaluate("window.counts")
  assert counts == sorted(counts) and counts[-1] == 5 and len(counts) > 2, "seen growing"
  assert download(page) == by_jobs(studio, {"prompt": "one", "num_frames": 5, "seed": 3}, tmp_path)
  sync_api.expect(page.locator("#command")).to_contain_text("--prompt=one")
  page.wait_for_function("document.querySelector('#stage video')?.readyState >= 2")  # It plays.
  generate(page, prompt="two", num_frames=1)
  expect(page, "Done: 1 frame")
  assert page.locator("#made figcaption").all_inner_texts() == ["two", "one"]


def test_cancel_ends_it_and_the_next_one_starts(page, studio):
  before = set(studio.output.iterdir())
  generate(page, prompt="two", num_frames=256)
  page.wait_for_function("window.counts.at(-1) >= 2")
  page.locator("#cancel").click()
  expect(page, "Cancelled")
  assert page.evaluate("window.counts.at(-1)") < 256 and not studio.turn.locked()
  assert set(studio.output.iterdir()) == before
  generate(page, prompt="two", num_frames=2)
  expect(page, "Done: 2 frames")
  assert page.locator("#made figcaption").all_inner_texts() == ["two"], "what others made is not here"


def test_a_picture_is_the_first_frame(page, studio, tmp_path):
  picture = tmp_path / "noise.png"
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 8, 3), np.uint8)).save(picture)
  generate(page, prompt="one", image=picture, num_frames=3)
  expect(page, "Done: 3 frames")
  data, name = download(page)
  settings = read_provenance(studio.output / name).settings
  assert Path(settings["image"]).read_bytes() == picture.read_bytes()
  assert (data, name) == by_jobs(studio, settings, tmp_path / "out")


def test_bad_input_is_explained(page, tmp_path):
  alert = lambda text: sync_api.expect(page.get_by_role("alert").filter(has_text=text)).to_be_visible(timeout=20000)
  generate(page)
  alert("Prompt: it is empty")
  generate(page, prompt="one", num_frames=300)
  alert("Frames: expected at most 256 here, got 300")
  generate(page, num_frames=0)
  alert("Frames: expected at least 1, got 0")
  bad = tmp_path / "bad.png"
  bad.write_text("not a picture", encoding="utf-8")
  generate(page, num_frames=2, image=bad)
  alert("Image: bad.png: is not a picture")
  sync_api.expect(page.locator("#generate")).to_be_enabled()


def test_a_mask_needs_its_image(page, tmp_path):
  Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
  generate(page, prompt="one", mask=tmp_path / "mask.png")
  sync_api.expect(page.get_by_role("alert")).to_contain_text("Mask: give the image", timeout=20000)


def test_leaving_the_page_ends_its_generation(browser, address, page, studio):
  other = browser.new_page()
  other.goto(address)
  other.locator("#generate").wait_for()
  other.evaluate(WATCH)
  generate(other, prompt="three", num_frames=256)
  other.wait_for_function("window.counts.at(-1) >= 2")
  other.close()
  generate(page, prompt="two", num_frames=2)
  expect(page, "Done: 2 frames")
  assert not list(studio.output.glob("*-three-*"))
