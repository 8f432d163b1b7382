"""Reading streams by pages, steadily: what only reads may be asked again when a reply is lost."""

from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.commit import order_of

Entry: TypeAlias = tuple[bytes, Mapping[bytes, bytes]]
Answer = TypeVar("Answer")

PAGE = 1000  # entries
ATTEMPTS = 4  # a state is built of hundreds of reads: one reply that is lost must not undo them all


async def steadily(read: Callable[[], Awaitable[Answer]]) -> Answer:
    """What a read gives, asked again where Redis did not serve it. Raises what the last one did."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await read()
        except Unreachable:
            continue
    return await read()


async def page(client: Client, stream: str, after: str, upto: str = "+") -> list[Entry]:
    """The first entries of a stream after an id and up to another, at most `PAGE`."""

    async def read() -> Any:
        return await client.xrange(stream, f"({after}", upto, PAGE)

    return list(await steadily(read))


async def pages(
    client: Client, stream: str, after: str, upto: str = "+"
) -> AsyncIterator[list[Entry]]:
    """The entries of a stream after an id and up to another, oldest first, some at a time."""
    while True:
        entries = await page(client, stream, after, upto)
        if entries:
            yield entries
        if len(entries) < PAGE:
            return
        after = entries[-1][0].decode()


class ReadAhead:
    """The entries of a stream up to an id, a page of them held in memory.

    Rounds are small, and a page holds many: where their bars are asked for one round after the
    other, most are there.
    """

    def __init__(self, client: Client, stream: str, end: str) -> None:
        self._client = client
        self._stream = stream
        self._end = end
        self._held: list[Entry] = []
        self._orders: list[tuple[int, int]] = []
        self._after = self._upto = (0, 0)  # what is held is all between these

    async def between(self, after: str, upto: str) -> AsyncIterator[list[Entry]]:
        """The entries after an id and up to another, or to the end."""
        start, end = order_of(after), order_of(min(upto, self._end, key=order_of))
        while start < end:
            if not self._after <= start < self._upto:
                await self._read("-".join(map(str, start)))
            first, last = (bisect_right(self._orders, at) for at in (start, end))
            if first < last:
                yield self._held[first:last]
            start = self._upto

    async def _read(self, after: str) -> None:
        self._held = await page(self._client, self._stream, after, self._end)
        self._orders = [order_of(entry_id.decode()) for entry_id, _ in self._held]
        is_all = len(self._held) < PAGE
        self._after = order_of(after)
        self._upto = order_of(self._end) if is_all else self._orders[-1]
