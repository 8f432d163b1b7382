"""Watching signals: what lines and the table say, and that they follow the engine."""

import asyncio
import json
import os
import signal as unix
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import pytest
from rich.console import Console

from quantum_ai_engine.cli.common import UsageError
from quantum_ai_engine.cli.watch import Board, Wanted, line, text, watch
from quantum_ai_engine.client import (
    CaughtUp,
    EngineBack,
    EngineSilent,
    Expired,
    Missed,
    Past,
    Stalled,
    Target,
    Unreadable,
    Update,
)
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.events import Abstained, Abstention, Stance, Vote

from ..following import Engine, signal, tombstone

COMMAND = "import typer; from quantum_ai_engine.cli.watch import watch; typer.run(watch)"


def shown(board: Board) -> str:
    console = Console(width=160, force_terminal=False)
    with console.capture() as captured:
        console.print(board.table())
    return captured.get()


def test_a_line_names_who_voted_and_who_did_not() -> None:
    """L01: votes and abstentions with their reason stand in every line."""
    plain = line(signal()).plain
    assert "1970-01-01 00:02  BTCUSDT" in plain
    assert "long  +0.300" in plain
    assert "gru 0.650" in plain
    assert "patchtst: deadline" in plain
    assert "in place of BTCUSDT|1m|120000" in line(signal(version=1)).plain


def test_what_comes_over_the_wire_is_no_markup() -> None:
    hostile = signal(
        votes=(Vote("[bold]gru[/nope]", "abc", 0.65, 1.0),),
        abstained=(Abstention("[link=x]y", Abstained.GAP),),
    )
    assert "[bold]gru[/nope]" in line(hostile).plain
    board = Board()
    board.update(Target(hostile, "1-0"))
    board.update(Unreadable(0, "1-0", "1-0", "not a signal: [/]"))
    assert "[bold]gru[/nope]" in shown(board)
    assert "[link=x]y: gap" in shown(board)
    assert "not a signal: [/]" in shown(board)


@pytest.mark.parametrize(
    ("update", "said"),
    [
        (Target(signal(), "1-0"), "long  +0.300"),
        (Past(signal(), "1-0", "it has expired"), "too late: it has expired"),
        (Expired(signal()), "BTCUSDT     1m  flat: expired"),
        (Stalled(tombstone()), "BTCUSDT     1m  flat: its bars have stopped"),
        (EngineSilent(0, "it has no heartbeat"), "is silent, all flat: it has no heartbeat"),
        (EngineBack(1), "the engine of partition 1 is back"),
        (Missed(0, "1-0", "2-0"), "after 1-0 may have been missed: the stream no longer holds"),
        (Missed(0, "1-0", None), "and is empty"),
        (Unreadable(0, "1-0", "1-0", "schema 2 is not 1"), "entry 1-0 was passed over: schema 2"),
        (CaughtUp("1-0"), "all signals up to 1-0 have been read"),
    ],
)
def test_every_update_is_one_line_in_plain_words(update: Update, said: str) -> None:
    assert said in text(update).plain
    assert "\n" not in text(update).plain


def test_the_table_says_what_holds() -> None:
    """L08: a target that has ended stands as flat, with the reason."""
    board = Board()
    board.update(Target(signal(), "1-0"))
    board.update(Target(signal("ETHUSDT"), "1-0"))
    assert board.table().row_count == 2
    assert shown(board).count("+0.300") == 2
    board.update(Expired(signal()))
    assert "flat (expired)" in shown(board)
    assert shown(board).count("+0.300") == 1
    board.update(Stalled(tombstone("ETHUSDT")))
    assert "flat (its bars have stopped)" in shown(board)
    board.update(Target(signal(minute=3), "1-0"))
    assert shown(board).count("+0.300") == 1
    assert board.table().row_count == 2


def test_a_silent_engine_is_flat_as_a_whole() -> None:
    """L08: nothing in the table looks alive while the engine is not heard."""
    board = Board()
    board.update(Target(signal(), "1-0"))
    board.update(EngineSilent(0, "it has no heartbeat"))
    assert "flat (engine silent)" in shown(board)
    assert "is silent, all flat" in shown(board)
    board.update(EngineBack(0))
    assert "silent" not in shown(board)


