"""Reading the signal stream back: what a position is, and where it goes on when one is gone."""

import pytest

from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.signals import (
    ALL,
    CHUNK,
    SignalStream,
    decode_tombstone,
    positions,
)

KEYS = Keys("quantum")


@pytest.fixture
def stream(client: Client) -> SignalStream:
    return SignalStream(client, KEYS)


async def fill(client: Client, *names: str) -> None:
    for name in names:
        await client.xadd(KEYS.signals, {"json": "{}"}, id=name)


@pytest.mark.parametrize("text", ["", "new,", "1,2", "a", "1-", "-", "1 ", "+", "1-1-1"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an entry id"):
        positions(text, 1)


async def test_the_newest_of_nothing_is_the_beginning(stream: SignalStream, client: Client) -> None:
    assert await stream.newest() == ALL
    await fill(client, "5-0", "6-1")
    assert await stream.newest() == "6-1"


async def test_a_page_has_a_bound(stream: SignalStream, client: Client) -> None:
    async with client.pipeline(transaction=False) as pipe:
        for number in range(1, CHUNK + 3):
            pipe.xadd(KEYS.signals, {"json": "{}"}, id=f"{number}-0")
        await pipe.execute()
    first = await stream.read(ALL, lambda _: False)
    assert (len(first.entries), first.is_all, first.gap) == (CHUNK, False, False)
    second = await stream.read(first.entries[-1][0].decode(), lambda _: False)
    assert [name for name, _ in second.entries] == [b"1001-0", b"1002-0"]
    assert second.is_all


async def test_all_entries_backward(stream: SignalStream, client: Client) -> None:
    names = [f"{number}-0" for number in range(1, 2 * CHUNK + 2)]
    async with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.xadd(KEYS.signals, {"json": "{}"}, id=name)
        await pipe.execute()
    assert [entry[0].decode() async for entry in stream.backward()] == names[::-1]


async def test_what_was_read_counts_before_what_is_older(
    stream: SignalStream, client: Client
) -> None:
    """L40: the server went back, and put new entries before the position."""
    await fill(client, "1-0", "2-0", "3-0")
    known = await stream.read("9-0", lambda entry: entry[0] == b"1-0")
    assert (known.position, known.gap) == ("1-0", False)
    assert [name for name, _ in known.entries] == [b"2-0", b"3-0"]
    unknown = await stream.read("9-0", lambda _: False)
    assert (unknown.position, unknown.entries, unknown.gap) == ("3-0", [], False)


async def test_a_gap_is_told(stream: SignalStream, client: Client) -> None:
    """L40: nothing at or before the position is left, so what came after may be gone too."""
    await fill(client, "5-0")
    found = await stream.read("3-0", lambda _: False)
    assert (found.position, found.gap, len(found.entries)) == (ALL, True, 1)


async def test_the_age_of_a_heartbeat_is_by_its_expiry(
    stream: SignalStream, client: Client
) -> None:
    """L06: it needs no clock but the server's."""
    assert await stream.heartbeat_age_ms() is None
    await client.set(KEYS.heartbeat, "{}", px=7_000)
    age_ms = await stream.heartbeat_age_ms()
    assert age_ms is not None
    assert 3_000 <= age_ms < 10_000
    await client.set(KEYS.heartbeat, "{}")
    assert await stream.heartbeat_age_ms() is None


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[" * 100_000, b'{"schema":1,"stale":true}', b'{"schema":2,"stale":true}'],
)
def test_no_tombstone(payload: bytes) -> None:
    assert decode_tombstone(payload) is None
