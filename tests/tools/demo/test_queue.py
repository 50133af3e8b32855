"""Many users of one page, without a browser. Skipped where Gradio is missing."""

import os
import threading

import pytest
from pipeline.test_pipeline import fresh

from nova_jax.tools.demo.line import Line
from nova_jax.tools.demo.studio import Bounds, Studio

os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
pytest.importorskip("gradio", reason="needs the extra demo")


@pytest.fixture
def ask(tmp_path):
  """Start a generation of a session; returns what is said of it, which grows, and the thread."""
  from nova_jax.tools.demo import page
  studio, line = Studio(fresh(), "tiny", "ema", tmp_path, Bounds()), Line(longest=3, each=2, seconds=900.0)
  sessions = {}

  def start(name, user, **form):
    said, session = [], sessions.setdefault(name, page.Session())
    thread = threading.Thread(target=lambda: said.extend(
        changes["status"] for changes in page._make(studio, line, session, user, form)))
    thread.start()
    return said, thread, session

  return start


def test_one_waits_for_another_and_can_cancel(ask, tmp_path):
  first, thread, session = ask("a", "ann", prompt="one", num_frames=250, seed=0)
  while session.cancelled is None:
    pass
  again, refused, _ = ask("a", "ann", prompt="one", num_frames=2)
  refused.join()
  assert len(again) == 1 and "cancel it first" in again[0]
  second, waits, other = ask("b", "ann", prompt="two", num_frames=2)
  while other.cancelled is None:
    pass
  third, full, _ = ask("c", "ann", prompt="two", num_frames=2)
  other.cancelled.set()
  waits.join()
  session.cancelled.set()
  thread.join()
  full.join()
  assert "Cancelled" in second[-1] and "Cancelled" in first[-1]
  assert not list(tmp_path.glob("*two*.mp4")) or "Done" in third[-1]


def test_what_can_not_be_made_is_said(ask):
  said, thread, session = ask("a", "ann", prompt="one", num_frames=1, guidance_scale=1e308)
  thread.join()
  assert "not finite" in said[-1] and session.cancelled is None
