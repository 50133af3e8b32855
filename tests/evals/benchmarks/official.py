"""How the official scorers find samples, in our words: what each of them would read in a folder.

They are the evaluation scripts of djghosh13/geneval, Vchitect/VBench, TencentQQGYLab/ELLA (DPG-Bench),
Karine-Huang/T2I-CompBench, facebookresearch/GenEval2 and openai/guided-diffusion (ADM).
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


def read_vbench_i2v(folder, entries, dimension, images):
  """All dimensions read one folder, where the ending is that of whatever comes first; each video has a picture."""
  found = read_vbench(folder, entries, dimension)
  names = {entry["prompt_en"]: entry["image_name"] for entry in entries}
  assert all((images / names[prompt]).is_file() for prompt in found)
  return found


def cut_vbench_long(folder, entries):
  """Each video is cut into clips below `split_clip`; of a prompt that isn't known the length of these has no value."""
  known = {entry["prompt_en"] for entry in entries}
  for name in [name for name in os.listdir(folder) if name.endswith((".mp4", ".avi", ".mov"))]:
    assert re.match(r"^(.*?)-\d+\.mp4$", name)[1] in known
    (folder / "split_clip" / name.split(".mp4")[0]).mkdir(parents=True)
    for i in range(2):
      (folder / "split_clip" / name.split(".mp4")[0] / f"{name.split('.mp4')[0]}_{i:03}.mp4").write_bytes(b"")


def read_vbench_long(folder, entries, dimension):
  """Clips of five videos a prompt, whose names up to the first underscore are those of videos."""
  videos = {name.replace(".mp4", "") for name in os.listdir(folder)}
  found = {}
  for prompt in [entry["prompt_en"] for entry in entries if dimension in entry["dimension"]]:
    found[prompt] = [
        clip for i in range(5) for clip in sorted(os.listdir(folder / "split_clip" / f"{prompt}-{i}"))
        if clip.split("_")[0] in videos]
  return found


def read_vbench2(folder, entries, dimension):
  """Names have the first 180 characters of a prompt; one that is missing ends the evaluation."""
  listed = os.listdir(folder / dimension)
  assert {Path(name).suffix for name in listed} == {".mp4"}
  count = 20 if dimension == "Diversity" else 3
  return {
      entry["prompt_en"]: [listed.index(f"{entry['prompt_en'][:180]}-{i}.mp4") for i in range(count)]
      for entry in entries if dimension in entry["dimension"]}


def read_geneval2(folder, lines):
  """Pictures by prompt, as a JSON file says; paths are relative to where the script runs."""
  paths = json.loads((folder / "image_paths.json").read_text(encoding="utf-8"))
  return [Image.open(folder / paths[json.loads(line)["prompt"]]) for line in lines]


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
