"""`qae replay`: the live engine on recorded bars."""

import asyncio
import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from quantum_ai_engine.agents.bundle import bundle_paths, read_bundle
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.agents.pool import worker_count
from quantum_ai_engine.cli.certify import Certified, run_certify
from quantum_ai_engine.cli.checks import CHECKS, PARAMETERS, newest_of, run_checks
from quantum_ai_engine.cli.common import (
    CommandError,
    ConfigOption,
    SetOption,
    UsageError,
    day_ms,
    load_settings,
    progress_bar,
    redis_client,
    say,
)
from quantum_ai_engine.config import Loaded, Settings, bundle_dir
from quantum_ai_engine.daemon.build import build_id, version
from quantum_ai_engine.daemon.commit import START
from quantum_ai_engine.daemon.feed import BarFeed
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.replay.backtest import REPORT_HTML, Backtest
from quantum_ai_engine.replay.drive import SIGNALS, Follower, drive, fingerprint
from quantum_ai_engine.replay.history import FOREVER_MS, Selection, Wanted, select
from quantum_ai_engine.replay.kept import Tally
from quantum_ai_engine.replay.report.summary import About, Report
from quantum_ai_engine.replay.run import Replay
from quantum_ai_engine.replay.source import FileSource, Source, Spool, SpoolSource
from quantum_ai_engine.replay.words import percent
from quantum_ai_engine.report.chart import missing_library

FAILED = 1
STREAM, BARS = "stream", "bars.parquet"
READ_AT_ONCE = 1_000


