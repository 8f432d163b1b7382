"""A proxy in front of Redis that loses, cuts, delays and withholds what passes."""

import asyncio
import contextlib
import random
from asyncio import StreamReader, StreamWriter
from pathlib import Path
from typing import Self

CHUNK = 1 << 20


class Proxy:
    """TCP to a unix socket or to a port of this machine, until it is told to misbehave.

    `cut` holds a command's name: of the reply to the next request that holds it only the first
    `cut_after` bytes are passed on, then the connection is cut. Of all other replies, the share
    `drop_share` is thrown away and the connection cut, and the share `tear_share` is cut somewhere
    in its middle; `cuts` counts all three. A request that holds `withhold` is never passed on;
    `withheld` counts those. Each reply waits `delay_s`. What one read gives is taken for a reply.
    """

    def __init__(self, target: Path | int, *, seed: int = 0) -> None:
        self.cut: bytes | None = None
        self.cut_after = 0
        self.cuts = 0
        self.drop_share = 0.0
        self.tear_share = 0.0
        self.withhold: bytes | None = None
        self.withheld = 0
        self.delay_s = 0.0
        self._target = target
        self._random = random.Random(seed)  # noqa: S311 (chance, not a secret)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return f"redis://127.0.0.1:{port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            # The end of a connection, however it comes, is an ordinary event here.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            self._connections.discard(connection)
            writer.close()

    async def _join(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Pass bytes on both ways until one side ends."""
        there, back = await self._reach()
        is_cut = asyncio.Event()
        with contextlib.closing(back):
            ways = {
                asyncio.create_task(self._requests(reader, back, is_cut)),
                asyncio.create_task(self._replies(there, writer, is_cut)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _reach(self) -> tuple[StreamReader, StreamWriter]:
        if isinstance(self._target, int):
            return await asyncio.open_connection("127.0.0.1", self._target)
        return await asyncio.open_unix_connection(self._target)

    async def _requests(
        self, reader: StreamReader, back: StreamWriter, is_cut: asyncio.Event
    ) -> None:
        while data := await reader.read(CHUNK):
            if self.withhold is not None and self.withhold in data:
                self.withheld += 1
                continue
            if self.cut is not None and self.cut in data:
                self.cut = None
                is_cut.set()
            back.write(data)
            await back.drain()

    async def _replies(
        self, there: StreamReader, writer: StreamWriter, is_cut: asyncio.Event
    ) -> None:
        while data := await there.read(CHUNK):
            kept = self.cut_after if is_cut.is_set() else self._kept(len(data))
            if kept is not None:
                self.cuts += 1
                writer.write(data[:kept])
                await writer.drain()
                return
            await asyncio.sleep(self.delay_s)
            writer.write(data)
            await writer.drain()

    def _kept(self, length: int) -> int | None:
        """How many bytes of an unlucky reply are passed on; None for one that has luck."""
        luck = self._random.random()
        if luck < self.drop_share:
            return 0
        return self._random.randrange(length) if luck < self.drop_share + self.tear_share else None
