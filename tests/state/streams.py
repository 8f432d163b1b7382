"""Streams of bars that come late, twice, revised or not at all, and engines to take them."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import Agent, Past
from quantum_ai_engine.agents.pool import Answer, Request
from quantum_ai_engine.config import (
    EngineSettings,
    IngestSettings,
    RiskSettings,
    Settings,
    SupervisorSettings,
    TrustSettings,
    Venue,
)
from quantum_ai_engine.engine import Engine, Identity, Now, Round
from quantum_ai_engine.events import INTERVAL_MS, Bar, Signal
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.features.sessions import Calendars

Floats = NDArray[np.float64]
Result = TypeVar("Result")
MINUTE_MS = 60_000
SYMBOLS = ("AAA", "BBB", "CCC")
LATE = 3
# Stances that often change and depend on the one before.
NERVOUS = RiskSettings(
    long_threshold=0.53, short_threshold=0.47, exit_hysteresis=0.02, dead_band=0.005
)
LONG_ENOUGH = 60.0  # intervals: nothing expires in these streams


class Follower:
    """An agent that follows the newest and the oldest row of its window."""

    bundle, horizon_bars, interval, clamped = "0" * 12, 5, "1m", 0
    unavailable: str | None = None
    past = Past()

    def __init__(self, name: str, set_name: str, slope: float) -> None:
        self.name = name
        self.feature_set = SETS[set_name]
        self._slope = slope

    def warm_up(self) -> None: ...

    def predict(self, windows: Floats) -> Floats:
        assert np.isfinite(windows).all(), "a window that is not whole"
        return 1.0 / (1.0 + np.exp(-self._slope * (windows[:, -1, 0] + windows[:, 0, 0])))


class Here:
    """A predictor that asks its agents at once, in the calling thread."""

    def __init__(self, *agents: Agent) -> None:
        self.agents = agents

    async def predict(self, requests: Sequence[Request]) -> list[Answer]:
        return [
            Answer(r.agent.predict(r.windows.array()), (None,) * len(r.windows)) for r in requests
        ]


NEAR = Follower("near", "momentum2", 300.0)  # a window of 1 row
MIDDLE = Follower("middle", "gru9", 60.0)  # of 32
FAR = Follower("far", "patchtst8", 30.0)  # of 128
ALL = (NEAR, MIDDLE, FAR)


def engine_of(
    *agents: Agent,
    ingest: IngestSettings | None = None,
    venues: dict[str, Venue] | None = None,
    risk: RiskSettings = NERVOUS,
    trust: TrustSettings | None = None,
    supervisor: SupervisorSettings | None = None,
    **engine: Any,
) -> Engine:
    """An engine by the clock of the bars, without burn-in, in which nothing soon expires."""
    values = {"clock": "bars", "burn_in_bars": 0, "valid_intervals": LONG_ENOUGH} | engine
    settings = Settings(
        engine=EngineSettings(**values),
        ingest=ingest or IngestSettings(late_bars=LATE),
        risk=risk,
        trust=trust or TrustSettings(),
        supervisor=supervisor or SupervisorSettings(),
    )
    identity = Identity("live", "0.1.0+test", "abc")
    return Engine(settings, Here(*(agents or ALL)), identity, Calendars(venues or {}))


def twin_of(engine: Engine, *agents: Agent) -> Engine:
    """An engine that knows nothing, with the settings of another."""
    predictor = Here(*agents) if agents else engine._predictor
    return Engine(engine._all, predictor, engine._identity, engine._calendars)


def unmeasured(_: str) -> AbstractContextManager[None]:
    return nullcontext()


def at_once(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that waits for nobody; it may let others go first."""
    try:
        while coroutine.send(None) is None:
            pass
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


def process(engine: Engine, bars: Sequence[Bar], now: Now | None = None) -> Round:
    """Take a batch, and see that each of its bars is accounted for, once."""
    done = at_once(engine.process(bars, now or Now(), unmeasured))
    assert done.processed + done.duplicates + len(done.refused) == len(bars)
    assert len(done.signals) - done.again + done.silent.total() == done.processed
    assert done.late + done.revised <= done.processed
    positions = [position for position, _ in done.refused]
    assert positions == sorted(set(positions))
    return done


