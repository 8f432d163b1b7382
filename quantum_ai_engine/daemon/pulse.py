"""The pulse: once a second, measure, tell subscribers, and feed the watchdog if work is done."""

import asyncio
import json
import time
from collections.abc import Callable

from quantum_ai_engine.agents.budget import CpuBudget
from quantum_ai_engine.agents.pool import AgentPool
from quantum_ai_engine.daemon.client import Unreachable
from quantum_ai_engine.daemon.commit import Conflict, OwnershipLost
from quantum_ai_engine.daemon.feed import time_ms
from quantum_ai_engine.daemon.freshness import Freshness
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.notify import Notifier
from quantum_ai_engine.daemon.rounds import Rounds
from quantum_ai_engine.daemon.status import PartitionStatus, Status

PERIOD_S = 1.0
MEASURE_S = 0.25
TRIM_EVERY_S = 60.0


async def report(
    status: Status, metrics: Metrics, notifier: Notifier, period_s: float = PERIOD_S
) -> None:
    """Keep showing how the engine is, and how far behind its partitions are."""
    while True:
        metrics.show(status)
        notifier.status(status.line())
        await asyncio.sleep(period_s)


async def measure_process(
    status: Status, metrics: Metrics, budget: CpuBudget, period_s: float = MEASURE_S
) -> None:
    """Keep saying by how much the event loop is late and what CPU time has been used."""
    while True:
        budget.update(time.monotonic(), time.process_time())
        due = time.monotonic() + period_s
        await asyncio.sleep(period_s)
        status.loop_lag_s = max(0.0, time.monotonic() - due)
        metrics.loop_lag.set(status.loop_lag_s)


class Heart:
    """Beats for one partition, and keeps its bar stream trimmed by time.

    A beat extends the lease, tells subscribers how the engine is, and which series have stopped.
    Who does not own the partition is silent.
    """

    def __init__(self, rounds: Rounds, status: Status) -> None:
        self._rounds = rounds
        self._status = status
        self._freshness = Freshness(rounds.keys, rounds.settings.engine.environment)
        self._trim_at = time.monotonic()

    async def run(self, period_s: float = PERIOD_S) -> None:
        """Beat until cancelled."""
        while True:
            try:
                await self.beat()
            except (Conflict, OwnershipLost, *Unreachable):
                self._rounds.suspect()  # they say what is wrong, and keep trying
            await asyncio.sleep(period_s)

    async def beat(self) -> None:
        """One heartbeat: the lease, the key with its expiry, and the channels."""
        rounds, one = self._rounds, self._rounds.status
        if not rounds.ownership.is_ours:
            return
        if (position := one.position) is None:
            await rounds.ledger.keep()  # to rebuild the state may take longer than a lease
            return
        one.lag_ms = await rounds.feed.lag_ms(position)
        one.lag_bars = await rounds.feed.lag_bars(position) if one.lag_ms else 0
        tombstones = self._stopped(one, position)
        text = json.dumps(self._status.heartbeat(rounds.keys.partition))
        await rounds.ledger.beat(text, tombstones)
        self._freshness.told()
        await self._trim_if_due(position)

    async def _trim_if_due(self, position: str) -> None:
        if time.monotonic() < self._trim_at:
            return
        self._trim_at = time.monotonic() + TRIM_EVERY_S
        # What came after the snapshot is needed by the next start.
        keep_from = self._rounds.snapshots.offset or position
        retention_ms = round(self._rounds.settings.redis.bars_retention_hours * 3_600_000)
        await self._rounds.feed.trim(keep_from, retention_ms, self._rounds.equity)

    def _stopped(self, one: PartitionStatus, position: str) -> list[tuple[str, str]]:
        """What to tell of series that have stopped since the last beat."""
        state, engine = self._rounds.engine.state, self._rounds.settings.engine
        if engine.clock == "bars":
            now_ms = state.newest_close
        else:
            # Who is behind can only say what had stopped by the entry that was read last.
            now_ms = time_ms(position) if one.lag_bars else time.time_ns() // 1_000_000
        due = self._freshness.update(state.overdue(now_ms, engine.stale_intervals), now_ms)
        one.stale = self._freshness.stale
        return due


class Watchdog:
    """Decides whether the service manager may be told that the daemon is alive.

    Only completed work counts: a turn of the round loop since the last check (an idle market
    turns too, as long as Redis answers; while it does not, each attempt is a turn), and a batch
    through a real worker of the pool, in time.
    """

    def __init__(self, pool: AgentPool, status: Status, limit_s: float) -> None:
        self._pool = pool
        self._status = status
        self._limit_s = limit_s
        self._turns = -1

    async def check(self) -> str | None:
        """None when all is well, else what is not."""
        if self._status.turns == self._turns:
            return "the round loop has not turned since the last check"
        self._turns = self._status.turns
        if self._status.loop_lag_s > self._limit_s:
            return f"the event loop was {self._status.loop_lag_s:.1f} s late"
        if (stuck_s := self._pool.longest_running_s()) > self._limit_s:
            return f"a worker has been busy with one batch for {stuck_s:.1f} s"
        try:
            await asyncio.wait_for(self._pool.probe(), self._limit_s)
        except TimeoutError:
            return f"a probe through the pool took more than {self._limit_s:.1f} s"
        return None

    async def run(
        self, notifier: Notifier, interval_s: float, complain: Callable[[str], None]
    ) -> None:
        """Feed the watchdog at every good check, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            wrong = await self.check()
            if wrong is None:
                notifier.watchdog()
            else:
                complain(wrong)
