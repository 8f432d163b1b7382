"""Tests of the ledger against a real Redis: all or nothing, once, and by its owner only."""

import os
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from quantum_ai_engine.daemon import commit
from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.commit import (
    FIELDS_KEPT,
    START,
    Conflict,
    DeadLetter,
    Ledger,
    OwnershipLost,
    Receipt,
)
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.saved import Snapshot
from quantum_ai_engine.events import (
    Policy,
    Reason,
    Refused,
    Risk,
    Signal,
    Stance,
    Thresholds,
    Vote,
    signal_id,
)

KEYS = Keys("quantum")
LETTER = DeadLetter(Refused(Reason.LATE, "too late"), b"5-1", {b"symbol": b"\xff\x00", b"": b"x"})


def signal(minute: int = 2, symbol: str = "BTCUSDT") -> Signal:
    """A signal of the bar that closed at this minute."""
    close_time = minute * 60_000
    return Signal(
        schema=1,
        id=signal_id(symbol, "1m", close_time),
        environment="live",
        symbol=symbol,
        interval="1m",
        close_time=close_time,
        produced_at=close_time,
        valid_until=close_time + 120_000,
        horizon_bars=5,
        probability=0.75,
        confidence=0.5,
        stance=Stance.LONG,
        target=0.5,
        votes=(Vote("gru", "abc", 0.75, 1.0),),
        abstained=(),
        effective_votes=1.0,
        thresholds=Thresholds(0.6, 0.4),
        policy=Policy("NORMAL", 0.7),
        risk=Risk("ACTIVE"),
        schema_hash="s",
        row_hash="r",
        engine="0",
        config_hash="c",
        latency_us={"decode": 1},
    )


async def owning(client: Client, lease_ms: int = 60_000) -> Ledger:
    """A ledger that owns the partition, if need be after the lease of another has ended."""
    ledger = Ledger(client, KEYS, lease_ms, Holder.here())
    await end_lease(client)
    assert await ledger.acquire() is None
    return ledger


async def end_lease(client: Client) -> None:
    """Let the time of whoever owns the partition be over."""
    if await client.hexists(KEYS.state, "owner"):
        await client.hset(KEYS.state, "lease_until", 1)


async def contents(client: Client) -> tuple[list[bytes], int, bytes | None]:
    """The published JSON, the number of dead letters, and the position."""
    signals = [fields[b"json"] for _, fields in await client.xrange(KEYS.signals)]
    return signals, await client.xlen(KEYS.dead), await client.hget(KEYS.state, "offset")


async def everything(client: Client) -> dict[bytes, bytes]:
    """All that the server holds, byte by byte."""
    return {key: await client.dump(key) for key in await client.keys()}


async def test_nothing_is_committed_at_first(client: Client) -> None:
    """A partition without a position is told from one at its start."""
    assert await (await owning(client)).position() is None


async def test_commit_writes_signals_letters_and_position(client: Client) -> None:
    """L41: a refused entry is kept with its reason in the same step as the signals."""
    ledger = await owning(client)
    await ledger.commit(START, "7-0", [signal(2), signal(3)], [LETTER])
    signals, dead, offset = await contents(client)
    assert [msgspec.json.decode(text, type=Signal) for text in signals] == [signal(2), signal(3)]
    assert (dead, offset) == (1, b"7-0")
    assert await ledger.position() == "7-0"


async def test_a_receipt_names_the_last_signal_ever_written(client: Client) -> None:
    """So that whoever recovers knows from where to read the signal stream on."""
    ledger = await owning(client)
    assert await ledger.commit(START, "7-0", [], []) == Receipt("0-0", trimmed=False)
    await client.xadd(KEYS.bars, {"b": "x"}, "7-0")
    written = await ledger.commit("7-0", "8-0", [signal(2), signal(3)], [])
    [(newest, _)] = await client.xrevrange(KEYS.signals, count=1)
    assert written == Receipt(newest.decode(), trimmed=False)
    await client.xadd(KEYS.bars, {"b": "x"}, "8-0")
    assert await ledger.commit("8-0", "9-0", [], []) == written
    assert await client.hget(KEYS.state, "signal") == newest


async def test_a_position_that_was_trimmed_is_told(client: Client) -> None:
    """L40: when the entry at the start is gone, those after it may be gone, too."""
    ledger = await owning(client)
    assert not (await ledger.commit(START, "7-0", [], [])).trimmed
    for entry in ("7-0", "8-0", "9-0"):
        await client.xadd(KEYS.bars, {"b": "x"}, entry)
    assert not (await ledger.commit("7-0", "8-0", [], [])).trimmed
    await client.xtrim(KEYS.bars, minid="9-0", approximate=False)
    assert (await ledger.commit("8-0", "9-0", [], [])).trimmed
    assert not (await ledger.commit("8-0", "9-0", [], [])).trimmed  # the reply was lost
    await client.delete(KEYS.bars)
    assert (await ledger.commit("9-0", "10-0", [], [])).trimmed


