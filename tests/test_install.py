"""What is installed: pinned to the byte, by a Python that is new enough, and mended when it was cut."""

import importlib.metadata
import itertools
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nova_jax import configs, pretrained

ROOT = Path(__file__).resolve().parents[1]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="these tests run make, which is not installed")


def pins(name):
  """Return versions by normalised name, of a file of exact versions."""
  found = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
  return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


@pytest.mark.parametrize("name", ["constraints.txt", "requirements.txt"])
def test_exact_versions_have_hashes(name):
  text = (ROOT / name).read_text(encoding="utf-8")
  assert "://" not in text, "which index is asked is each user's choice"
  entries = re.sub(r"\\\n", " ", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)).splitlines()
  assert entries and all(re.search(r"==.*--hash=sha256:[0-9a-f]{64}( |$)", entry) for entry in entries)


def test_exact_versions_are_those_that_the_package_asks_for():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
  base, extras = project["dependencies"], project["optional-dependencies"].values()
  everything, installed = pins("constraints.txt"), pins("requirements.txt")
  assert installed.items() <= everything.items()
  for known, wanted in ((installed, base), (everything, itertools.chain(*extras))):
    for requirement in map(Requirement, wanted):
      name = re.sub(r"[-_.]+", "-", requirement.name).lower()
      assert name == "nova-jax" or requirement.specifier.contains(known[name]), requirement


def test_libtpu_is_the_one_that_jax_asks_for():
  wanted = [Requirement(text) for text in importlib.metadata.requires("jax") if text.startswith("libtpu")]
  project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
  assert [Requirement(*project["optional-dependencies"]["compile"]).specifier] == [text.specifier for text in wanted]


def test_shipped_configs_are_found_by_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("digits", "configs/digits.py", "sweeps/guidance", "configs/sweeps/guidance.py"):
    assert Path(configs.find(name)).is_file()
  assert configs.find("digts") == "digts" and configs.find("../setup") == "../setup"
  Path("digits").touch()
  assert configs.find("digits") == "digits", "a file of the user's wins"
  assert "digits" in configs.names() and "released" not in configs.names()


@pytest.mark.slow
def test_a_wheel_holds_the_package_its_configs_and_its_model_alone(tmp_path):
  pytest.importorskip("hatchling", reason="needs the extra dev")
  subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
  (path,) = tmp_path.glob("*.whl")
  names = zipfile.ZipFile(path).namelist()
  assert {name.partition("/")[0].removesuffix(".dist-info").partition("-")[0] for name in names} == {"nova_jax"}
  shipped = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py")}
  model = {str(file.relative_to(ROOT / "nova_jax")) for file in pretrained.FOLDER.rglob("*") if file.suffix != ".pyc"
           and file.is_file()}
  wanted = {"__init__.pyi", "py.typed", "cli/main.py", *shipped, *model}
  assert {f"nova_jax/{name}" for name in wanted} <= set(names)


@pytest.fixture
def project(tmp_path):
  """What `make` needs to install nothing."""
  shutil.copy(ROOT / "Makefile", tmp_path)
  (tmp_path / "constraints.txt").write_text(
      "a==1\nuv==2 \\\n    --hash=x\n    # via nova-jax\nz==3\n", encoding="utf-8")
  (tmp_path / "pyproject.toml").touch()
  (tmp_path / "pip").write_text(
      '#!/bin/sh\ntest ! -e broken || exit 1\n'
      'while test $# -gt 0; do if test "$1" = --target; then mkdir -p "$2"; fi; shift; done\n', encoding="utf-8")
  (tmp_path / "python").write_text(
      '#!/bin/sh\nif test "$1" = -m; then\n  rm -rf "$4"; mkdir -p "$4/bin"; cp python pip "$4/bin"\n'
      '  cp pip "$4/bin/uv"\nfi\necho runs\n', encoding="utf-8")
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
  assert (project / ".venv/uv.txt").read_text(encoding="utf-8") == "uv==2 \\\n    --hash=x\n    # via nova-jax\n"
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
