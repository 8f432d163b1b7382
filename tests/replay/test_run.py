"""A replay is the live engine: the same signals, whatever bars came together."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.config import EngineSettings, IngestSettings, Settings
from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import Bar
from quantum_ai_engine.replay import run
from quantum_ai_engine.replay.step import Step

from ..state.streams import (
    ALL,
    LATE,
    LONG_ENOUGH,
    NERVOUS,
    SYMBOLS,
    Stream,
    bars_at,
    batched,
    engine_of,
    process,
    streams,
)
from .records import replay_of, selection, steps_of, wire


def settings_of(fill: str = "none", **engine: object) -> Settings:
    """Those of the engines to compare with."""
    values = {"clock": "bars", "burn_in_bars": 0, "valid_intervals": LONG_ENOUGH} | engine
    return Settings(
        engine=msgspec.convert(values, EngineSettings),
        ingest=IngestSettings(gap_fill=fill, late_bars=LATE),  # type: ignore[arg-type]
        risk=NERVOUS,
    )


def live(stream: Stream) -> list[Round]:
    """What the live engine says of all bars, in its batches."""
    engine = engine_of(ingest=IngestSettings(gap_fill=stream.fill, late_bars=LATE))  # type: ignore[arg-type]
    return [process(engine, batch) for batch in batched(whole(stream), stream.cuts)]


def whole(stream: Stream) -> list[Bar]:
    return [*stream.before, *stream.as_they_come]


def counted(rounds: Sequence[Round]) -> dict[str, object]:
    """What was counted, in all."""
    names = ("processed", "late", "revised", "gaps", "filled", "again")
    sums: dict[str, object] = {name: sum(getattr(one, name) for one in rounds) for name in names}
    sums["silent"] = sum((one.silent for one in rounds), start=Round().silent)
    sums["changes"] = [change for one in rounds for change in one.changes]
    sums["unheard"] = [abstention for one in rounds for abstention in one.unheard]
    return sums


@settings(max_examples=25)
@given(streams(), st.sampled_from([1, 7, 60, 1_000]))
def test_a_replay_says_what_the_live_engine_said(stream: Stream, together: int) -> None:
    """L53: bars late, twice, revised or missing: the same signals on the wire, bit for bit, and
    the same counts, however many bars are taken together."""
    rounds, bars = live(stream), whole(stream)
    if not bars:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "BATCH_BARS", together)
        steps = steps_of(replay_of(settings_of(stream.fill), ALL), selection(bars))
    told = [step.told for step in steps]
    assert wire([s for one in told for s in one.signals]) == wire(
        [s for one in rounds for s in one.signals]
    )
    assert counted(told) == counted(rounds)


def test_each_step_has_what_was_said_of_its_own_bars() -> None:
    """L53: signals are joined to bars by symbol and time, never by position."""
    bars = sorted(
        (bar for symbol in SYMBOLS for bar in bars_at(range(300), symbol)),
        key=lambda bar: bar.open_time,
    )
    steps = steps_of(replay_of(settings_of(), ALL), selection(bars))
    assert [bar for step in steps for bar in step.bars] == bars
    assert [step.open_time_ms for step in steps] == [60_000 * i for i in range(300)]
    for step in steps:
        own = {(bar.symbol, bar.close_time) for bar in step.bars}
        assert {(one.symbol, one.close_time) for one in step.told.signals} <= own
        assert step.told.processed == len(step.bars)
    one_by_one = engine_of()
    for step in steps:
        told = process(one_by_one, step.bars)
        assert wire(step.told.signals) == wire(told.signals)
        assert step.told.changes == told.changes


def test_warm_up_says_nothing_and_features_never_stopped() -> None:
    """L44: bars before the start only teach; from the start on rows and votes are those of an
    engine that has had all bars."""
    bars, start = bars_at(range(4_000)), 3_900
    everything = engine_of()
    everything.learn(bars[:start])
    replay = replay_of(settings_of(), ALL)
    history = selection(bars, replay.warm_up, start_ms=start * 60_000)
    assert 0 < history.warm_from_ms < start * 60_000
    steps = steps_of(replay, history)
    assert steps[0].open_time_ms == start * 60_000
    for step, bar in zip(steps, bars[start:], strict=True):
        (one,), (other,) = step.told.signals, process(everything, [bar]).signals
        assert one.row_hash == other.row_hash
        assert [v.probability for v in one.votes] == [v.probability for v in other.votes]


def test_the_number_of_workers_changes_nothing() -> None:
    """L46: agents that answer side by side, by no deadline, give the same signals."""
    bars = bars_at(range(400))
    first, second = (
        wire(
            [
                s
                for step in steps_of(replay_of(settings_of(), ALL, n), selection(bars))
                for s in step.told.signals
            ]
        )
        for n in (1, 3)
    )
    assert first == second
    assert len(first) > 300


class Broken:
    """An agent that cannot answer."""

    def __init__(self) -> None:
        self.__dict__.update(ALL[0].__dict__)
        self.name = "broken"

    bundle, horizon_bars, interval, clamped, unavailable = "1" * 12, 5, "1m", 0, None
    past = ALL[0].past

    def warm_up(self) -> None: ...

    def predict(self, _: object) -> object:
        raise ValueError("no")


def test_an_agent_that_fails_abstains_as_it_does_live_and_is_counted() -> None:
    """L02: a failure is a typed abstention, in a replay too."""
    replay = replay_of(settings_of(), (ALL[0], Broken()))  # type: ignore[arg-type]
    steps = steps_of(replay, selection(bars_at(range(100))))
    signals = [s for step in steps for s in step.told.signals]
    reasons = {(a.agent, a.reason.value) for s in signals for a in s.abstained}
    assert reasons == {("broken", "error")}
    assert replay.failures["broken"] > 0


def test_a_restored_replay_goes_on_bit_for_bit() -> None:
    """L43: from a snapshot at any settled place on, signals and state are those of one pass."""
    bars = [bar for i in range(400) for s in SYMBOLS for bar in bars_at([i], s)]
    history = selection(bars)

    async def until(rows: int) -> tuple[list[Step], int, list[bytes]]:
        replay, steps = replay_of(settings_of(), ALL), list[Step]()
        async for stretch in replay.stretches(history):
            steps += stretch.steps
            if stretch.is_settled and stretch.rows >= rows:
                return steps, stretch.rows, replay.engine.state.snapshot()
        return steps, len(bars), replay.engine.state.snapshot()

    async def on(rows: int, snapshot: list[bytes]) -> tuple[list[Step], str]:
        replay, steps = replay_of(settings_of(), ALL), list[Step]()
        replay.restore(snapshot)
        async for stretch in replay.stretches(history, rows):
            steps += stretch.steps
        return steps, replay.engine.state.digest()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "SETTLED_ROWS", 150)
        patch.setattr(run, "BATCH_BARS", 70)
        every, _, end = asyncio.run(until(10**9))
        begun, rows, snapshot = asyncio.run(until(500))
        rest, digest = asyncio.run(on(rows, snapshot))
    assert 500 <= rows < len(bars)
    assert [wire(step.told.signals) for step in begun + rest] == [
        wire(step.told.signals) for step in every
    ]
    whole = replay_of(settings_of(), ALL)
    whole.restore(end)
    assert digest == whole.engine.state.digest()
