"""Names and shapes of every weight of the released models, without the weights.

A table is a JSON file of this folder, written by `make.py`: {"config": the part's published `config.json`, "weights":
{name: shape}}, shapes in PyTorch's order. `{a-b}` in a name stands for every number from a to b, ends included; a name
with several such ranges stands for all combinations. Invariant: each weight of the part is in the table exactly once.
"""

import itertools
import json
import pathlib
import re
from typing import Any

FOLDER = pathlib.Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def read_table(name: str) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
  """Read the config and the {weight name: shape} of the part `name`, one of NAMES."""
  table = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
  rows = [(weight, tuple(shape)) for row, shape in table["weights"].items() for weight in expand(row)]
  weights = dict(rows)
  assert len(weights) == len(rows), f"{name} lists a weight twice"
  return table["config"], weights


def expand(name: str) -> list[str]:
  """List the names that one with ranges stands for."""
  pieces = re.split(r"\{(\d+)-(\d+)\}", name)
  numbers = [range(int(first), int(last) + 1) for first, last in zip(pieces[1::3], pieces[2::3], strict=True)]
  return [
      "".join(itertools.chain.from_iterable(itertools.zip_longest(pieces[::3], map(str, choice), fillvalue="")))
      for choice in itertools.product(*numbers)]
