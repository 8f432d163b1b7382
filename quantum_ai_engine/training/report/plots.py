"""The pictures of a training report, drawn by matplotlib without touching its global state."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.report.chart import (
    LIGHT,
    TEXT_POINTS,
    Chart,
    Draw,
    Theme,
    draw,
    missing_library,
    new_figure,
    png_bytes,
)
from quantum_ai_engine.training.family import Loss
from quantum_ai_engine.training.options import TrainingError
from quantum_ai_engine.training.report.importance import Importance
from quantum_ai_engine.training.report.uncertainty import Group, Z

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHEET_INCHES = (11.0, 13.2)
MOST_BARS = 24
HISTOGRAM_BINS = 30
MARKED_EPOCHS = 40  # more points than that are a line

Vector = NDArray[np.float64]


def require_matplotlib() -> None:
    """Raises `TrainingError` where the pictures cannot be drawn: better before a training."""
    if (name := missing_library()) is not None:
        raise TrainingError(
            f"the training report needs {name}: pip install 'quantum-ai-engine[report]'"
        )


def sheet(title: str, subtitle: str, charts: Sequence[Chart]) -> bytes:
    """All charts under one title, two in a row; an odd last one takes its row alone."""
    figure = new_figure(SHEET_INCHES, LIGHT)
    rows = figure.add_gridspec(2, 1, height_ratios=[0.055, 1.0])
    head, body = figure.add_subfigure(rows[0, 0]), figure.add_subfigure(rows[1, 0])
    for part in (head, body):
        part.set_facecolor(LIGHT.paper)
    head.text(0.012, 0.68, title, size=18, weight="bold", color=LIGHT.ink, va="center")
    head.text(0.012, 0.16, subtitle, size=10.5, color=LIGHT.ink, va="center")
    grid = body.add_gridspec((len(charts) + 1) // 2, 2)
    for i, chart in enumerate(charts):
        alone = i == len(charts) - 1 and i % 2 == 0
        axes = body.add_subplot(grid[i // 2, :] if alone else grid[i // 2, i % 2])
        draw(chart, axes, LIGHT)
        axes.set_title(chart.title, loc="left", size=11, weight="bold", color=LIGHT.ink, pad=8)
    return png_bytes(figure)


def losses(values: Sequence[Loss], unit: str, of_base_rate: float) -> Draw:
    """Loss by epoch or round; `of_base_rate` is the validation loss of the base rate."""
    return partial(_losses, values, unit, of_base_rate)


def reliability(by_count: Sequence[Group], by_width: Sequence[Group]) -> Draw:
    """Forecast against frequency, by groups of equal size and by the manifest's bins."""
    return partial(_reliability, by_count, by_width)


def roc(probabilities: Vector, rose: Vector, label: str) -> Draw:
    """The share of rises against that of falls among the forecasts above each threshold."""
    return partial(_roc, probabilities, rose, label)


def histogram(probabilities: Vector, rose: Vector, base_rate: float) -> Draw:
    """How the forecasts before rises and before falls are spread."""
    return partial(_histogram, probabilities, rose, base_rate)


def importances(parts: Sequence[Importance]) -> Draw:
    """The rise of the Brier score without each part, the highest on top."""
    return partial(_importances, parts[:MOST_BARS])


def _losses(
    values: Sequence[Loss], unit: str, of_base_rate: float, axes: "Axes", theme: Theme
) -> None:
    from matplotlib.ticker import MaxNLocator

    steps = np.arange(1, len(values) + 1)
    train, validation = np.array(values).T
    few = len(values) <= MARKED_EPOCHS
    axes.axhline(of_base_rate, color=theme.ink, ls=":", lw=1, label="base rate, validation")
    axes.plot(steps, train, "--o" if few else "--", color=theme.second, ms=4, label="train")
    axes.plot(steps, validation, "-s" if few else "-", color=theme.first, ms=4, label="validation")
    best = int(np.argmin(validation))
    axes.plot(
        steps[best], validation[best], "*", color=theme.first, mec=theme.ink, ms=13, label="kept"
    )
    axes.margins(x=0.06, y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel=unit, ylabel="mean cross-entropy")


