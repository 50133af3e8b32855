"""For the docs site: docstrings as a reader of the code, or of `help()`, sees them.

What a module's docstring indents (diagrams, formulas, lists of letters) keeps its shape, and docstrings that are
completed when their module is imported are taken from there.
"""

import importlib
import inspect
import re

import griffe

_BLOCK = re.compile(r"(?<=\n)(?P<indented>(?: {2}.*\n?)+)")
_SECTIONS = re.compile(r"^(Args|Attributes|Examples?|Invariants?|Raises|Returns):$")


class Docstrings(griffe.Extension):
  """Changes docstrings before they are parsed."""

  def on_module(self, *, mod: griffe.Module, **_) -> None:
    if mod.docstring is not None:
      mod.docstring.value = fence(mod.docstring.value)

  def on_function(self, *, func: griffe.Function, **_) -> None:
    if func.parent.is_class and func.docstring is not None and "{settings}" in func.docstring.value:
      owner = getattr(importlib.import_module(func.module.path), func.parent.name)
      func.docstring.value = inspect.getdoc(getattr(owner, func.name))


def fence(text: str) -> str:
  """Return a docstring with its indented blocks fenced."""

  def replace(match: re.Match) -> str:
    before = text[: match.start()].rstrip("\n").rsplit("\n", 1)[-1]
    if _SECTIONS.match(before) or before.startswith(("- ", "* ")):
      return match[0]
    return f"\n```text\n{match['indented'].rstrip()}\n```\n\n"

  return _BLOCK.sub(replace, text)
