"""Which files each official scorer reads, and what each of them shows.

  geneval          00000/metadata.jsonl, 00000/samples/0000.png … 0003.png, a folder a prompt
  vbench           {suite}/{prompt}-{0…4}.mp4; temporal_flickering has 25, of which VBench's filter keeps static ones
  dpg              {name}.png, one picture of 2 × 2 samples
  t2i_compbench    samples/{prompt}_{000000}.png, ten a prompt, numbered through

Scorers find files by their exact names: VBench asks for "{prompt}-{i}.mp4" in a folder's list, T2I-CompBench reads the
prompt back from what stands before the first "_", and DPG-Bench the item from what stands before the first ".".
Invariant: a prompt whose name a scorer or the file system can't hold is refused, never changed.
"""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nova_jax.evals.benchmarks import prompts as files
from nova_jax.evals.benchmarks.prompts import Prompt
from nova_jax.utils.errors import UserError

LONGEST_NAME = 255  # Bytes, of Linux's and macOS's file systems.
GRID = 4  # Samples in a picture of DPG-Bench.
_FLICKERING = "temporal_flickering"
_SHOWN = 3  # Names that a message lists.


class Item(NamedTuple):
  """A file that a scorer reads."""

  path: str  # Within the scored folder.
  prompt: str  # Official, from which seeds derive.
  text: str  # What the model reads.
  samples: tuple[int, ...]  # Which of the prompt's samples it shows: one, or the four of a grid.


class Layout(NamedTuple):
  """All files of a scored folder."""

  benchmark: str
  items: tuple[Item, ...]
  texts: Mapping[str, str]  # Path and content of files beside the samples.
  notes: tuple[str, ...]  # What a person should know.

  @property
  def is_video(self) -> bool:
    return self.benchmark == "vbench"

  @property
  def paths(self) -> list[str]:
    return [*self.texts, *(item.path for item in self.items)]


class _Benchmark(NamedTuple):
  read: Callable[[Path], list[Prompt]]
  official: int  # Prompts of the published file.
  place: Callable[[Sequence[Prompt]], list[tuple[str, Prompt, tuple[int, ...]]]]
  refuse: Callable[[str], str | None]  # What can't be in a name.


def _place_geneval(prompts):
  return [(f"{i:05}/samples/{j:04}.png", prompt, (j,)) for i, prompt in enumerate(prompts) for j in range(4)]


def _place_vbench(prompts):
  return [
      (f"{prompt.group}/{prompt.text}-{j}.mp4", prompt, (j,)) for prompt in prompts
      for j in range(25 if prompt.group == _FLICKERING else 5)]


def _place_dpg(prompts):
  return [(f"{prompt.group}.png", prompt, tuple(range(GRID))) for prompt in prompts]


def _place_t2i_compbench(prompts):
  return [
      (f"samples/{prompt.text}_{10 * i + j:06}.png", prompt, (j,)) for i, prompt in enumerate(prompts)
      for j in range(10)]


def _no_file(name: str) -> str | None:
  return "has a / or a zero byte, which no file name can hold" if set(name) & {"/", "\0"} else None


def _in_dpg(name: str) -> str | None:
  return "has a ., where the scorer ends the name of the item" if "." in name else _no_file(name)


def _in_t2i_compbench(name: str) -> str | None:
  return "has a _, where the scorer ends the prompt" if "_" in name else _no_file(name)


_BENCHMARKS = {
    "geneval": _Benchmark(files.read_geneval, 553, _place_geneval, lambda name: None),
    "vbench": _Benchmark(files.read_vbench, 946, _place_vbench, _no_file),
    "dpg": _Benchmark(files.read_dpg, 1065, _place_dpg, _in_dpg),
    "t2i_compbench": _Benchmark(files.read_t2i_compbench, 300, _place_t2i_compbench, _in_t2i_compbench),
}
NAMES = tuple(_BENCHMARKS)


def read_layout(benchmark: str, path: Path, rewritten: Path | None = None) -> Layout:
  """Lay out the samples of a benchmark's prompt file.

  Args:
    benchmark: one of `NAMES`.
    path: the official prompt file or folder; see `prompts`.
    rewritten: NOVA's longer prompts, one for each of `path`'s; the model reads them, names stay official.

  Raises:
    ValueError: the file isn't the benchmark's, or a prompt can't have the name that its scorer asks for.
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
    # A prompt that stands in a suite twice has one set of videos, which the scorer reads twice.
    items.setdefault(name, Item(
        name, prompt.text, prompt.text if longer is None else longer[_key(benchmark, prompt)], samples))
  _refuse({
      item.prompt: f"makes a name of more than {LONGEST_NAME} bytes" for item in items.values()
      if len(item.path.rpartition("/")[2].encode()) > LONGEST_NAME})
  if len(prompts) != rules.official:
    notes.append(f"{path} has {len(prompts)} prompts; the published {benchmark} file has {rules.official}")
  twice = [text for (_, text), count in Counter(
      (prompt.group, prompt.text) for prompt in prompts).items() if count > 1]
  if twice:
    notes.append(f"these prompts stand there more than once: {_listed(twice)}")
  texts = {f"{i:05}/metadata.jsonl": prompt.metadata for i, prompt in enumerate(prompts) if prompt.metadata}
  return Layout(benchmark, tuple(items.values()), texts, tuple(notes))


def seed_for_sample(benchmark: str, prompt: str, sample: int, seed: int) -> int:
  """Return a sample's own seed in 32 bits, which depends on nothing else."""
  digest = hashlib.sha256("\0".join((benchmark, prompt, str(sample), str(seed))).encode()).digest()
  return int.from_bytes(digest[:4], "little")


def check_names(layout: Layout, folder: Path) -> None:
  """Refuse names that differ, but not to the file system of `folder`: it may ignore case, or ways to write an accent.

  Raises:
    ValueError: there are some; it names them.
  """
  for fold in (str.casefold, lambda name: unicodedata.normalize("NFC", name)):
    alike = defaultdict(set)
    for path in layout.paths:
      alike[fold(path)].add(path)
    twins = [names for names in alike.values() if len(names) > 1]
    if twins and any(_same_file(folder, *sorted(names)[:2]) for names in twins):
      raise UserError(
          f"--output: the file system of {folder} takes these for one name: {_listed(sorted(min(twins)))}; use another")


def _same_file(folder: Path, first: str, second: str) -> bool:
  """Return whether the file system takes two names for one."""
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
  return prompt.text, prompt.group if benchmark == "vbench" else ""


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
