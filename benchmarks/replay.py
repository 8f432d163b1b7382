"""Replay of real bars: rows alone, and the whole engine with one agent, with some, with all.

`python -m benchmarks.replay FILE [BARS]` prints the table. Seconds of the wall and of the processor
are both told: on a machine that others use, the processor's say more.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import machine
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.config import Loaded, Settings
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.files import read_bars
from quantum_ai_engine.market.stream import stream_bars
from quantum_ai_engine.replay.history import Wanted, select
from quantum_ai_engine.replay.run import Replay
from quantum_ai_engine.replay.source import FileSource
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.matrix import Admission, FeatureMatrix
from quantum_ai_engine.training.models.registry import FAMILIES
from quantum_ai_engine.training.options import TrainOptions

SKIPPED = 4_000  # bars: agents answer from then on
SLOW_BARS = 4_000  # with a transformer of 4.8 million parameters
FIRST = 0.3  # of the file, for training
OPTIONS = TrainOptions(epochs=1, samples_per_epoch=2_000)
TREES = ("xgboost", "lightgbm")
CASES = {
    "engine without agents": (),
    "gru": ("gru",),
    "gru, patchtst, trees": ("gru", "patchtst", *TREES),
    "all families": tuple(FAMILIES),
}


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
    path = Path(arguments[0])
    most = int(arguments[1]) if len(arguments) > 1 else 10**9
    print(machine())
    print("| what | bars | signals | bars/s | bars per second of processor |")
    print("|---|---|---|---|---|")
    parts = list(stream_bars(path))
    print(
        _timed(lambda: (_rows(parts), 0)).line("features only, from bars that were read"),
        flush=True,
    )
    print(_timed(lambda: (_rows(stream_bars(path)), 0)).line("… and from the file"), flush=True)
    for name, kinds in CASES.items():
        with tempfile.TemporaryDirectory() as directory:
            _train(kinds, path, Path(directory))
            bars = min(most, SLOW_BARS) if "transformer" in kinds else most
            print(_replayed(kinds, path, Path(directory), bars).line(name), flush=True)


def _rows(parts: object) -> int:
    """Rows of all bars that the engine would take, as `qae features` makes them."""
    admission, matrix, taken = Admission(), FeatureMatrix(Calendars({})), 0
    for part in parts:  # type: ignore[attr-defined]
        rows, _ = matrix.rows(part.where(admission.judge(part)))
        taken += len(rows)
    return taken


def _train(kinds: Sequence[str], path: Path, directory: Path) -> None:
    table = read_bars(path).head(FIRST)
    for kind in kinds:
        train_bundle(kind, table, directory, OPTIONS, lambda _: None)


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