def _reliability(
    by_count: Sequence[Group], by_width: Sequence[Group], axes: "Axes", theme: Theme
) -> None:
    sizes = sorted(group.count for group in by_count)
    each = f"{sizes[0]:,}" if sizes[0] == sizes[-1] else f"{sizes[0]:,}–{sizes[-1]:,}"
    means, rose = (
        np.array([getattr(g, k) for g in by_count]) for k in ("mean_probability", "rose")
    )
    low, high = (np.array([getattr(g, k) for g in by_count]) for k in ("low", "high"))
    axes.axline((0.0, 0.0), slope=1.0, color=theme.ink, ls=":", lw=1, label="perfect")
    axes.errorbar(
        means,
        rose,
        yerr=(rose - low, high - rose),
        fmt="o",
        color=theme.first,
        ms=5,
        lw=1.2,
        capsize=2.5,
        label=f"groups of {each} forecasts, ± {Z:g} s.e.",
    )
    _bins(by_width, axes, theme)
    axes.set(xlabel="forecast probability", ylabel="share that rose")
    seen = [*means, *(g.mean_probability for g in by_width)]
    _window(axes, min(seen), max(seen), min(*low, *seen), max(*high, *seen))


def _bins(by_width: Sequence[Group], axes: "Axes", theme: Theme) -> None:
    from matplotlib.patheffects import withStroke

    axes.plot(
        [g.mean_probability for g in by_width],
        [g.rose for g in by_width],
        "D",
        mfc="none",
        mec=theme.second,
        mew=1.6,
        ms=9,
        label="bins of equal width, with counts",
    )
    for g in by_width:
        axes.annotate(
            f"{g.count:,}",
            (g.mean_probability, g.rose),
            xytext=(7, -11),
            textcoords="offset points",
            size=TEXT_POINTS - 1,
            color=theme.second,
            path_effects=[withStroke(linewidth=2.5, foreground=theme.paper)],
        )


def _window(axes: "Axes", left: float, right: float, bottom: float, top: float) -> None:
    """Room around what is seen: forecasts of markets lie close to one half."""
    wide, tall = max(right - left, 0.02), max(top - bottom, 0.02)
    axes.set_xlim(max(left - 0.12 * wide, -0.02), min(right + 0.15 * wide, 1.02))
    axes.set_ylim(max(bottom - 0.1 * tall, -0.02), min(top + 0.45 * tall, 1.25))


def _roc(probabilities: Vector, rose: Vector, label: str, axes: "Axes", theme: Theme) -> None:
    thresholds = np.unique(probabilities)[::-1]
    ups, downs = (np.sort(probabilities[rose == side]) for side in (1.0, 0.0))
    hit, false = (
        np.append(0.0, 1.0 - np.searchsorted(some, thresholds, side="left") / len(some))
        for some in (ups, downs)
    )
    axes.axline((0.0, 0.0), slope=1.0, color=theme.ink, ls=":", lw=1, label="no ranking, 0.5")
    axes.fill_between(false, hit, false, color=theme.first, alpha=0.12, lw=0)
    axes.plot(false, hit, color=theme.first, lw=1.8, label=label)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set(xlabel="share of the falls above a threshold", ylabel="share of the rises above it")


def _histogram(
    probabilities: Vector, rose: Vector, base_rate: float, axes: "Axes", theme: Theme
) -> None:
    seen = (min(probabilities.min(), base_rate), max(probabilities.max(), base_rate))
    room = max(0.03 * (seen[1] - seen[0]), 0.005)
    edges = np.linspace(max(seen[0] - room, 0.0), min(seen[1] + room, 1.0), HISTOGRAM_BINS + 1)
    ups, downs = (np.histogram(probabilities[rose == side], edges)[0] for side in (1.0, 0.0))
    axes.stairs(ups, edges, fill=True, color=theme.first, alpha=0.3)
    axes.stairs(ups, edges, color=theme.first, lw=1.4, label=f"rose ({ups.sum():,})")
    axes.stairs(downs, edges, color=theme.second, lw=1.8, ls="--", label=f"fell ({downs.sum():,})")
    axes.axvline(base_rate, color=theme.ink, ls=":", lw=1, label=f"base rate {base_rate:.3f}")
    axes.set_ylim(0.0, 1.35 * max(ups.max(), downs.max()))
    axes.set(xlabel="forecast probability", ylabel="held-out forecasts")


def _importances(parts: Sequence[Importance], axes: "Axes", theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    at = np.arange(len(parts))
    rises, errors = np.array([(p.rise, p.stderr) for p in parts]).T
    sure = rises > Z * errors
    colours = [theme.first if shown else theme.faint for shown in sure]
    axes.barh(at, rises, color=colours, height=0.66)
    axes.errorbar(rises, at, xerr=Z * errors, fmt="none", ecolor=theme.ink, elinewidth=1, capsize=2)
    axes.axvline(0.0, color=theme.ink, lw=1)
    axes.set_yticks(at, [p.name for p in parts])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"rise of the Brier score when shuffled, ± {Z:g} s.e.")
