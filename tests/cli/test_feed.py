"""`feed`: every bar of a source into the stream exactly once, from wherever it stopped."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.cli.app import main
from quantum_ai_engine.cli.common import CommandError
from quantum_ai_engine.cli.feed import parse_speed, plan
from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.producer import CHUNK, MAX_SPEED
from quantum_ai_engine.market.table import BarTable

MINUTE_MS, START_MS = 60_000, 1_735_689_600_000
STREAM = "quantum:bars"
HEADER = "symbol,open_time,open,high,low,close,volume"
Feed = Callable[..., Any]


def qae(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qae", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def source(sizes: list[int], per_minute: int) -> list[BarTable]:
    """Tables of these sizes, of one source whose rows are numbered by their volume."""
    tables, done = [], 0
    for size in sizes:
        row = np.arange(done, done + size)
        ohlcv = np.column_stack([np.full((size, 4), 100.0), row.astype(np.float64)])
        index = (row % per_minute).astype(np.int32)
        names = tuple(f"S{i}" for i in range(per_minute))
        tables.append(BarTable(names, index, "1m", row // per_minute * MINUTE_MS, ohlcv))
        done += size
    return tables


@pytest.mark.parametrize(("text", "speed"), [("max", MAX_SPEED), ("1", 1.0), ("0.5", 0.5)])
def test_speeds(text: str, speed: float) -> None:
    """A speed is `max` or how many times as fast as it happened."""
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e999", "fast", "", "60x"])
def test_bad_speeds(text: str) -> None:
    """Anything else is refused with what to give."""
    with pytest.raises(CommandError, match="give a positive number, or max"):
        parse_speed(text)


@given(
    sizes=st.lists(st.integers(0, 40), max_size=6),
    per_minute=st.integers(1, 5),
    start=st.integers(0, 250),
    total=st.none() | st.integers(0, 250),
    speed=st.sampled_from([MAX_SPEED, 60.0]),
)
def test_every_row_is_planned_once(
    sizes: list[int], per_minute: int, start: int, total: int | None, speed: float
) -> None:
    """L40: from any position, at any speed, the steps are the rows from there on, in order."""
    tables = source(sizes, per_minute)
    planned = []
    for step in plan(iter(tables), start, total, speed):
        rows = step.table.rows(step.start, step.end)
        assert len(rows) > 0
        assert step.close_time == rows.open_time[-1] + MINUTE_MS
        assert speed == MAX_SPEED or len(set(rows.open_time.tolist())) == 1
        planned += rows.ohlcv[:, 4].tolist()
    assert planned == list(range(sum(sizes)))[:total][start:]


def test_a_step_is_bounded() -> None:
    """L42: at full speed a step is a thousand rows at most."""
    steps = list(plan(iter(source([2 * CHUNK + 5], 3)), 0, None, MAX_SPEED))
    assert [step.end - step.start for step in steps] == [CHUNK, CHUNK, 5]


def test_an_endless_source_ends_at_its_total() -> None:
    """The paper market has no end: the plan stops at the bars that were asked for."""

    def endless() -> Iterator[BarTable]:
        while True:
            yield source([10], 2)[0]

    steps = list(plan(endless(), 25, 47, MAX_SPEED))
    assert sum(step.end - step.start for step in steps) == 22


@pytest.fixture
def feed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Feed:
    """Runs `feed` against the Redis of the test: its exit code and what it said."""

    async def run(*arguments: str) -> tuple[int, str]:
        to = ("--set", f"redis.url={settings.redis.url}")
        code = await asyncio.to_thread(qae, "feed", *arguments, *to)
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A file of 2,500 bars of two symbols."""
    path = tmp_path / "bars.csv"
    lines = [
        f"{symbol},{START_MS + i * MINUTE_MS},100,102,99,{100 + i % 3},{i}"
        for i in range(1250)
        for symbol in ("BTCUSDT", "ETHUSDT")
    ]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


