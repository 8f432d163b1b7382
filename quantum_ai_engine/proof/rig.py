"""The rig of a fault run: a mortal Redis, a proxy before it, real engines and a feeder."""

import asyncio
import contextlib
import inspect
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from statistics import median
from typing import Any, TypeAlias

from quantum_ai_engine.config import Loaded, load
from quantum_ai_engine.daemon.client import Client, Unreachable, connect
from quantum_ai_engine.daemon.commit import START
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.tasks import end
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.proof.feeder import Feeder
from quantum_ai_engine.proof.process import EngineProcess, ProofError, environ_of
from quantum_ai_engine.proof.proxy import Proxy
from quantum_ai_engine.proof.server import MortalRedis

PATIENCE_S = 60.0  # for one step of progress; a busy machine needs a few seconds
POLL_S = 0.002
STARTING_SHARE = 0.15  # of the moments fall into the start of a process …
MOST_COMMITS, ROUND_S = 8, 0.01  # … the others after so many commits, and so long after the last
OWNER_SHARE = 0.75  # of the strikes at one of several engines
FIRST_START_S = 2.0  # until a start has been measured
STARTS_MEASURED = 20
LAST_PROCESSES = 3

Condition: TypeAlias = Callable[[], object | Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a rig is made of: its engines, and the shares of their replies that are lost or torn."""

    directory: Path
    settings: Mapping[str, Any]
    engines: int = 1
    drop_share: float = 0.0
    tear_share: float = 0.0

    @property
    def is_lossy(self) -> bool:
        return self.drop_share + self.tear_share > 0.0


class Rig:
    """What a scenario plays with, inside `async with rig.running():`.

    `engines` are those that should run now, `processes` all there have been. `wanted` bars are
    fed from the next random moment on.
    """

    def __init__(self, layout: Layout, table: BarTable, environ: Mapping[str, str], seed: int):
        self.chance = random.Random(seed)  # noqa: S311 (chance, not a secret)
        self.server = MortalRedis(layout.directory / "redis")
        self.engines: list[EngineProcess] = []
        self.processes: list[EngineProcess] = []
        self.wanted = 0
        self.proxy: Proxy
        self.client: Client
        self.feeder: Feeder
        self.loaded: Loaded
        self._layout = layout
        self._table = table
        self.environ = environ

    @property
    def keys(self) -> Keys:
        return Keys.of(self.loaded.settings.redis)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The server, the proxy and the feeder; at the end no process is left."""
        layout = self._layout
        async with contextlib.AsyncExitStack() as stack:
            await self.server.start()
            stack.push_async_callback(self._leave)
            self.proxy = await stack.enter_async_context(
                Proxy(self.server.socket, seed=self.chance.getrandbits(32))
            )
            self.proxy.drop_share, self.proxy.tear_share = layout.drop_share, layout.tear_share
            url = self.proxy.url if layout.is_lossy else self.server.url
            self.environ = environ_of({**layout.settings, "redis.url": url}, self.environ)
            self.loaded = load(None, environ=self.environ)
            self.client = await stack.enter_async_context(
                connect(self.loaded.settings.redis, self.server.url)
            )
            self.feeder = Feeder(self.client, self.keys, self._table, self.chance)
            feeding = asyncio.create_task(self.feeder.run())
            stack.push_async_callback(end, [feeding])
            yield

    async def _leave(self) -> None:
        """Kill every engine, then end the server."""
        for process in self.engines:
            await process.kill()
        await self.server.stop()

    async def revive(self) -> None:
        """Start engines in the place of those that have ended, as a service manager does."""
        for process in self.engines:
            if process.status not in (None, -SIGKILL):
                await process.ended()
                if not process.lost_its_place:
                    raise ProofError(
                        f"an engine ended with status {process.status}; it said last: "
                        f"{process.last_words}"
                    )
        self.engines = [process for process in self.engines if process.status is None]
        while len(self.engines) < self._layout.engines:
            process = EngineProcess(self.environ, bars_wait=not await self.is_at_end())
            await process.start()
            self.engines.append(process)
            self.processes.append(process)

    async def moment(self) -> None:
        """Return at a random moment: while an engine starts, or amid its commits."""
        self.feeder.want(self.wanted)
        is_starting = any(process.ready is None for process in self.engines)
        if is_starting and self.chance.random() < STARTING_SHARE:
            await asyncio.sleep(self.chance.uniform(0.0, self._start_s()))
            return
        for _ in range(self.chance.randint(1, MOST_COMMITS)):
            await self.commit()
        await asyncio.sleep(self.chance.uniform(0.0, ROUND_S))

    def _start_s(self) -> float:
        """How long a start takes, by the last ones."""
        ended = [p for p in self.processes if p.ready is not None][-STARTS_MEASURED:]
        took = [(p.ready.at_ms - p.spawned_ms) / 1000 for p in ended if p.ready is not None]
        return median(took) if took else FIRST_START_S

    async def commit(self) -> bool:
        """Return when an engine has moved the position; False when there is nothing to do."""
        before = await self.offset()

        async def outcome() -> str:
            if await self.offset() != before:
                return "moved"
            if self.feeder.is_done and await self.is_at_end():
                return "idle"
            await self.revive()
            return ""

        return bool(await self.patiently(outcome, "no engine has committed") == "moved")

    async def idle(self) -> None:
        """Return when all bars that are wanted so far have been dealt with."""
        while await self.commit():
            pass

    async def fed(self) -> None:
        """Return when all bars that are wanted so far are in the stream."""
        await self.patiently(lambda: self.feeder.is_done, "the feeder has not come to its end")

    async def settled(self) -> int:
        """As `MortalRedis.settled`, after a rewrite that may be going on."""
        settled = await self.patiently(
            lambda: self._ask(lambda: self.server.settled(self.client)),
            "the AOF has not been rewritten",
        )
        return int(settled)

    async def patiently(self, condition: Condition, what: str) -> Any:
        """What the condition, which may be awaitable, gives once it holds. Raises `ProofError`."""
        until, task = time.monotonic() + PATIENCE_S, asyncio.current_task()
        while True:
            result = condition()
            if held := await result if inspect.isawaitable(result) else result:
                return held
            # The Redis client may have swallowed it: before Python 3.12 `wait_for` may do so.
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            if time.monotonic() > until:
                words = "; ".join(p.last_words for p in self.processes[-LAST_PROCESSES:])
                raise ProofError(f"{what} for {PATIENCE_S:g} s; the engines said last: {words}")
            await asyncio.sleep(POLL_S)

    async def restart_server(self) -> None:
        """Start the killed server again."""
        await self.server.start()
        self.feeder.fed = 0  # unknown: it may have lost the last it acknowledged

    async def owner(self) -> EngineProcess:
        """The engine that holds the partition, or any when nobody says so."""
        answer = await self._ask(lambda: self.client.hget(self.keys.state, "holder"))
        holder = Holder.decode(answer or b"")
        for process in self.engines:
            if holder is not None and process.status is None and process.pid == holder.pid:
                return process
        return self.chance.choice(self.engines)

    async def victim(self) -> EngineProcess:
        """The owner mostly, else any."""
        is_owner = self.chance.random() < OWNER_SHARE
        return await self.owner() if is_owner else self.chance.choice(self.engines)

    async def drained(self) -> None:
        """Return when everything is fed and committed, and the engines have been stopped."""
        await self.revive()
        await self.idle()
        for process in self.engines:
            status = await process.stop()
            # One that is leaving by itself no longer listens to SIGTERM.
            if status not in (0, -SIGTERM) and not process.lost_its_place:
                raise ProofError(
                    f"an engine was stopped and ended with status {status}; it said last: "
                    f"{process.last_words}"
                )

    async def is_at_end(self) -> bool:
        return await self.offset() == await self._newest()

    async def offset(self) -> str:
        """The committed position."""
        answer = await self._ask(lambda: self.client.hget(self.keys.state, "offset"))
        return START if answer is None else str(answer, "ascii")

    async def _newest(self) -> str:
        """The end of the bar stream."""
        answer = await self._ask(lambda: self.client.xrevrange(self.keys.bars, count=1))
        return str(answer[0][0], "ascii") if answer else START

    async def _ask(self, command: Callable[[], Any]) -> Any:
        """The answer of Redis, which may have come back a moment ago."""
        while True:
            with contextlib.suppress(*Unreachable):
                return await command()
            await asyncio.sleep(POLL_S)
