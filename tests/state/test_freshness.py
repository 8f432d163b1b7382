"""Freshness: what is old teaches and says nothing; under lag only the newest bar is asked about."""

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.config import IngestSettings
from quantum_ai_engine.engine import Now
from quantum_ai_engine.events import Bar, Reason
from quantum_ai_engine.features.store import FILLED, VERSION

from .streams import (
    LATE,
    MIDDLE,
    MINUTE_MS,
    NEAR,
    Stream,
    bar_at,
    bars_at,
    batched,
    engine_of,
    final,
    process,
    process_all,
    streams,
)


def test_a_late_bar_that_has_expired_teaches_and_says_nothing() -> None:
    """L39: the state is that of bars in order; only what is still valid is amended."""
    path = bars_at(range(200))
    engine, straight = engine_of(valid_intervals=1.0), engine_of(valid_intervals=1.0)
    process_all(engine, [path[:196], path[197:]])
    done = process(engine, [path[196]])
    assert (done.late, done.silent) == (1, {"expired": 1})
    assert [s.close_time for s in done.signals] == [path[198].close_time, path[199].close_time]
    process_all(straight, [path])
    assert engine.state.features.digest([0]) == straight.state.features.digest([0])


def test_by_the_wall_clock_nothing_is_amended_that_has_ended() -> None:
    """L39: the same bars, read later: fewer signals, or none, and the same state."""
    path = bars_at(range(200))
    told = []
    for minutes in (0, 1, 2, 3):
        engine = engine_of(valid_intervals=2.0)
        process_all(engine, [path[:198], path[199:]])
        wall_ms = path[199].close_time + minutes * MINUTE_MS
        done = process(engine, [path[198]], Now(wall_ms))
        assert {s.produced_at for s in done.signals} <= {wall_ms}
        told.append(([s.close_time // MINUTE_MS for s in done.signals], dict(done.silent)))
    assert told == [
        ([199, 200], {}),
        ([199, 200], {}),
        ([200], {"expired": 1}),
        ([], {"expired": 1}),
    ]


@pytest.mark.parametrize("late_bars", [3, 64])
@pytest.mark.parametrize("valid_intervals", [0.5, 2.0, 60.0, 100.0])
@pytest.mark.parametrize("fill", ["none", "flat"])
def test_no_late_bar_is_too_late_to_be_taken(
    late_bars: int, valid_intervals: float, fill: str
) -> None:
    """L39: late, revised or healing, near or far: each is taken, and what may be said is said."""
    random = Random(1)
    ingest = IngestSettings(late_bars=late_bars, gap_fill=fill)  # type: ignore[arg-type]
    engine = engine_of(ingest=ingest, valid_intervals=valid_intervals)
    path = bars_at(range(700))
    lost = random.sample(range(380, 640), 60)
    process_all(engine, batched([bar for i, bar in enumerate(path) if i not in lost], [50]))
    for i in lost:
        first = engine.state.features.recent(0)[0]
        is_known = path[i].open_time > first[5] - 1.0 + (first[VERSION] != FILLED)
        now = random.choice([Now(), Now(0), Now(path[-1].close_time)])
        assert process(engine, [path[i]], now).late == is_known


def test_what_a_revision_does_not_change_is_not_said_again() -> None:
    """L41: forth and back within a batch amends twice, and ends with what was said first."""
    path = bars_at(range(200))
    engine = engine_of(NEAR)
    said = process_all(engine, [path])
    other = msgspec.structs.replace(path[-2], close=90.0)
    done = process(engine, [other, path[-2]])
    base = [f"AAA|1m|{bar.close_time}" for bar in path[-2:]]
    assert (done.revised, done.again) == (2, 2)
    assert [s.id for s in done.signals] == [f"{name}|{i}" for i in (1, 2) for name in base]
    assert [s.amends for s in done.signals] == base * 2
    assert final([*said, *done.signals]) == final(said)


def test_under_lag_only_the_newest_bar_of_a_series_is_asked_about() -> None:
    """L39: the others of the batch only teach, and are counted."""
    engine, calm = engine_of(), engine_of()
    path = [bar for i in range(100, 110) for bar in (bar_at(i), bar_at(i, "BBB"))]
    for one in (engine, calm):
        one.learn([bar for i in range(100) for bar in (bar_at(i), bar_at(i, "BBB"))])
    done = process(engine, path, Now(lags=True))
    assert [(s.symbol, s.close_time) for s in done.signals] == [
        (bar.symbol, bar.close_time) for bar in path[-2:]
    ]
    assert done.silent == {"lagging": 18}
    process(calm, path)
    assert engine.state.features.digest([0, 1]) == calm.state.features.digest([0, 1])


def test_under_lag_a_late_bar_counts_as_what_it_is() -> None:
    """L39: in a batch with later ones it is passed over; alone it is asked about."""
    engine = engine_of()
    path = bars_at(range(210))
    process_all(engine, [path[:200]])
    done = process(engine, [path[201], path[202], path[200]], Now(lags=True))
    assert done.silent == {"lagging": 2}
    # Asked about when it came and again when the late one came.
    assert [s.id.count("|") for s in done.signals] == [2, 3]
    assert {s.close_time for s in done.signals} == {path[202].close_time}
    process_all(engine, [path[204:205]])
    done = process(engine, [path[203]], Now(lags=True))
    assert (done.silent, done.again, len(done.signals)) == ({}, 1, 2)


def _any_bar(minute: int, symbol: str, close: float) -> Bar:
    return bar_at(minute, symbol, close=close)


_anything = st.lists(
    st.builds(
        _any_bar,
        st.integers(0, 120),
        st.sampled_from(["AAA", "BBB", "CCC"]),
        st.sampled_from([99.0, 100.0, 101.0]),
    ),
    max_size=120,
)
_moments = st.none() | st.integers(0, 130 * MINUTE_MS)


@settings(max_examples=60)
@given(
    _anything,
    st.lists(st.tuples(st.integers(1, 40), _moments, st.booleans()), min_size=1, max_size=4),
    st.sampled_from(["none", "flat"]),
    st.sampled_from([0, LATE, 64]),
    st.sampled_from([0.5, 2.0, 100.0]),
)
def test_whatever_comes_every_bar_is_counted_once(
    bars: list[Bar],
    rounds: list[tuple[int, int | None, bool]],
    fill: str,
    late_bars: int,
    valid_intervals: float,
) -> None:
    """L41: each bar is processed, a duplicate or refused; a processed one signals or is silent.

    Whatever the clock says, no id is said twice, and an amended signal names one that was said.
    """
    engine = engine_of(
        NEAR,
        MIDDLE,
        ingest=IngestSettings(gap_fill=fill, late_bars=late_bars),  # type: ignore[arg-type]
        valid_intervals=valid_intervals,
        burn_in_bars=30,
        max_series=2,
    )
    said: set[str] = set()
    start = 0
    for i in range(len(bars) + 1):
        size, wall_ms, lags = rounds[i % len(rounds)]
        done = process(engine, bars[start : start + size], Now(wall_ms, lags=lags))  # counts
        for signal in done.signals:
            assert signal.id not in said
            assert signal.amends is None or signal.amends in said
            said.add(signal.id)
        known = {Reason.LATE, Reason.REVISION, Reason.TOO_MANY_SERIES}
        assert {refused.reason for _, refused in done.refused} <= known
        start += size
        if start >= len(bars):
            break


@settings(max_examples=30)
@given(streams(), st.integers(0, 60))
def test_expired_bars_leave_the_features_of_fresh_ones(stream: Stream, ahead: int) -> None:
    """L39: what is too old to be said is learnt like everything else."""
    fresh, stale = stream.engine(), stream.engine()
    process_all(fresh, stream.batches())
    newest = max((bar.close_time for bar in stream.as_they_come), default=0)
    for batch in stream.batches():
        process(stale, batch, Now(newest + ahead * MINUTE_MS))
    assert stale.state.names() == fresh.state.names()
    at = range(len(fresh.state.names()))
    assert stale.state.features.digest(at) == fresh.state.features.digest(at)
