"""The pictures of a backtest's report."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.replay.audit import Scored
from quantum_ai_engine.replay.money import Block, Month
from quantum_ai_engine.replay.report.summary import Curve, Report, Rolling, Z
from quantum_ai_engine.replay.tape import Taped
from quantum_ai_engine.replay.words import plain
from quantum_ai_engine.report.chart import TEXT_POINTS, WIDE_INCHES, Chart, Draw, Theme, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = ("-", "--", "-.", ":")
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
MOST_YEARS = 25
EXPOSURE_POINTS = 150  # more would be a block of ink

Vector = NDArray[np.float64]


def of_money(r: Report) -> Iterator[Chart]:
    """Equity, exposure, blocks, trades and months; none of what there is nothing."""
    money = r.money
    if r.curve.equity:
        says = (
            "Equity at closes, in multiples of the capital, after all costs; below, how far it is "
            "under its highest so far."
        )
        draw = equity(r.curve, money.worth.capital)
        yield Chart("Equity and drawdown", says, draw, (WIDE_INCHES[0], 4.6))
        says = "Sum of all positions, and longs minus shorts, as multiples of equity."
        yield Chart("Exposure", says, exposure(r.curve))
    if r.blocks:
        says = "The return of each block after costs; the dashed line is their mean."
        yield Chart("Return per block", says, block_returns(r.blocks))
    if r.tape is not None and r.tape.fills:
        says = (
            f"The last {len(r.tape.bars)} bars of {r.tape.instrument}, the most traded, and what "
            "was filled at their opens; larger marks are larger fills."
        )
        yield Chart(f"Trades of {r.tape.instrument}", says, tape(r.tape), WIDE_INCHES)
    if money.months:
        years = len({one.year for one in money.months})
        says = "Return of each month after costs, in percent; the first and last may be parts."
        height = 1.3 + 0.32 * min(years, MOST_YEARS)
        yield Chart("Months", says, months(money.months), (WIDE_INCHES[0], height))


def of_audit(r: Report) -> Iterator[Chart]:
    """Reliability, skill, trust and gates; none of what there is nothing."""
    if r.audit.sources:
        says = (
            "Forecast probability against the share that rose; on the dotted line a forecast is "
            "worth its word. Counts are the ensemble's."
        )
        yield Chart("Reliability", says, reliability(r.audit.sources))
    if r.rolling.at_ms:
        says = (
            "The base rate's Brier score minus the ensemble's, over windows of about "
            f"{r.rolling.window_outcomes:,.0f} outcomes. Only where the whole band is above 0 is "
            "there skill."
        )
        yield Chart("Rolling skill", says, skill(r.rolling))
    if r.rolling.trust_ms and r.rolling.trust:
        says = "Whose forecast counted for how much in the ensemble's, in the mean of each stretch."
        yield Chart("Trust", says, trust(r.rolling))
    if r.passage.signals:
        ends = [(plain(name), count) for name, count in r.passage.stopped.items()]
        says = "Where signals came to: stopped at a gate, so that the target was 0, or passed."
        yield Chart("Gates", says, gates([*ends, ("passed", r.passage.passed)]))


def equity(curve: Curve, capital: float) -> Draw:
    """Equity and holding everything, in multiples of the capital, above the drawdown."""
    return partial(_equity, curve, capital)


def exposure(curve: Curve) -> Draw:
    """Gross and net exposure over time."""
    return partial(_exposure, curve)


def block_returns(blocks: Sequence[Block]) -> Draw:
    """The return of each block, in percent."""
    return partial(_block_returns, blocks)


def reliability(sources: Sequence[Scored]) -> Draw:
    """Forecast against frequency, the ensemble's as points with their counts."""
    return partial(_reliability, sources)


def skill(rolling: Rolling) -> Draw:
    """The ensemble's rolling skill with its band."""
    return partial(_skill, rolling)


def trust(rolling: Rolling) -> Draw:
    """Shares of trust over time, one above the other."""
    return partial(_trust, rolling)


def months(found: Sequence[Month]) -> Draw:
    """Returns by year and month, as a map."""
    return partial(_months, found)


def tape(taped: Taped) -> Draw:
    """The last bars of an instrument with its fills."""
    return partial(_tape, taped)


def gates(counts: Sequence[tuple[str, int]]) -> Draw:
    """How many signals came to an end at each gate."""
    return partial(_gates, counts)


def _equity(curve: Curve, capital: float, axes: "Axes", theme: Theme) -> None:
    times = _times(curve.first_ms)
    below = _below(axes, theme)
    axes.axhline(1.0, color=theme.ink, ls=":", lw=1)
    axes.plot(
        times,
        curve.held,
        color=theme.second,
        lw=1.1,
        ls="--",
        label="buying and holding everything",
    )
    axes.plot(
        times, np.array(curve.equity) / capital, color=theme.first, lw=1.6, label="the account"
    )
    axes.set(ylabel="multiple of the capital")
    depth = -100.0 * np.array(curve.drawdown)
    below.fill_between(times, depth, 0.0, color=theme.second, alpha=0.35, lw=0)
    below.plot(times, depth, color=theme.second, lw=0.9)
    below.set(ylabel="drawdown, %")
    _dates(below, theme)


