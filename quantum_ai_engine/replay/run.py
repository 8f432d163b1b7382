"""The live engine with history for a feed: the bars' own clock, and agents without a deadline."""

import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import NamedTuple

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.budget import bound_loaded
from quantum_ai_engine.agents.pool import AgentPool
from quantum_ai_engine.config import Loaded
from quantum_ai_engine.engine import Engine, Identity, Now, Round
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import LOOKBACK
from quantum_ai_engine.replay.history import History, Slice
from quantum_ai_engine.replay.split import merged, steps_of
from quantum_ai_engine.replay.step import Step

BATCH_BARS = 1_000


class Stretch(NamedTuple):
    """Some steps after each other, and how many rows of the history were read up to their end.

    `refused` counts, by reason, the rows that are no bars, or that the engine refused;
    `duplicates` those that it knew already. `warmed` bars came before what is told of.
    """

    steps: list[Step]
    rows: int
    refused: Counter[str]
    duplicates: int = 0
    warmed: int = 0


class Batch(NamedTuple):
    """Slices to be taken together; one alone, where its bars are not all in order."""

    slices: list[Slice]
    in_order: bool


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
        windows = [agent.feature_set.window_ready_at for agent in agents]
        self.warm_up_bars = max(settings.engine.burn_in_bars, LOOKBACK, *windows)

    async def steps(self, history: History) -> AsyncIterator[Step]:
        """What the engine makes of a history, one open time after the other."""
        async for stretch in self.stretches(history):
            for step in stretch.steps:
                yield step

    async def stretches(self, history: History, after: int = 0) -> AsyncIterator[Stretch]:
        """The same, many steps at once; the first `after` rows were taken before."""
        bound_loaded()
        try:
            await self._pool.start()
            rows = after
            for batch in self._batches(history, after):
                stretch = await self._stretch(batch, history.start_ms, rows)
                rows = stretch.rows
                yield stretch
        finally:
            self._pool.close()

    async def _stretch(self, batch: Batch, start_ms: int, rows: int) -> Stretch:
        slices = batch.slices
        refused = sum((one.refused for one in slices), Counter[str]())
        rows += sum(one.rows for one in slices)
        bars = [bar for one in slices for bar in one.bars]
        if slices[-1].open_time_ms < start_ms:
            self.engine.learn(bars)
            return Stretch([], rows, refused, warmed=len(bars))
        if not batch.in_order:
            return await self._one_by_one(bars, rows, refused)
        done = await self._process(bars)
        refused.update(why.reason.value for _, why in done.refused)
        return Stretch(list(steps_of(slices, done)), rows, refused)

    async def _one_by_one(self, bars: Sequence[Bar], rows: int, refused: Counter[str]) -> Stretch:
        """The stretch of bars of one open time, of which some are late, known or revised."""
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
        slices, count = list[Slice](), 0
        for one in history.slices(after):
            in_order = self._comes_in_order(one)
            if slices and (
                not in_order
                or count + len(one.bars) > BATCH_BARS
                or one.open_time_ms <= slices[-1].open_time_ms
                or slices[-1].open_time_ms < history.start_ms <= one.open_time_ms
            ):
                yield Batch(slices, in_order=True)
                slices, count = [], 0
            if not in_order:
                yield Batch([one], in_order=False)
                continue
            slices.append(one)
            count += len(one.bars)
        if slices:
            yield Batch(slices, in_order=True)

    def _comes_in_order(self, one: Slice) -> bool:
        """Whether each bar is newer than all before it of its series."""
        in_order = True
        for bar in one.bars:
            key = (bar.symbol, bar.interval)
            in_order &= bar.open_time > self._newest.get(key, -1)
            self._newest[key] = max(bar.open_time, self._newest.get(key, -1))
        return in_order


def _report(failures: Counter[str]) -> Callable[[str, BaseException], None]:
    def report(name: str, _: BaseException) -> None:
        failures[name] += 1

    return report
