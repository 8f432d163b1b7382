"""`qae replay`: the live engine on recorded bars."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.bundle import bundle_paths, read_bundle
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.agents.pool import worker_count
from quantum_ai_engine.cli.common import (
    CommandError,
    ConfigOption,
    SetOption,
    UsageError,
    load_settings,
    progress_bar,
    say,
)
from quantum_ai_engine.config import Loaded, bundle_dir
from quantum_ai_engine.daemon.build import build_id, version
from quantum_ai_engine.replay.backtest import REPORT_HTML, Backtest
from quantum_ai_engine.replay.history import (
    FOREVER_MS,
    FileHistory,
    History,
    Wanted,
    open_history,
)
from quantum_ai_engine.replay.report.summary import About, Report
from quantum_ai_engine.replay.run import Replay, Stretch
from quantum_ai_engine.replay.signals import SignalFile
from quantum_ai_engine.replay.step import Step
from quantum_ai_engine.replay.words import percent
from quantum_ai_engine.report.chart import missing_library

SIGNALS = "signals.parquet"


class Follower(Protocol):
    """Whoever takes the steps of a replay, one after the other."""

    def take(self, step: Step) -> None:
        """Take the next step."""


def replay(
    data: Annotated[Path, typer.Option(help="Bars in time order: .csv, .csv.gz or .parquet.")],
    bundles: Annotated[
        Path | None, typer.Option(help="Directory of bundles.", show_default="agents.bundles")
    ] = None,
    symbols: Annotated[str | None, typer.Option(help="Only these: BTCUSDT,ETHUSDT.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="First day: 2025-01-31.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Day before which it ends.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Only the last blocks.", min=1)] = None,
    block_size: Annotated[
        int | None,
        typer.Option(help="Bars of time in a block.", min=1, show_default="a session, or 1000"),
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="Interval, when the file names none.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory to write.")] = Path("replay-report"),
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Let the live engine take recorded bars, and write what it says of them."""
    given = [*(assignments or []), *([f"agents.bundles={bundles}"] if bundles else [])]
    loaded = load_settings(config, given)
    settings = loaded.settings
    if blocks is not None and start is not None:
        raise UsageError("--blocks and --from: name one of them, either begins the replay")
    if (missing := missing_library()) is not None:
        raise CommandError(f"the report needs {missing}: pip install 'quantum-ai-engine[report]'")
    wanted = Wanted(
        tuple(name.strip() for name in symbols.split(",") if name.strip()) if symbols else (),
        _day_ms("--from", start) if start else 0,
        _day_ms("--to", end) if end else FOREVER_MS,
        blocks,
        block_size,
        interval,
    )
    venues = settings.sessions.by_symbol()
    agents = load_agents(bundle_dir(settings), settings.agents.order, venues)
    workers = worker_count(settings.agents.budget_cores, len(os.sched_getaffinity(0)))
    engine = f"{version()}+{build_id()}"
    runs = Replay(loaded, agents, engine, workers)
    history = open_history(data, wanted, venues, runs.warm_up_bars)
    for note in history.notes:
        say(note)
    _make(out)
    backtest = Backtest(settings, agents, out, history.symbols, block_size)
    try:
        told = asyncio.run(_run(runs, history, out, [backtest]))
        report = backtest.write(_about(loaded, engine, history, agents))
    finally:
        backtest.discard()
    _summarise(told, runs, out)
    _say_worth(report, out)


def _about(loaded: Loaded, engine: str, history: FileHistory, agents: Sequence[Agent]) -> About:
    directory = bundle_dir(loaded.settings)
    bundles = [read_bundle(path) for path in bundle_paths(directory)]
    trained = {bundle.manifest.name: bundle.manifest.spans.test.to_ms for bundle in bundles}
    return About(
        engine,
        loaded.config_hash,
        history.path.name,
        history.symbols,
        history.interval,
        tuple(agent.name for agent in agents),
        trained,
    )


def _say_worth(report: Report, out: Path) -> None:
    """What it came to, and what should be explained before it is believed."""
    to, worth = Console(), report.money.worth
    say(
        f"{percent(worth.total_return, 2)} after costs, Sharpe ratio {worth.sharpe:.2f}, largest "
        f"drawdown {100.0 * worth.max_drawdown:.2f} %, {worth.trades} trades",
        to,
    )
    for flag in report.flags:
        say(f"red flag: {flag}", to)
    say(f"report in {out / REPORT_HTML}", to)


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--out {out}: cannot make it ({error.strerror})") from error


@dataclass(slots=True)
class Told:
    """What came of a replay, counted."""

    bars: int = 0
    warmed: int = 0
    duplicates: int = 0
    stances: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    silent: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def update(self, stretch: Stretch) -> None:
        """Take the next steps."""
        self.warmed += stretch.warmed
        self.duplicates += stretch.duplicates
        self.refused.update(stretch.refused)
        for step in stretch.steps:
            self.bars += len(step.bars)
            self.silent.update(step.told.silent)
            self.stances.update(signal.stance.value for signal in step.told.signals)


async def _run(runs: Replay, history: History, out: Path, followers: Sequence[Follower]) -> Told:
    told, began = Told(), time.monotonic()
    try:
        temporary = out / f".{SIGNALS}.part"
        with progress_bar() as bar, SignalFile(temporary) as file:
            task = bar.add_task("replay", total=history.rows, note="")
            async for stretch in runs.stretches(history):
                told.update(stretch)
                file.write([s for step in stretch.steps for s in step.told.signals])
                for step in stretch.steps:
                    for follower in followers:
                        follower.take(step)
                rate = stretch.rows / (time.monotonic() - began)
                bar.update(task, completed=stretch.rows, note=f"{rate:,.0f} bars/s")
        temporary.replace(out / SIGNALS)
    except OSError as error:
        raise CommandError(f"cannot write {out}: {error.strerror}") from error
    told.seconds = time.monotonic() - began
    return told


def _summarise(told: Told, runs: Replay, out: Path) -> None:
    """A few lines on standard output."""
    to = Console()
    rate = (told.bars + told.warmed) / told.seconds
    done = f"{told.bars} bars after {told.warmed} of warm-up"
    say(f"{done} in {told.seconds:.1f} s: {rate:,.0f} bars/s", to)
    say(f"{told.stances.total()} signals{_counts(told.stances)} in {out / SIGNALS}", to)
    if told.silent:
        say(f"{told.silent.total()} bars without a signal{_counts(told.silent)}", to)
    if told.refused:
        say(f"{told.refused.total()} rows refused{_counts(told.refused)}", to)
    if told.duplicates:
        say(f"{told.duplicates} bars were repeats", to)
    for name, count in sorted(runs.failures.items()):
        say(f"agent {name} failed in {count} batches and abstained", to)


def _counts(counts: Counter[str]) -> str:
    each = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f" ({each})" if each else ""


def _day_ms(option: str, day: str) -> int:
    try:
        return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError as error:
        raise UsageError(f"{option} {day}: write a day as 2025-01-31") from error
