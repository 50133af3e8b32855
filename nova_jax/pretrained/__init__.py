"""Trained models that come with the package, `digits` and `two_digits`, each in a folder beside this file.

The README.md of each names the training that made it. Wherever a model folder is expected, its name stands for it.
"""

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
DEFAULT = "digits"  # What commands and `Pipeline.load` take when no model is named.


def find(name: str | os.PathLike) -> str | os.PathLike:
  """Return the folder of a model.

  Args:
    name: path of a folder, which is returned as it is, or name of a model that comes with the package. A folder of the
      user's wins over a model of the same name.
  """
  text = os.fspath(name)
  return name if text not in names() or os.path.exists(text) else FOLDER / text


def name_of(path: str | os.PathLike) -> str | None:
  """Return the name of the model that a path or a name stands for if it comes with the package; None otherwise."""
  folder = Path(find(path))
  return folder.name if folder.parent == FOLDER and folder.name in names() else None


def names() -> list[str]:
  """Return the names of all models that come with the package."""
  return sorted(path.name for path in FOLDER.iterdir() if (path / "model_index.json").is_file())