async def test_another_position_refuses_the_whole_commit(client: Client) -> None:
    """L40: the position is stored with the signals; from another one nothing at all is written."""
    ledger = await owning(client)
    await ledger.commit(START, "7-0", [signal(2)], [])
    before = await everything(client)
    with pytest.raises(Conflict, match="the committed position is 7-0, not 6-0"):
        await ledger.commit("6-0", "8-0", [signal(3)], [LETTER])
    assert await everything(client) == before


async def test_a_commit_that_is_sent_again_is_written_once(client: Client) -> None:
    """A lost reply is recognised by the position, which is the one that was asked for."""
    ledger = await owning(client)
    receipts = [await ledger.commit(START, "7-0", [signal()], [LETTER]) for _ in range(3)]
    signals, dead, _ = await contents(client)
    assert (len(signals), dead) == (1, 1)
    assert receipts == [receipts[0]] * 3


async def test_a_commit_extends_the_lease(client: Client) -> None:
    """L45: who works need not say besides that it lives."""
    ledger = await owning(client)
    await end_lease(client)
    await ledger.commit(START, "7-0", [], [])
    held = await Ledger(client, KEYS, 60_000, Holder.here()).acquire()
    assert held is not None
    assert 50_000 < held.left_ms <= 60_000


async def test_who_lost_the_partition_writes_nothing(client: Client) -> None:
    """L45: a zombie that wakes up changes no byte, whatever it tries, and learns who owns it."""
    zombie = await owning(client)
    await zombie.commit(START, "7-0", [signal(2)], [LETTER])
    await zombie.save(Snapshot("7-0", "0-0", (b"one", b"two")))
    await (await owning(client)).commit("7-0", "8-0", [signal(3)], [])
    before = await everything(client)
    tries: list[Callable[[], Awaitable[object]]] = [
        lambda: zombie.commit("8-0", "9-0", [signal(4)], [LETTER]),
        lambda: zombie.commit("7-0", "8-0", [signal(3)], []),  # as if its reply had been lost
        lambda: zombie.beat("{}", [(KEYS.signal_channel("BTCUSDT"), "flat")]),
        zombie.keep,
        zombie.release,
        lambda: zombie.save(Snapshot("8-0", "0-0", (b"three",))),
    ]
    for attempt in tries:
        with pytest.raises(OwnershipLost, match=f"now owned by process {os.getpid()} on "):
            await attempt()
        assert await everything(client) == before


async def test_a_state_that_vanished_is_a_conflict(client: Client) -> None:
    """After somebody emptied Redis the partition is acquired anew, from the start."""
    ledger = await owning(client)
    await ledger.commit(START, "7-0", [signal(2)], [])
    await client.flushall()
    for start in ("7-0", START):
        with pytest.raises(Conflict, match="has no owner"):
            await ledger.commit(start, "8-0", [signal(3)], [LETTER])
    with pytest.raises(Conflict, match="has no owner"):
        await ledger.save(Snapshot("7-0", "0-0", (b"one",)))
    for sign in (ledger.beat("{}"), ledger.keep()):
        with pytest.raises(Conflict, match="has no owner"):
            await sign
    await ledger.release()
    assert await everything(client) == {}
    assert await ledger.acquire() is None
    assert await ledger.position() is None


async def test_out_of_memory_writes_nothing(client: Client) -> None:
    """L42: a server that is full refuses the step whole, and takes it when there is room again."""
    ledger = await owning(client)
    await ledger.commit(START, "7-0", [signal(2)], [LETTER])
    await ledger.save(Snapshot("7-0", "0-0", (b"one",)))
    before = await everything(client)
    await client.config_set("maxmemory", 1)
    full: list[Callable[[], Awaitable[object]]] = [
        lambda: ledger.commit("7-0", "8-0", [signal(3)], [LETTER]),
        lambda: ledger.commit("7-0", "8-0", [], [LETTER]),
        lambda: ledger.commit("7-0", "8-0", [], []),
        lambda: ledger.save(Snapshot("7-0", "0-0", (b"two",))),
        ledger.keep,
        lambda: ledger.beat("{}"),
        ledger.acquire,
    ]
    for attempt in full:
        with pytest.raises(Unreachable, match="OOM"):
            await attempt()
        assert await everything(client) == before
    await client.config_set("maxmemory", 0)
    await ledger.commit("7-0", "8-0", [signal(3)], [LETTER])
    signals, dead, offset = await contents(client)
    assert (len(signals), dead, offset) == (2, 2, b"8-0")


