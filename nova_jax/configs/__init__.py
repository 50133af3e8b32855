"""The configs that come with the package: `nova_jax.configs.digits` is the file `configs/digits.py` of the repository.

In an installed package they lie in this folder. In a clone they lie in `configs/` at its root, where they are edited.
"""

import os
from pathlib import Path

_HERE = Path(__file__).resolve().parent
FOLDER = _HERE if (_HERE / "digits.py").is_file() else _HERE.parents[1] / "configs"
__path__ = [str(FOLDER)]


def find(name: str) -> str:
  """Return the path of a config.

  Args:
    name: path of a file, which is returned as it is, or name of a config that comes with the package, such as `digits`
      or `sweeps/guidance`. `configs/digits.py` is such a name too where there is no such file.
  """
  shipped = FOLDER / f"{name.removeprefix('configs/').removesuffix('.py')}.py"
  return name if os.path.isfile(name) or ".." in name or not shipped.is_file() else str(shipped)


def names() -> list[str]:
  """Return the names of all training and cache configs that come with the package."""
  return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "released"))
