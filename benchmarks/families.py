"""Every family trained on the first part of real bars and served on the rest.

`python -m benchmarks.families FILE …` writes docs/models.md.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import machine
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.agents.pool import AgentPool
from quantum_ai_engine.config import EngineSettings, Settings
from quantum_ai_engine.engine import Engine, Identity, Now
from quantum_ai_engine.events import INTERVAL_MS, Signal
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.files import read_bars
from quantum_ai_engine.market.paper import DRIFT_SIGMAS, PaperMarket
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.dataset import Samples
from quantum_ai_engine.training.export import Trained, train_bundle
from quantum_ai_engine.training.models.registry import FAMILIES
from quantum_ai_engine.training.options import TrainingError, TrainOptions
from quantum_ai_engine.training.scores import auc, held_out

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
FIRST = 0.6
BATCH = 1000
SERVED = 40_000  # bars of the rest at most
START_MS = 1_735_689_600_000
PAPER_STEPS, PAPER_SYMBOLS = 12_000, 4
OPTIONS = {
    "gru": TrainOptions(epochs=4, samples_per_epoch=60_000),
    "transformer": TrainOptions(epochs=1, samples_per_epoch=4_000, learning_rate=2e-4),
    "patchtst": TrainOptions(epochs=3, samples_per_epoch=20_000, learning_rate=3e-4),
    "nhits": TrainOptions(epochs=3, samples_per_epoch=40_000),
}


@dataclass
class Served:
    """What one agent said of the rest, and what happened."""

    probabilities: list[float] = field(default_factory=list)
    rose: list[float] = field(default_factory=list)
    close_time: list[int] = field(default_factory=list)


def main(files: Sequence[str]) -> None:
    tables = {Path(file).name: read_bars(Path(file)) for file in files}
    market = PaperMarket(11, PAPER_SYMBOLS, start_ms=START_MS)
    tables["paper market"] = market.table(PAPER_STEPS)
    text = [introduction(files)]
    for name, table in tables.items():
        text += asyncio.run(section(name, table))
        PAGE.write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


def introduction(files: Sequence[str]) -> str:
    named = " ".join(Path(file).name for file in files)
    return "\n".join(
        [
            "# The families, trained and served",
            "",
            f"Made by `python -m benchmarks.families {named}` on {machine()}. Each family is "
            f"trained by its own command's code on the first {FIRST:g} of the bars, horizon 5 "
            f"bars, and then served on the rest, at most {SERVED:,} bars, by the engine "
            "itself. *Held-out* is the bundle's own test span (the last 15 % of its part, "
            "behind an embargo), *rest* what the served agent said of bars that no training "
            "saw. Brier below the base rate's is skill; the error of their difference counts "
            "overlapping outcomes once. In liquid markets an AUC near 0.51 is honest. A model "
            "that ranks its validation span no better than chance is refused, and then there "
            "is no bundle. Nothing was tuned to these rows.",
            "",
        ]
    )


async def section(name: str, table: BarTable) -> list[str]:
    """One market: a row per family."""
    cut = int(len(table) * FIRST)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        made = {kind: timed(kind, table.head(FIRST), directory) for kind in FAMILIES}
        served = await serve(directory, table, cut)
        rows = [
            f"| {kind} | refused: {one} |"
            if isinstance(one, str)
            else row(kind, *one, served[kind], table, directory)
            for kind, one in made.items()
        ]
    planted = (
        f"The planted signal: trends of {DRIFT_SIGMAS:g} volatilities a bar in four fifths of the "
        "time. Who knew the regime of each bar, and that it lasts, would reach a Brier score of "
        f"about {known_regime():.3f} over 5 bars."
    )
    return [
        f"## {name}",
        "",
        f"{len(table):,} bars of {table.interval}, symbols: {len(table.symbols)}. For scale: minus "
        f"the last bar's return, alone, ranks all outcomes with an AUC of {bounce(table):.3f}.",
        *([planted] if name == "paper market" else []),
        "",
        "| family | train time | parameters or trees | size | held-out Brier | base rate's | AUC | "
        "bias | calibration error | rest: Brier | base rate's | paired ± error | AUC | bias | "
        "forecasts |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def bounce(table: BarTable, horizon_bars: int = 5) -> float:
    """The AUC of minus the newest return against the move over the horizon, counted in bars."""
    fell, rose = [], []
    for symbol in table.symbols:
        close = np.log(table.of(symbol)[1][:, 3])
        moved = close[1 + horizon_bars :] - close[1:-horizon_bars]
        last = (close[1:] - close[:-1])[:-horizon_bars]
        fell.append(-last[moved != 0.0])
        rose.append((moved[moved != 0.0] > 0.0).astype(np.float64))
    return auc(np.concatenate(fell), np.concatenate(rose))


def known_regime() -> float:
    """p·(1 − p) in trends, with p = Φ(drift·√5), and 1/4 in quiet times."""
    from statistics import NormalDist

    p = NormalDist().cdf(DRIFT_SIGMAS * 5**0.5)
    return 0.8 * p * (1.0 - p) + 0.2 * 0.25


def timed(kind: str, table: BarTable, directory: Path) -> tuple[Trained, float] | str:
    """What was trained and how long it took, or why it was refused."""
    started = time.perf_counter()
    try:
        trained = train_bundle(
            kind, table, directory, OPTIONS.get(kind, TrainOptions()), lambda _: None
        )
    except TrainingError as error:
        return str(error).partition(";")[0]
    seconds = time.perf_counter() - started
    print(f"{kind}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return trained, seconds


async def serve(directory: Path, table: BarTable, cut: int) -> dict[str, Served]:
    """All agents on the bars from `cut` on, by the engine, after a silent warm-up."""
    agents = load_agents(directory)
    pool = AgentPool(agents, 1, 3600.0, lambda *_: None, lambda *_: None)
    await pool.start()
    settings = Settings(engine=EngineSettings(burn_in_bars=256))
    identity = Identity("live", "benchmark", "")
    engine = Engine(settings, pool, identity, Calendars({}))
    warm = max(0, cut - 300 * len(table.symbols))
    engine.learn(list(bars_of(table.rows(warm, cut))))
    outcomes = outcomes_of(table)
    served = {agent.name: Served() for agent in agents}
    for start in range(cut, min(len(table), cut + SERVED), BATCH):
        part = list(bars_of(table.rows(start, start + BATCH)))
        done = await engine.process(part, Now(), lambda _: contextlib.nullcontext())
        for signal in done.signals:
            settle(signal, outcomes, served)
    pool.close()
    return served


def bars_of(table: BarTable) -> Iterator:  # type: ignore[type-arg]
    """The bars that are bars."""
    from quantum_ai_engine.events import Refused

    for i in range(len(table)):
        with contextlib.suppress(Refused):
            yield table.bar(i)


def outcomes_of(table: BarTable) -> dict[tuple[str, int], float]:
    """Close by symbol and close time."""
    length = INTERVAL_MS[table.interval]
    names = np.array(table.symbols)[table.symbol_index]
    times, closes = table.open_time + length, table.ohlcv[:, 3]
    return {
        (name, time_ms): close
        for name, time_ms, close in zip(
            names.tolist(), times.tolist(), closes.tolist(), strict=True
        )
    }


def settle(
    signal: Signal, outcomes: dict[tuple[str, int], float], served: dict[str, Served]
) -> None:
    """Match each vote with the bar at its horizon, if there is one and it moved."""
    horizon_ms = signal.horizon_bars * INTERVAL_MS[signal.interval]
    then = outcomes.get((signal.symbol, signal.close_time + horizon_ms))
    now = outcomes[signal.symbol, signal.close_time]
    if then is None or then == now:
        return
    for vote in signal.votes:
        kept = served[vote.agent]
        kept.probabilities.append(vote.probability)
        kept.rose.append(float(then > now))
        kept.close_time.append(signal.close_time)


def row(
    kind: str, trained: Trained, seconds: float, served: Served, table: BarTable, directory: Path
) -> str:
    m = trained.bundle.manifest
    own = m.held_out
    rest = scores(served, m.base_rate, m.horizon_bars, INTERVAL_MS[table.interval])
    size_kib = sum(p.stat().st_size for p in (directory / kind).iterdir()) / 1024
    return (
        f"| {kind} | {seconds:,.0f} s | {weight(kind, directory / kind)} | {size_kib:,.0f} KiB | "
        f"{own.brier:.4f} | {own.brier_base_rate:.4f} | {own.auc:.3f} | {own.bias:+.4f} | "
        f"{own.calibration_error:.4f} | {rest.brier:.4f} | {rest.brier_base_rate:.4f} | "
        f"{rest.paired:+.5f} ± {rest.paired_stderr:.5f} | {rest.auc:.3f} | {rest.bias:+.4f} | "
        f"{rest.samples:,} |"
    )


def scores(served: Served, base_rate: float, horizon_bars: int, interval_ms: int):  # type: ignore[no-untyped-def]
    n = len(served.rose)
    samples = Samples(
        np.arange(n), np.array(served.close_time, dtype=np.int64), np.array(served.rose)
    )
    probabilities: NDArray[np.float64] = np.array(served.probabilities)
    return held_out(probabilities, samples, base_rate, horizon_bars, interval_ms)


def weight(kind: str, path: Path) -> str:
    """Parameters of a network, trees of a forest."""
    if (path / "model.pt").exists():
        import torch

        module = torch.jit.load(str(path / "model.pt"))
        return f"{sum(p.numel() for p in module.parameters()):,}"
    if kind == "xgboost":
        import xgboost

        booster = xgboost.Booster()
        booster.load_model(next(path.glob("model.*")))
        return f"{booster.num_boosted_rounds()} trees"
    if kind == "lightgbm":
        import lightgbm

        return f"{lightgbm.Booster(model_file=str(path / 'model.txt')).num_trees()} trees"
    return "–"


if __name__ == "__main__":
    main(sys.argv[1:])
