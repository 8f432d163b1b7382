"""Asks a daemon over HTTP, in a process of its own: `python -m benchmarks.http_asker`.

A plan comes as JSON on standard input, and what came of it goes to standard output.
"""

import asyncio
import sys
import time
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import aiohttp
import msgspec

PATIENCE_S = 15.0  # then an answer counts as none


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask: `single`, `ten` or `metrics`, how often a second (0: as often as answered).

    `page`: each connection is a browser that follows the overview; an answer is an update.
    """

    url: str
    kind: str
    rate: float
    connections: int
    seconds: float
    symbols: list[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of a load: seconds of each answer, and how many were not 200."""

    seconds: list[float]
    refused: int
    lasted_s: float
    size: int  # of the last body, in bytes


class Asker:
    """Asks one daemon, in a process of its own."""

    def __init__(self, session: aiohttp.ClientSession, plan: "Plan") -> None:
        self._session = session
        self._kind = plan.kind
        self._symbols = cycle(plan.symbols)
        self.seconds: list[float] = []
        self.refused = self.size = 0

    async def ask(self, due: float) -> None:
        """One request, whose time begins when it was due."""
        try:
            async with self._request() as answer:
                body = await answer.read()
        except TimeoutError:
            self.refused += 1
            self.seconds.append(time.perf_counter() - due)
            return
        self.seconds.append(time.perf_counter() - due)
        is_error = self._kind != "metrics" and b'"error"' in body  # there it is a label
        self.refused += answer.status != 200 or is_error
        self.size = len(body)

    def _request(self) -> Any:
        if self._kind == "metrics":
            return self._session.get("/metrics")
        if self._kind == "single":
            return self._session.post("/predict", json={"symbol": next(self._symbols)})
        requests = [{"symbol": next(self._symbols)} for _ in range(10)]
        return self._session.post("/predict", json={"requests": requests})


async def carry_out(plan: Plan) -> Asked:
    connector = aiohttp.TCPConnector(limit=plan.connections)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(plan.url, connector=connector, timeout=timeout) as session:
        asker, began = Asker(session, plan), time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            if plan.kind == "page":
                for _ in range(plan.connections):
                    tasks.create_task(_follow(session, asker, began + plan.seconds))
            elif not plan.rate:
                for _ in range(plan.connections):
                    tasks.create_task(_again(asker, began + plan.seconds))
            for i in range(int(plan.rate * plan.seconds)):
                due = began + i / plan.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.create_task(asker.ask(due))
        lasted_s = time.perf_counter() - began
    return Asked(asker.seconds, asker.refused, lasted_s, asker.size)


async def _follow(session: aiohttp.ClientSession, asker: Asker, until: float) -> None:
    """Take updates; the time of each is that since the one before it."""
    endless = aiohttp.ClientTimeout(total=None)
    async with session.get("/events?page=overview", timeout=endless) as answer:
        asker.refused += answer.status != 200
        last = time.perf_counter()
        async for line in answer.content:
            now = time.perf_counter()
            if line.startswith(b"data:"):
                asker.size = len(line)
                asker.seconds.append(now - last)
                last = now
            if now > until:
                return


async def _again(asker: Asker, until: float) -> None:
    while (now := time.perf_counter()) < until:
        await asker.ask(now)


if __name__ == "__main__":
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(carry_out(plan))))
