"""Tests of the commit against a real Redis: all or nothing, and once."""

import msgspec
import pytest

from quantum_ai_engine.daemon import commit
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import (
    FIELDS_KEPT,
    START,
    Conflict,
    DeadLetter,
    Ledger,
    OwnershipLost,
)
from quantum_ai_engine.daemon.keys import Keys
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


async def claimed(client: Client, owner: str = "me") -> Ledger:
    """A ledger that owns the partition."""
    ledger = Ledger(client, KEYS, owner)
    await ledger.position()
    return ledger


async def contents(client: Client) -> tuple[list[bytes], int, bytes | None]:
    """The published JSON, the number of dead letters, and the position."""
    signals = [fields[b"json"] for _, fields in await client.xrange(KEYS.signals)]
    return signals, await client.xlen(KEYS.dead), await client.hget(KEYS.state, "offset")


async def test_position_starts_before_everything(client: Client) -> None:
    assert await Ledger(client, KEYS, "me").position() == START


async def test_commit_writes_signals_letters_and_position(client: Client) -> None:
    """L41: a refused entry is kept with its reason in the same step as the signals."""
    ledger = await claimed(client)
    await ledger.commit(START, "7-0", [signal(2), signal(3)], [LETTER])
    signals, dead, offset = await contents(client)
    assert [msgspec.json.decode(text, type=Signal) for text in signals] == [signal(2), signal(3)]
    assert (dead, offset) == (1, b"7-0")
    assert await ledger.position() == "7-0"


async def test_another_position_refuses_the_whole_commit(client: Client) -> None:
    """L40: the position is stored with the signals; from another one nothing at all is written."""
    ledger = await claimed(client)
    await ledger.commit(START, "7-0", [signal(2)], [])
    before = await contents(client)
    with pytest.raises(Conflict, match="the committed position is 7-0, not 6-0"):
        await ledger.commit("6-0", "8-0", [signal(3)], [LETTER])
    assert await contents(client) == before


async def test_a_commit_that_is_sent_again_is_written_once(client: Client) -> None:
    """A lost reply is recognised by the position, which is the one that was asked for."""
    ledger = await claimed(client)
    for _ in range(3):
        await ledger.commit(START, "7-0", [signal()], [LETTER])
    signals, dead, _ = await contents(client)
    assert (len(signals), dead) == (1, 1)


async def test_another_owner_refuses_the_whole_commit(client: Client) -> None:
    """L45: whoever lost the partition writes nothing any more, and learns it."""
    first = await claimed(client, "first")
    second = await claimed(client, "second")
    with pytest.raises(OwnershipLost, match="owned by second"):
        await first.commit(START, "7-0", [signal()], [LETTER])
    assert await contents(client) == ([], 0, None)
    await second.commit(START, "7-0", [signal()], [])
    assert len((await contents(client))[0]) == 1


async def test_the_same_step_by_two_owners_is_written_once(client: Client) -> None:
    """L45: the old owner does not take the new owner's commit for its own lost reply."""
    first = await claimed(client, "first")
    second = await claimed(client, "second")
    await second.commit(START, "7-0", [signal()], [])
    with pytest.raises(OwnershipLost):
        await first.commit(START, "7-0", [signal()], [])
    assert len((await contents(client))[0]) == 1


async def test_a_lost_partition_is_not_claimed_back(client: Client) -> None:
    """L45: two owners must not take turns."""
    first = await claimed(client, "first")
    await claimed(client, "second")
    with pytest.raises(OwnershipLost):
        await first.position()
    assert await client.hget(KEYS.state, "owner") == b"second"


async def test_a_state_that_vanished_is_a_conflict(client: Client) -> None:
    """After somebody emptied Redis the partition is claimed anew, from the start."""
    ledger = await claimed(client)
    await ledger.commit(START, "7-0", [signal(2)], [])
    await client.flushall()
    with pytest.raises(Conflict):
        await ledger.commit("7-0", "8-0", [signal(3)], [])
    assert await ledger.position() == START


async def test_a_dead_letter_keeps_the_raw_entry(client: Client) -> None:
    """L41: reason, sentence, the entry's id and its own bytes, whatever they are."""
    ledger = await claimed(client)
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
    ledger = await claimed(client)
    letters = [DeadLetter(refused, b"5-%d" % i, entry) for i in range(1_000)]
    await ledger.commit(START, "7-0", [signal()], letters)
    signals, dead, _ = await contents(client)
    assert (len(signals), dead) == (1, 1_000)
    [(_, fields)] = await client.xrange(KEYS.dead, count=1)
    assert len(fields) == FIELDS_KEPT + 3


async def test_a_signal_is_in_the_stream_and_on_its_channel(client: Client) -> None:
    """Both carry the same bytes; a subscriber of one symbol hears no other."""
    ledger = await claimed(client)
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
    ledger = await claimed(client)
    await ledger.commit(START, "7-0", [signal(minute) for minute in range(700)], [LETTER] * 700)
    for key, kept in ((KEYS.signals, 100), (KEYS.dead, 200)):
        info = await client.xinfo_stream(key)
        assert kept <= info["length"] <= kept + 100
    newest = await client.xrevrange(KEYS.signals, count=1)
    assert msgspec.json.decode(newest[0][1][b"json"], type=Signal) == signal(699)


async def test_a_flushed_script_is_sent_again(client: Client) -> None:
    """A restarted Redis has forgotten all scripts."""
    ledger = await claimed(client)
    await ledger.commit(START, "7-0", [signal(2)], [])
    await client.script_flush()
    await ledger.commit("7-0", "8-0", [signal(3)], [])
    assert len((await contents(client))[0]) == 2


async def test_an_empty_step_only_moves_the_position(client: Client) -> None:
    ledger = await claimed(client)
    await ledger.commit(START, "7-0", [], [])
    assert await contents(client) == ([], 0, b"7-0")
