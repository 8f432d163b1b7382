"""What execution reports, and what is told of changes: each once, whatever gets lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import START, Conflict, Kept, Ledger
from quantum_ai_engine.daemon.keys import ROOMS
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.records import decode_round
from quantum_ai_engine.events import Bar, Change, Equity
from quantum_ai_engine.market.table import BarTable

from .lives import at_the_end, brain_of, cut_off, state_of, unbroken
from .test_app import KEYS, changed, feed, published, serving, until, with_one_agent

BARS = 300
HALTED = Change("risk", 60_000, "", "ACTIVE", "HALTED", ("manual: a person's halt",))
QUIET = Change("supervisor", 60_000, "gru", "ok", "watch", ())
GOOD = Equity(120_000, 10_250.5)


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_one_agent(unbroken(settings), tmp_path)


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


async def owning(client: Client) -> Ledger:
    ledger = Ledger(client, KEYS, 60_000, Holder.here())
    assert await ledger.acquire() is None
    return ledger


async def changes_in(client: Client, room: str) -> list[Change]:
    """What the stream of a room tells."""
    entries = await client.xrange(KEYS.rooms[room])
    return [msgspec.json.decode(fields[b"json"], type=Change) for _, fields in entries]


async def equity_in(client: Client) -> list[Equity]:
    """All reports in the records."""
    entries = await client.xrange(KEYS.records)
    return [one for _, fields in entries for one in decode_round(fields).equity]


@asynccontextmanager
async def listening(client: Client) -> AsyncIterator[list[tuple[str, bytes]]]:
    """What is published on the channels of all rooms meanwhile, when the context has ended."""
    heard: list[tuple[str, bytes]] = []
    async with client.pubsub() as pubsub:
        await pubsub.subscribe(*(KEYS.room_channel(room) for room in ROOMS), "end")
        for _ in range(len(ROOMS) + 1):
            await pubsub.get_message(timeout=5.0)
        yield heard
        await client.publish("end", "")
        async with asyncio.timeout(10.0):
            async for message in pubsub.listen():
                if message["channel"] == b"end":
                    return
                heard.append((message["channel"].decode(), message["data"]))


async def test_a_commit_that_is_sent_again_doubles_no_change(client: Client) -> None:
    """L43: neither in the streams, nor on the channels, nor in the records."""
    ledger = await owning(client)
    kept = Kept((), (HALTED, QUIET), (GOOD,), START, "5-0")
    async with listening(client) as heard:
        receipts = [await ledger.commit(START, "7-0", [], [], None, kept) for _ in range(3)]
    assert {(one.signal, one.record) for one in receipts} == {(START, receipts[0].record)}
    assert await changes_in(client, "risk") == [HALTED]
    assert await changes_in(client, "supervisor") == [QUIET]
    assert await changes_in(client, "policy") == []
    assert [channel for channel, _ in heard] == ["quantum:risk", "quantum:supervisor"]
    assert [msgspec.json.decode(text, type=Change) for _, text in heard] == [HALTED, QUIET]
    [(written, _)] = await client.xrange(KEYS.records)
    assert receipts[0].record == written.decode() == await ledger.last_record()
    assert await equity_in(client) == [GOOD]
    assert await ledger.equity_position() == "5-0"


async def test_a_step_in_the_equity_stream_alone_is_written_once(client: Client) -> None:
    """L43: the position of the bars stays; that of the equity stream tells a lost reply."""
    ledger = await owning(client)
    await ledger.commit(START, "7-0", [], [])
    for _ in range(2):
        await ledger.commit("7-0", "7-0", [], [], None, Kept((), (), (GOOD,), START, "5-0"))
    assert await equity_in(client) == [GOOD]


async def test_another_position_of_the_equity_stream_is_a_conflict(client: Client) -> None:
    """L40: what was heard already is not heard again; nothing is written."""
    ledger = await owning(client)
    await ledger.commit(START, "7-0", [], [], None, Kept((), (), (GOOD,), START, "5-0"))
    with pytest.raises(Conflict):
        await ledger.commit("7-0", "8-0", [], [], None, Kept((), (HALTED,), (GOOD,), START, "6-0"))
    assert await equity_in(client) == [GOOD]
    assert await changes_in(client, "risk") == []
    assert (await ledger.position(), await ledger.equity_position()) == ("7-0", "5-0")


@pytest.mark.parametrize("room", ROOMS)
async def test_a_room_that_is_no_stream_writes_nothing(client: Client, room: str) -> None:
    """What fails does so before anything is written."""
    ledger = await owning(client)
    await client.set(KEYS.rooms[room], "x")
    with pytest.raises(Exception, match="WRONGTYPE"):
        await ledger.commit(START, "7-0", [], [], None, Kept((), (HALTED,), (GOOD,), START, "5-0"))
    assert await ledger.position() is None
    assert await client.xlen(KEYS.records) == 0


async def report(client: Client, **fields: Any) -> str:
    return (await client.xadd(KEYS.equity, fields)).decode()  # type: ignore[arg-type]


async def test_a_report_is_followed_once_and_outlives_a_restart(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L43, L50: money is judged by what execution says from then on, also after a kill."""
    middle = bars[200]
    async with cut_off(settings, client) as daemon:
        await feed(client, bars[:200])
        await at_the_end(daemon, client)
        newest = await report(client, time=middle.open_time, equity=1_000.0)
        await until(lambda: is_at(client, "equity", newest))
        await feed(client, bars[200:250])
        await at_the_end(daemon, client)
        state = state_of(daemon)
        reported = daemon.rounds[0].engine.state.judgement.saved().reported
    assert reported == Equity(middle.open_time, 1_000.0)
    assert {s["policy"]["equity"] for s in await published(client)} == {"paper", "reported"}
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.ready)
        assert state_of(daemon) == state
        assert await daemon.rounds[0].ledger.equity_position() == newest
        await feed(client, bars[250:])
        await at_the_end(daemon, client)
        assert daemon.rounds[0].engine.state.judgement.saved().reported == reported
    assert (await published(client))[-1]["policy"]["equity"] == "reported"
    assert await client.xlen(KEYS.dead) == 0


