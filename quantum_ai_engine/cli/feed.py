"""`qae feed`: recorded bars, or the paper market, into Redis."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from quantum_ai_engine.cli.common import (
    CommandError,
    ConfigOption,
    SetOption,
    UsageError,
    console,
    load_settings,
    progress_bar,
    redis_client,
)
from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.producer import MAX_SPEED, Producer, Step, produce_all, steps
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.market.files import read_bars
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable

PAPER_STEPS = 500
PAPER_START_MS = 1_735_689_600_000  # 2025-01-01: in the past, since bars of the future are refused


def feed(
    source: Annotated[str, typer.Argument(help="A .csv, .csv.gz or .parquet file, or `paper`.")],
    speed: Annotated[
        str, typer.Option(help="1 = as it happened, 60 = a minute a second, max.")
    ] = "max",
    symbol: Annotated[str | None, typer.Option(help="Symbol, when the file names none.")] = None,
    interval: Annotated[
        str | None, typer.Option(help="Interval, when the file names none.")
    ] = None,
    environment: Annotated[str | None, typer.Option(help="Mark every bar with it.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the paper market.", min=0)] = 1,
    bars: Annotated[int | None, typer.Option(help="Stop after so many bars.", min=1)] = None,
    restart: Annotated[bool, typer.Option(help="Begin again instead of resuming.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Feed bars into the stream that a running engine reads. Resumes where it stopped."""
    settings = load_settings(config, assignments).settings
    pace = parse_speed(speed)
    if source == "paper":
        name, total = f"paper-{seed}-{interval or '1m'}", bars
        tables = partial(_paper, seed, interval or "1m")
        tables()  # so that a wrong interval is refused now
    else:
        path = Path(source)
        table = read_bars(path, symbol=symbol, interval=interval)
        name = f"{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}-{symbol}-{table.interval}"
        total = min(len(table), bars or len(table))
        tables = partial(iter, [table])
    asyncio.run(_feed(settings, name, tables, total, pace, restart, environment))


def _paper(seed: int, interval: str) -> Iterator[BarTable]:
    """The paper market from its first bar."""
    try:
        return paper_tables(PaperMarket(seed, start_ms=PAPER_START_MS, interval=interval))
    except ValueError as error:
        raise CommandError(f"--interval: {error}") from error


def parse_speed(text: str) -> float:
    """`max`, or how many times as fast as it happened."""
    if text == "max":
        return MAX_SPEED
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.0 < speed < MAX_SPEED:
        raise UsageError(f"--speed {text}: give a positive number, or max")
    return speed


def paper_tables(market: PaperMarket) -> Iterator[BarTable]:
    """The paper market without end, a few hundred steps at a time."""
    while True:
        yield market.table(PAPER_STEPS)


def plan(tables: Iterator[BarTable], start: int, total: int | None, speed: float) -> Iterator[Step]:
    """The steps from the source's bar `start` to its bar `total`."""
    done = 0
    for table in tables:
        rows = len(table) if total is None else min(len(table), total - done)
        skipped = min(max(start - done, 0), rows)
        cut = table.rows(0, rows)
        together = speed == MAX_SPEED
        if skipped < rows:
            yield from steps(cut, INTERVAL_MS[table.interval], skipped, together=together)
        done += rows
        if total is not None and done >= total:
            return


async def _feed(
    settings: Settings,
    name: str,
    tables: Callable[[], Iterator[BarTable]],
    total: int | None,
    speed: float,
    restart: bool,
    environment: str | None,
) -> None:
    async with redis_client(settings) as client:
        producer = Producer(client, Keys.of(settings.redis), name, environment)
        if restart:
            await producer.restart()
        start = await producer.position()
        if total is not None and start >= total:
            console.print(f"all {start} bars are in the stream already; --restart feeds them again")
            return
        began = time.monotonic()
        with progress_bar() as bar:
            task = bar.add_task("feeding", total=total, completed=start, note="")

            def report(rows: int) -> None:
                rate = (bar.tasks[0].completed - start + rows) / (time.monotonic() - began)
                bar.update(task, advance=rows, note=f"{rate:,.0f} bars/s")

            end = await produce_all(
                producer, lambda at: plan(tables(), at, total, speed), speed, report
            )
        seconds = time.monotonic() - began
        console.print(f"fed {end - start} bars in {seconds:.1f} s; the source is at bar {end}")
