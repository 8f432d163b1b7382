"""Owning a partition: on a server that state can be entrusted to, and alone."""

import asyncio
import time

import structlog

from quantum_ai_engine.config import ConfigError, RedisSettings, Settings
from quantum_ai_engine.daemon.checks import check_server, judge
from quantum_ai_engine.daemon.client import Client, Unreachable, kind_of
from quantum_ai_engine.daemon.commit import Ledger, OwnershipLost
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.lease import Held
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.partitions import read_record
from quantum_ai_engine.daemon.status import PartitionStatus

NOBODY = "nobody that is known"

log = structlog.get_logger()


class Entrance:
    """Looks at the server before anything is written to it, once for all partitions."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._looking = asyncio.Lock()
        self._is_open = False

    async def enter(self) -> None:
        """Return once the server has been found good. Raises `ConfigError` when it is not."""
        async with self._looking:
            if not self._is_open:
                await self._look()
                self._is_open = True

    async def _look(self) -> None:
        redis, series = self._settings.redis, self._settings.engine.max_series
        try:
            found = await check_server(self._client, redis, series)
            record = await read_record(self._client, redis.prefix)
        except Unreachable as error:
            if kind_of(error) == "refused_password":
                raise ConfigError(
                    f"Redis refuses the password ({str(error).lower()}); give the right one as "
                    "the credential redis-password or as QAE_REDIS__PASSWORD"
                ) from error
            raise
        if record is not None and record.after != redis.partitions:
            raise ConfigError(
                f"redis.partitions = {redis.partitions}, but the state was moved to "
                f"{record.after} partitions; set redis.partitions = {record.after}"
            )
        for finding in judge(found, redis.checks):
            log.warning(finding.sentence, event_name="redis_check", check=finding.name)


class Ownership:
    """Whether a partition is ours; while it is somebody else's, we stand by or refuse to."""

    def __init__(
        self,
        ledger: Ledger,
        keys: Keys,
        settings: RedisSettings,
        status: PartitionStatus,
        metrics: Metrics,
    ) -> None:
        self.is_ours = False
        self._ledger = ledger
        self._keys = keys
        self._standby = settings.standby
        self._lease_s = settings.lease_ms / 1000
        self._status = status
        self._metrics = metrics
        self._patient_until = 0.0

    async def take(self) -> Held | None:
        """Take the partition, or extend the lease; who holds it, if we have to stand by.

        Raises `OwnershipLost` where that is not wanted.
        """
        held = await self._ledger.acquire(yields=self._yields())
        if held is None:
            self._report_emptied()
            self.is_ours = True
            self._status.held_by = None
            self._show()
            return None
        name = NOBODY if held.is_vacant else "another"
        if held.holder is not None:
            name = f"process {held.holder.pid} on {held.holder.host}"
        if self._standby == "refuse":
            raise OwnershipLost(
                f"partition {self._keys.state} is owned by {name}; stop it, or set redis.standby = "
                "wait"
            )
        self.lose(f"partition {self._keys.state} is now owned by {name}")
        self._stand_by(name)
        return held

    def _yields(self) -> bool:
        """Whether to let the owner that we saw come back first, to a Redis that was emptied.

        It has the state in memory, and we have none.
        """
        now = time.monotonic()
        if self._status.held_by is not None and self._status.held_by != NOBODY:
            self._patient_until = now + self._lease_s
        return now < self._patient_until

    def _report_emptied(self) -> None:
        if self._status.held_by == NOBODY:
            self._metrics.state_lost.inc()
            log.error(
                "Redis has lost the state of the engine: it was emptied, and nobody came back "
                "who knows it",
                event_name="state_lost",
                partition=self._keys.state,
            )

    def lose(self, detail: str) -> None:
        """Take note that the partition, if it was ours, is somebody else's."""
        if self.is_ours:
            self.is_ours = False
            self._show()
            self._metrics.ownership_lost.inc()
            log.warning(detail, event_name="ownership_lost", partition=self._keys.state)

    def _stand_by(self, name: str) -> None:
        status = self._status
        if status.held_by != name:
            log.info(f"Standing by: {self._keys.state} is owned by {name}", event_name="standby")
        status.held_by, status.position = name, None
        status.lag_ms, status.lag_bars, status.stale = 0, 0, ()
        self._show()

    def _show(self) -> None:
        self._metrics.owner.labels(str(self._keys.partition)).set(self.is_ours)