def long(minute: int, **more: object) -> Target:
    return Target(signal(minute=minute, **more), f"{minute}-0")


def flat(minute: int) -> Target:
    return Target(signal(minute=minute, target=0.0), f"{minute}-0")


def test_only_changes_of_a_stance_are_told() -> None:
    """The first stance, each other one after it, and that a target has ended."""
    wanted = Wanted(only_changes=True)
    updates = [long(2), long(3), flat(4), flat(5), long(6), Expired(signal(minute=6)), flat(9)]
    assert [wanted.take(one) for one in updates] == [True, False, True, False, True, True, False]
    assert wanted.take(long(10))
    assert wanted.take(Stalled(tombstone(minute=10)))
    assert wanted.take(Target(signal("ETHUSDT"), "11-0"))
    assert not wanted.take(Past(signal(minute=12), "12-0", "it has expired"))


def test_filters_leave_out_signals_alone() -> None:
    """By stance and confidence; an engine that is silent is told whatever was asked for."""
    wanted = Wanted([Stance.LONG], 0.2)
    assert wanted.take(long(2))
    assert not wanted.take(flat(3))
    assert not wanted.take(long(4, confidence=0.19, target=0.1))
    assert wanted.take(EngineSilent(0, "it has no heartbeat"))
    assert wanted.take(Missed(0, "1-0", None))
    assert not wanted.take(Expired(signal()))


def test_a_series_whose_newest_signal_is_not_wanted_leaves_the_table() -> None:
    """L08: an earlier signal does not stay in the place of a newer one."""
    board = Board(wanted=Wanted([Stance.LONG]))
    board.update(long(2))
    assert "+0.300" in shown(board)
    board.update(flat(3))
    assert board.table().row_count == 0


def test_what_is_no_position_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--from: position 'yesterday' is not an entry id"):
        watch(lines=True, start="yesterday")


@pytest.fixture
def options() -> list[str]:
    return ["--lines", "--from", "all", "--symbol", "ETHUSDT"]


@pytest.fixture
async def watching(
    redis: EmbeddedRedis, client: Client, options: list[str]
) -> AsyncIterator[Process]:
    """A process that shows ETHUSDT from the first entry on."""
    engine = Engine(client)
    await engine.beat()
    await engine.write(signal(), signal("ETHUSDT"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        COMMAND,
        *options,
        *("--set", f"redis.url={redis.url}", "--set", "engine.clock=bars"),
        stdout=PIPE,
        stderr=PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_follows_until_ctrl_c(watching: Process, client: Client) -> None:
    """Only the wanted symbol, as it comes; then it ends without a word."""
    assert watching.stdout is not None
    assert watching.stderr is not None
    async with asyncio.timeout(30):
        assert b"ETHUSDT" in await watching.stdout.readline()
        assert b"have been read" in await watching.stdout.readline()
        await Engine(client).write(signal("ETHUSDT", minute=3))
        assert b"1970-01-01 00:03  ETHUSDT" in await watching.stdout.readline()
        watching.send_signal(unix.SIGINT)
        assert await watching.wait() == 0
        assert await watching.stderr.read() == b""


@pytest.mark.parametrize(
    "options", [["--json", "--from", "all", "--changes", "--stance", "long", "--stance", "flat"]]
)
async def test_programs_get_json_lines(watching: Process, client: Client) -> None:
    """Each line is one update by its kind; a stance that stays is left out."""
    assert watching.stdout is not None
    async with asyncio.timeout(30):
        lines = [json.loads(await watching.stdout.readline()) for _ in range(3)]
        assert [line["type"] for line in lines] == ["Target", "Target", "CaughtUp"]
        assert {line["signal"]["symbol"] for line in lines[:2]} == {"BTCUSDT", "ETHUSDT"}
        await Engine(client).write(signal(minute=3), signal(minute=4, target=0.0))
        line = json.loads(await watching.stdout.readline())
        assert (line["signal"]["close_time"], line["signal"]["stance"]) == (240_000, "flat")
