"""Plots of figures as SVG, drawn by matplotlib."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from measure.model import Figure, Plot
from measure.summary import cases, contestants, find, spread

from report.quantity import Scale
from report.table import WORDS, scale_of

mpl.use("svg")
# The same figures give the same file: no date, no random ids. Text stays text, and small.
mpl.rcParams.update(
    {
        "svg.hashsalt": "dmsnap",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
    }
)
METADATA = {"Date": None, "Creator": None}
WIDTH, HEIGHT = 9.0, 4.0  # inches
WIDE_RANGE = 30  # from where on an axis is logarithmic


def draw(figure: Figure, path: Path) -> None:
    """Draw a figure that has a plot."""
    if figure.plot is Plot.DISTRIBUTION:
        canvas = distributions(figure)
    else:
        canvas = Canvas(figsize=(WIDTH, HEIGHT), layout="constrained")
        PLOTS[figure.plot](figure, canvas.subplots())
    canvas.savefig(path, metadata=METADATA)


def values_axis(figure: Figure, axes: Axes) -> Scale:
    """Label the axis of the samples; logarithmic where they reach far."""
    scale = scale_of(figure)
    axes.set_ylabel(scale.heading(WORDS[figure.unit]))
    samples = [sample for series in figure.series for sample in series.samples if sample > 0]
    if samples and max(samples) > WIDE_RANGE * min(samples):
        axes.set_yscale("log")
    return scale


def bars(figure: Figure, axes: Axes) -> None:
    """A group of bars for each case; the whiskers are the smallest and the largest sample."""
    scale = values_axis(figure, axes)
    groups, names = cases(figure), contestants(figure)
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        found = [(at, find(figure, name, case)) for at, case in enumerate(groups)]
        spreads = [(at, spread(series.samples)) for at, series in found if series]
        axes.bar(
            [at + (place - (len(names) - 1) / 2) * width for at, _ in spreads],
            [each.median / scale.size for _, each in spreads],
            width,
            yerr=[
                [(each.median - each.low) / scale.size for _, each in spreads],
                [(each.high - each.median) / scale.size for _, each in spreads],
            ],
            error_kw={"elinewidth": 0.8},
            label=name,
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(visible=False, axis="x")
    axes.legend(frameon=False, ncols=min(len(names), 4), fontsize=8)


def lines(figure: Figure, axes: Axes) -> None:
    """Medians over the position, both logarithmic: what is linear rises at 45 degrees."""
    scale = values_axis(figure, axes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks: dict[float, str] = {}
    for name in contestants(figure):
        found = [
            (series.position, spread(series.samples).median / scale.size, series.case)
            for series in figure.series
            if series.contestant == name and series.position is not None
        ]
        ticks.update({position: case for position, _, case in found})
        axes.plot(
            [position for position, _, _ in found],
            [value for _, value, _ in found],
            marker="o",
            markersize=4,
            label=name,
        )
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xlabel(figure.axis)
    axes.legend(frameon=False, fontsize=8)


def distributions(figure: Figure) -> Canvas:
    """For each case, which share of the samples lies below a value."""
    groups, scale = cases(figure), scale_of(figure)
    canvas = Canvas(figsize=(WIDTH, HEIGHT * ((len(groups) + 1) // 2) * 0.75), layout="constrained")
    grid = canvas.subplots((len(groups) + 1) // 2, 2, sharex=True, sharey=True, squeeze=False)
    for axes, case in zip(grid.flat, groups, strict=False):
        for name in contestants(figure):
            series = find(figure, name, case)
            if series is not None:
                axes.ecdf([sample / scale.size for sample in series.samples], label=name)
        axes.set_title(case, fontsize=9)
        axes.set_xscale("log")
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    canvas.supxlabel(scale.heading(WORDS[figure.unit]))
    canvas.supylabel("share of the samples")
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    return canvas


PLOTS: dict[Plot, Callable[[Figure, Axes], None]] = {Plot.BARS: bars, Plot.LINES: lines}