def process_all(
    engine: Engine, batches: Iterable[Sequence[Bar]], now: Now | None = None
) -> list[Signal]:
    """The signals of some batches, in which nothing is refused."""
    signals = []
    for batch in batches:
        done = process(engine, batch, now)
        assert done.refused == []
        signals += done.signals
    return signals


def final(signals: Iterable[Signal]) -> dict[str, Signal]:
    """What a subscriber holds in the end: of each bar the last signal, however often amended."""
    held = {}
    for signal in signals:
        name = signal.amends or signal.id
        held[name] = msgspec.structs.replace(signal, id=name, amends=None, produced_at=0)
    return held


def opinions(signals: Iterable[Signal]) -> dict[str, Any]:
    """What the agents say of each bar in the end, and of which row; trust is no part of it."""
    return {
        name: (
            [(vote.agent, vote.probability) for vote in one.votes],
            one.abstained,
            one.row_hash,
            one.filled,
        )
        for name, one in final(signals).items()
    }


def closes(symbol: str, count: int) -> list[float]:
    """A path of closes, always the same for a symbol."""
    moves = np.random.default_rng(sum(symbol.encode())).normal(0.0, 0.2, count)
    path: list[float] = (100.0 + moves).tolist()
    return path


_CLOSES = {symbol: closes(symbol, 20_000) for symbol in SYMBOLS}


def bar_at(
    minute: int, symbol: str = "AAA", interval: str = "1m", close: float | None = None
) -> Bar:
    """A bar of the symbol's path, `minute` intervals after the epoch."""
    price = _CLOSES[symbol][minute % 20_000] if close is None else close
    opened = minute * INTERVAL_MS[interval]
    # No price stays the same for long: that would be a feed not to be believed.
    prices = 100.0 + 0.1 * (minute % 3), 120.0 + 0.1 * (minute % 5), 80.0 - 0.1 * (minute % 4)
    return Bar(symbol, interval, opened, *prices, price, 1.0 + minute % 7)


def bars_at(minutes: Iterable[int], symbol: str = "AAA", interval: str = "1m") -> list[Bar]:
    return [bar_at(minute, symbol, interval) for minute in minutes]


def flat_at(minute: int, before: Bar) -> Bar:
    """A bar that equals what would be filled in for it after `before`."""
    prices = [before.close] * 4
    return Bar(before.symbol, before.interval, minute * before.interval_ms, *prices, 0.0)


