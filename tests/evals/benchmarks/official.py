"""How the official scorers find samples, in our words: what each of them would read in a folder.

They are the evaluation scripts of djghosh13/geneval, Vchitect/VBench, TencentQQGYLab/ELLA (DPG-Bench),
Karine-Huang/T2I-CompBench and openai/guided-diffusion (ADM).
"""

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def read_geneval(folder):
  """Every folder named by digits has one JSON object and `samples`; of these, names that start like a number."""
  found = {}
  for name in os.listdir(folder):
    if name.isdigit() and (folder / name).is_dir():
      metadata = json.loads((folder / name / "metadata.jsonl").read_text(encoding="utf-8"))
      assert {"tag", "prompt", "include"} <= metadata.keys()
      names = [image for image in os.listdir(folder / name / "samples") if re.match(r"\d+\.png", image)]
      found[name] = metadata["prompt"], len(names)
  return found


def read_vbench(folder, entries, dimension):
  """The ending is that of whatever name comes first; then five exact names a prompt."""
  listed = os.listdir(folder)
  ending = {Path(name).suffix for name in listed}
  assert ending == {".mp4"}, "any stranger may come first"
  prompts = [entry["prompt_en"] for entry in entries if dimension in entry["dimension"]]
  return {prompt: [name for i in range(5) if (name := f"{prompt}-{i}.mp4") in listed] for prompt in prompts}


def filter_vbench(folder, prompt):
  """Of the static filter: all videos whose name without "-{number}" is the prompt."""
  return sorted(name for name in os.listdir(folder) if re.sub(r"-\d+$", "", Path(name).stem) == prompt)


def read_dpg(folder, resolution):
  """Every file is an item, named before the first dot, of four square tiles: left to right, then down."""
  corners = [(0, 0), (1, 0), (0, 1), (1, 1)]
  found = {}
  for name in os.listdir(folder):
    image = Image.open(folder / name)
    assert image.size == (2 * resolution, 2 * resolution)
    found[name.split(".")[0]] = [
        image.crop((x * resolution, y * resolution, (x + 1) * resolution, (y + 1) * resolution)) for x, y in corners]
  return found


def read_t2i_compbench(folder):
  """Files in order of their last number; the prompt ends at the first underscore. Item i shows prompt i // 10."""
  names = sorted(os.listdir(folder / "samples"), key=lambda name: int(name.split("_")[-1].split(".")[0]))
  return [name.split("_")[0] for name in names]


def read_adm(path, batch_size=4):
  """Batches of one array of the archive, read in a stream without the rest; the statistics are those of uint8."""
  with path.open("rb") as file, zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as array:
    assert np.lib.format.read_magic(array) in ((1, 0), (2, 0))
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(array)
    assert not fortran and not dtype.hasobject
    batches = []
    for start in range(0, shape[0], batch_size):
      size = min(batch_size, shape[0] - start)
      content = array.read(size * int(np.prod(shape[1:])) * dtype.itemsize)
      batches.append(np.frombuffer(content, dtype).reshape(size, *shape[1:]))
  assert "mu" not in np.load(path)
  return np.concatenate(batches)
