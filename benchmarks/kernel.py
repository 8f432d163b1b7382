"""The feature kernel: a bar from Python, a loop over history, bursts of symbols, and starting."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Timing, measure
from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.columns import EVERYTHING
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import FeatureStore
from quantum_ai_engine.market.paper import PaperMarket

BARS, SYMBOLS, CALLS, CHUNK = 1_000_000, 1_000, 20_000, 1_024
PYTHON_BARS, STARTS, COLD_STARTS, BURSTS = 500, 5, 3, 51
CACHES_BYTES = 256 * 1024 * 1024
START_MS = 1_735_689_600_000
_LIVE = (
    "import time; began = time.perf_counter(); import numpy as np; from numba import njit\n"
    "numba = time.perf_counter(); from quantum_ai_engine.features import kernel, golden\n"
    "bar, out = golden.bars()[0], np.empty(kernel.COLUMN_COUNT)\n"
    "kernel.step(kernel.new_states(1)[0], bar, out, kernel.EVERYTHING)\n"
    "print(numba - began, time.perf_counter() - numba)"
)
_PYTHON = (
    "import time, numpy as np; from quantum_ai_engine.features import kernel, golden\n"
    f"bars = golden.bars()[:{PYTHON_BARS}]; np.seterr(all='ignore'); t = time.perf_counter()\n"
    f"kernel.matrix(bars); print((time.perf_counter() - t) / {PYTHON_BARS})"
)


def section() -> str:
    """Text and tables of the page."""
    sets = ", ".join(f"`{s.name}` {len(s.columns)}" for s in SETS.values())
    lines = [
        f"All {kernel.COLUMN_COUNT} columns, one core. The last column says how many times slower "
        f"the same source is when Python runs it uncompiled.",
        "",
        "| what | per bar | uncompiled |",
        "|---|---|---|",
        *_speeds(),
        "",
        f"Asked for the columns of one set alone ({sets} columns), the kernel advances its whole "
        "state all the same, and skips the stages that make none of them:",
        "",
        "| asked for | called from Python | in a loop |",
        "|---|---|---|",
        *_partial(),
        "",
        "With the set's rows stored in its rings, of which windows are views, as the engine pays "
        "for it:",
        "",
        "| set | window | one bar of one symbol | a bar of each of 1,000 symbols, per bar |",
        "|---|---|---|---|",
        *_stored(),
        "",
        *_sizes_and_starts(),
    ]
    return "\n".join(lines)


def paper_bars(n: int) -> NDArray[np.float64]:
    """n bars of one symbol, as the kernel reads them [n, BAR_WIDTH]."""
    table = PaperMarket(1, 1, start_ms=START_MS).table(n + n // 1_000 + 64)
    times, ohlcv = table.of("BTCUSDT")
    return Calendars({}).of("BTCUSDT").rows(times[:n], ohlcv[:n], 60_000)


def after(
    prepare: Callable[[], object], work: Callable[[], object], units: int, runs: int
) -> Timing:
    """Time `work` alone, each time after `prepare`."""
    seconds = []
    for _ in range(runs):
        prepare()
        started = time.perf_counter()
        work()
        seconds.append((time.perf_counter() - started) / units)
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def steps(bars: NDArray[np.float64], calls: int, asked: int = EVERYTHING) -> Callable[[], None]:
    """One call from Python per bar, for `calls` bars."""
    rows, out = [bars[i] for i in range(calls)], np.empty(kernel.COLUMN_COUNT)
    state = kernel.new_states(1)[0]

    def work() -> None:
        step = kernel.step
        for bar in rows:
            step(state, bar, out, asked)

    return work


def loop(bars: NDArray[np.float64], asked: int = EVERYTHING) -> Callable[[], None]:
    """All bars in chunks, so that the rows stay in the cache."""
    out = np.empty((CHUNK, kernel.COLUMN_COUNT))
    state = kernel.new_states(1)[0]

    def work() -> None:
        for start in range(0, len(bars), CHUNK):
            part = bars[start : start + CHUNK]
            kernel.history(state, part, out[: len(part)], asked)

    return work


def bursts(bars: NDArray[np.float64], symbols: int) -> Callable[[], None]:
    """One bar of each symbol a call; every symbol walks through `bars`, one bar behind the last."""
    states, series = kernel.new_states(symbols), np.arange(symbols)
    out, counts = np.empty((symbols, kernel.COLUMN_COUNT)), np.empty(symbols, dtype=np.int64)
    moment = 0

    def work() -> None:
        nonlocal moment
        kernel.burst(states, series, bars[moment : moment + symbols], out, counts, EVERYTHING)
        moment = (moment + 1) % (len(bars) - symbols)

    for _ in range(kernel.RING):
        work()
    return work


def _speeds() -> list[str]:
    bars = paper_bars(BARS)
    burst = bursts(bars, SYMBOLS)
    flushed = np.zeros(CACHES_BYTES, dtype=np.uint8)

    def flush() -> None:
        np.add(flushed, 1, out=flushed)

    timings = {
        f"one bar of one symbol, called from Python ({CALLS:,} calls)": measure(
            steps(bars, CALLS), CALLS
        ),
        f"loop over {BARS:,} bars of one symbol, rows reused": measure(loop(bars), BARS, 5),
        f"the same, the whole matrix written ({BARS * kernel.COLUMN_COUNT * 8 / 1e9:.2f} GB)": (
            _matrix(bars)
        ),
        f"burst of {SYMBOLS:,} symbols, repeated": measure(burst, SYMBOLS, BURSTS),
        f"burst of {SYMBOLS:,} symbols, after {CACHES_BYTES >> 20} MiB of other memory": after(
            flush, burst, SYMBOLS, BURSTS
        ),
    }
    python_s = float(_fresh(_PYTHON, {"NUMBA_DISABLE_JIT": "1"})[0])
    return [
        f"| {what} | {t.show('ns')} | {python_s / t.median_s:,.0f} × |"
        for what, t in timings.items()
    ]


def _matrix(bars: NDArray[np.float64]) -> Timing:
    out = np.empty((len(bars), kernel.COLUMN_COUNT))
    return measure(lambda: kernel.history(kernel.new_states(1)[0], bars, out), len(bars), 5)


def _partial() -> list[str]:
    bars = paper_bars(CALLS)
    rows = []
    for s in SETS.values():
        live = measure(steps(bars, CALLS, s.asked), CALLS)
        rows.append(f"| `{s.name}` | {live.show('ns')} | {_looped(bars, s.asked)} |")
    nothing = measure(steps(bars, CALLS, 0), CALLS)
    rows.append(f"| nothing: the state alone | {nothing.show('ns')} | {_looped(bars, 0)} |")
    return rows


def _looped(bars: NDArray[np.float64], asked: int) -> str:
    return measure(loop(bars, asked), len(bars)).show("ns")


def _stored() -> list[str]:
    bars = paper_bars(4_000)
    rows = []
    for s in SETS.values():
        cells = []
        for symbols, runs in ((1, 501), (SYMBOLS, 9)):
            store = FeatureStore((s,), symbols)
            work = _store_steps(store, bars, symbols)
            unit = "µs" if symbols == 1 else "ns"
            cells.append(measure(work, symbols, runs).show(unit))
        rows.append(f"| `{s.name}` | {s.window} × {len(s.columns)} | {' | '.join(cells)} |")
    return rows


def _store_steps(
    store: FeatureStore, bars: NDArray[np.float64], symbols: int
) -> Callable[[], None]:
    series, moment = np.arange(symbols), 0

    def work() -> None:
        nonlocal moment
        store.step(series, bars[moment : moment + symbols])
        moment = (moment + 1) % (len(bars) - symbols)

    for _ in range(4):
        work()
    return work


def _sizes_and_starts() -> list[str]:
    whole = FeatureStore(tuple(SETS.values()), 1)
    warm, cold = _starts()
    return [
        "| size and start | |",
        "|---|---|",
        f"| kernel state of one symbol | {kernel.STATE_WIDTH * 8:,} bytes |",
        f"| in a snapshot, with its recent bars | {len(whole.snapshot([0]).body):,} bytes |",
        f"| import of NumPy and numba | {_seconds([a for a, _ in warm])} |",
        f"| then to the first row, compiled before | {_seconds([b for _, b in warm])} |",
        f"| then to the first row, empty cache: everything compiled | "
        f"{_seconds([b for _, b in cold])} |",
    ]


def _seconds(values: list[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:.2f} s ({min(values):.2f}–{max(values):.2f})"


def _starts() -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Seconds to import numba and from there to the first row: cached starts and cold ones."""
    warm, cold = [], []
    for i in range(COLD_STARTS):
        with tempfile.TemporaryDirectory() as directory:
            cold.append(_start(directory))
            if i == 0:
                warm = [_start(directory) for _ in range(STARTS)]
    return warm, cold


def _start(cache: str) -> tuple[float, float]:
    numba, first_row = map(float, _fresh(_LIVE, {"NUMBA_CACHE_DIR": cache}))
    return numba, first_row


def _fresh(code: str, environment: dict[str, str]) -> list[str]:
    """The words that a process of its own prints."""
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.split()
