"""The live engine with history for a feed: the bars' own clock, and agents without a deadline."""

import asyncio
import contextlib
import gc
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import NamedTuple

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.budget import bound_loaded
from quantum_ai_engine.agents.pool import AgentPool
from quantum_ai_engine.config import Loaded, Settings
from quantum_ai_engine.engine import Begun, Engine, Identity, Now, Round
from quantum_ai_engine.events import INTERVAL_MS, Bar
from quantum_ai_engine.features.columns import COLUMNS
from quantum_ai_engine.features.schema import FeatureSet
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import LOOKBACK
from quantum_ai_engine.replay.history import History, Slice, WarmUp
from quantum_ai_engine.replay.split import merged, steps_of
from quantum_ai_engine.replay.step import Step

BATCH_BARS = 1_000
DAY_MS = 86_400_000
HOLIDAYS = 4  # days between two sessions of a venue, at most
SETTLED_ROWS = 50_000  # after so many the state may be kept


class Stretch(NamedTuple):
    """Some steps after each other, and how many rows of the history were read up to their end.

    `refused` counts, by reason, the rows that are no bars, or that the engine refused;
    `duplicates` those that it knew already. `warmed` bars came before what counts. When it
    `is_settled` the engine has seen nothing beyond it, and its state may be kept.
    """

    steps: list[Step]
    rows: int
    refused: Counter[str]
    duplicates: int = 0
    warmed: int = 0
    is_settled: bool = False


class Batch(NamedTuple):
    """Slices to be taken together; one alone, where its bars are not all in order."""

    slices: list[Slice]
    in_order: bool
    warms_up: bool

    @property
    def is_plain(self) -> bool:
        """Whether the next one may be begun before this one is decided on."""
        return self.in_order and not self.warms_up


class _Ahead(NamedTuple):
    """A batch about which the agents have been asked, and which is yet to be decided on."""

    batch: Batch
    rows: int
    begun: Begun
    answers: "asyncio.Future[None]"


