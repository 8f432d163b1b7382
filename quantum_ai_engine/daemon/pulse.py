"""The pulse: once a second, measure, tell subscribers, and feed the watchdog if work is done."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from quantum_ai_engine.agents.budget import CpuBudget
from quantum_ai_engine.agents.pool import AgentPool
from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.feed import BarFeed
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.notify import Notifier
from quantum_ai_engine.daemon.status import Status

PERIOD_S = 1.0
MEASURE_S = 0.25
EXPIRY_S = 10  # a heartbeat older than this is gone: a stalled engine is visible to everybody
TRIM_EVERY_S = 60.0


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


@dataclass(frozen=True, slots=True)
class Heart:
    """Publishes the heartbeat and keeps the bar stream trimmed by time."""

    client: Client
    feed: BarFeed
    settings: RedisSettings
    status: Status
    metrics: Metrics
    notifier: Notifier

    async def run(self, period_s: float = PERIOD_S) -> None:
        """Beat until cancelled; while Redis cannot serve, only the service manager hears it."""
        trim_at = time.monotonic()
        while True:
            with contextlib.suppress(*Unreachable):
                await self.beat()
                if time.monotonic() >= trim_at and self.status.position:
                    trim_at = time.monotonic() + TRIM_EVERY_S
                    retention_ms = round(self.settings.bars_retention_hours * 3_600_000)
                    await self.feed.trim(self.status.position, retention_ms)
            self.notifier.status(self.status.line())
            await asyncio.sleep(period_s)

    async def beat(self) -> None:
        """One heartbeat: the key with its expiry, and the channel."""
        if self.status.position is None:
            return
        self.status.lag_ms = await self.feed.lag_ms(self.status.position)
        self.metrics.lag.set(self.status.lag_ms / 1000)
        text = json.dumps(self.status.heartbeat())
        keys = Keys.of(self.settings)
        await self.client.set(keys.heartbeat, text, ex=EXPIRY_S)
        await self.client.publish(keys.heartbeat_channel, text)


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
