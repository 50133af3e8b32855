"""The files that each official scorer reads, and their contents.

  geneval          00000/metadata.jsonl, 00000/samples/0000.png … 0003.png, one folder per prompt
  geneval2         {number:05}.png, one picture per prompt, and image_paths.json, {prompt: path}
  vbench           {suite}/{prompt}-{0…4}.mp4; temporal_flickering has 25, of which VBench's filter keeps static ones
  vbench_long      the same, of 5 seconds or more; the scorer cuts clips into pieces and needs prompts without "_"
  vbench_i2v       {prompt}-{0…4}.mp4, which begin with a given picture
  vbench2          {dimension}/{prompt[:180]}-{0…2}.mp4, 20 of Diversity
  dpg              {name}.png, one picture of 2 × 2 samples
  t2i_compbench    samples/{prompt}_{000000}.png, ten per prompt, numbered consecutively

Scorers find files by their exact names: VBench looks for "{prompt}-{i}.mp4" in the list of a folder, T2I-CompBench
takes the part before the first "_" as the prompt, and DPG-Bench the part before the first "." as the item.
Invariant: a prompt whose name is impossible for a scorer or the file system is refused and never changed.
"""

import hashlib
import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from nova_jax.evals.benchmarks import prompts as files
from nova_jax.evals.benchmarks.prompts import Prompt
from nova_jax.storage import as_path, is_remote, join
from nova_jax.utils.errors import UserError

LONGEST_NAME = 255  # Bytes in the file systems of Linux and macOS.
VBENCH_I2V = "vbench_i2v"
GRID = 4  # Number of samples in a picture of DPG-Bench.
_FLICKERING = "temporal_flickering"
_SHOWN = 3  # Largest number of names in a message.


class Item(NamedTuple):
  """A file that a scorer reads."""

  path: str  # Path within the scored folder.
  prompt: str  # Official prompt, from which seeds derive.
  text: str  # Text that the model reads.
  samples: tuple[int, ...]  # Numbers of the samples in it: one, or the four of a grid.
  label: int | None = None  # Class to show, for a class-conditional model, which reads no text.
  video: str = ""  # Path of the real clip whose first frames are given.
  image: str = ""  # Path of the picture that is given as the first frame.


class Layout(NamedTuple):
  """All files of a scored folder."""

  benchmark: str
  items: tuple[Item, ...]
  texts: Mapping[str, str]  # Content of other files by path.
  notes: tuple[str, ...]  # Notes for the user.
  clips: Mapping[str, Path | None] = MappingProxyType({})  # Real clips by path, and what they are read from.
  context_frames: int = 0  # Number of frames of a clip that are given.

  @property
  def is_video(self) -> bool:
    return not self.items[0].path.endswith(".png")

  @property
  def paths(self) -> list[str]:
    return [*self.texts, *self.clips, *(item.path for item in self.items)]


class _Benchmark(NamedTuple):
  read: Callable[[Path], list[Prompt]]
  official: int  # Number of prompts in the published file.
  place: Callable[[Sequence[Prompt]], list[tuple[str, Prompt, tuple[int, ...]]]]
  refuse: Callable[[str], str | None]  # Returns the problem of a name, if it has one.


def _place_geneval(prompts):
  return [(f"{i:05}/samples/{j:04}.png", prompt, (j,)) for i, prompt in enumerate(prompts) for j in range(4)]


def _place_vbench(prompts):
  return [
      (f"{prompt.group}/{prompt.text}-{j}.mp4", prompt, (j,)) for prompt in prompts
      for j in range(25 if prompt.group == _FLICKERING else 5)]


def _place_vbench_i2v(prompts):
  return [(f"{prompt.text}-{j}.mp4", prompt, (j,)) for prompt in prompts for j in range(5)]


def _place_vbench2(prompts):
  return [
      (f"{prompt.group}/{prompt.text[:180]}-{j}.mp4", prompt, (j,)) for prompt in prompts
      for j in range(20 if prompt.group == "Diversity" else 3)]


def _place_geneval2(prompts):
  return [(f"{i:05}.png", prompt, (0,)) for i, prompt in enumerate(prompts)]


def _place_dpg(prompts):
  return [(f"{prompt.group}.png", prompt, tuple(range(GRID))) for prompt in prompts]


def _place_t2i_compbench(prompts):
  return [
      (f"samples/{prompt.text}_{10 * i + j:06}.png", prompt, (j,)) for i, prompt in enumerate(prompts)
      for j in range(10)]


def _no_file(name: str) -> str | None:
  return "has a / or a zero byte, which no file name can hold" if set(name) & {"/", "\0"} else None


def _in_vbench_long(name: str) -> str | None:
  return "has a _, where the scorer ends the name of a clip" if "_" in name else _no_file(name)


def _in_dpg(name: str) -> str | None:
  return "has a ., where the scorer ends the name of the item" if "." in name else _no_file(name)


def _in_t2i_compbench(name: str) -> str | None:
  return "has a _, where the scorer ends the prompt" if "_" in name else _no_file(name)


_BENCHMARKS = {
    "geneval": _Benchmark(files.read_geneval, 553, _place_geneval, lambda name: None),
    "geneval2": _Benchmark(files.read_geneval2, 800, _place_geneval2, lambda name: None),
    "vbench": _Benchmark(files.read_vbench, 946, _place_vbench, _no_file),
    VBENCH_I2V: _Benchmark(files.read_vbench_i2v, 1118, _place_vbench_i2v, _no_file),
    "vbench_long": _Benchmark(files.read_vbench, 946, _place_vbench, _in_vbench_long),
    "vbench2": _Benchmark(files.read_vbench2, 1230, _place_vbench2, _no_file),
    "dpg": _Benchmark(files.read_dpg, 1065, _place_dpg, _in_dpg),
    "t2i_compbench": _Benchmark(files.read_t2i_compbench, 300, _place_t2i_compbench, _in_t2i_compbench),
}
NAMES = tuple(_BENCHMARKS)