async def is_at(client: Client, field: str, entry: str) -> bool:
    """Whether the engine has followed a stream up to an entry."""
    return bool(await client.hget(KEYS.state, field) == entry.encode())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"time": 60_000, "equity": "nan"}, b"non_finite"),
        ({"time": 60_000, "equity": "inf"}, b"non_finite"),
        ({"time": -1, "equity": "1.0"}, b"bad_value"),
        ({"time": 60_000}, b"missing_field"),
        ({"equity": "5"}, b"missing_field"),
        ({"time": 60_000, "equity": "5", "currency": "EUR"}, b"unknown_field"),
        ({"json": '{"time": 60000, "equity": "much"}'}, b"bad_value"),
        ({"b": b"\xc1"}, b"undecodable"),
    ],
)
async def test_a_bad_report_is_a_dead_letter(
    settings: Settings, client: Client, fields: dict[str, Any], reason: bytes
) -> None:
    """L36, L41: it changes nothing, says why, and what comes after it is followed."""
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.ready)
        bad = await report(client, **fields)
        good = await report(client, time=GOOD.time_ms, equity=GOOD.equity)
        await until(lambda: is_at(client, "equity", good))
        assert daemon.rounds[0].engine.state.judgement.saved().reported == GOOD
    [(_, letter)] = await client.xrange(KEYS.dead)
    assert (letter[b"reason"], letter[b"source"]) == (reason, bad.encode())
    assert await equity_in(client) == [GOOD]


async def test_a_halt_is_told_once(settings: Settings, client: Client, bars: list[Bar]) -> None:
    """L43, L50: in the stream of risk and on its channel; a restart tells nothing again."""
    settings = changed(settings, "engine", snapshot_bars=10_000)
    async with listening(client) as heard:
        async with cut_off(settings, client) as daemon:
            await feed(client, bars[:200])
            await at_the_end(daemon, client)
            newest = (await client.xadd(KEYS.control, {"command": "halt"})).decode()
            await until(lambda: is_at(client, "control", newest))
        async with serving(settings) as daemon:
            await until(lambda: daemon.status.ready)
            assert brain_of(daemon) == ("HALTED", ("manual",))
            again = (await client.xadd(KEYS.control, {"command": "halt"})).decode()
            await until(lambda: is_at(client, "control", again))
            await feed(client, bars[200:])
            await at_the_end(daemon, client)
    [change] = await changes_in(client, "risk")
    assert (change.before, change.after) == ("ACTIVE", "HALTED")
    assert change.at_ms == bars[199].close_time
    texts = [
        msgspec.json.decode(text, type=Change)
        for channel, text in heard
        if channel == "quantum:risk"
    ]
    assert texts == [change]