async def entries(client: Client) -> list[dict[str, Any]]:
    return [msgspec.msgpack.decode(fields[b"b"]) for _, fields in await client.xrange(STREAM)]


async def test_a_file_is_fed_once(feed: Feed, recorded: Path, client: Client) -> None:
    """L40: every bar once and in order, and again nothing, since the position is kept."""
    code, said = await feed(str(recorded))
    assert (code, await client.xlen(STREAM)) == (0, 2500)
    assert "fed 2500 bars" in said
    bars = await entries(client)
    assert [(bar["symbol"], bar["volume"]) for bar in bars[:3]] == [
        ("BTCUSDT", 0.0),
        ("ETHUSDT", 0.0),
        ("BTCUSDT", 1.0),
    ]
    code, said = await feed(str(recorded))
    assert (code, await client.xlen(STREAM)) == (0, 2500)
    assert "all 2500 bars are in the stream already" in said


async def test_a_stopped_feed_goes_on(feed: Feed, recorded: Path, client: Client) -> None:
    """L40: a source of which a part was fed goes on with the bar after it."""
    await feed(str(recorded), "--bars", "1001", "--speed", "1e9")
    assert await client.xlen(STREAM) == 1001
    code, said = await feed(str(recorded))
    assert code == 0
    assert "fed 1499 bars" in said
    assert [bar["volume"] for bar in await entries(client)] == [i // 2 for i in range(2500)]


async def test_a_feed_begins_again_on_request(feed: Feed, recorded: Path, client: Client) -> None:
    """`--restart` feeds the whole source once more; what is fed twice is the reader's to tell."""
    await feed(str(recorded))
    code, _ = await feed(str(recorded), "--restart")
    assert (code, await client.xlen(STREAM)) == (0, 5000)


async def test_bad_rows_are_sent_as_they_are(feed: Feed, client: Client, tmp_path: Path) -> None:
    """L41: refusing is the engine's work, visibly: the feed leaves out and mends nothing."""
    rows = [
        f"BTCUSDT,{START_MS},100,98,99,100,1",  # high below low
        f"BTCUSDT,{START_MS},-1,102,-2,100,1",  # the same time again, a negative price
        f"BTCUSDT,{START_MS + 7},100,102,99,100,",  # misaligned, no volume
    ]
    path = tmp_path / "bad.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    code, _ = await feed(str(path), "--interval", "1m", "--environment", "test")
    first, second, third = await entries(client)
    assert code == 0
    assert (first["high"], first["low"]) == (98.0, 99.0)
    assert (second["open_time"], second["open"], second["low"]) == (START_MS, -1.0, -2.0)
    assert third["open_time"] == START_MS + 7
    assert np.isnan(third["volume"])
    assert {bar["environment"] for bar in (first, second, third)} == {"test"}


async def test_the_paper_market_resumes(feed: Feed, client: Client) -> None:
    """L43: in two runs, the second far into the source, the paper market feeds what one would."""
    for bars in ("3500", "3600"):
        code, _ = await feed("paper", "--seed", "3", "--bars", bars)
        assert code == 0
    in_two = await entries(client)
    await client.delete(STREAM)
    await feed("paper", "--seed", "3", "--bars", "3600", "--restart")
    assert await entries(client) == in_two


async def test_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a Redis the command says where it looked, and exits 1."""
    url = f"unix://{tmp_path}/nobody.sock"
    code = await asyncio.to_thread(qae, "feed", "paper", "--bars", "1", "--set", f"redis.url={url}")
    assert code == 1
    assert f"quantum-ai-engine: no Redis answers at {url} (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("paper", "--interval", "7m"), 1, "--interval: interval '7m' is not one of"),
        (("paper", "--speed", "0"), 2, "--speed 0: give a positive number, or max"),
        (("nothing.csv",), 1, "there is no file nothing.csv"),
    ],
)
def test_bad_arguments(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, says: str
) -> None:
    """An argument that cannot be used is one sentence that names it."""
    assert qae("feed", *arguments) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said
