"""The feature kernel: one symbol from Python, a loop over history, a burst of symbols."""

import os
import subprocess
import sys

import numpy as np

from benchmarks.measure import measure
from quantum_ai_engine.features import kernel
from quantum_ai_engine.market.paper import PaperMarket

BARS, SYMBOLS, CALLS = 200_000, 1_000, 20_000
PYTHON_BARS = 500
START_MS = 1_735_689_600_000


def table() -> list[str]:
    """Rows of a markdown table."""
    _, bars = PaperMarket(1, 1, start_ms=START_MS).table(BARS).of("BTCUSDT")
    bars = np.ascontiguousarray(bars)
    n = len(bars)
    out = np.empty((n, kernel.COLUMN_COUNT))
    rows = [bars[i] for i in range(CALLS)]

    def step() -> None:
        state, row = kernel.new_states(1)[0], out[0]
        for bar in rows:
            kernel.step(state, bar, row)

    states = kernel.new_states(SYMBOLS)
    series, counts = np.arange(SYMBOLS), np.empty(SYMBOLS, dtype=np.int64)
    timings = {
        f"one bar of one symbol, called from Python ({CALLS:,} calls)": measure(step, CALLS),
        f"loop over {n:,} bars of one symbol, matrix written": measure(
            lambda: kernel.history(kernel.new_states(1)[0], bars, out), n
        ),
        f"burst: one bar each of {SYMBOLS:,} symbols": measure(
            lambda: kernel.burst(states, series, bars[:SYMBOLS], out[:SYMBOLS], counts), SYMBOLS, 51
        ),
    }
    python_ns = _python_ns()
    return [
        f"| {what} | {t.show('ns')} | {python_ns / (t.median_s * 1e9):,.0f} × |"
        for what, t in timings.items()
    ]


def _python_ns() -> float:
    """The same source, not compiled, in a process of its own."""
    code = (
        "import time, numpy as np; from quantum_ai_engine.features import kernel, golden\n"
        f"bars = golden.bars()[:{PYTHON_BARS}]; np.seterr(all='ignore'); t = time.perf_counter()\n"
        f"kernel.matrix(bars); print((time.perf_counter() - t) / {PYTHON_BARS} * 1e9)"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return float(answer.stdout)
