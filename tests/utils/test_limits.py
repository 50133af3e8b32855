"""The table of limits in the docs is the one in the code."""

import re
from pathlib import Path

from nova_jax.utils import limits


def test_docs_list_every_limit_with_its_value():
  text = (Path(__file__).parents[2] / "docs/limits.md").read_text(encoding="utf-8")
  listed = {name: int(value.replace(",", "")) for name, value in re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", text, re.M)}
  assert listed == {name: value for name, value in vars(limits).items() if name.isupper()}