def read_layout(
    benchmark: str, path: Path, rewritten: Path | None = None, images: Path | None = None
) -> Layout:
  """Return the layout of the samples for a benchmark's prompt file.

  Args:
    benchmark: name of the benchmark, one of `NAMES`.
    path: official prompt file or folder; see `prompts`.
    rewritten: file with NOVA's longer prompt for each of the official ones; the model reads these, while names stay
      official.
    images: folder of the first frames, for VBench-I2V; None if nothing is made, as for a check.

  Raises:
    UserError: the file does not belong to the benchmark, or the name for a prompt is impossible.
  """
  rules = _BENCHMARKS[benchmark]
  if not path.exists():
    raise UserError(f"--prompts: {path} does not exist")
  prompts = rules.read(path)
  if not prompts:
    raise UserError(f"--prompts: {path} has no prompts")
  longer = None if rewritten is None else files.read_rewritten(rewritten)
  if longer is not None:
    _refuse({prompt.text: f"is not in {rewritten}" for prompt in prompts if _key(benchmark, prompt) not in longer})
  names = [prompt.group if benchmark == "dpg" else prompt.text for prompt in prompts]
  _refuse({name: problem for name in names if (problem := rules.refuse(name))})
  items, notes = {}, []
  for name, prompt, samples in rules.place(prompts):
    # A prompt that occurs twice in a suite has one set of videos, which the scorer reads twice.
    item = items.setdefault(name, Item(
        name, prompt.text, prompt.text if longer is None else longer[_key(benchmark, prompt)], samples,
        image=str(join(images, prompt.image)) if images is not None and prompt.image else ""))
    if item.prompt != prompt.text:
      _refuse({prompt.text: f"has the file name of another prompt, {_shorten(item.prompt)!r}"})
  _refuse({
      item.prompt: f"makes a name of more than {LONGEST_NAME} bytes" for item in items.values()
      if len(item.path.rpartition("/")[2].encode()) > LONGEST_NAME})
  if len(prompts) != rules.official:
    notes.append(f"{path} has {len(prompts)} prompts; the published {benchmark} file has {rules.official}")
  twice = [text for (_, text), count in Counter(
      (prompt.group, prompt.text) for prompt in prompts).items() if count > 1]
  if twice:
    notes.append(f"these prompts stand there more than once: {_listed(twice)}")
  missing = sorted({item.image for item in items.values() if item.image and not as_path(item.image).is_file()})
  if missing:
    raise UserError(f"--images: {images} lacks {len(missing)} pictures: {_listed(missing)}")
  texts = {f"{i:05}/metadata.jsonl": prompt.metadata for i, prompt in enumerate(prompts) if prompt.metadata}
  if benchmark == "geneval2":
    texts["image_paths.json"] = json.dumps({item.prompt: item.path for item in items.values()}, indent=1)
  return Layout(benchmark, tuple(items.values()), texts, tuple(notes))


def seed_for_sample(benchmark: str, prompt: str, sample: int, seed: int) -> int:
  """Return the 32-bit seed of a sample, which depends only on the arguments."""
  digest = hashlib.sha256("\0".join((benchmark, prompt, str(sample), str(seed))).encode()).digest()
  return int.from_bytes(digest[:4], "little")


def check_names(layout: Layout, folder: Path) -> None:
  """Refuse different names that are equal for the file system of `folder`, which may ignore case or Unicode forms.

  Raises:
    UserError: there are such names; the error lists them.
  """
  if is_remote(folder):
    return  # To a bucket any two names differ.
  for fold in (str.casefold, lambda name: unicodedata.normalize("NFC", name)):
    alike = defaultdict(set)
    for path in layout.paths:
      alike[fold(path)].add(path)
    twins = [names for names in alike.values() if len(names) > 1]
    if twins and any(_same_file(folder, *sorted(names)[:2]) for names in twins):
      raise UserError(
          f"--output: the file system of {folder} takes these for one name: {_listed(sorted(min(twins)))}; use another")


def _same_file(folder: Path, first: str, second: str) -> bool:
  """Return whether two names are equal for the file system."""
  probe = folder / f".{hashlib.sha256(first.encode()).hexdigest()[:16]}"
  names = [probe / name.rpartition("/")[2] for name in (first, second)]
  probe.mkdir(exist_ok=True)
  try:
    names[0].touch()
    return names[1].exists()
  finally:
    names[0].unlink(missing_ok=True)
    probe.rmdir()


def _key(benchmark: str, prompt: Prompt) -> tuple[str, str]:
  return prompt.text, prompt.group if benchmark in ("vbench", "vbench_long") else ""


def _refuse(problems: Mapping[str, str]) -> None:
  if problems:
    text, problem = next(iter(problems.items()))
    others = [other for other in problems if other != text]
    more = f"; so do {len(others)} more: {_listed(others)}" if others else ""
    raise UserError(f"--prompts: {_shorten(text)!r} {problem}{more}; remove them, names are not changed")


def _listed(texts: Sequence[str]) -> str:
  shown = ", ".join(repr(_shorten(text)) for text in texts[:_SHOWN])
  return f"{shown} and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else shown


def _shorten(text: str) -> str:
  return text if len(text) <= 60 else text[:57] + "..."
