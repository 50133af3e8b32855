"""For the docs site: what a module's docstring indents (diagrams, formulas, lists of letters) keeps its shape."""

import re

import griffe

_BLOCK = re.compile(r"(?<=\n)(?P<indented>(?: {2}.*\n?)+)")
_SECTIONS = re.compile(r"^(Args|Attributes|Examples?|Invariants?|Raises|Returns):$", re.MULTILINE)


class Preformatted(griffe.Extension):
  """Fences indented blocks of module docstrings that are not sections."""

  def on_module(self, *, mod: griffe.Module, **_) -> None:
    if mod.docstring is not None:
      mod.docstring.value = fence(mod.docstring.value)


def fence(text: str) -> str:
  """Return a docstring with its indented blocks fenced."""

  def replace(match: re.Match) -> str:
    before = text[: match.start()].rstrip("\n").rsplit("\n", 1)[-1]
    if _SECTIONS.match(before) or before.startswith(("- ", "* ")):
      return match[0]
    return f"\n```text\n{match['indented'].rstrip()}\n```\n\n"

  return _BLOCK.sub(replace, text)
