"""Writes the results of a sweep: results.csv, results.md, plots as PNG, and index.html with everything in one file.

Invariant: the same results give the same table. Points that failed or have not run yet are listed as such.
"""

import base64
import csv
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nova_jax.evals.digits.one_digit import wilson
from nova_jax.tools.sweeps.engine import Trial
from nova_jax.tools.sweeps.plan import Bars, Plot, Sweep, shown
from nova_jax.utils.files import write_atomically

STATUS = "status"
_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right }
tr.failed { color: #a00 } img { max-width: 100% }
"""


def write_report(sweep: Sweep, trials: Sequence[Trial], output: Path) -> list[Path]:
  """Write all files, and return their paths."""
  columns, rows = table(trials)
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows([columns, *rows])
  paths = [output / "results.csv", output / "results.md"]
  write_atomically(paths[0], text.getvalue())
  body = "\n".join(f"| {' | '.join(_short(cell) for cell in row)} |" for row in rows)
  write_atomically(paths[1], f"# {sweep.title}\n\n{sweep.about}\n\n| {' | '.join(columns)} |\n"
                             f"|{'---|' * len(columns)}\n{body}\n")
  pictures = []
  for plot in sweep.plots:
    picture = draw(plot, trials)
    if picture is not None:
      path = output / "plots" / f"{_slug(plot_name(plot))}.png"
      write_atomically(path, picture)
      pictures.append((plot_name(plot), picture))
      paths.append(path)
  paths.append(output / "index.html")
  write_atomically(paths[-1], page(sweep, columns, rows, pictures))
  return paths


def table(trials: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
  """Return the names of columns, and a row per point with its fields, results and status."""
  fields = list(dict.fromkeys(name for trial in trials for name in trial.point))
  results = [trial.result or {} for trial in trials]
  measured = list(dict.fromkeys(name for result in results for name in result))
  rows = []
  for trial, result in zip(trials, results, strict=True):
    status = "done" if result else f"failed: {trial.error}" if trial.error else "not run"
    rows.append([
        *(shown(trial.point[name]) if name in trial.point else "" for name in fields),
        *(repr(float(result[name])) if name in result else "" for name in measured), status])
  return [*fields, *measured, STATUS], rows


def plot_name(plot: Plot | Bars) -> str:
  """Return the title of a plot."""
  return f"scores by {plot.by}" if isinstance(plot, Bars) else f"{plot.y} over {plot.x}"


def draw(plot: Plot | Bars, trials: Sequence[Trial]) -> bytes | None:
  """Return a plot as PNG; None if no point has its values."""
  figure = Figure(figsize=(6, 4), layout="constrained")
  axes = figure.subplots()
  if not (_draw_bars if isinstance(plot, Bars) else _draw_lines)(axes, plot, trials):
    return None
  file = io.BytesIO()
  figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
  return file.getvalue()


def _draw_lines(axes: Axes, plot: Plot, trials: Sequence[Trial]) -> bool:
  lines: dict[str, list[tuple[float | str, float]]] = {}
  for trial in trials:
    values = {name: _axis(value) for name, value in trial.point.items()} | dict(trial.result or {})
    if plot.x in values and plot.y in values:
      lines.setdefault(shown(trial.point.get(plot.line, "default")) if plot.line else "", []).append(
          (values[plot.x], values[plot.y]))
  for name, pairs in lines.items():
    numbers = all(not isinstance(x, str) for x, _ in pairs)
    # Measured values, such as seconds, are connected in the order of the points, in which a field grows.
    pairs = sorted(pairs) if numbers and plot.x in trials[0].point else pairs
    axes.plot(*zip(*pairs, strict=True), "o-" if numbers else "o", label=f"{plot.line} {name}")
  if plot.log:
    axes.set_xscale("log")
  axes.set(xlabel=plot.x, ylabel=plot.y)
  axes.grid(alpha=0.3)
  if plot.line:
    axes.legend()
  return bool(lines)


def _draw_bars(axes: Axes, plot: Bars, trials: Sequence[Trial]) -> bool:
  done = [trial for trial in trials if trial.result and all(name in trial.result for name in plot.y)]
  places, width = np.arange(len(plot.y)), 0.8 / max(len(done), 1)
  for i, trial in enumerate(done):
    values = np.array([trial.result[name] for name in plot.y])
    low, high = np.array([wilson(value, trial.content["num_prompts"]) for value in values]).T
    axes.bar(
        places + (i - (len(done) - 1) / 2) * width, values, width, yerr=[values - low, high - values],
        label=shown(trial.point.get(plot.by, "default")), error_kw={"elinewidth": 1})
  axes.set_xticks(places, plot.y)
  axes.set(ylabel="share of clips", ylim=(0, 1.02))
  axes.grid(axis="y", alpha=0.3)
  if done:
    axes.figure.legend(title=plot.by, loc="outside upper center", ncols=len(done))
  return bool(done)


def page(
    sweep: Sweep, columns: Sequence[str], rows: Sequence[Sequence[str]], pictures: Sequence[tuple[str, bytes]]
) -> str:
  """Return a page that needs no other files; pictures are (name, PNG) pairs."""
  cells = lambda tag, row: "".join(f"<{tag}>{html.escape(_short(cell))}</{tag}>" for cell in row)
  body = "\n".join(
      f"<tr{' class=failed' if row[-1].startswith('failed') else ''}>{cells('td', row)}</tr>" for row in rows)
  images = "\n".join(
      f'<p><img src="data:image/png;base64,{base64.b64encode(picture).decode()}" alt="{html.escape(name)}"></p>'
      for name, picture in pictures)
  return (f"<!doctype html>\n<html lang=en><meta charset=utf-8><title>{html.escape(sweep.title)}</title>"
          f"<style>{_STYLE}</style>\n<h1>{html.escape(sweep.title)}</h1>\n<p>{html.escape(sweep.about)}</p>\n{images}\n"
          f"<table>\n<tr>{cells('th', columns)}</tr>\n{body}\n</table>\n</html>\n")


def _axis(value):
  """Return the position of a field's value on an axis."""
  return value if isinstance(value, (int, float)) and not isinstance(value, bool) else shown(value)


def _short(cell: str) -> str:
  """Return a number with four digits, and other cells unchanged."""
  return f"{float(cell):.4g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", cell) else cell


def _slug(name: str) -> str:
  return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
