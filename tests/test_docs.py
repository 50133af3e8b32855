"""The docs site is built without a warning, from what is here alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path):
  pytest.importorskip("mkdocs", reason="needs the extra docs")
  done = subprocess.run(
      [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path], cwd=ROOT,
      capture_output=True, encoding="utf-8")
  assert done.returncode == 0, done.stderr
  pages = {path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
  loaded = r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//[^"]*"|<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*//'
  assert not [name for name, text in pages.items() if re.search(loaded, text)]
  # Each room has its page, and diagrams of docstrings keep their shape.
  rooms = {path.parent.name for path in (ROOT / "nova_jax").glob("*/__init__.py")} - {"cli", "tools"}
  assert {f"reference/nova_jax/{room}/index.html" for room in rooms} <= pages.keys() | {
      f"reference/nova_jax/{room}.html" for room in rooms}
  assert re.search(r"<code[^>]*>[^/]*temporal encoder \(TAM\)", pages["reference/nova_jax/models/nova.html"])
