"""Bringing an engine to the committed position: snapshot, then what the streams hold since."""

import asyncio
import time
from typing import NamedTuple

import msgspec
import structlog

from quantum_ai_engine.config import EngineSettings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import START, Ledger, order_of
from quantum_ai_engine.daemon.feed import BarFeed, Entry, pages
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.saved import SavedStateError, Snapshot
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.events import Signal
from quantum_ai_engine.features.store import SnapshotError

CHUNK = 1000

log = structlog.get_logger()


class Recovered(NamedTuple):
    """What an engine was brought back from: a snapshot at an offset, or bars alone.

    `trimmed` says that bars since the snapshot may be gone from the stream.
    """

    offset: str | None
    bars: int
    signals: int
    trimmed: bool
    seconds: float


class Recovery:
    """Teaches a new engine, silently, what the one before it knew at a position.

    With a snapshot that is exact. Without one, the last `engine.replay_bars` bars of each series
    that are still in the stream have to do.
    """

    def __init__(
        self, client: Client, keys: Keys, feed: BarFeed, ledger: Ledger, settings: EngineSettings
    ) -> None:
        self._client = client
        self._keys = keys
        self._feed = feed
        self._ledger = ledger
        self._settings = settings

    async def run(self, engine: Engine, position: str, latest_close: int) -> Recovered:
        """Bring a new engine to `position`; bars that close after `latest_close` are refused."""
        began = time.monotonic()
        snapshot = await self._snapshot(engine, position)
        applied = (await self._ledger.controls()).applied
        if snapshot is None:
            bars = await self._feed.tail(position, self._settings.replay_bars, latest_close)
            for start in range(0, len(bars), CHUNK):
                engine.learn(bars[start : start + CHUNK])
                await asyncio.sleep(0)  # let the loop breathe between chunks
            for control in applied:
                engine.state.apply(control.command)
            learnt, trimmed = len(bars), False
        else:
            # Its own entry may have been trimmed by time; then what came since may be, too.
            trimmed = snapshot.offset != position and await self._feed.was_trimmed(snapshot.offset)
            learnt, reached = 0, snapshot.offset
            for control in applied:
                if order_of(control.at) >= order_of(snapshot.offset):
                    learnt += await self._learn(engine, reached, control.at, latest_close)
                    engine.state.apply(control.command)
                    reached = control.at
            learnt += await self._learn(engine, reached, position, latest_close)
        said = snapshot.signal if snapshot else START
        if said != START and not await self._ledger.is_written(said):
            log.error(
                "Signals since the snapshot may be gone from their stream: what was said since is "
                "not known",
                event_name="signals_gone",
                signal=said,
            )
        signals = await self._recall(engine, said)
        offset = snapshot.offset if snapshot else None
        return Recovered(offset, learnt, signals, trimmed, time.monotonic() - began)

    async def _learn(self, engine: Engine, after: str, upto: str, latest_close: int) -> int:
        """Let the engine learn the bars after an entry, up to another; how many there were."""
        learnt = 0
        async for entries in self._feed.between(after, upto):
            bars, _, _ = self._feed.decode(entries, latest_close)
            engine.learn(bars)
            learnt += len(bars)
        return learnt

    async def _snapshot(self, engine: Engine, position: str) -> Snapshot | None:
        """Restore the snapshot, if there is one that can be used; say why not otherwise."""
        try:
            snapshot = await self._ledger.load()
            if snapshot is None:
                return None
            if order_of(snapshot.offset) > order_of(position):
                raise SavedStateError(f"it is of {snapshot.offset}, after the position {position}")
            for _ in engine.state.restoring(snapshot.parts):
                await asyncio.sleep(0)
            return snapshot
        except (SavedStateError, SnapshotError) as error:
            engine.forget()
            log.warning(
                "The snapshot cannot be used; the state comes from the bar stream",
                event_name="snapshot_refused",
                detail=str(error),
            )
            return None

    async def _recall(self, engine: Engine, after: str) -> int:
        """Let the engine take note of all signals after an id; how many there were."""
        count = 0
        async for entries in pages(self._client, self._keys.signals, after):
            signals = [signal for entry in entries if (signal := _signal_of(entry)) is not None]
            if foreign := len(entries) - len(signals):
                log.warning(
                    f"{foreign} entries of the signal stream are none of ours",
                    event_name="foreign_signals",
                    count=foreign,
                )
            engine.recall(signals)
            count += len(signals)
            await asyncio.sleep(0)
        return count


def _signal_of(entry: Entry) -> Signal | None:
    try:
        return msgspec.json.decode(entry[1].get(b"json", b""), type=Signal)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return None
