"""A long replay, with account, audit and report: what its memory does.

`python -m benchmarks.replay_memory [BARS]` writes the section; ten million bars take most of an
hour. The bars are those of the paper market, made part by part into a file.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.__main__ import write
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

SECTION, BARS, SYMBOLS, STEPS = "replay_memory", 10_000_000, 10, 50_000
TRAINED_STEPS = 3_000
START_MS = 1_262_304_000_000  # 2010: even a million minutes are over by now
EVERY_S = 5.0
MIB = float(1 << 20)
WARM, PARTS = 0.1, 10  # share before which memory may grow; points of the table
KINDS = ("sigor", "momentum")
# Who is quarantined is silent, and costs nothing: here nobody is, after millions of bars.
HEARD = ("supervisor.block_bars=10000", "supervisor.false_alarm_bars=1000000000000000")


def section() -> str:
    """Text and table of the page."""
    return shown(BARS)


def shown(bars: int) -> str:
    """The same for so many bars."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        market = PaperMarket(5, SYMBOLS, start_ms=START_MS)
        history = market.table(TRAINED_STEPS)
        for kind in KINDS:
            train_bundle(kind, history, directory / "bundles", TrainOptions(), lambda _: None)
        made = _make(directory / "bars.parquet", market, bars)
        size = (directory / "bars.parquet").stat().st_size
        samples = list(_replay(directory))
    took_s = samples[-1][0]
    warm = [(made * t / took_s, rss) for t, rss in samples if t >= WARM * took_s]
    growth = np.polyfit(*np.array(warm).T, 1)[0] * 1e6
    middle = [samples[min(len(samples) - 1, len(samples) * i // PARTS)] for i in range(PARTS + 1)]
    head = " | ".join(f"{i / PARTS:.0%}" for i in range(PARTS + 1))
    row = " | ".join(f"{rss:,.0f}" for _, rss in middle)
    return "\n".join(
        [
            f"`qae replay` of {made:,} bars of the paper market ({SYMBOLS} symbols, a file of "
            f"{size / MIB:,.0f} MiB) with {' and '.join(KINDS)}, account, audit and report: "
            f"{took_s:,.0f} s, {made / took_s:,.0f} bars/s, at most "
            f"{max(rss for _, rss in samples):,.0f} MiB of resident memory. After the first tenth "
            f"it grew by {growth:+.2f} MiB per million bars (least squares). In MiB, by share of "
            "the time:",
            "",
            f"| {head} |",
            "|" + "---|" * (PARTS + 1),
            f"| {row} |",
        ]
    )


def _make(path: Path, market: PaperMarket, bars: int) -> int:
    """Write the bars; how many there are."""
    made, file = 0, None
    try:
        while made < bars:
            part = market.table(min(STEPS, -(-(bars - made) // SYMBOLS)))
            names = np.array(part.symbols)[part.symbol_index]
            columns = dict(
                zip(("open", "high", "low", "close", "volume"), part.ohlcv.T, strict=True)
            )
            table = pa.table({"symbol": names, "open_time": part.open_time, **columns})
            file = file or parquet.ParquetWriter(path, table.schema)
            file.write_table(table)
            made += len(part)
    finally:
        if file is not None:
            file.close()
    return made


def _replay(directory: Path) -> Iterator[tuple[float, float]]:
    """Replay it in a process of its own: seconds since the start and MiB, now and then."""
    words = ["replay", "--data", "bars.parquet", "--interval", "1m", "--bundles", "bundles"]
    words += [word for one in HEARD for word in ("--set", one)]
    began = time.monotonic()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "quantum_ai_engine", *words], cwd=directory, stderr=log
        )
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
            if found:
                yield time.monotonic() - began, float(found[0]) / 1024
            time.sleep(EVERY_S)
    if process.returncode != 0:
        raise SystemExit((directory / "log").read_text()[-2000:])


if __name__ == "__main__":
    write(SECTION, shown(int(sys.argv[1]) if len(sys.argv) > 1 else BARS))
