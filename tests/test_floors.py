"""The house has three floors: core, cli, tools. An import may go down or stay on its floor, never up."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nova_jax"
# Each room of core imports rooms before it alone.
CORE = (
    "storage", "utils", "config", "pretrained", "parallel", "models", "media", "autoencoders", "text", "diffusion",
    "sampling", "checkpoints", "pipeline", "data", "evals", "train")
ABOVE = {
    "tools": (*CORE, "tools", "configs"), "configs": (*CORE, "tools", "configs"),
    "cli": (*CORE, "tools", "configs", "cli")}


def room_of(name):
  return name.split(".")[1] if name.count(".") else name


def imports(path):
  """Yield the names of our own modules that a file imports."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nova_jax":
      yield from ([f"nova_jax.{alias.name}" for alias in node.names] if node.module == "nova_jax" else [node.module])
    elif isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names if alias.name.startswith("nova_jax."))


@pytest.mark.parametrize("room", [*CORE, *ABOVE])
def test_imports_go_down(room):
  allowed = ABOVE.get(room) or CORE[: CORE.index(room) + 1]
  files = sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]
  wrong = [f"{path.relative_to(PACKAGE)}: {name}" for path in files for name in imports(path)
           if room_of(name) not in allowed]
  assert not wrong


def core():
  """Yield the path and the text of each file of core."""
  for room in CORE:
    for path in sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]:
      yield path.relative_to(PACKAGE), path.read_text(encoding="utf-8")


# A process that watches over another one ends with it at once, whatever that one is doing.
WATCHERS = ("parallel/supervisor.py", "parallel/processes.py", "data/cache/clips/workers.py")
SPEAKERS = ("utils/terminal.py", "utils/progress.py", "utils/notes.py")


@pytest.mark.parametrize("what, own", [
    (r"from absl import .*\bflags\b|absl\.flags", ()), (r"(?<![\w.])print\(|\bstdout\.write\(", SPEAKERS),
    (r"sys\.exit\(|os\._exit\(|raise SystemExit|(?<![\w.])exit\(", WATCHERS)])
def test_only_the_command_line_reads_flags_prints_or_exits(what, own):
  wrong = [str(path) for path, text in core() if str(path) not in own and re.search(what, text)]
  assert not wrong


def test_no_more_than_three_modules_lie_loose():
  assert len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]) <= 3