WRONG: dict[str, Callable[[Bar, Bar], Bar]] = {
    "close": lambda bar, _: msgspec.structs.replace(bar, close=0.5 * (bar.close + bar.low)),
    "volume": lambda bar, _: msgspec.structs.replace(bar, volume=bar.volume + 1.0),
    "calm": lambda bar, before: flat_at(bar.open_time // bar.interval_ms, before),
}


@dataclass(frozen=True)
class Stream:
    """Bars that came before in order, then the same bars in order and as they come."""

    fill: str
    before: list[Bar]
    in_order: list[Bar]
    as_they_come: list[Bar]
    cuts: list[int]

    def engine(self, **changes: Any) -> Engine:
        """One that has learnt what came before."""
        engine = engine_of(ingest=IngestSettings(gap_fill=self.fill, late_bars=LATE), **changes)  # type: ignore[arg-type]
        engine.learn(self.before)
        return engine

    def batches(self) -> list[list[Bar]]:
        """What comes, cut into batches."""
        return batched(self.as_they_come, self.cuts)


def batched(bars: Sequence[Bar], sizes: Sequence[int]) -> list[list[Bar]]:
    """Batches of these sizes, over and over."""
    batches, start, i = [], 0, 0
    while start < len(bars):
        batches.append(list(bars[start : start + sizes[i % len(sizes)]]))
        start, i = start + sizes[i % len(sizes)], i + 1
    return batches


class Comes(NamedTuple):
    """How a bar comes: after how many later ones, first and with its true values, and how often.

    `wrong` is what is wrong with its first version, if anything; a calm bar is like a filled one.
    Where versions are `numbered` the wrong one may come last.
    """

    first: int = 0
    truly: int = 0
    copies: int = 1
    wrong: str = ""
    is_calm: bool = False
    numbered: bool = False


_delays = st.integers(0, LATE)
# Half of them in time; None never come.
_comings = st.one_of(
    st.sampled_from([Comes(), Comes(), Comes(copies=2), Comes(is_calm=True), None]),
    st.builds(
        Comes,
        _delays,
        _delays,
        st.integers(1, 2),
        st.sampled_from(["", *WRONG]),
        numbered=st.booleans(),
    ),
)
# Just before the boundaries of windows, of rings and of checkpoints; a window of 32 is whole at 61.
_starts = st.sampled_from([0, 1, 20, 50, 100, 120, 145, 180, 240, 250, 300, 310])


@st.composite
def streams(draw: st.DrawFn, *, by_time: bool = False) -> Stream:
    """Bars of one to three symbols, each within the late bound of its place: by later ones of its
    symbol or, where it is bound `by_time`, by intervals too, however many bars are missing.
    """
    symbols = SYMBOLS[: draw(st.integers(1, 3))]
    start, absent = draw(_starts), draw(st.sampled_from([0, 0, 37, 11]))
    hole = draw(st.sampled_from([0, 0, 1, 63, 64, 65, 130]))  # before the newest three
    minutes = [i + hole * (i >= start - 3) for i in range(start) if not absent or i % absent != 5]
    table = draw(st.lists(st.tuples(*[_comings] * len(symbols)), min_size=1, max_size=24))
    in_order: list[tuple[int, Bar]] = []
    as_they_come: list[tuple[float, Bar]] = []
    for symbol, column in zip(symbols, zip(*table, strict=True), strict=True):
        true, told = _told(symbol, start + hole, column, LATE if by_time else len(table))
        in_order += true
        as_they_come += told
    return Stream(
        draw(st.sampled_from(["none", "flat"])),
        [bar_at(minute, symbol) for minute in minutes for symbol in symbols],
        [bar for _, bar in sorted(in_order, key=itemgetter(0))],
        [bar for _, bar in sorted(as_they_come, key=itemgetter(0))],
        draw(st.lists(st.sampled_from([1, 2, 3, 7, 20, 100]), min_size=1, max_size=4)),
    )


def _told(
    symbol: str, start: int, column: Sequence[Comes | None], most: int
) -> tuple[list[tuple[int, Bar]], list[tuple[float, Bar]]]:
    """The bars of a symbol from a minute on, and how they are told; each with its place in time."""
    present = [(start + i, comes) for i, comes in enumerate(column) if comes]
    true: list[tuple[int, Bar]] = []
    told: list[tuple[float, Bar]] = []
    before = bar_at(max(0, start - 1), symbol)
    for i, (minute, comes) in enumerate(present):
        bar = flat_at(minute, before) if comes.is_calm else bar_at(minute, symbol)
        first, truly = comes.first, comes.truly
        if comes.wrong:
            wrong = WRONG[comes.wrong](bar, before)
            if comes.numbered:
                bar = msgspec.structs.replace(bar, revision=1 + minute % 2)
            else:
                first, truly = sorted((first, truly))
            told.append((_after(present, i, first, most), wrong))
        told += [(_after(present, i, truly + 2 * copy, most), bar) for copy in range(comes.copies)]
        true.append((minute, bar))
        before = bar
    return true, told


def _after(present: Sequence[tuple[int, Comes]], i: int, delay: int, most: int) -> float:
    """When a bar comes after `delay` later ones of its symbol, at most so many minutes late."""
    last = present[min(i + delay, len(present) - 1)][0]
    return min(last, present[i][0] + most) + 0.5 * (delay > 0)
