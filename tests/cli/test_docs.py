"""Commands in the docs name commands, flags and fields of configs that there are."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from absl import flags

from configs import cache, finetune
from nova_jax.cli import overrides
from nova_jax.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands(page):
  """Yield the name and the arguments of each command of ours in a page, in blocks for the shell or in a line."""
  text = page.read_text(encoding="utf-8")
  in_lines = re.findall(r"(?<!`)`((?:nova-jax|python -m launch\.)[^`]+)`", BLOCK.sub("", text))
  for block in [*BLOCK.findall(text), *(line.replace("\n", " ") for line in in_lines)]:
    for line in block.replace("\\\n", " ").splitlines():
      words = shlex.split(line, comments=True)
      for i, word in enumerate(words):
        name = words[i + 1] if word.endswith("nova-jax") and i + 1 < len(words) else word.removeprefix("launch.")
        if word.endswith("nova-jax") or word.startswith("launch.") and words[i - 1] == "-m":
          yield name, words[i + 1:]


def problems(name, arguments):
  """Yield what is wrong with a command."""
  if name == "--help" or name == "X":  # X stands for any.
    return
  if name not in COMMANDS:
    yield f"{name} is not a command"
    return
  values = flags.FlagValues()
  importlib.import_module(f"nova_jax.cli.{name}").COMMAND.define_flags(values)
  config = (cache if name == "cache" else finetune).get_config()
  for _, (flag, _) in overrides.options(arguments, r"[^=]+"):
    if flag.startswith("config."):
      if wrong := overrides._find(config, flag.removeprefix("config.")):
        yield f"{name} --{flag}: {wrong}"
    elif flag not in values and flag.removeprefix("no") not in values and flag != "help":
      yield f"{name} has no flag --{flag}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_flags_that_the_docs_give_them(page):
  found = list(commands(page))
  assert not [problem for name, arguments in found for problem in problems(name, arguments)]
  assert found or page.name != "finetuning.md"
