"""What grows and what does not: cost per bar against symbols and against history, plotted."""

from pathlib import Path

import numpy as np

from benchmarks.kernel import bursts, paper_bars
from benchmarks.measure import Timing, measure
from quantum_ai_engine.features import kernel

PLOT = Path(__file__).parents[1] / "docs" / "growth.svg"
SYMBOLS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
HISTORY = (1_000, 10_000, 100_000, 1_000_000)
BARS_PER_RUN, NEXT_BARS = 10_000, 2_000


def section() -> str:
    """Text and tables of the page; the plot beside it."""
    bars = paper_bars(HISTORY[-1] + NEXT_BARS)
    symbols = {n: _burst(bars, n) for n in SYMBOLS}
    history = {n: _after_history(bars, n) for n in HISTORY}
    _plot(symbols, history)
    return "\n".join(
        [
            f"All {kernel.COLUMN_COUNT} columns, ns per bar. Windows are fixed, so there are two "
            "things that can grow: the symbols of a burst, whose states "
            f"({kernel.STATE_WIDTH * 8:,} bytes each) leave the caches one after the other, and "
            "the history behind a bar, which the kernel does not keep. A burst of few symbols "
            "pays for the call from Python alone; one whose states outgrow the last cache pays "
            "for memory.",
            "",
            "![cost per bar as symbols and history grow](growth.svg)",
            "",
            "| symbols in a burst | states | per bar |",
            "|---|---|---|",
            *(
                f"| {n:,} | {n * kernel.STATE_WIDTH * 8 / 2**20:,.2f} MiB | {t.show('ns')} |"
                for n, t in symbols.items()
            ),
            "",
            f"| bars before | the next {NEXT_BARS:,} bars, per bar |",
            "|---|---|",
            *(f"| {n:,} | {t.show('ns')} |" for n, t in history.items()),
        ]
    )


def _burst(bars: np.ndarray, symbols: int) -> Timing:
    burst, repeats = bursts(bars, symbols), max(1, BARS_PER_RUN // symbols)

    def work() -> None:
        for _ in range(repeats):
            burst()

    return measure(work, repeats * symbols, 15)


def _after_history(bars: np.ndarray, n: int) -> Timing:
    """The next bars, again and again from the state after n bars."""
    state, out = kernel.new_states(1)[0], np.empty((1_000, kernel.COLUMN_COUNT))
    for start in range(0, n, 1_000):
        kernel.history(state, bars[start : start + 1_000], out)

    def work() -> None:
        continued = state.copy()
        for start in range(n, n + NEXT_BARS, 1_000):
            kernel.history(continued, bars[start : start + 1_000], out)

    return measure(work, NEXT_BARS, 31)


def _plot(symbols: dict[int, Timing], history: dict[int, Timing]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "growth", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    for axis, what, timings in (
        (axes[0], "symbols in a burst", symbols),
        (axes[1], "bars of history before", history),
    ):
        middle = np.array([t.median_s for t in timings.values()]) * 1e9
        low = np.array([t.lowest_s for t in timings.values()]) * 1e9
        high = np.array([t.highest_s for t in timings.values()]) * 1e9
        axis.fill_between(list(timings), low, high, alpha=0.2, linewidth=0)
        axis.plot(list(timings), middle, marker="o", markersize=3)
        axis.set(xscale="log", xlabel=what)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel=f"ns per bar, {kernel.COLUMN_COUNT} columns")
    top = max(t.median_s for t in (*symbols.values(), *history.values())) * 1e9
    axes[0].set_ylim(0, 1.6 * top)
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)
