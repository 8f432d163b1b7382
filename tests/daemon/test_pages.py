"""Streams read by pages: whole, in order, with a page held in memory, and again where one fails."""

import itertools
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from quantum_ai_engine.daemon import pages as module
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.pages import ATTEMPTS, Entry, ReadAhead, pages, steadily

STREAM = "numbers"


@pytest.fixture(autouse=True)
async def numbers(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries 1-0, 1-1, 2-0, 2-1, … 20-1, and pages of 7."""
    monkeypatch.setattr(module, "PAGE", 7)
    for at in range(1, 21):
        for sequence in range(2):
            await client.xadd(STREAM, {"n": b"x"}, id=f"{at}-{sequence}")


def ids(entries: list[Entry]) -> list[str]:
    return [entry_id.decode() for entry_id, _ in entries]


async def between(ahead: ReadAhead, after: str, upto: str) -> list[str]:
    return [one async for entries in ahead.between(after, upto) for one in ids(entries)]


@pytest.mark.parametrize(("after", "upto"), [("0-0", "+"), ("3-0", "3-1"), ("4-1", "19-0")])
async def test_pages_are_the_stream(client: Client, after: str, upto: str) -> None:
    """L40: each entry after the one and up to the other, once, in order."""
    found = [one async for entries in pages(client, STREAM, after, upto) for one in ids(entries)]
    assert found == ids(await client.xrange(STREAM, f"({after}", upto))


async def test_what_is_asked_of_parts_is_what_is_asked_of_the_whole(client: Client) -> None:
    """L40: parts of any size, side by side, are the whole; and an earlier one is read again."""
    every = ids(await client.xrange(STREAM))
    for size in (1, 2, 3, 7, 8, 15, 40):
        ahead = ReadAhead(client, STREAM, "20-1")
        ends = ["0-0", *every[size - 1 :: size], "20-1"]
        found = [await between(ahead, *pair) for pair in itertools.pairwise(ends)]
        assert [one for part in found for one in part] == every
        assert await between(ahead, "2-0", "3-0") == ["2-1", "3-0"]


async def test_nothing_is_beyond_the_end(client: Client) -> None:
    """L40: also where the end is no entry, and where nothing is left."""
    ahead = ReadAhead(client, STREAM, "5-7")
    assert await between(ahead, "4-1", "20-0") == ["5-0", "5-1"]
    assert await between(ahead, "5-1", "20-0") == []
    assert await between(ahead, "9-0", "3-0") == []


async def test_a_page_serves_many_rounds(client: Client) -> None:
    """Rounds of one entry each take a command for seven of them."""
    commands, xrange = list[Any](), client.xrange

    async def counted(*args: Any) -> Any:
        commands.append(args)
        return await xrange(*args)

    client.xrange = counted  # type: ignore[method-assign]
    ahead = ReadAhead(client, STREAM, "20-1")
    every = ["0-0", *ids(await xrange(STREAM))]
    for pair in itertools.pairwise(every):
        assert len(await between(ahead, *pair)) == 1
    assert len(commands) == 6  # 40 entries in pages of 7


@pytest.mark.parametrize("failures", [0, 1, ATTEMPTS - 1])
async def test_a_lost_reply_is_asked_for_again(failures: int) -> None:
    """L47: what only reads is no worse for being asked twice."""
    asked = 0

    async def read() -> str:
        nonlocal asked
        asked += 1
        if asked <= failures:
            raise RedisConnectionError("cut")
        return "there"

    assert await steadily(read) == "there"
    assert asked == failures + 1


async def test_who_never_answers_is_given_up() -> None:
    """L47: and the error is the one that it gave."""
    asked = 0

    async def read() -> str:
        nonlocal asked
        asked += 1
        raise RedisConnectionError("gone")

    with pytest.raises(RedisConnectionError, match="gone"):
        await steadily(read)
    assert asked == ATTEMPTS
