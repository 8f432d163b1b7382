"""The loop of one partition: own it, read a batch, take it through the engine, commit."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec
import structlog

from quantum_ai_engine.agents.budget import CpuBudget
from quantum_ai_engine.agents.lane import Lane
from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client, Unreachable, backoff, kind_of
from quantum_ai_engine.daemon.commit import (
    START,
    Conflict,
    Controls,
    DeadLetter,
    Followed,
    Kept,
    Ledger,
    OwnershipLost,
    Receipt,
    order_of,
)
from quantum_ai_engine.daemon.controls import hear, obey
from quantum_ai_engine.daemon.feed import BarFeed, Batch, time_ms
from quantum_ai_engine.daemon.journal import Journal
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.killswitch import KillSwitch
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.ownership import Entrance, Ownership
from quantum_ai_engine.daemon.page.ring import Ring
from quantum_ai_engine.daemon.pages import Entry
from quantum_ai_engine.daemon.recovery import Recovery
from quantum_ai_engine.daemon.snapshots import Snapshots
from quantum_ai_engine.daemon.status import PartitionStatus, Status
from quantum_ai_engine.daemon.stopwatch import Stopwatch
from quantum_ai_engine.daemon.tasks import end
from quantum_ai_engine.engine import Engine, Now
from quantum_ai_engine.events import Command, Signal
from quantum_ai_engine.risk.brain import State
from quantum_ai_engine.state.saved import seal

REST_PART_S = 1.0
SAVE_WITHIN_S = 0.8  # at the end; a restart learns from an earlier snapshot, too
PAUSE_PART_S = 0.02  # how often it is looked whether rounds can be paused
STANDBY_PART_S = 0.5  # how often a standby looks whether the partition has become free

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Shared:
    """What the rounds of all partitions of a process share."""

    settings: Settings
    make_engine: Callable[[], Engine]
    entrance: Entrance
    budget: CpuBudget
    lane: Lane
    killswitch: KillSwitch
    status: Status
    metrics: Metrics
    ring: Ring = field(default_factory=Ring)


class NotSavedError(Exception):
    """The state could not be saved just now; the log says why."""


class Step(NamedTuple):
    """What a commit writes, besides the position that it moves to."""

    end: str
    signals: Sequence[Signal]
    dead: Sequence[DeadLetter]
    controls: Followed | None = None
    kept: Kept = Kept()


class Rounds:
    """Turns entries of the bar stream of one partition into committed signals, round by round.

    The engine's state always belongs to `position`, but for a step that is yet to be committed.
    Whenever the committed position is another one, the engine is built anew from snapshot and
    stream: start-up is recovery. While somebody else owns the partition, or Redis cannot serve, the
    loop waits and tries again for ever.
    """

    def __init__(self, shared: Shared, client: Client, keys: Keys) -> None:
        settings, metrics = shared.settings, shared.metrics
        self.engine = shared.make_engine()
        self.feed = BarFeed(
            client, keys, settings.engine.environment, settings.ingest.future_tolerance_ms
        )
        self.ledger = Ledger(client, keys, settings.redis.lease_ms, Holder.here())
        self.snapshots = Snapshots(self.ledger, settings.engine, metrics)
        self.status: PartitionStatus = shared.status.partitions[keys.partition]
        self.ownership = Ownership(self.ledger, keys, settings.redis, self.status, metrics)
        self.keys = keys
        self._all = shared.status
        self._settings = settings
        self._shared = shared
        self._metrics = metrics
        self._recovery = Recovery(client, keys, self.feed, self.ledger, settings.engine)
        self._signal = self._record = START  # the last ones that were written
        self._equity = START  # how far the equity stream was followed
        self._controls = Controls()
        self._step: Step | None = None  # what the engine has taken in and the ledger has not
        self._trimmed_at: str | None = None  # the position of which that was told last
        self._journal = Journal()
        self._failures = 0
        self._is_suspect = False
        self._between = asyncio.Lock()  # held while a round is under way, or a state is built
        self.settled = asyncio.Event()  # the first look at Redis is over, whatever it gave

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`: the batch in hand is finished and committed, no other is begun."""
        try:
            while not stop.is_set():
                await self._serve(stop)
            await self._leave()
        finally:
            await self.snapshots.stop()

    @property
    def position(self) -> str | None:
        """The committed position that the engine's state belongs to; None while there is none."""
        return self.status.position

    @property
    def equity(self) -> str:
        """How far the equity stream was followed."""
        return self._equity

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Between two rounds: none begins, and no state is built, until the end of the context."""
        while True:
            async with self._between:
                if self._step is None and not self._is_suspect:
                    yield
                    return
            await asyncio.sleep(PAUSE_PART_S)

    async def hand_over(self, engine: Engine) -> None:
        """While paused, give a new engine of other settings the state of this one, and save that.

        So a restart goes on from here: it never takes an earlier bar through the other settings.
        Raises `NotSavedError` or `SnapshotError`; nothing has changed then.
        """
        if self.position is None or not self.ownership.is_ours:
            return  # nothing is known here; it will be built by the new settings
        parts = [seal(part) for part in self.engine.state.parts()]
        for _ in engine.state.restoring(parts):
            await asyncio.sleep(0)
        await self.snapshots.take(self.engine, self.position, self._record)
        await self.snapshots.finish()
        if self.snapshots.has_failed:
            raise NotSavedError(f"the state of partition {self.keys.partition} was not saved")

    def use(self, settings: Settings, engine: Engine) -> None:
        """While paused, go on with other settings and the engine that was handed the state."""
        engine.shifts = self.engine.shifts  # no part of the state: it would begin anew
        self._settings, self.engine = settings, engine
        if not self.ownership.is_ours:
            self.status.position = None  # what we remember is no longer what counts

    def suspect(self) -> None:
        """Look again, before the next round, whether the partition is still ours."""
        self._is_suspect = True

    async def _serve(self, stop: asyncio.Event) -> None:
        """Own the partition and serve it, until something has to begin anew."""
        try:
            await self._reload(stop)
            while not stop.is_set() and not self._is_suspect:
                await self._rest(stop)
                batch = await self._read(stop)
                async with self._between:
                    if not batch.is_empty:
                        await self._round(batch)
                    await self._save_if_due()
                self.status.turns += 1
        except Conflict as conflict:
            self._metrics.conflicts.inc()
            log.warning(
                "The commit was refused; state is rebuilt",
                event_name="commit_conflict",
                detail=str(conflict),
            )
        except OwnershipLost as lost:
            self.ownership.lose(str(lost))
            if self._settings.redis.standby == "refuse":
                raise
        except Unreachable as error:
            await self._back_off(error)

    async def _leave(self) -> None:
        """Save what a restart would have to learn again, and free the partition for the next."""
        if self.position is None or self._step is not None:
            return
        with contextlib.suppress(Conflict, OwnershipLost, *Unreachable):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_WITHIN_S):
                    if self.snapshots.is_needed:
                        await self.snapshots.take(self.engine, self.position, self._record)
                    await self.snapshots.finish()
            await self.ledger.release()

    async def _reload(self, stop: asyncio.Event) -> None:
        """Own the partition; if the state is not that of its position, rebuild it."""
        self._is_suspect = False
        await self._shared.entrance.enter()
        if not await self._own(stop):
            return
        async with self._between:
            position = await self.ledger.position()
            if position is None and self.position not in (None, START) and await self._is_lost():
                await self._lost_data()
            elif (position or START) != self.position or self._step is not None:
                await self._rebuild(position or START)
        self._serving()

    async def _own(self, stop: asyncio.Event) -> bool:
        """Wait until the partition is ours; False when `stop` came first."""
        while not stop.is_set():
            held = await self.ownership.take()
            if held is None:
                return True
            self._serving()
            self.status.turns += 1
            await _pause(stop, min(held.left_ms / 1000, STANDBY_PART_S))
        return False

    async def _is_lost(self) -> bool:
        """Whether Redis has lost the state alone, or everything: the signals say that.

        Else it went back to before the first commit, as after a crash: bars from before our
        position are there, and the signals since then are not. Then all is to be done again.
        """
        assert self.position is not None
        first = await self.feed.first()
        is_emptied = first is None or order_of(first) > order_of(self.position)
        return is_emptied or await self.ledger.is_written(self._signal)

    async def _lost_data(self) -> None:
        """Go on with what is known, when Redis has lost the state that we had written.

        What it still has of the bar stream goes on where it was; an emptied one begins anew.
        """
        assert self.position is not None
        position, step = self.position, self._step or Step(self.position, [], [])
        # What was obeyed and heard before is not obeyed and heard again.
        if step.controls is not None:
            self._controls = step.controls.after
        self._equity = step.kept.equity_after or self._equity
        kept = replace(step.kept, equity_before=START, equity_after=self._equity)
        step = step._replace(controls=Followed(START, self._controls), kept=kept)
        is_emptied = await self.feed.was_trimmed(step.end)
        self._metrics.state_lost.inc()
        log.error(
            "Redis has lost the state of the engine: it was emptied, or it evicts keys. Serving "
            "goes on with what is in memory",
            event_name="state_lost",
            position=position,
        )
        await self.snapshots.finish()
        receipt = await self._commit(START, step)
        if is_emptied:
            await self._commit(step.end, Step(START, [], []))
        self.status.position = START if is_emptied else step.end
        self._signal, self._record, self._step = receipt.signal, receipt.record, None
        self.snapshots.begin(None, 0)
        await self.snapshots.take(self.engine, self.status.position, self._record)

    async def _rebuild(self, position: str) -> None:
        """A new engine, taught silently what is known up to the position."""
        self.status.position = None
        await self.snapshots.finish()
        engine = self._shared.make_engine()
        is_trimmed = await self.feed.was_trimmed(position)
        done = await self._recovery.run(engine, position, self._latest())
        if done.refused:
            self._metrics.snapshot_failures.labels("refused").inc()
        if is_trimmed or done.trimmed:
            self._say_trimmed(position)
        self._signal, self._step = await self.ledger.last_signal(), None
        self._record = await self.ledger.last_record()
        self._equity = await self.ledger.equity_position()
        self._controls = await self.ledger.controls()
        self.snapshots.begin(done.offset, done.bars)
        log.info(
            f"State restored from the snapshot at {done.offset}"
            if done.offset
            else "State rebuilt from the bar stream",
            event_name="state_restored",
            position=position,
            snapshot=done.offset or "none",
            bars=done.bars,
            records=done.records,
            seconds=round(done.seconds, 3),
            state_hash=engine.state.digest(),
        )
        self.engine = engine
        self.status.position = position
        self._note_newest()

    def _say_trimmed(self, position: str) -> None:
        """Raise the alarm, once for each position."""
        if position == self._trimmed_at:
            return
        self._trimmed_at = position
        self._metrics.trimmed.inc()
        log.error(
            "Entries after the committed position may have been trimmed from the bar stream: "
            "bars may be missing",
            event_name="position_trimmed",
            position=position,
        )

    def _say_unheard(self) -> None:
        self._metrics.redis_failures.labels("publish").inc()
        log.error(
            "Redis does not let this user publish on the channels of signals: they are in "
            "the stream alone; allow &<prefix>:*",
            event_name="publish_refused",
        )

    def _note_newest(self) -> None:
        """Show the newest close time, once there is one."""
        if newest := self.engine.state.newest_close:
            self._all.note_newest(newest, self.keys.partition)
            self._metrics.last_close.set((self._all.last_close_time or 0) / 1000)

    async def _rest(self, stop: asyncio.Event) -> None:
        """Put the next round off for as long as it could break the CPU budget; or until `stop`."""
        while not stop.is_set():
            wait_s = self._shared.budget.wait_s(time.monotonic(), time.process_time())
            if wait_s == 0.0:
                return
            await _pause(stop, min(wait_s, REST_PART_S))
            self._metrics.rested.inc(min(wait_s, REST_PART_S))
            self.status.turns += 1

    async def _read(self, stop: asyncio.Event) -> Batch:
        """The next batch; nothing when `stop` comes first."""
        assert self.position is not None
        if self._shared.killswitch.is_on and self._brain_state is not State.HALTED:
            await self.feed.tell(Command.HALT)  # it is read before any further bar
        count, block_ms = self._settings.ingest.batch, self._settings.redis.block_ms
        read = asyncio.ensure_future(
            self.feed.wait(self.position, self._controls.position, self._equity, count, block_ms)
        )
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({read, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return read.result() if read.done() else Batch([], [], [])
        finally:
            await end([read, stopped])

    @property
    def _brain_state(self) -> State:
        return self.engine.state.judgement.brain.get().state

    async def _round(self, batch: Batch) -> None:
        assert self.position is not None
        watch = Stopwatch(self._metrics)
        end = batch.bars[-1][0].decode() if batch.bars else self.position
        self._step = Step(end, [], [])  # from here on the engine is ahead of the ledger
        saved = self.snapshots.offset or START
        obeyed = obey(
            self.engine,
            batch.controls,
            self._controls,
            self.position,
            saved,
            self._shared.killswitch,
        )
        equity, unheard = hear(self.engine, batch.equity, self._settings.ingest.future_tolerance_ms)
        dead = [*obeyed.letters, *unheard]
        with watch("decode"):
            bars, accepted, refused = self.feed.decode(batch.bars, self._latest())
        with self._shared.lane.live():
            done = await self.engine.process(bars, self._now(batch.bars), watch)
        dead += [*refused, *(DeadLetter(why, *accepted[i]) for i, why in done.refused)]
        signals = [msgspec.structs.replace(s, latency_us=watch.us) for s in done.signals]
        changes = [*obeyed.changes, *done.changes]
        followed = batch.equity[-1][0].decode() if batch.equity else ""
        self._step = Step(
            end,
            signals,
            dead,
            Followed(self._controls.position, obeyed.controls),
            Kept(
                done.records,
                changes,
                equity,
                self._equity if followed else "",
                followed,
                self._brain_state,
            ),
        )
        with watch("commit"):
            receipt = await self._commit(self.position, self._step)
        if receipt.trimmed:
            self._say_trimmed(self.position)
        if receipt.unheard:
            self._say_unheard()
        self._signal, self._record = receipt.signal, receipt.record
        self._controls, self._equity = obeyed.controls, followed or self._equity
        self.status.position = end
        if not self._is_suspect:
            self._step = None  # else the state is rebuilt
        self._shared.budget.took(watch.seconds())
        self._metrics.update(done, dead, watch.seconds())
        self._all.update(done, len(dead), self.keys.partition)
        self._note_newest()
        self._journal.tell(signals, dead, changes, done.shifts)
        self.snapshots.bars += len(bars) + len(batch.controls) + len(batch.equity)

    def _now(self, entries: Sequence[Entry]) -> Now:
        """By what bars are judged; under lag only the newest ones are asked about."""
        if self._settings.engine.clock == "bars" or not entries:
            return Now()
        now_ms = time.time_ns() // 1_000_000
        made_at = time_ms(entries[0][0].decode())
        return Now(now_ms, lags=now_ms - made_at > self._settings.ingest.lagging_ms)

    async def _save_if_due(self) -> None:
        if self._is_suspect or self._step is not None:
            return  # the state is not that of the position
        if self.snapshots.is_due(len(self.engine.state.names())):
            assert self.position is not None
            await self.snapshots.take(self.engine, self.position, self._record)

    async def _commit(self, start: str, step: Step) -> Receipt:
        """Commit, as often as it takes to get an answer."""
        while True:
            try:
                receipt = await self.ledger.commit(start, *step)
            except Unreachable as error:
                await self._back_off(error)
                step = self._without_expired(step)
            else:
                self._serving()
                self._shared.ring.add(step.signals, step.kept.changes)
                return receipt

    def _without_expired(self, step: Step) -> Step:
        """A step that has waited for Redis, without signals that are past their end by now."""
        if self._settings.engine.clock == "bars":
            return step
        now_ms = time.time_ns() // 1_000_000
        valid = [signal for signal in step.signals if now_ms <= signal.valid_until]
        # What the state has of the others was never said: it is rebuilt after the commit.
        self._is_suspect |= len(valid) < len(step.signals)
        expired = {_bar_of(signal) for signal in step.signals if now_ms > signal.valid_until}
        records = [
            msgspec.structs.replace(one, said=None)
            if (one.symbol, one.interval, one.prediction.close_time) in expired
            else one
            for one in step.kept.records
        ]
        return step._replace(signals=valid, kept=replace(step.kept, records=records))

    def _serving(self) -> None:
        """Say that Redis serves, if it did not."""
        if self.status.redis_error is not None:
            log.info("Redis serves", event_name="redis_up", position=self.position)
        self.status.redis_error = None
        self._metrics.ready.set(self._all.ready)
        self._failures = 0
        self.settled.set()

    async def _back_off(self, error: BaseException) -> None:
        """Say that Redis cannot serve, and wait a little longer than last time."""
        self._failures += 1
        self.status.turns += 1
        self._metrics.redis_failures.labels(kind_of(error)).inc()
        if self.status.redis_error is None or self._failures == 1:
            log.warning(
                "Redis cannot serve; trying again",
                event_name="redis_down",
                kind=kind_of(error),
                detail=str(error) or type(error).__name__,
            )
        self.status.redis_error = str(error) or type(error).__name__
        self._metrics.ready.set(0)
        self.settled.set()
        await asyncio.sleep(backoff(self._settings.redis).compute(self._failures))

    def _latest(self) -> int:
        """The last close time that can have happened: a bar is never from the future."""
        return time.time_ns() // 1_000_000 + self._settings.ingest.future_tolerance_ms


def _bar_of(signal: Signal) -> tuple[str, str, int]:
    return signal.symbol, signal.interval, signal.close_time


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait so long, or until `stop`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
