"""What `make` installs: pinned to the byte, by a Python that is new enough, and mended when it was cut."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def pins(path):
  """Return versions by normalised name."""
  lines = path.read_text(encoding="utf-8").splitlines()
  found = [re.match(r"([\w.-]+)==([\w.]+)", line) for line in lines]
  return {re.sub(r"[-_.]+", "-", match[1]).lower(): match[2] for match in found if match}


@pytest.mark.parametrize("name", ["base", "demo", "compile", "tpu"])
def test_locks_pin_every_file(name):
  text = (ROOT / f"locks/{name}.txt").read_text(encoding="utf-8")
  assert "://" not in text, "which index is asked is each user's choice"
  entries = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
  assert entries and all(re.search(r"--hash=sha256:[0-9a-f]{64}( |$)", entry) for entry in entries)


def test_locks_are_of_the_versions_wanted():
  base, demo = (pins(ROOT / f"locks/{name}.txt") for name in ("base", "demo"))
  wanted, fixed = pins(ROOT / "requirements.txt"), pins(ROOT / "constraints.txt")
  assert wanted.items() <= base.items() <= demo.items() and "gradio" in demo
  assert all(fixed[name] == version for name, version in demo.items() if name in fixed)
  assert pins(ROOT / "locks/compile.txt")["libtpu"] in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path):
  """What `make` needs to install nothing."""
  shutil.copy(ROOT / "Makefile", tmp_path)
  (tmp_path / "locks").mkdir()
  for name in ("base", "compile"):
    (tmp_path / f"locks/{name}.txt").touch()
  (tmp_path / "pip").write_text(
      '#!/bin/sh\ntest ! -e broken || exit 1\n'
      'while test $# -gt 0; do if test "$1" = --target; then mkdir -p "$2"; fi; shift; done\n', encoding="utf-8")
  (tmp_path / "python").write_text(
      '#!/bin/sh\nif test "$1" = -m; then rm -rf "$4"; mkdir -p "$4/bin"; cp python pip "$4/bin"; fi\necho runs\n',
      encoding="utf-8")
  (tmp_path / "pip").chmod(0o755)
  (tmp_path / "python").chmod(0o755)
  return tmp_path


def make(project, *arguments):
  return subprocess.run(["make", *arguments], cwd=project, capture_output=True, encoding="utf-8")


@needs_make
def test_a_wrong_python_is_named_before_anything_is_made(project):
  for python in ("false", "/nowhere/python"):
    done = make(project, ".venv/installed", f"PYTHON={python}")
    assert done.returncode and f"error: Python 3.11 or later with its venv module is needed, and {python} is" in (
        done.stderr)
    assert not (project / ".venv").exists()


@needs_make
def test_what_was_cut_is_installed_again(project):
  (project / ".venv/bin").mkdir(parents=True)
  (project / ".venv/of another Python").touch()
  (project / "broken").touch()  # The installation ends in the middle.
  assert make(project, ".venv/installed", "PYTHON=./python").returncode
  assert not (project / ".venv/installed").exists() and not (project / ".venv/of another Python").exists()
  (project / "broken").unlink()
  assert make(project, ".venv/libtpu", "PYTHON=./python").returncode == 0
  assert "Nothing to be done" in make(project, ".venv/libtpu", "PYTHON=./python").stdout
  (project / ".venv/bin/python").unlink()  # As an upgrade of the system leaves it.
  assert make(project, ".venv/installed", "PYTHON=./python").returncode == 0
  assert (project / ".venv/bin/python").exists()


@needs_make
def test_cleaning_keeps_trained_models(project):
  for name in ("runs", ".venv", "build"):
    (project / name).mkdir()
  assert make(project, "clean").returncode == 0
  assert (project / "runs").exists() and not (project / ".venv").exists() and not (project / "build").exists()
  assert make(project, "clean-runs").returncode == 0 and not (project / "runs").exists()