def replay(
    data: Annotated[
        str, typer.Option(help="Bars in time order (.csv, .csv.gz, .parquet), or `stream`.")
    ],
    bundles: Annotated[
        Path | None, typer.Option(help="Directory of bundles.", show_default="agents.bundles")
    ] = None,
    symbols: Annotated[str | None, typer.Option(help="Only these: BTCUSDT,ETHUSDT.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="First day: 2025-01-31.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="The day before which it ends.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Only so many last blocks.", min=1)] = None,
    block_size: Annotated[
        int | None,
        typer.Option(help="Bars of time in a block.", min=1, show_default="a session, or 1000"),
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="Interval, when the file names none.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory to write.")] = Path("replay-report"),
    check: Annotated[
        list[str] | None, typer.Option(help=f"Instead, one of {', '.join(CHECKS)}; repeatable.")
    ] = None,
    parameters: Annotated[
        list[str] | None, typer.Argument(help=f"Of --check, as p=0.6: {', '.join(PARAMETERS)}.")
    ] = None,
    certify: Annotated[
        str | None,
        typer.Option(help="Instead, compare with these signals: `stream`, .jsonl or .parquet."),
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="For --certify: the live engine's rows, of `qae features`.")
    ] = None,
    partition: Annotated[
        int | None, typer.Option(help="For --certify: which of several in Redis.", min=0)
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="For --certify: though bundles, settings, build differ.")
    ] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Let the live engine take recorded bars, and write what it says of them.

    A run that was interrupted goes on where it was when it is given again.
    """
    chosen = [name.strip() for name in (symbols or "").split(",") if name.strip()]
    if certify is not None:
        symbol = chosen[0] if len(chosen) == 1 else None
        what = Certified(certify, data, rows, partition, symbol, interval, force)
        if not run_certify(load_settings(config, assignments), bundles, what, out):
            raise typer.Exit(FAILED)
        return
    if parameters and not check:
        raise UsageError(f"{parameters[0]}: only --check has parameters")
    if not check and (missing := missing_library()) is not None:
        raise CommandError(f"the report needs {missing}: pip install 'quantum-ai-engine[report]'")
    given = [*(assignments or []), *([f"agents.bundles={bundles}"] if bundles else [])]
    loaded = load_settings(config, given)
    wanted = _wanted(start, end, blocks, block_size)
    _make(out)
    source, path = _source(data, chosen, interval, loaded.settings, out)
    if check:
        if not run_checks(check, parameters or [], loaded, newest_of(source)):
            raise typer.Exit(FAILED)
        return
    engine = replay_of(loaded)
    selection = select(source, wanted, loaded.settings.sessions.by_symbol(), engine.warm_up)
    for note in selection.notes:
        say(note)
    began = time.monotonic()
    backtest = Backtest(loaded.settings, engine.agents, out, selection.symbols, block_size)
    try:
        print_of = _fingerprint(path, selection, loaded, engine)
        tally = _run(engine, selection, [backtest], out, print_of)
        report = backtest.write(_about(loaded, path, selection, engine))
    except OSError as error:
        raise CommandError(f"cannot write {out}: {error.strerror}") from error
    finally:
        backtest.discard()
    _summarise(tally, time.monotonic() - began, engine.failures, out)
    _say_worth(report, out)


def replay_of(loaded: Loaded) -> Replay:
    """The engine of these settings with their bundles, ready for a history."""
    settings = loaded.settings
    venues = settings.sessions.by_symbol()
    agents = load_agents(bundle_dir(settings), settings.agents.order, venues)
    workers = worker_count(settings.agents.budget_cores, len(os.sched_getaffinity(0)))
    return Replay(loaded, agents, f"{version()}+{build_id()}", workers)


def _about(loaded: Loaded, path: Path, selection: Selection, engine: Replay) -> About:
    bundles = [read_bundle(one) for one in bundle_paths(bundle_dir(loaded.settings))]
    return About(
        f"{version()}+{build_id()}",
        loaded.config_hash,
        path.name,
        selection.symbols,
        tuple(agent.name for agent in engine.agents),
        {one.manifest.name: one.manifest.spans.test.to_ms for one in bundles},
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


def _wanted(
    start: str | None, end: str | None, blocks: int | None, block_size: int | None
) -> Wanted:
    if blocks is not None and start is not None:
        raise UsageError("--blocks and --from both say where to begin: give one of them")
    start_ms = day_ms("--from", start) if start else 0
    end_ms = day_ms("--to", end) if end else FOREVER_MS
    if end_ms <= start_ms:
        raise UsageError(f"--to {end} is not after --from {start}")
    return Wanted(start_ms, end_ms, blocks, block_size)


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--out {out}: cannot make it ({error.strerror})") from error


def _source(
    data: str, symbols: list[str], interval: str | None, settings: Settings, out: Path
) -> tuple[Source, Path]:
    """The record, and the file in which it lies."""
    if data != STREAM:
        return FileSource(Path(data), symbols, interval), Path(data)
    spool = out / BARS
    name, refused = asyncio.run(_spool(settings, spool))
    if refused:
        say(f"{refused} entries of {name} are no bars")
    return SpoolSource(spool, name, tuple(symbols)), spool


async def _spool(settings: Settings, path: Path) -> tuple[str, int]:
    """Copy the bar stream, as it is now, into a file; its key, and how many are no bars."""
    served = settings.redis.served
    if len(served) != 1:
        raise UsageError("--data stream reads one partition: name it with --set redis.partition=0")
    temporary = path.with_name(f".{path.name}.part")
    async with redis_client(settings) as client:
        keys = Keys.of(settings.redis)
        feed = BarFeed(client.at(served[0]), keys, settings.engine.environment)
        position, latest, refused, spool = START, time.time_ns() // 1_000_000, 0, Spool(temporary)
        while entries := await feed.read(position, READ_AT_ONCE, 1):
            bars, _, dead = feed.decode(entries, latest)
            refused += len(dead)
            spool.write(bars)
            position = entries[-1][0].decode()
    spool.close()
    temporary.replace(path)
    return keys.bars, refused


def _fingerprint(path: Path, selection: Selection, loaded: Loaded, engine: Replay) -> str:
    with path.open("rb") as file:
        data = hashlib.file_digest(file, "sha256").hexdigest()
    agents = [(agent.name, agent.bundle) for agent in engine.agents]
    span = (selection.symbols, selection.warm_from_ms, selection.start_ms, selection.end_ms)
    return fingerprint(data, span, agents, loaded.config_hash, build_id())


def _run(
    engine: Replay, selection: Selection, followers: list[Follower], out: Path, print_of: str
) -> Tally:
    """Take the whole history, with a bar for who waits."""
    began, first = time.monotonic(), -1
    try:
        with progress_bar() as bar:
            task = bar.add_task("replay", total=selection.rows, note="")

            def report(rows: int) -> None:
                nonlocal first
                first = rows if first < 0 else first
                rate = (rows - first) / (time.monotonic() - began)
                bar.update(task, completed=rows, note=f"{rate:,.0f} bars/s")

            return asyncio.run(drive(engine, selection, followers, out, print_of, report))
    except OSError as error:
        raise CommandError(f"cannot write {out}: {error.strerror}") from error
    except KeyboardInterrupt:
        raise CommandError("stopped: the same command goes on from here") from None


def _summarise(tally: Tally, seconds: float, failures: Mapping[str, int], out: Path) -> None:
    """A few lines on standard output."""
    to, signals = Console(), sum(tally.stances.values())
    say(f"{tally.bars} bars after {tally.warmed} of warm-up, in {seconds:.1f} s", to)
    say(f"{signals} signals{_counts(tally.stances)} in {out / SIGNALS}", to)
    if tally.silent:
        say(f"{sum(tally.silent.values())} bars without a signal{_counts(tally.silent)}", to)
    if tally.refused:
        say(f"{sum(tally.refused.values())} rows refused{_counts(tally.refused)}", to)
    if tally.duplicates:
        say(f"{tally.duplicates} rows were repeats", to)
    for name, count in sorted(failures.items()):
        say(f"agent {name} failed in {count} batches and abstained", to)


def _counts(counts: Mapping[str, int]) -> str:
    each = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f" ({each})" if each else ""
