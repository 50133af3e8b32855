"""No file is read or written in the encoding of a locale; the linter sees this only where it can infer a path."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("nova_jax", "launch", "configs", "benchmarks", "tests")
FILES = [file for folder in FOLDERS for file in ROOT.glob(f"{folder}/**/*.py")]
BINARY = {"archive", "av", "Image", "os", "tarfile"}  # Their `open` takes no encoding.


def unsaid(call):
  """Whether a call opens text without saying its encoding."""
  function, names = call.func, {keyword.arg for keyword in call.keywords}
  if "encoding" in names or None in names:
    return False
  if isinstance(function, ast.Name):
    name, arguments = function.id, call.args[1:]
  elif isinstance(function, ast.Attribute):
    name, arguments = function.attr, call.args
  else:
    return False
  if name in ("read_text", "write_text") and isinstance(function, ast.Attribute):  # Of a path.
    return len(arguments) == (name == "write_text")
  if name in ("run", "Popen", "check_output"):
    return "text" in names
  if name != "open" or isinstance(function, ast.Attribute) and getattr(function.value, "id", "") in BINARY:
    return False
  modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"] or arguments[:1]
  return not modes or isinstance(modes[0], ast.Constant) and "b" not in str(modes[0].value)


@pytest.mark.parametrize("code, expected", [
    ("open(p)", True), ("open(p, 'rb')", False), ("p.open('w')", True), ("p.read_text()", True),
    ("read_text(p)", False),
    ("p.write_text(t, encoding='utf-8')", False), ("run(c, text=True)", True), ("Image.open(p)", False)])
def test_what_counts(code, expected):
  assert unsaid(ast.parse(code).body[0].value) == expected


def test_every_file_says_its_encoding():
  found = [
      f"{file.relative_to(ROOT)}:{node.lineno}" for file in FILES
      for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
      if isinstance(node, ast.Call) and unsaid(node)]
  assert not found