def _exposure(curve: Curve, axes: "Axes", theme: Theme) -> None:
    each = -(-len(curve.gross) // EXPOSURE_POINTS)
    starts = np.arange(0, len(curve.gross), each)
    times = _times(np.array(curve.first_ms)[starts])
    sizes = np.diff(np.append(starts, len(curve.gross)))
    gross, net = (np.add.reduceat(row, starts) / sizes for row in (curve.gross, curve.net))
    axes.axhline(0.0, color=theme.ink, ls=":", lw=1)
    axes.fill_between(times, gross, 0.0, color=theme.first, alpha=0.3, lw=0, label="gross")
    axes.plot(times, net, color=theme.second, lw=1.1, label="net")
    axes.set(ylabel="exposure, × equity")
    _roof(axes)
    _dates(axes, theme)


def _block_returns(blocks: Sequence[Block], axes: "Axes", theme: Theme) -> None:
    returns = 100.0 * np.array([block.total_return for block in blocks])
    at = np.arange(1, len(returns) + 1)
    if len(returns) > 400:  # bars would be thinner than what is printed
        axes.vlines(at, 0.0, returns, color=theme.first, lw=0.5)
    else:
        colours = [theme.first if one >= 0.0 else theme.second for one in returns]
        hatches = ["" if one >= 0.0 else "///" for one in returns] if len(returns) < 60 else ""
        axes.bar(at, returns, color=colours, hatch=hatches, edgecolor=theme.paper, lw=0.2)
    axes.axhline(0.0, color=theme.ink, lw=1)
    axes.axhline(float(returns.mean()), color=theme.ink, lw=1, ls="--", label="mean (RPB)")
    axes.set(xlabel="block", ylabel="return, %")
    _roof(axes)


def _reliability(sources: Sequence[Scored], axes: "Axes", theme: Theme) -> None:
    axes.axline((0.5, 0.5), slope=1.0, color=theme.ink, ls=":", lw=1, label="perfect")
    seen: list[float] = []
    for i, source in enumerate(sources):
        p, rose = (
            [getattr(b, name) for b in source.calibration] for name in ("mean_probability", "rose")
        )
        seen += p + rose
        is_whole = i == len(sources) - 1
        axes.plot(
            p,
            rose,
            _LINES[i % len(_LINES)] if not is_whole else "-",
            marker="o" if is_whole else ".",
            color=theme.first if is_whole else theme.second,
            alpha=1.0 if is_whole else 0.75,
            lw=1.6 if is_whole else 0.9,
            label=source.name,
        )
        for b in source.calibration if is_whole else ():
            axes.annotate(
                f"{b.count:,}",
                (b.mean_probability, b.rose),
                xytext=(5, -11),
                textcoords="offset points",
                size=TEXT_POINTS - 2,
                color=theme.ink,
            )
    if seen:
        low, high = min(seen), max(seen)
        room = max(0.1 * (high - low), 0.02)
        axes.set_xlim(max(low - room, -0.02), min(high + 1.6 * room, 1.02))
        axes.set_ylim(max(low - room, -0.02), high + 3.0 * room)
    axes.set(xlabel="forecast probability", ylabel="share that rose")


def _skill(rolling: Rolling, axes: "Axes", theme: Theme) -> None:
    axes.axhline(0.0, color=theme.ink, ls=":", lw=1.2, label="base rate")
    times, mean = _times(rolling.at_ms), np.array(rolling.skill)
    half = Z * np.array(rolling.stderr)
    axes.fill_between(
        times, mean - half, mean + half, color=theme.first, alpha=0.22, lw=0, label=f"± {Z:g} s.e."
    )
    axes.plot(times, mean, color=theme.first, lw=1.5, label="ensemble")
    axes.set(ylabel="Brier score saved")
    _roof(axes)
    _dates(axes, theme)


def _trust(rolling: Rolling, axes: "Axes", theme: Theme) -> None:
    from matplotlib.colors import to_rgba

    times = _times(rolling.trust_ms)
    names = list(rolling.trust)
    shares = np.array([rolling.trust[name] for name in names])
    colours = [to_rgba(theme.first, 0.9 - 0.65 * i / len(names)) for i in range(len(names))]
    parts = axes.stackplot(times, shares, labels=names, colors=colours, lw=0.6, ec=theme.paper)
    for part, hatch in zip(parts, ("", "///", "...", "\\\\\\", "xxx", "|||") * 9, strict=False):
        part.set_hatch(hatch)
    axes.set(ylabel="share of trust", ylim=(0.0, 1.35))
    axes.set_yticks(np.linspace(0.0, 1.0, 6))
    _dates(axes, theme)


def _months(found: Sequence[Month], axes: "Axes", theme: Theme) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    years = sorted({one.year for one in found})[-MOST_YEARS:]
    grid = np.full((len(years), 12), np.nan)
    for one in found:
        if one.year in years:
            grid[years.index(one.year), one.month - 1] = 100.0 * one.total_return
    most = max(float(np.nanmax(np.abs(grid))), 0.1)
    ends = [_mixed(theme.second, theme), theme.paper, _mixed(theme.first, theme)]
    colours = LinearSegmentedColormap.from_list("", ends)
    axes.imshow(np.ma.masked_invalid(grid), cmap=colours, vmin=-most, vmax=most, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            axes.text(
                column, row, f"{value:+.1f}".replace("-", "−"), ha="center", va="center",
                size=TEXT_POINTS - 1, color=theme.ink,
            )  # fmt: skip
    axes.set_xticks(range(12), _MONTHS)
    axes.set_yticks(range(len(years)), [str(year) for year in years])


def _tape(taped: Taped, axes: "Axes", theme: Theme) -> None:
    at, opens, highs, lows, closes = np.array(taped.bars).T
    times = _days(at)
    width = 0.7 * float(np.diff(times).min()) if len(times) > 1 else 1e-4
    axes.xaxis_date()
    rose = closes >= opens
    axes.vlines(times, lows, highs, color=theme.ink, lw=0.5, alpha=0.7)
    axes.bar(
        times[rose], (closes - opens)[rose], width, opens[rose], color=theme.paper,
        edgecolor=theme.ink, lw=0.5,
    )  # fmt: skip
    axes.bar(
        times[~rose], (opens - closes)[~rose], width, closes[~rose], color=theme.ink,
        edgecolor=theme.ink, lw=0.5,
    )  # fmt: skip
    most = max((abs(units) for _, _, units in taped.fills), default=1.0)
    for side, mark, colour in ((1.0, "^", theme.first), (-1.0, "v", theme.second)):
        own = [fill for fill in taped.fills if fill[2] * side > 0.0]
        axes.scatter(
            _days([fill[0] for fill in own]),
            np.array([fill[1] for fill in own]),
            s=[8.0 + 60.0 * abs(fill[2]) / most for fill in own],
            marker=mark, color=colour, edgecolors=theme.paper, linewidths=0.5, zorder=3,
            label="bought" if side > 0.0 else "sold",
        )  # fmt: skip
    axes.set(ylabel="price")
    axes.margins(x=0.01)
    low, high = axes.get_ylim()
    axes.set_ylim(float(lows.min()) - 0.02 * (high - low), float(highs.max()) + 0.15 * (high - low))
    _dates(axes, theme)


def _gates(counts: Sequence[tuple[str, int]], axes: "Axes", theme: Theme) -> None:
    at = np.arange(len(counts))
    values = np.array([count for _, count in counts], dtype=np.float64)
    share = 100.0 * values / max(values.sum(), 1.0)
    axes.barh(at, share, color=[theme.second] * (len(counts) - 1) + [theme.first], height=0.66)
    for row, (_, count) in enumerate(counts):
        axes.annotate(
            f"{count:,}", (share[row], row), xytext=(4, 0), textcoords="offset points",
            va="center", size=TEXT_POINTS - 1, color=theme.ink,
        )  # fmt: skip
    axes.set_yticks(at, [name for name, _ in counts])
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("share of all signals, %")


def _mixed(colour: str, theme: Theme) -> str:
    """Half of a colour on the paper: what is written on it can still be read."""
    from matplotlib.colors import to_hex, to_rgb

    pairs = zip(to_rgb(colour), to_rgb(theme.paper), strict=True)
    red, green, blue = (0.55 * own + 0.45 * paper for own, paper in pairs)
    return to_hex((red, green, blue))


def _below(axes: "Axes", theme: Theme) -> "Axes":
    """A second part of the picture below the first, over the same times."""
    place = axes.get_subplotspec()
    assert place is not None
    grid = place.subgridspec(2, 1, height_ratios=(2.6, 1.0))
    axes.set_subplotspec(grid[0])
    below = axes.figure.add_subplot(grid[1], sharex=axes)
    axes.tick_params(labelbottom=False)
    style(below, theme)
    return below


def _times(at_ms: Any) -> NDArray[np.datetime64]:
    return np.asarray(at_ms, dtype=np.int64).astype("datetime64[ms]")


def _days(at_ms: Any) -> Vector:
    """Moments as matplotlib counts them: widths are then numbers, too."""
    return np.asarray(at_ms, dtype=np.float64) / 86_400_000.0


def _dates(axes: "Axes", theme: Theme) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator: Callable[..., Any] = AutoDateLocator
    ticks = locator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(ticks)
    formatter: Callable[..., Any] = ConciseDateFormatter
    axes.xaxis.set_major_formatter(formatter(ticks))
    axes.xaxis.get_offset_text().set(size=TEXT_POINTS - 1, color=theme.ink)


def _roof(axes: "Axes") -> None:
    """Room for the legend above what is drawn."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.3 * (high - low))
