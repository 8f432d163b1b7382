"""When the state is saved, and its saving beside the rounds."""

import asyncio
import time

import structlog

from quantum_ai_engine.config import EngineSettings
from quantum_ai_engine.daemon.client import Unreachable
from quantum_ai_engine.daemon.commit import START, Conflict, Ledger, OwnershipLost, order_of
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.saved import Snapshot
from quantum_ai_engine.daemon.tasks import end
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.state.saved import seal

AGAIN_S = 10.0  # after one that failed
MOST_BARS = 50_000  # between two: the records of all of them must still be in their stream

log = structlog.get_logger()


class Snapshots:
    """Saves the engine's state now and then: a restart has to learn only what came since.

    The state is taken between two rounds and written in parts while the next ones go on. One that
    fails is tried again after a while; until then the earlier one holds. `offset` is the entry of
    the bar stream from which on a restart needs them, `bars` how many came since.
    """

    def __init__(self, ledger: Ledger, settings: EngineSettings, metrics: Metrics) -> None:
        self._ledger = ledger
        self._settings = settings
        self._metrics = metrics
        self.offset: str | None = None
        self.bars = 0
        self._has_failed = False
        self._taken_at = time.monotonic()
        self._saving: asyncio.Task[None] | None = None

    def begin(self, offset: str | None, bars: int) -> None:
        """Count from here: the state is one that `bars` bars lead to from the last snapshot."""
        self.offset = offset
        self.bars = bars
        self._has_failed = False
        self._taken_at = time.monotonic()

    @property
    def has_failed(self) -> bool:
        """Whether the last one could not be saved."""
        return self._has_failed

    @property
    def is_needed(self) -> bool:
        """Whether a restart would have anything to learn."""
        return self.bars > 0 or self._has_failed

    def is_due(self, series: int) -> bool:
        """Whether enough bars have come, or time has gone by since any."""
        if self._is_saving() or not self.is_needed:
            return False
        age_s = time.monotonic() - self._taken_at
        if self._has_failed:
            return age_s >= AGAIN_S
        enough = min(self._settings.snapshot_bars * max(series, 1), MOST_BARS)
        return self.bars >= enough or age_s >= self._settings.snapshot_s

    async def take(self, engine: Engine, offset: str, record: str) -> None:
        """Take the state, which is that of `offset` and of all records up to `record`."""
        await self.finish()
        parts = []
        for part in engine.state.parts():
            parts.append(part)
            await asyncio.sleep(0)  # let the loop breathe, no round is under way
        bars, self.bars = self.bars, 0
        self._has_failed = False
        self._taken_at = time.monotonic()
        self._saving = asyncio.create_task(self._save(offset, record, parts, bars))

    async def finish(self) -> None:
        """Wait for a snapshot that is being written."""
        if self._saving is not None:
            await asyncio.wait({self._saving})
            self._is_saving()

    async def stop(self) -> None:
        """Give up a snapshot that is being written."""
        if self._saving is not None:
            await end([self._saving])

    def _is_saving(self) -> bool:
        if self._saving is None:
            return False
        if self._saving.done() and not self._saving.cancelled():
            self._saving.result()  # what it did not expect is not for it to keep
        return not self._saving.done()

    async def _save(self, offset: str, record: str, parts: list[bytes], bars: int) -> None:
        for i, part in enumerate(parts):  # beside the rounds: checksums take a while
            parts[i] = seal(part)
            await asyncio.sleep(0)
        snapshot = Snapshot(offset, record, tuple(parts))
        try:
            # A server that went back meanwhile must not get what is the future to it.
            if order_of(await self._ledger.position() or START) < order_of(offset):
                raise Conflict(f"the committed position is before {offset}")
            await self._ledger.save(snapshot)
            await self._ledger.forget_records(record)
        except (Conflict, OwnershipLost, *Unreachable) as error:
            self.bars += bars
            self._has_failed = True
            self._metrics.snapshot_failures.labels("save").inc()
            log.warning("The state was not saved", event_name="save_failed", detail=str(error))
            return
        self.offset = snapshot.offset
        self._metrics.snapshots.inc()
        self._metrics.snapshot_bytes.set(sum(map(len, snapshot.parts)))
