"""Predictions for callers: behind live rounds, in slices that a live round can wait for."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence

from quantum_ai_engine.agents.base import LARGEST_BATCH, Agent
from quantum_ai_engine.agents.plan import Cost
from quantum_ai_engine.agents.pool import AgentPool, Answer, Request, Timing, joined

SLICE_S = 0.005


class Lane:
    """A predictor beside the live rounds, which come first.

    While a live round is on, nothing is begun here. Between rounds one slice at a time is given to
    one worker: as many rows of one agent as are thought to take 5 ms, at least one. So whatever is
    asked here, a live round waits for one slice at most. What slices have cost is learned here, and
    live rounds are planned as if there were none.

    Not for several callers at once: who has many questions asks them together.
    """

    def __init__(self, pool: AgentPool, slice_s: float = SLICE_S) -> None:
        self._pool = pool
        self.slice_s = slice_s
        self._costs = {agent.name: Cost() for agent in pool.agents}
        self._timings: deque[Timing] = deque()
        self._rounds = 0
        self._is_clear = asyncio.Event()
        self._is_clear.set()

    @property
    def agents(self) -> tuple[Agent, ...]:
        return self._pool.agents

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """A live round is on."""
        self._rounds += 1
        self._is_clear.clear()
        try:
            yield
        finally:
            self._rounds -= 1
            if not self._rounds:
                self._is_clear.set()

    async def clear(self) -> None:
        """Return while no live round is on."""
        while self._rounds:
            await self._is_clear.wait()

    async def predict(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order."""
        return [await self._answer(request) for request in requests]

    async def _answer(self, request: Request) -> Answer:
        parts: list[Answer] = []
        start = 0
        while start < len(request.windows):
            await self.clear()
            rows = self._rows(request.agent.name, len(request.windows) - start)
            windows = request.windows.take(slice(start, start + rows))
            parts.append(await self._pool.lend(Request(request.agent, windows), self._timings))
            while self._timings:
                timing = self._timings.popleft()
                self._costs[timing.agent].update(timing.rows, timing.seconds)
            start += rows
        return joined(parts)

    def _rows(self, agent: str, waiting: int) -> int:
        """How many rows are the next slice: a power of two, or all that are left."""
        rows, cost = 1, self._costs[agent]
        if not cost.get(1):
            return rows  # nothing is known yet
        while rows < min(waiting, LARGEST_BATCH) and cost.get(2 * rows) <= self.slice_s:
            rows *= 2
        return min(rows, waiting)