class Replay:
    """An engine as `loaded` says, that takes a history instead of a feed.

    Parameters: `agents`, those of the live engine; `engine_name`, its version and build, as its
    signals tell it; `workers`, threads for the agents. The same history gives the same steps,
    whatever the number of workers. `failures` counts, by agent, the batches that it failed in.
    """

    def __init__(
        self, loaded: Loaded, agents: Sequence[Agent], engine_name: str, workers: int = 1
    ) -> None:
        settings = loaded.settings
        self.failures = Counter[str]()
        self._newest = dict[tuple[str, str], int]()
        # No deadline: what is shed would depend on how fast this machine is.
        self._pool = AgentPool(agents, workers, math.inf, lambda *_: None, _report(self.failures))
        identity = Identity(settings.engine.environment, engine_name, loaded.config_hash)
        calendars = Calendars(settings.sessions.by_symbol())
        self.engine = Engine(settings, self._pool, identity, calendars)
        self.agents = tuple(agents)
        sets = [agent.feature_set for agent in agents]
        self.warm_up = _warm_up(sets, settings)

    def restore(self, snapshot: Sequence[bytes]) -> None:
        """Be where another replay was. Raises `SnapshotError`."""
        self.engine.forget()
        self.engine.state.restore(snapshot)
        for symbol, interval, _, newest_close in self.engine.series():
            assert newest_close is not None
            self._newest[symbol, interval] = newest_close - INTERVAL_MS[interval]

    async def steps(self, history: History) -> AsyncIterator[Step]:
        """What the engine makes of a history, one open time after the other."""
        async for stretch in self.stretches(history):
            for step in stretch.steps:
                yield step

    async def stretches(self, history: History, after: int = 0) -> AsyncIterator[Stretch]:
        """The same, many steps at once; the first `after` rows were taken before.

        While the engine decides on some, the agents are asked about those that come next.
        """
        bound_loaded()
        ahead: _Ahead | None = None
        rows = settled = after
        undisturbed = contextlib.ExitStack()
        try:
            await self._pool.start()
            undisturbed.enter_context(_rare_collections())
            for batch in self._batches(history, after):
                rows += sum(one.rows for one in batch.slices)
                is_settled = rows - settled >= SETTLED_ROWS
                settled = rows if is_settled else settled
                begun = await self._begun(batch, rows) if batch.is_plain else None
                if ahead is not None:
                    yield await self._finished(ahead)
                ahead = begun
                if ahead is not None:
                    await ahead.answers
                    if is_settled:
                        yield (await self._finished(ahead))._replace(is_settled=True)
                        ahead = None
                else:
                    yield (await self._alone(batch, rows))._replace(is_settled=is_settled)
            if ahead is not None:
                yield await self._finished(ahead)
        finally:
            if ahead is not None:
                ahead.answers.cancel()
            self._pool.close()
            undisturbed.close()

    async def _begun(self, batch: Batch, rows: int) -> _Ahead:
        """The agents have been asked, and are at work."""
        bars = [bar for one in batch.slices for bar in one.bars]
        begun = self.engine.begin(bars, Now())
        answers = asyncio.ensure_future(self.engine.ask(begun))
        await asyncio.sleep(0)  # it runs as far as the workers
        return _Ahead(batch, rows, begun, answers)

    async def _finished(self, ahead: _Ahead) -> Stretch:
        done, slices = await self.engine.finish(ahead.begun), ahead.batch.slices
        refused = sum((one.refused for one in slices), Counter[str]())
        refused.update(why.reason.value for _, why in done.refused)
        return Stretch(steps_of(slices, done), ahead.rows, refused)

    async def _alone(self, batch: Batch, rows: int) -> Stretch:
        """The stretch of bars that warm up, or of bars of which some are late, known or revised."""
        refused = sum((one.refused for one in batch.slices), Counter[str]())
        bars = [bar for one in batch.slices for bar in one.bars]
        if batch.warms_up:
            self.engine.learn(bars)
            return Stretch([], rows, refused, warmed=len(bars))
        return await self._one_by_one(bars, rows, refused)

    async def _one_by_one(self, bars: Sequence[Bar], rows: int, refused: Counter[str]) -> Stretch:
        """The same of bars of one open time."""
        kept, rounds, duplicates = list[Bar](), list[Round](), 0
        for bar in bars:
            done = await self._process([bar])
            refused.update(why.reason.value for _, why in done.refused)
            duplicates += done.duplicates
            if done.processed:
                kept.append(bar)
                rounds.append(done)
        steps = [Step(tuple(kept), merged(rounds))] if kept else []
        return Stretch(steps, rows, refused, duplicates)

    async def _process(self, bars: Sequence[Bar]) -> Round:
        return await self.engine.process(bars, Now(), lambda _: contextlib.nullcontext())

    def _batches(self, history: History, after: int) -> Iterator[Batch]:
        """The slices of a history, as many at once as the engine may be given."""
        slices, count, warmed = list[Slice](), 0, False
        for one in history.slices(after):
            in_order, warms_up = self._comes_in_order(one), one.open_time_ms < history.start_ms
            if slices and (
                not in_order
                or warms_up is not warmed
                or count + len(one.bars) > BATCH_BARS
                or one.open_time_ms <= slices[-1].open_time_ms
            ):
                yield Batch(slices, in_order=True, warms_up=warmed)
                slices, count = [], 0
            if not in_order:
                yield Batch([one], in_order=False, warms_up=warms_up)
                continue
            slices.append(one)
            count, warmed = count + len(one.bars), warms_up
        if slices:
            yield Batch(slices, in_order=True, warms_up=warmed)

    def _comes_in_order(self, one: Slice) -> bool:
        """Whether each bar is newer than all before it of its series."""
        in_order, newest = True, self._newest
        for bar in one.bars:
            key, open_time = (bar.symbol, bar.interval), bar.open_time
            if open_time > newest.get(key, -1):
                newest[key] = open_time
            else:
                in_order = False
        return in_order


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for cyclic garbage a hundred times as rarely: steps make none, and many objects."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(before[0] * 100, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _warm_up(sets: Sequence[FeatureSet], settings: Settings) -> WarmUp:
    """What has to come first, so that agents of these sets see windows of settled rows."""
    least = max([settings.engine.burn_in_bars, *(s.window_ready_at for s in sets)])
    settled = max(column.settled_at for column in COLUMNS) + LOOKBACK - 1
    openings = max(column.sessions for column in COLUMNS)
    days = HOLIDAYS if settings.sessions.by_symbol() else 1
    return WarmUp(max(least, settled), least, openings * days * DAY_MS)


def _report(failures: Counter[str]) -> Callable[[str, BaseException], None]:
    def report(name: str, _: BaseException) -> None:
        failures[name] += 1

    return report
