"""A proxy in front of Redis that loses, delays and withholds what passes."""

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from pathlib import Path
from typing import Self

CHUNK = 1 << 20


class Proxy:
    """TCP to a unix socket, one connection to one, until it is told to misbehave.

    `cut` holds a command's name: the next request that holds it is passed on, its reply is
    thrown away and the connection cut; `cuts` counts these. A request that holds `withhold` is
    never passed on. Each reply waits `delay_s`.
    """

    def __init__(self, target: Path) -> None:
        self.cut: bytes | None = None
        self.cuts = 0
        self.withhold: bytes | None = None
        self.withheld = 0
        self.delay_s = 0.0
        self._target = target
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
        there, back = await asyncio.open_unix_connection(self._target)
        is_cut = asyncio.Event()
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
            back.close()

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
            if is_cut.is_set():
                self.cuts += 1
                return
            await asyncio.sleep(self.delay_s)
            writer.write(data)
            await writer.drain()