@pytest.mark.parametrize("name", [KEYS.signals, KEYS.dead, KEYS.bars])
async def test_a_key_that_is_no_stream_writes_nothing(client: Client, name: str) -> None:
    """What fails does so before anything is written: a step is never half there."""
    ledger = await owning(client)
    await ledger.commit(START, "7-0", [], [])
    await client.set(name, "x")
    before = await everything(client)
    with pytest.raises(Unreachable, match="WRONGTYPE"):
        await ledger.commit("7-0", "8-0", [signal(3)], [LETTER])
    assert await everything(client) == before


async def test_a_dead_letter_keeps_the_raw_entry(client: Client) -> None:
    """L41: reason, sentence, the entry's id and its own bytes, whatever they are."""
    ledger = await owning(client)
    await ledger.commit(START, "7-0", [], [LETTER])
    [(_, fields)] = await client.xrange(KEYS.dead)
    assert fields == {
        b"reason": b"late",
        b"detail": b"too late",
        b"source": b"5-1",
        b"bar:symbol": b"\xff\x00",
        b"bar:": b"x",
    }


async def test_a_hostile_entry_cannot_break_the_commit(client: Client) -> None:
    """L41: of thousands of fields some are kept; the signals beside it are written."""
    entry = {b"f%d" % i: b"v" for i in range(20_000)}
    refused = Refused(Reason.UNKNOWN_FIELD, "field 'f0' is unknown")
    ledger = await owning(client)
    letters = [DeadLetter(refused, b"5-%d" % i, entry) for i in range(1_000)]
    await ledger.commit(START, "7-0", [signal()], letters)
    signals, dead, _ = await contents(client)
    assert (len(signals), dead) == (1, 1_000)
    [(_, fields)] = await client.xrange(KEYS.dead, count=1)
    assert len(fields) == FIELDS_KEPT + 3


async def test_a_signal_is_in_the_stream_and_on_its_channel(client: Client) -> None:
    """Both carry the same bytes; a subscriber of one symbol hears no other."""
    ledger = await owning(client)
    async with client.pubsub() as one, client.pubsub() as every:
        await one.subscribe(KEYS.signal_channel("BTCUSDT"))
        await every.psubscribe(KEYS.signal_channels)
        await one.get_message(timeout=5.0)
        await every.get_message(timeout=5.0)
        await ledger.commit(START, "7-0", [signal(2, "ETHUSDT"), signal(2)], [])
        heard = await one.get_message(ignore_subscribe_messages=True, timeout=5.0)
        first = await every.get_message(ignore_subscribe_messages=True, timeout=5.0)
        second = await every.get_message(ignore_subscribe_messages=True, timeout=5.0)
    signals, _, _ = await contents(client)
    assert heard is not None
    assert first is not None
    assert second is not None
    assert [first["data"], second["data"]] == signals
    assert heard["data"] == signals[1]


async def test_what_we_write_is_capped(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """L42: signals and dead letters are trimmed; a node of the stream (100) may stay over."""
    monkeypatch.setattr(commit, "SIGNALS_KEPT", 100)
    monkeypatch.setattr(commit, "DEAD_KEPT", 200)
    ledger = await owning(client)
    await ledger.commit(START, "7-0", [signal(minute) for minute in range(700)], [LETTER] * 700)
    for key, kept in ((KEYS.signals, 100), (KEYS.dead, 200)):
        info = await client.xinfo_stream(key)
        assert kept <= info["length"] <= kept + 100
    newest = await client.xrevrange(KEYS.signals, count=1)
    assert msgspec.json.decode(newest[0][1][b"json"], type=Signal) == signal(699)


async def test_a_flushed_script_is_sent_again(client: Client) -> None:
    """A restarted Redis has forgotten all scripts."""
    ledger = await owning(client)
    await ledger.commit(START, "7-0", [signal(2)], [])
    await client.script_flush()
    await ledger.commit("7-0", "8-0", [signal(3)], [])
    assert len((await contents(client))[0]) == 2


async def test_an_empty_step_only_moves_the_position(client: Client) -> None:
    ledger = await owning(client)
    await ledger.commit(START, "7-0", [], [])
    assert await contents(client) == ([], 0, b"7-0")


async def test_who_may_not_publish_doubles_nothing(client: Client) -> None:
    """L42, L43: the signal is in the stream, once, and it is said that nobody heard of it."""
    await client.acl_setuser(
        "silent", enabled=True, nopass=True, keys=["*"], categories=["+@all"], reset_channels=True
    )
    ledger = await owning(client)
    async with client.client() as one:
        await one.execute_command("AUTH", "silent", "")
        muted = Ledger(one, KEYS, 60_000, ledger._holder)
        muted._token = ledger._token
        receipts = [await muted.commit(START, "7-0", [signal(2)], []) for _ in range(2)]
    assert [receipt.unheard for receipt in receipts] == [True, False]
    assert len((await contents(client))[0]) == 1
