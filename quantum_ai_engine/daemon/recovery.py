"""Bringing an engine to the committed position: snapshot, then what the streams hold since."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import NamedTuple

import structlog

from quantum_ai_engine.config import EngineSettings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import START, Ledger, order_of
from quantum_ai_engine.daemon.feed import BarFeed
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.pages import ReadAhead, pages
from quantum_ai_engine.daemon.records import Decided, RecordError, decode_round
from quantum_ai_engine.daemon.saved import SavedStateError, Snapshot
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.events import Bar, Command
from quantum_ai_engine.features.store import SnapshotError
from quantum_ai_engine.risk.brain import State
from quantum_ai_engine.state.record import Record

BEGINNING = Snapshot(START, START, ())  # nothing is known, and everything since is in the streams

log = structlog.get_logger()


class Recovered(NamedTuple):
    """What an engine was brought back from: a snapshot at an offset, or bars alone.

    `refused` says that there was one which could not be used, `trimmed` that bars since the
    snapshot may be gone from the stream.
    """

    offset: str | None
    bars: int
    records: int
    refused: bool
    trimmed: bool
    seconds: float


class _Walk(NamedTuple):
    """An engine on its way through the bars of a feed, which are read ahead."""

    engine: Engine
    feed: BarFeed
    ahead: ReadAhead
    latest_close: int


class Recovery:
    """Teaches a new engine, silently, what the one before it knew at a position.

    With a snapshot that is exact, and so it is before the first one. Where the snapshot cannot be
    used, the last `engine.replay_bars` bars of each series and the records that are still in their
    streams have to do.
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
        if snapshot is None:
            learnt, records = await self._without_snapshot(engine, position, latest_close)
            return Recovered(None, learnt, records, True, False, time.monotonic() - began)
        # Its own entry may have been trimmed by time; then what came since may be, too.
        trimmed = snapshot.offset != position and await self._feed.was_trimmed(snapshot.offset)
        if snapshot.record != START and not await self._ledger.has_record(snapshot.record):
            log.error(
                "Records since the snapshot may be gone from their stream: what was predicted and "
                "said since is not known",
                event_name="records_gone",
                record=snapshot.record,
            )
        learnt, records = await self._since(engine, snapshot, position, latest_close)
        offset = None if snapshot is BEGINNING else snapshot.offset
        return Recovered(offset, learnt, records, False, trimmed, time.monotonic() - began)

    async def _without_snapshot(
        self, engine: Engine, position: str, latest_close: int
    ) -> tuple[int, int]:
        """Learn the newest bars of each series, and what is still recorded of decisions on them."""
        bars = await self._feed.tail(position, self._settings.replay_bars, latest_close)
        await _breathing(engine.learning(bars))
        for control in (await self._ledger.controls()).applied:
            engine.state.apply(control.command)
        is_halted = engine.state.judgement.brain.get().state is State.HALTED
        if await self._ledger.risk() == State.HALTED and not is_halted:
            engine.state.apply(Command.HALT)
            log.error(
                "A breaker had halted the engine, and the snapshot that says which cannot be used: "
                "it stays halted until `resume`",
                event_name="halted_without_snapshot",
            )
        records = 0
        async for decided in self._decided(START):
            engine.recall(decided.records)
            for equity in decided.equity:
                engine.state.judgement.report(equity)
            records += len(decided.records)
        return len(bars), records

    async def _since(
        self, engine: Engine, snapshot: Snapshot, position: str, latest_close: int
    ) -> tuple[int, int]:
        """Go through what came since a snapshot as it was gone through then, round by round."""
        offset = order_of(snapshot.offset)
        applied = (await self._ledger.controls()).applied
        ahead = ReadAhead(self._client, self._keys.bars, position)
        walk = _Walk(engine, self._feed, ahead, latest_close)
        controls = deque(one for one in applied if order_of(one.at) >= offset)
        learnt, records, reached = 0, 0, snapshot.offset
        async for decided in self._decided(snapshot.record):
            while controls and order_of(controls[0].at) <= order_of(decided.start):
                learnt += await _learn(walk, reached, controls[0].at)
                reached = controls[0].at
                engine.state.apply(controls.popleft().command)
            upto = min(decided.end, position, key=order_of)
            if order_of(decided.start) <= order_of(position):
                learnt += await _learn(walk, reached, decided.start)
                for equity in decided.equity:
                    engine.state.judgement.report(equity)
                learnt += await _learn(walk, decided.start, upto, decided.records)
                records, reached = records + len(decided.records), upto
            if upto != decided.end:
                # The position was moved back: what was said after it is said all the same.
                engine.recall(decided.records)
        for control in controls:
            learnt += await _learn(walk, reached, control.at)
            engine.state.apply(control.command)
            reached = control.at
        return learnt + await _learn(walk, reached, position), records

    async def _decided(self, after: str) -> AsyncIterator[Decided]:
        """The rounds that are recorded after an id, oldest first."""
        async for entries in pages(self._client, self._keys.records, after):
            for entry_id, fields in entries:
                try:
                    yield decode_round(fields)
                except RecordError as error:
                    log.warning(
                        "An entry of the records is none of ours",
                        event_name="foreign_record",
                        record=entry_id.decode(),
                        detail=str(error),
                    )
            await asyncio.sleep(0)

    async def _snapshot(self, engine: Engine, position: str) -> Snapshot | None:
        """Restore the snapshot, or begin where everything began if none was ever saved.

        None where there is one that cannot be used, and the log says why.
        """
        try:
            snapshot = await self._ledger.load()
            if snapshot is None:
                return BEGINNING
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


async def _learn(walk: _Walk, after: str, upto: str, records: Sequence[Record] = ()) -> int:
    """Let the engine learn the bars after an entry, up to another; how many there were.

    With records they are those of one round, and so are the bars.
    """
    bars = list[Bar]()
    learnt = 0
    async for entries in walk.ahead.between(after, upto):
        bars += walk.feed.decode(entries, walk.latest_close)[0]
        if not records:
            await _breathing(walk.engine.learning(bars))
            learnt, bars = learnt + len(bars), []
    if order_of(after) < order_of(upto):
        await _breathing(walk.engine.learning(bars, records))
    return learnt + len(bars)


async def _breathing(steps: Iterator[None]) -> None:
    """Go through steps, and let the loop turn between them."""
    for _ in steps:
        await asyncio.sleep(0)
