"""Draws the plots of a sweep: lines, bars and fronts.

Invariant: the same results give the same picture.
"""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nova_jax.evals.digits.one_digit import wilson
from nova_jax.tools.sweeps.engine import Trial
from nova_jax.tools.sweeps.plan import Bars, Front, Plot, label, shown

# What a black line over the bars is, by the prefix of the result's name: scores of real clips.
REFERENCES = {"real/": "real clips", "quantized/": "real clips, quantised"}


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
  if isinstance(plot, Bars):
    figure = draw_bars(plot, trials, scores)
  else:
    figure = Figure(figsize=(6, 4), layout="constrained")
    draw_points = draw_front if isinstance(plot, Front) else draw_lines
    figure = figure if draw_points(figure.subplots(), plot, trials) else None
  if figure is None:
    return None
  file = io.BytesIO()
  figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
  return file.getvalue()


def draw_lines(axes: Axes, plot: Plot, trials: Sequence[Trial]) -> bool:
  lines: dict[str, list[tuple[float | str, float]]] = {}
  for trial in trials:
    values = {name: _axis(value) for name, value in trial.point.items()} | dict(trial.result or {})
    if plot.x in values and plot.y in values:
      lines.setdefault(shown(trial.point.get(plot.line, "default")) if plot.line else "", []).append(
          (values[plot.x], values[plot.y]))
  is_field = plot.x in trials[0].point
  ticks = {x for pairs in lines.values() for x, _ in pairs}
  for name, pairs in lines.items():
    numbers = all(not isinstance(x, str) for x, _ in pairs)
    # Measured values, such as seconds, are connected in the order of the points, in which a field grows.
    pairs = sorted(pairs) if numbers and is_field else pairs
    axes.plot(*zip(*pairs, strict=True), "o-" if numbers else "o", label=f"{plot.line} {name}")
  if plot.log and not any(isinstance(x, str) for x in ticks):
    _log_axis(axes, sorted(ticks) if is_field else None)
  axes.set(xlabel=plot.x, ylabel=plot.y)
  axes.grid(alpha=0.3)
  if plot.line:
    axes.legend()
  return bool(lines)


def draw_front(axes: Axes, plot: Front, trials: Sequence[Trial]) -> bool:
  done = [trial for trial in trials if trial.result and plot.x in trial.result and plot.y in trial.result]
  for trial in done:
    x, y = trial.result[plot.x], trial.result[plot.y]
    if trial.point and "preset" not in trial.point:
      axes.plot(x, y, "o", color="0.6", markersize=4)
      continue
    low, high = wilson(y, trial.content["num_prompts"])
    axes.errorbar(x, y, [[y - low], [high - y]], fmt="o", color="C0", elinewidth=1)
    axes.annotate(label(trial.point), (x, y), xytext=(6, 4), textcoords="offset points")
  _log_axis(axes)
  axes.margins(x=0.2)
  axes.set(xlabel=plot.x, ylabel=plot.y)
  axes.grid(alpha=0.3)
  return bool(done)


def grouped(plot: Bars, trials: Sequence[Trial], scores: Sequence[str]) -> dict[tuple[str, str], list[Trial]]:
  """Return the points of each bar that are done, by its panel and its value of `plot.by`."""
  bars: dict[tuple[str, str], list[Trial]] = {}
  for trial in trials:
    if trial.result and all(name in trial.result for name in plot.y or scores):
      panel = shown(trial.point.get(plot.panel, "default")) if plot.panel else ""
      bars.setdefault((panel, shown(trial.point.get(plot.by, "default"))), []).append(trial)
  return bars


def draw_bars(plot: Bars, trials: Sequence[Trial], scores: Sequence[str]) -> Figure | None:
  """Return the figure of a plot of bars; None if no point is done."""
  bars, scores = grouped(plot, trials, scores), plot.y or scores
  panels, names = (list(dict.fromkeys(key[i] for key in bars)) for i in (0, 1))
  if not bars:
    return None
  figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
  places, width = np.arange(len(scores)), 0.8 / len(names)
  for axes, panel in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
    for i, name in enumerate(names):
      x = places + (i - (len(names) - 1) / 2) * width
      if (panel, name) in bars:
        _draw_bar(axes, x, width, plot, bars[panel, name], scores, color=f"C{i}", label=name)
    results = [trial.result for key, done in bars.items() if key[0] == panel for trial in done]
    for (prefix, title), style in zip(REFERENCES.items(), ("-", ":"), strict=True):
      heights = [[result[prefix + score] for score in scores] for result in results if prefix + scores[0] in result]
      if heights:
        axes.hlines(np.mean(heights, axis=0), places - 0.4, places + 0.4, "black", style, label=title)
    axes.set_xticks(places, scores)
    axes.set(ylabel="share of clips", ylim=(0, 1.02), title=f"{plot.panel} {panel}" if plot.panel else None)
    axes.grid(axis="y", alpha=0.3)
  keys = {}
  for axes in figure.axes:
    keys |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
  figure.legend(keys.values(), keys.keys(), title=plot.by, loc="outside upper center", ncols=3)
  return figure


def _draw_bar(
    axes: Axes, x: Float[np.ndarray, "scores"], width: float, plot: Bars, done: Sequence[Trial],
    scores: Sequence[str], **style: str,
) -> None:
  values = np.array([[trial.result[score] for score in scores] for trial in done])
  mean = values.mean(0)
  if plot.over:
    axes.bar(x, mean, width, **style)
    axes.plot(np.tile(x, len(done)), values.ravel(), ".", color="black", markersize=4)
  else:
    low, high = np.array([wilson(value, done[0].content["num_prompts"]) for value in mean]).T
    axes.bar(x, mean, width, yerr=[mean - low, high - mean], error_kw={"elinewidth": 1}, **style)


def _log_axis(axes: Axes, ticks: Sequence[float] | None = None) -> None:
  """Make x logarithmic, in plain numbers, which are `ticks` if given."""
  axes.set_xscale("log")
  axes.xaxis.set_major_formatter("{x:g}")
  axes.xaxis.set_minor_formatter("{x:g}")
  if ticks is not None:
    axes.set_xticks(ticks)
    axes.minorticks_off()


def _axis(value):
  """Return the position of a field's value on an axis."""
  return value if isinstance(value, (int, float)) and not isinstance(value, bool) else shown(value)
