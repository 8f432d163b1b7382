"""The thread pool in which all agents run: bounded, one thread each, warmed up, with a deadline."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import LARGEST_BATCH, Agent
from quantum_ai_engine.agents.plan import Plan, Planner
from quantum_ai_engine.events import Abstained
from quantum_ai_engine.features.store import Windows

TIMINGS = 1_000  # of batches, from the workers, that the next round learns from


@dataclass(frozen=True, slots=True)
class Request:
    """Windows for one agent to answer."""

    agent: Agent
    windows: Windows


class Timing(NamedTuple):
    """What a batch of an agent took in a worker."""

    agent: str
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Probabilities [n] of one agent; where `reasons[i]` is given, it abstained from row i."""

    probabilities: NDArray[np.float64]
    reasons: tuple[Abstained | None, ...]


class AgentPool:
    """Runs agents side by side in `workers` threads.

    Before a round, a planner says by what batches have cost so far which agents would be late:
    they are shed whole, and abstain. The others are queued in their declared order. What is not
    done by the deadline all the same is abandoned: the rows abstain, waiting work is dropped and
    a late result goes nowhere. Its worker is not counted on until it is free.

    Between rounds a worker may be lent for a short batch (`lend`): no plan takes notice of it.

    `observe(agent name, seconds)` is called in a worker for each finished batch, `report(agent
    name, error)` for each that raised.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        workers: int,
        deadline_s: float,
        observe: Callable[[str, float], None],
        report: Callable[[str, BaseException], None],
    ) -> None:
        self.agents = tuple(agents)
        self.workers = workers
        self._deadline_s = deadline_s
        self._observe = observe
        self._report = report
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="agent")
        self._running: dict[int, float] = {}
        self._planner = Planner()
        self._timings: deque[Timing] = deque(maxlen=TIMINGS)
        self._probes: dict[str, Future[NDArray[np.float64]]] = {}  # the latest of each agent
        self._lent: dict[str, Future[NDArray[np.float64]]] = {}  # … and of batches beside rounds
        self._lent_now: Future[NDArray[np.float64]] | None = None

    async def start(self) -> None:
        """Warm every agent up in every worker thread, and measure the smallest and largest batch.

        Raises what `warm_up` raises.
        """
        barrier = threading.Barrier(self.workers)
        loop = asyncio.get_running_loop()
        # The barrier holds each worker until all have one job, so that each thread gets one.
        await asyncio.gather(
            *(
                loop.run_in_executor(self._executor, self._warm_up, barrier)
                for _ in range(self.workers)
            )
        )
        for agent in self.agents:
            if not agent.unavailable:
                await self._time(agent, 1)
                await self._time(agent, LARGEST_BATCH)

    def close(self) -> None:
        """Drop what waits and let the threads end after their current work."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    @property
    def busy_workers(self) -> int:
        return len(self._running)

    def longest_running_s(self) -> float:
        """For how long the oldest unfinished batch has been running; 0 when all are idle."""
        started = list(self._running.values())
        return time.monotonic() - min(started) if started else 0.0

    async def probe(self) -> None:
        """One real batch through a real worker."""
        await self._time(next(agent for agent in self.agents if not agent.unavailable), 1)

    async def _time(self, agent: Agent, rows: int) -> None:
        """One batch of zeros, through a worker; an agent that raises is reported."""
        windows = np.zeros((rows, agent.feature_set.window, len(agent.feature_set.columns)))
        job = asyncio.wrap_future(self._submit(Request(agent, Windows.of(windows)), 0))
        try:
            await asyncio.wait([job])
        finally:
            job.cancel()  # who waited has given up: what has not begun is dropped
        if error := job.exception():
            self._report(agent.name, error)

    async def predict(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order, by the deadline."""
        plan = self._plan(requests)
        jobs = [
            (i, start, self._submit(requests[i], start))
            for i in plan.run
            for start in range(0, len(requests[i].windows), LARGEST_BATCH)
        ]
        for i in plan.probed:
            self._probe(requests[i])
        if jobs:
            await _until(self._deadline_s, [asyncio.wrap_future(job) for _, _, job in jobs])
        for _, _, job in jobs:
            job.cancel()  # what waits is dropped at once, not only when the loop turns
        parts: list[list[Answer]] = [[] for _ in requests]
        for i, start, job in jobs:
            rows = min(LARGEST_BATCH, len(requests[i].windows) - start)
            parts[i].append(self._collect(requests[i].agent.name, job, rows))
        for i in {*range(len(requests))}.difference(plan.run):
            parts[i] = [_abstained(Abstained.DEADLINE, len(requests[i].windows))]
        return [joined(part) for part in parts]

    async def lend(self, request: Request, timings: deque[Timing]) -> Answer:
        """One batch beside the rounds: at most one at a time, and a short one, since a round that
        begins meanwhile has to wait for its worker.

        What it took goes to `timings` alone. When it is late, or the caller is cancelled, it is
        abandoned; until it ends its agent abstains from others like it.
        """
        name, rows = request.agent.name, len(request.windows)
        last = self._lent.get(name)
        if last is not None and not last.done():
            return _abstained(Abstained.DEADLINE, rows)
        job = self._executor.submit(self._run, request.agent, request.windows, timings)
        self._lent[name] = self._lent_now = job
        waiting = asyncio.wrap_future(job)
        try:
            await _until(self._deadline_s, [waiting])
        finally:
            waiting.cancel()
            job.cancel()
            self._lent_now = None  # what still runs is abandoned work
        return self._collect(name, job, rows)

    def _plan(self, requests: Sequence[Request]) -> Plan:
        """Learn what batches have cost since the last round, then say who is run in this one.

        Workers that are still busy are so with abandoned work, but for the one that is lent: it
        comes back at once.
        """
        while self._timings:
            self._planner.learn(*self._timings.popleft())
        demands = [(request.agent.name, len(request.windows)) for request in requests]
        lent = self._lent_now is not None and self._lent_now.running()
        free = max(1, self.workers - self.busy_workers + lent)
        return self._planner.admit(demands, free, self._deadline_s)

    def _probe(self, request: Request) -> None:
        """One batch to be measured, not listened to, unless the agent's last still waits."""
        last = self._probes.get(request.agent.name)
        if last is None or last.done():
            self._probes[request.agent.name] = self._submit(request, 0)

    def _submit(self, request: Request, start: int) -> Future[NDArray[np.float64]]:
        chunk = request.windows.take(slice(start, start + LARGEST_BATCH))
        return self._executor.submit(self._run, request.agent, chunk, self._timings)

    def _run(self, agent: Agent, windows: Windows, timings: deque[Timing]) -> NDArray[np.float64]:
        thread, started = threading.get_ident(), time.monotonic()
        self._running[thread] = started
        try:
            probabilities = _checked(agent.predict(windows.array()), len(windows))
            # A batch that raised says nothing about what one costs.
            timings.append(Timing(agent.name, len(windows), time.monotonic() - started))
            return probabilities
        finally:
            del self._running[thread]
            self._observe(agent.name, time.monotonic() - started)

    def _collect(self, name: str, job: Future[NDArray[np.float64]], rows: int) -> Answer:
        if job.cancelled() or not job.done():
            return _abstained(Abstained.DEADLINE, rows)
        error = job.exception()
        if error is not None:
            self._report(name, error)
            return _abstained(Abstained.ERROR, rows)
        probabilities = job.result()
        return Answer(
            probabilities,
            tuple(None if ok else Abstained.NON_FINITE for ok in np.isfinite(probabilities)),
        )

    def _warm_up(self, barrier: threading.Barrier) -> None:
        barrier.wait()
        for agent in self.agents:
            agent.warm_up()


def worker_count(budget_cores: float, cores: int) -> int:
    """Threads for agents: the whole cores of min(budget, cores − 0.5); the loop keeps the rest.

    >>> worker_count(3.5, 4), worker_count(3.5, 2), worker_count(3.5, 1)
    (3, 1, 1)
    """
    return max(1, math.floor(budget(budget_cores, cores)))


def budget(budget_cores: float, cores: int) -> float:
    """The cores that the process may use: never the last half of a core of the machine."""
    return min(budget_cores, cores - 0.5)


def _checked(answer: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """What an agent gave, which may be anybody's, if it is one number for each row."""
    probabilities = np.asarray(answer, dtype=np.float64)
    if probabilities.shape != (rows,):
        raise ValueError(
            f"predict gave an array of shape {probabilities.shape} for {rows} windows; "
            f"it must return one probability for each, in the shape ({rows},)"
        )
    return probabilities


async def _until(deadline_s: float, jobs: Sequence["asyncio.Future[NDArray[np.float64]]"]) -> None:
    """Wait for all jobs, at most until the deadline; what still waits in the queue is dropped."""
    done, late = await asyncio.wait(jobs, timeout=deadline_s)
    for job in late:
        job.cancel()
    for job in done:
        if not job.cancelled():  # as those are that waited when the pool was closed
            job.exception()  # read from the worker's own future; here only marked as seen


def _abstained(reason: Abstained, rows: int) -> Answer:
    return Answer(np.full(rows, np.nan), (reason,) * rows)


def joined(parts: Sequence[Answer]) -> Answer:
    """One after the other."""
    if not parts:
        return Answer(np.empty(0), ())
    return Answer(
        np.concatenate([part.probabilities for part in parts]),
        tuple(reason for part in parts for reason in part.reasons),
    )
