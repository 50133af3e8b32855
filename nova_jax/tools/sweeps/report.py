"""Writes the results of a sweep: results.csv, results.md, plots as PNG, and index.html with everything in one file.

Scores have their 95 % interval in brackets, but for results.csv. Each plot of bars over a field, such as seeds, has
a table of means, with the lowest and the highest in brackets. Invariant: the same results give the same tables. Points
that failed or have not run yet are listed as such.
"""

import base64
import csv
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nova_jax.evals.digits.one_digit import wilson
from nova_jax.evals.digits.score import TASKS
from nova_jax.tools.sweeps.engine import Trial
from nova_jax.tools.sweeps.plan import Bars, Sweep, shown
from nova_jax.tools.sweeps.plots import draw, grouped, plot_name
from nova_jax.utils.files import write_atomically

STATUS = "status"
_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right }
tr.failed { color: #a00 } img { max-width: 100% }
"""


class Table(NamedTuple):
  """A table of texts, with its title if it has one."""

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str]]


def write_report(sweep: Sweep, trials: Sequence[Trial], output: Path) -> list[Path]:
  """Write all files, and return their paths."""
  columns, rows = table(trials)
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows([columns, *rows])
  paths = [output / "results.csv", output / "results.md"]
  write_atomically(paths[0], text.getvalue())
  rows = [[_short(cell, name, sweep) for name, cell in zip(columns, row, strict=True)] for row in rows]
  scores = TASKS[sweep.task].names
  means = [mean_table(plot, trials, scores) for plot in sweep.plots if isinstance(plot, Bars) and plot.over]
  means = [found for found in means if found.rows]
  tables = [*means, Table("All points" if means else "", columns, rows)]
  write_atomically(paths[1], f"# {sweep.title}\n\n{sweep.about}\n\n" + "\n".join(map(markdown, tables)))
  pictures = []
  for plot in sweep.plots:
    picture = draw(plot, trials, scores)
    if picture is not None:
      path = output / "plots" / f"{_slug(plot_name(plot))}.png"
      write_atomically(path, picture)
      pictures.append((plot_name(plot), picture))
      paths.append(path)
  paths.append(output / "index.html")
  write_atomically(paths[-1], page(sweep, tables, pictures))
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


def mean_table(plot: Bars, trials: Sequence[Trial], scores: Sequence[str]) -> Table:
  """Return a row for each bar: means over its points, and of scores the lowest and the highest."""
  bars = grouped(plot, trials, scores)
  measured = list(dict.fromkeys(name for done in bars.values() for trial in done for name in trial.result))
  rows = []
  for (panel, by), done in bars.items():
    row = [*([panel] if plot.panel else []), by, str(len(done))]
    for name in measured:
      values = [trial.result[name] for trial in done if name in trial.result]
      if not values:
        row.append("")
        continue
      mean = sum(values) / len(values)
      row.append(f"{mean:.3f} ({min(values):.3f}–{max(values):.3f})" if name in scores else f"{mean:.4g}")
    rows.append(row)
  columns = [*filter(None, (plot.panel, plot.by)), "runs", *measured]
  return Table(f"Means over {plot.over}, lowest and highest", columns, rows)


def markdown(table: Table) -> str:
  """Return a table as Markdown, below its title if it has one."""
  lines = [table.columns, ["---"] * len(table.columns), *table.rows]
  return (f"## {table.title}\n\n" if table.title else "") + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(sweep: Sweep, tables: Sequence[Table], pictures: Sequence[tuple[str, bytes]]) -> str:
  """Return a page that needs no other files; pictures are (name, PNG) pairs."""
  cells = lambda tag, row: "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
  body = ""
  for title, columns, rows in tables:
    body += f"<h2>{html.escape(title)}</h2>\n" if title else ""
    body += f"<table>\n<tr>{cells('th', columns)}</tr>\n" + "".join(
        f"<tr{' class=failed' if row[-1].startswith('failed') else ''}>{cells('td', row)}</tr>\n" for row in rows)
    body += "</table>\n"
  images = "\n".join(
      f'<p><img src="data:image/png;base64,{base64.b64encode(picture).decode()}" alt="{html.escape(name)}"></p>'
      for name, picture in pictures)
  return (f"<!doctype html>\n<html lang=en><meta charset=utf-8><title>{html.escape(sweep.title)}</title>"
          f"<style>{_STYLE}</style>\n<h1>{html.escape(sweep.title)}</h1>\n<p>{html.escape(sweep.about)}</p>\n{images}\n"
          f"{body}</html>\n")


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
