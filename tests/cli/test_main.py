"""The command `nova-jax`: each command by its name, as `python -m launch.NAME` runs it."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nova_jax.cli import entry, main

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_every_command_with_the_first_line_of_its_own_help(capsys):
  assert main.execute(["nova-jax"]) == main.execute(["nova-jax", "--help"]) == 0
  assert set(main.COMMANDS) == {path.stem for path in (ROOT / "launch").glob("[a-z]*.py")}
  text = capsys.readouterr().out
  for name, line in main.COMMANDS.items():
    assert importlib.import_module(f"nova_jax.cli.{name}").__doc__.startswith(f"{line}\n")
    assert f"  {name} " in text and line in text


@pytest.mark.parametrize("name, said", [
    ("sampel", "'sampel' is not a command; did you mean 'sample'?"), ("xyzzy", "'xyzzy' is not a command; known: ")])
def test_what_is_no_command(capsys, name, said):
  assert main.execute(["nova-jax", name]) == 2
  assert capsys.readouterr().err.startswith(f"error: {said}")


def test_a_command_has_its_own_help_and_errors(capsys):
  assert main.execute(["nova-jax", "train", "--help"]) == 0
  assert "\n  nova-jax train --config " in capsys.readouterr().out
  assert main.execute(["nova-jax", "train", "--config=digts", "--workdir=x"]) == 2
  assert "comes with nova_jax; did you mean 'digits'?" in capsys.readouterr().err
  assert main.execute(["nova-jax", "tpu-vm", "--name=x", "--zone=y"]) == 2
  assert "expected a command" in capsys.readouterr().err


def test_other_commands_are_named_as_this_one_was_typed(capsys):
  """Also in messages, whose commands are those of a clone unless `terminal.command` names them."""
  for name in main.COMMANDS:
    assert main.execute(["nova-jax", name, "--help"]) == 0
    assert "launch." not in capsys.readouterr().out, name
  names = re.compile(rf"\blaunch\.({'|'.join(main.COMMANDS)})\b")
  told = set()
  for path in (ROOT / "nova_jax").rglob("*.py"):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # Docstrings.
    told |= {str(path.relative_to(ROOT)) for node in ast.walk(tree) if isinstance(node, ast.Constant)
             and isinstance(node.value, str) and id(node) not in alone and names.search(node.value)}
  assert told == {"nova_jax/tools/tpu_vm.py"}  # What runs on machines.


def test_it_starts():
  done = subprocess.run(
      [sys.executable, "-m", "nova_jax", "--version"], capture_output=True, encoding="utf-8",
      env=os.environ | {"PYTHONPATH": str(ROOT)})
  assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("nova-jax ")


def test_a_package_of_an_extra_that_is_missing_is_named(capsys):
  def lacks(args):
    raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

  assert entry.Command(lacks).execute(["x"]) == 2
  assert capsys.readouterr().err == (
      "error: matplotlib is not installed: pip install matplotlib, or nova_jax with its extra plots\n")
