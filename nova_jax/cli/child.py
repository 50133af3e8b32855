"""A piece of work in a process of its own: `python -m nova_jax.cli.child MODULE CONTENT.json`.

MODULE's `main` is called with the content of the JSON file. Sweeps and comparisons run their points so: what fails in
one fails alone, and its memory is given back.
"""

import importlib
import sys

from nova_jax.cli.entry import run_child

if __name__ == "__main__":
  run_child(importlib.import_module(sys.argv.pop(1)).main)
