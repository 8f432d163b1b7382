"""Replay of real bars: rows alone, and the whole engine with one agent, with some, with all.

`python -m benchmarks.replay FILE [BARS [PYTHON]]` writes the section; PYTHON is an interpreter that
has the peers of `replay_peers`. Seconds of the wall and of the processor
are both told: on a machine that others use, the processor's say more.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.__main__ import write
from quantum_ai_engine.agents.base import Past
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.config import Loaded, ReplaySettings, Settings
from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import (
    INTERVAL_MS,
    SIGNAL_SCHEMA,
    Bar,
    Policy,
    Refused,
    Risk,
    Signal,
    Stance,
    Thresholds,
    Vote,
    signal_id,
)
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.files import read_bars
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.stream import stream_bars
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.replay.backtest import Backtest
from quantum_ai_engine.replay.history import Wanted, select
from quantum_ai_engine.replay.report.summary import About
from quantum_ai_engine.replay.run import Replay
from quantum_ai_engine.replay.source import FileSource
from quantum_ai_engine.replay.step import Step
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.matrix import Admission, FeatureMatrix
from quantum_ai_engine.training.models.registry import FAMILIES
from quantum_ai_engine.training.options import TrainingError, TrainOptions

SKIPPED = 4_000  # bars: agents answer from then on
PAPER_SYMBOLS, PAPER_STEPS, START_MS = 10, 5_000, 1_704_067_200_000
SLOW_BARS = 4_000  # with a transformer of 4.8 million parameters
FIRST = 0.3  # of the file, for training
OPTIONS = TrainOptions(epochs=1, samples_per_epoch=2_000)
# Who gave the predictions that are given.
GIVEN = SimpleNamespace(name="given", bundle="0" * 12, past=Past(0.5), horizon_bars=5)
TREES = ("xgboost", "lightgbm")
CASES = {
    "engine without agents": (),
    "gru": ("gru",),
    "gru, patchtst, trees": ("gru", "patchtst", *TREES),
    "all families": tuple(FAMILIES),
}

PEERS_ARE = (
    "Peers at a smaller task, with nothing to compute but the book, in the same run: signals from "
    "given predictions, fills at the next open, costs, and their own report of it (vectorbt 1.0.0, "
    "all at once, as arrays; backtesting.py 0.6.6, a symbol at a time and no portfolio; "
    "NautilusTrader 1.221.0, event by event; `benchmarks/replay_peers.py`). None of them has "
    "features, agents, trust or a risk brain; ours ends with a page of pictures, which takes "
    "seconds however few the bars are."
)


class Taken(NamedTuple):
    """What a run took: bars, signals, seconds of the wall and of the processor."""

    bars: int
    signals: int
    wall_s: float
    cpu_s: float

    def line(self, name: str) -> str:
        return (
            f"| {name} | {self.bars:,} | {self.signals:,} | {self.bars / self.wall_s:,.0f} | "
            f"{self.bars / self.cpu_s:,.0f} |"
        )


def main(arguments: Sequence[str]) -> None:
    path, *others = arguments
    most = int(others[0]) if others else 10**9
    write("replay", shown(Path(path), most, others[1] if len(others) > 1 else None))


def section() -> str:
    """Text and table of the page, on a paper market: real bars are no part of this project."""
    market = PaperMarket(11, PAPER_SYMBOLS, start_ms=START_MS, interval="5m").table(PAPER_STEPS)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "paper.parquet"
        _write(market, path)
        return shown(path, 10**9, None)


def shown(path: Path, most: int, python: str | None) -> str:
    """The tables; `python` is an interpreter that has the peers."""
    return "\n".join(
        [
            f"The bars of `{path.name}`, {most:,} of them at most, {SLOW_BARS:,} where a "
            f"transformer answers; agents are trained on its first {FIRST:.0%}. *Features only* "
            "are the kernel's rows of all bars that the engine would take, as `qae features` makes "
            "them, in one thread. All else is the live engine with one worker beside it. What "
            "other work on the machine takes slows the first rate, and hardly the second.",
            "",
            *_table(_engines(path, most)),
            "",
            PEERS_ARE,
            "",
            *_table(_books(path, python)),
        ]
    )


def _table(lines: Iterator[str]) -> Iterator[str]:
    yield "| what | bars | signals | bars/s | bars per second of processor |"
    yield "|---|---|---|---|---|"
    for line in lines:
        print(line, flush=True)
        yield line


def _engines(path: Path, most: int) -> Iterator[str]:
    parts = list(stream_bars(path))
    yield _timed(lambda: (_rows(parts), 0)).line("features only, from bars that were read")
    yield _timed(lambda: (_rows(stream_bars(path)), 0)).line("… and from the file")
    for name, kinds in CASES.items():
        with tempfile.TemporaryDirectory() as directory:
            refused = _train(kinds, path, Path(directory))
            bars = min(most, SLOW_BARS) if "transformer" in kinds else most
            yield _replayed(kinds, path, Path(directory), bars).line(name + refused)


def _books(path: Path, python: str | None) -> Iterator[str]:
    yield _book(read_bars(path)).line("account, audit and report of `qae replay`")
    if python is not None:
        yield from _peers(path, python)


def _given(table: BarTable) -> NDArray[np.float64]:
    return np.random.default_rng(0).uniform(0.3, 0.7, len(table))


def _book(table: BarTable) -> Taken:
    """What the book alone takes, at the task of the peers: signals that are given."""
    own = ReplaySettings(capital=1e6, fee_bps=10.0, slippage_bps=0.0)
    about = About("benchmark", "", "given", table.symbols, ())
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter(), time.process_time()
        out = Path(directory) / "run"
        backtest = Backtest(Settings(replay=own), [GIVEN], out, table.symbols)
        bars = signals = 0
        for step in _told(table):
            backtest.take(step)
            bars, signals = bars + len(step.bars), signals + len(step.told.signals)
        backtest.write(about)
    return Taken(bars, signals, time.perf_counter() - began[0], time.process_time() - began[1])


def _told(table: BarTable) -> Iterator[Step]:
    """Steps with a signal for each bar: a twentieth of equity on the side of its prediction."""
    length_ms = INTERVAL_MS[table.interval]
    rows = zip(range(len(table)), _given(table).tolist(), strict=True)
    for _, group in groupby(rows, lambda row: table.open_time[row[0]]):
        bars, signals = list[Bar](), list[Signal]()
        for i, probability in group:
            with suppress(Refused):
                bars.append(table.bar(i))
                side = (probability >= 0.6) - (probability <= 0.4)
                signals.append(_signal(bars[-1], probability, side, length_ms))
        if bars:
            yield Step(tuple(bars), Round(signals=signals, processed=len(bars)))


def _signal(bar: Bar, probability: float, side: int, length_ms: int) -> Signal:
    confidence = max(2.0 * abs(probability - 0.5), 0.05)
    return Signal(
        schema=SIGNAL_SCHEMA,
        id=signal_id(bar.symbol, bar.interval, bar.close_time),
        environment="live",
        symbol=bar.symbol,
        interval=bar.interval,
        close_time=bar.close_time,
        produced_at=bar.close_time,
        valid_until=bar.close_time + 2 * length_ms,
        horizon_bars=5,
        probability=probability,
        confidence=confidence,
        stance=(Stance.FLAT, Stance.LONG, Stance.SHORT)[side],
        target=0.05 * side,
        votes=(Vote(GIVEN.name, GIVEN.bundle, probability, 1.0),),
        abstained=(),
        effective_votes=1.0,
        thresholds=Thresholds(0.6, 0.4),
        policy=Policy("NORMAL", 1.0, 1.0, "paper"),
        risk=Risk("ACTIVE", (), ()),
        schema_hash="",
        row_hash="",
        engine="benchmark",
        config_hash="",
        latency_us={},
    )


def _peers(path: Path, python: str) -> Iterator[str]:
    """What others take for signals of given predictions, fills, costs and a report."""
    table = read_bars(path)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "given.parquet"
        _write(table, file, probability=_given(table))
        for name in ("backtesting", "vectorbt", "nautilus"):
            command = [python, str(Path(__file__).with_name("replay_peers.py")), name, str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                yield f"| {name} failed: {done.stderr.splitlines()[-1]} | | | | |"
                continue
            told = json.loads(done.stdout.splitlines()[-1])
            taken = Taken(told["bars"], 0, told["wall_s"], told["cpu_s"])
            yield taken.line(name)


def _write(table: BarTable, path: Path, **others: object) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = np.array(table.symbols)[table.symbol_index]
    prices = dict(zip(("open", "high", "low", "close", "volume"), table.ohlcv.T, strict=True))
    columns = {"time": table.open_time, "symbol": names, **prices, **others}
    parquet.write_table(pa.table(columns), path)


def _rows(parts: object) -> int:
    """Rows of all bars that the engine would take, as `qae features` makes them."""
    admission, matrix, taken = Admission(), FeatureMatrix(Calendars({})), 0
    for part in parts:  # type: ignore[attr-defined]
        rows, _ = matrix.rows(part.where(admission.judge(part)))
        taken += len(rows)
    return taken


def _train(kinds: Sequence[str], path: Path, directory: Path) -> str:
    """Bundles of these kinds; in words, those that cannot be trained on these bars."""
    table, refused = read_bars(path).head(FIRST), list[str]()
    for kind in kinds:
        try:
            train_bundle(kind, table, directory, OPTIONS, lambda _: None)
        except TrainingError:
            refused.append(kind)
    return f" without {', '.join(refused)}" if refused else ""


def _replayed(kinds: Sequence[str], path: Path, directory: Path, most: int) -> Taken:
    """A replay of the file, or of its first bars, once all are warm."""
    agents = load_agents(directory) if kinds else ()
    replay = Replay(Loaded(Settings(), {}), agents, "benchmark")
    history = select(FileSource(path), Wanted(), {}, replay.warm_up)

    async def run() -> Taken:
        bars = signals = 0
        began = time.perf_counter(), time.process_time()
        async for stretch in replay.stretches(history):
            if stretch.rows <= SKIPPED:  # the pool's warm-up is no part of it
                began = time.perf_counter(), time.process_time()
                continue
            bars += sum(len(step.bars) for step in stretch.steps)
            signals += sum(len(step.told.signals) for step in stretch.steps)
            if bars >= most:
                break
        return Taken(bars, signals, time.perf_counter() - began[0], time.process_time() - began[1])

    return asyncio.run(run())


def _timed(work: Callable[[], tuple[int, int]]) -> Taken:
    work()
    began = time.perf_counter(), time.process_time()
    bars, signals = work()
    return Taken(bars, signals, time.perf_counter() - began[0], time.process_time() - began[1])


if __name__ == "__main__":
    main(sys.argv[1:])
