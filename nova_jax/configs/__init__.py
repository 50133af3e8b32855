"""The configs that come with the package: `nova_jax.configs.digits` is the file `configs/digits.py` of the repository.

In an installed package they lie in this folder. In a clone they lie in `configs/` at its root, where they are edited.
"""

import os
from pathlib import Path

_HERE = Path(__file__).resolve().parent
FOLDER = _HERE if (_HERE / "digits.py").is_file() else _HERE.parents[1] / "configs"
__path__ = [str(FOLDER)]


def find(name: str, kind: str = "") -> str:
  """Return the path of a config.

  Args:
    name: path of a file, which is returned as it is, or name of a config that comes with the package, such as `digits`
      or `sweeps/guidance`. `configs/digits.py` is such a name too where there is no such file.
    kind: folder of the wanted kind, `sweeps`, within which `guidance` is a name, too; "" for training and caches.
  """
  if os.path.isfile(name) or ".." in name:
    return name
  plain = plain_name(name)
  shipped = [FOLDER / folder / f"{plain}.py" for folder in dict.fromkeys((kind, ""))]
  return next((str(path) for path in shipped if path.is_file()), name)


def plain_name(name: str) -> str:
  """Return a name without what `find` does not need of it: `digits` for `configs/digits.py`."""
  return name.removeprefix("configs/").removesuffix(".py")


def names(kind: str = "") -> list[str]:
  """Return the names of all configs of a kind (see `find`) that come with the package."""
  return sorted(path.stem for path in (FOLDER / kind).glob("*.py") if path.stem not in ("__init__", "released"))
