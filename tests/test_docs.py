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


def test_files_that_the_docs_name_are_there():
  """Within the repository, or within nova_jax, as `diffusion/loss.py`; words in capitals stand for others.

  What commands leave behind, such as `runs/` of `make demo`, is no part of it: .gitignore names it.
  """
  left_behind = {line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
  pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
  first = "|".join(sorted(
      {path.name for path in ROOT.iterdir() if path.is_dir()} - left_behind
      | {path.name for path in (ROOT / "nova_jax").iterdir()}))
  named = re.compile(rf"[`(]((?:{first})/[\w/.-]+\.(?:py|md|txt|png|gif)|(?:{first})/[\w/]+/?)(?=[`)#])")
  missing = [
      f"{page.name}: {name}" for page in pages for name in named.findall(page.read_text(encoding="utf-8"))
      if not re.search(r"[A-Z]{4}", name) and not (ROOT / name).exists() and not (ROOT / "nova_jax" / name).exists()]
  assert not missing


def test_files_that_docstrings_name_are_there():
  """Beside the module that names them, in a folder above it, or within nova_jax."""
  missing = []
  for path in sorted((ROOT / "nova_jax").rglob("*.py")):
    folders = [folder for folder in path.parents if folder.is_relative_to(ROOT)]
    missing += [
        f"{path.relative_to(ROOT)}: {name}" for name in re.findall(r"`([\w/]+\.py)`", path.read_text(encoding="utf-8"))
        if not any((folder / name).is_file() for folder in folders)]
  assert not missing


def test_links_to_files_lead_somewhere():
  pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
  links = [(page, link) for page in pages for link in re.findall(
      r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))]
  included = {"docs/contributing.md": ROOT, "docs/changelog.md": ROOT}
  assert links and not [
      f"{page.name}: {link}" for page, link in links
      if not (included.get(page.relative_to(ROOT).as_posix(), page.parent) / link).exists()]
