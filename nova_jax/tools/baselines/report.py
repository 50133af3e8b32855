"""The comparison's results: paradigms.md, paradigms.json, paradigms.png and a sheet of clips.

Invariant: the same results give the same files; a paradigm that has no result yet is left out.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nova_jax import media
from nova_jax.tools.baselines.run import DETAILS, EXAMPLES
from nova_jax.tools.sweeps.engine import Trial
from nova_jax.utils.files import read_json, write_atomically

TITLES = {
    "nova": "NOVA", "one_block": "NOVA in one block", "quantized": "quantised raster autoregression",
    "full_clip": "full-clip diffusion"}
REFERENCES = {"real": "real clips", "quantized": "real clips, quantised"}
EXAMPLE_ROWS = tuple(11 * i % 40 for i in range(8))  # Neighbouring prompts are alike; these differ in both words.


def write_report(trials: Sequence[Trial], about: str, output: Path) -> list[Path]:
  """Write all files from the trials that are done; return their paths."""
  trials = [trial for trial in trials if trial.result is not None]
  results = {trial.point["paradigm"]: {**trial.result, **read_json(trial.folder / DETAILS)} for trial in trials}
  paths = [output / f"paradigms{ending}" for ending in (".md", ".json", ".png")] + [output / "clips.png"]
  write_atomically(paths[0], table(results, about))
  write_atomically(paths[1], json.dumps(results, indent=1) + "\n")
  write_atomically(paths[2], draw(results))
  write_clips(paths[3], {trial.point["paradigm"]: np.load(trial.folder / EXAMPLES) for trial in trials})
  return paths


def table(results: Mapping[str, Mapping[str, Any]], about: str) -> str:
  """Return a Markdown table, a column a paradigm, with what real clips reach and what it cost."""
  references = _references(results)
  names = [*(TITLES[name] for name in results), *references]
  lines = [f"| | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
  scores = list(next(iter(results.values()))["generated"])
  for score in scores:
    generated = ["{:.3f} ({:.3f} - {:.3f})".format(*result["generated"][score]) for result in results.values()]
    lines.append(_row(score, [*generated, *(f"{values[score][0]:.3f}" for values in references.values())]))
  for name, show in (
      ("guidance_scale", lambda x: f"{x:g}"), ("parameters", lambda x: f"{x / 1e6:.2f} M"),
      ("steps", lambda x: f"{x:.0f}"),
      ("train_flops", lambda x: f"{x / 1e12:.3g} TFLOP"),
      ("seconds_per_clip", lambda x: f"{x:.4f}")):
    lines.append(_row(name, [*(show(result[name]) for result in results.values()), *[""] * len(references)]))
  return f"# Paradigms\n\n{about}\n\n" + "\n".join(lines) + "\n"


def draw(results: Mapping[str, Mapping[str, Any]]) -> bytes:
  """Return a plot of all scores with their 95 % intervals, as PNG."""
  scores = list(next(iter(results.values()))["generated"])
  figure = Figure(figsize=(8, 4), layout="constrained")
  axes = figure.subplots()
  width, places = 0.8 / len(results), np.arange(len(scores))
  for i, (name, result) in enumerate(results.items()):
    value, low, high = np.array([result["generated"][score] for score in scores]).T
    axes.bar(places + (i - (len(results) - 1) / 2) * width, value, width, yerr=[value - low, high - value],
             label=TITLES[name], error_kw={"elinewidth": 1})
  for (title, values), style in zip(_references(results).items(), ("-", ":"), strict=False):
    axes.hlines([values[score][0] for score in scores], places - 0.4, places + 0.4, "black", style, label=title)
  axes.set_xticks(places, scores)
  axes.set(ylabel="share of clips", ylim=(0, 1.02))
  axes.grid(axis="y", alpha=0.3)
  figure.legend(loc="outside upper center", ncols=2, fontsize="small")
  file = io.BytesIO()
  figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
  return file.getvalue()


def write_clips(path: Path, examples: Mapping[str, Mapping[str, np.ndarray]]) -> None:
  """Write a sheet: a prompt a row, the paradigms' clips side by side."""
  prompts, clips = next(iter(examples.values()))["prompts"], [kept["clips"] for kept in examples.values()]
  gap = np.full_like(clips[0][:, :1], 255)
  rows = np.concatenate([part for these in clips for part in (these, gap)][:-1], axis=1)
  shown = [i for i in EXAMPLE_ROWS if i < len(rows)]
  captions = [str(prompts[i]) for i in shown]
  captions[0] += f"; from the left: {', '.join(TITLES[name] for name in examples)}"
  media.write_sheet(path, rows[shown], captions)


def _references(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Sequence[float]]]:
  """Return what real clips reach, by title."""
  found = {}
  for key, title in REFERENCES.items():
    for result in results.values():
      if key in result:
        found[title] = result[key]
  return found


def _row(name: str, cells: Sequence[str]) -> str:
  return f"| {name} | {' | '.join(cells)} |"
