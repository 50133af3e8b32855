"""Writes the results of a sweep: results.csv, results.md, plots as PNG, and index.html with everything in one file.

Scores have their 95 % interval in brackets, but for results.csv. Invariant: the same results give the same table.
Points that failed or have not run yet are listed as such.
"""

import base64
import csv
import dataclasses
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nova_jax.evals.digits.one_digit import wilson
from nova_jax.evals.digits.score import TASKS
from nova_jax.tools.sweeps.engine import Trial
from nova_jax.tools.sweeps.plan import Bars, Front, Plot, Sweep, label, shown
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
  rows = [[_short(cell, name, sweep) for name, cell in zip(columns, row, strict=True)] for row in rows]
  body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
  write_atomically(paths[1], f"# {sweep.title}\n\n{sweep.about}\n\n| {' | '.join(columns)} |\n"
                             f"|{'---|' * len(columns)}\n{body}\n")
  pictures = []
  for plot in sweep.plots:
    picture = draw(plot, trials, TASKS[sweep.task].names)
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


def plot_name(plot: Plot | Bars | Front) -> str:
  """Return the title of a plot."""
  return f"scores by {plot.by}" if isinstance(plot, Bars) else f"{plot.y} over {plot.x}"


def draw(plot: Plot | Bars | Front, trials: Sequence[Trial], scores: Sequence[str]) -> bytes | None:
  """Return a plot as PNG; None if no point has its values.

  Args:
    plot: what to draw.
    trials: trials of the sweep.
    scores: names of the task's scores, which bars show that name none.
  """
  figure = Figure(figsize=(6, 4), layout="constrained")
  axes = figure.subplots()
  if isinstance(plot, Bars):
    found = _draw_bars(axes, dataclasses.replace(plot, y=plot.y or scores), trials)
  elif isinstance(plot, Front):
    found = _draw_front(axes, plot, trials)
  else:
    found = _draw_lines(axes, plot, trials)
  if not found:
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


def _draw_front(axes: Axes, plot: Front, trials: Sequence[Trial]) -> bool:
  done = [trial for trial in trials if trial.result and plot.x in trial.result and plot.y in trial.result]
  for trial in done:
    x, y = trial.result[plot.x], trial.result[plot.y]
    if trial.point and "preset" not in trial.point:
      axes.plot(x, y, "o", color="0.6", markersize=4)
      continue
    low, high = wilson(y, trial.content["num_prompts"])
    axes.errorbar(x, y, [[y - low], [high - y]], fmt="o", color="C0", elinewidth=1)
    axes.annotate(label(trial.point), (x, y), xytext=(6, 4), textcoords="offset points")
  axes.set_xscale("log")
  axes.xaxis.set_major_formatter("{x:g}")
  axes.xaxis.set_minor_formatter("{x:g}")
  axes.margins(x=0.2)
  axes.set(xlabel=plot.x, ylabel=plot.y)
  axes.grid(alpha=0.3)
  return bool(done)


def _draw_bars(axes: Axes, plot: Bars, trials: Sequence[Trial]) -> bool:
  bars: dict[str, list[Trial]] = {}
  for trial in trials:
    if trial.result and all(name in trial.result for name in plot.y):
      bars.setdefault(shown(trial.point.get(plot.by, "default")), []).append(trial)
  places, width = np.arange(len(plot.y)), 0.8 / max(len(bars), 1)
  for i, (name, done) in enumerate(bars.items()):
    values = np.array([[trial.result[score] for score in plot.y] for trial in done])
    x, mean = places + (i - (len(bars) - 1) / 2) * width, values.mean(0)
    if plot.over:
      axes.bar(x, mean, width, label=name)
      axes.plot(np.tile(x, len(done)), values.ravel(), ".", color="black", markersize=4)
    else:
      low, high = np.array([wilson(value, done[0].content["num_prompts"]) for value in mean]).T
      axes.bar(x, mean, width, yerr=[mean - low, high - mean], label=name, error_kw={"elinewidth": 1})
  axes.set_xticks(places, plot.y)
  axes.set(ylabel="share of clips", ylim=(0, 1.02))
  axes.grid(axis="y", alpha=0.3)
  if bars:
    axes.figure.legend(title=plot.by, loc="outside upper center", ncols=len(bars))
  return bool(bars)


def page(
    sweep: Sweep, columns: Sequence[str], rows: Sequence[Sequence[str]], pictures: Sequence[tuple[str, bytes]]
) -> str:
  """Return a page that needs no other files; pictures are (name, PNG) pairs."""
  cells = lambda tag, row: "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
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


def _short(cell: str, column: str, sweep: Sweep) -> str:
  """Return a score with its interval, another number with four digits, and other cells unchanged."""
  if not re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", cell):
    return cell
  if column in TASKS[sweep.task].names:
    low, high = wilson(float(cell), sweep.num_prompts)
    return f"{float(cell):.3f} ({low:.3f}–{high:.3f})"
  return f"{float(cell):.4g}"


def _slug(name: str) -> str:
  return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
