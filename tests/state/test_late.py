"""Bars that come late, twice or revised: in the end as if they had come in order."""

import os
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantum_ai_engine.config import IngestSettings, Venue
from quantum_ai_engine.engine import Engine, Now
from quantum_ai_engine.events import Bar

from .streams import (
    LATE,
    MINUTE_MS,
    SYMBOLS,
    Follower,
    Stream,
    engine_of,
    final,
    opinions,
    process_all,
    streams,
    twin_of,
)

CASES = int(os.environ.get("TEST_CASES", "50"))
FIVE_MS, DAY_MS = 300_000, 86_400_000
SESSION = 78  # bars of five minutes
FIRST_MS = int(datetime(2024, 1, 1, 14, 30, tzinfo=UTC).timestamp() * 1000)  # a Monday
NEW_YORK = dict.fromkeys(SYMBOLS, Venue("America/New_York", "09:30", "16:00"))
EARLIER = Now(wall_ms=0)  # by this clock nothing has ended yet


class Fives(Follower):
    """A follower of bars of five minutes."""

    interval = "5m"


FIVES = (Fives("near", "momentum2", 300.0), Fives("far", "patchtst8", 30.0))


@pytest.mark.timeout(max(120, CASES))
@settings(max_examples=CASES, suppress_health_check=list(HealthCheck))
@given(streams())
def test_any_order_within_the_late_bound_ends_the_same(stream: Stream) -> None:
    """L53: bars late by at most `late_bars`, doubled and revised, leave what they leave in order.

    The features have the same digest, and of each bar a subscriber holds the same opinions, amended
    or not. `TEST_CASES=10000 python -m pytest tests/state/test_late.py` runs as many cases as that
    instead of 50.
    """
    straight, other = stream.engine(), stream.engine()
    expected = opinions(process_all(straight, [stream.in_order]))
    got = opinions(process_all(other, stream.batches()))
    assert got == expected
    assert memory_of(other) == memory_of(straight)


@pytest.mark.timeout(max(120, CASES))
@settings(max_examples=CASES, suppress_health_check=list(HealthCheck))
@given(streams(by_time=True))
def test_any_order_within_the_late_time_ends_the_same(stream: Stream) -> None:
    """L53: late by at most `late_bars` intervals of time, bars leave all that they leave in order.

    Evidence and rulings are the same, too, so that the whole state has the same digest, and of each
    bar a subscriber holds the same signal.
    """
    straight, other = stream.engine(), stream.engine()
    expected = final(process_all(straight, [stream.in_order]))
    got = final(process_all(other, stream.batches()))
    assert got == expected
    assert other.state.digest() == straight.state.digest()


@pytest.mark.timeout(max(120, CASES))
@settings(max_examples=max(40, CASES // 10), suppress_health_check=list(HealthCheck))
@given(streams(), st.integers(0, SESSION - 1))
def test_so_it_does_across_nights_and_weekends(stream: Stream, offset: int) -> None:
    """L53: the same at a venue with sessions, whose close and opening lie among the bars."""
    stream = in_sessions(stream, offset)
    ingest = IngestSettings(gap_fill=stream.fill, late_bars=LATE)  # type: ignore[arg-type]
    straight, other = (engine_of(*FIVES, ingest=ingest, venues=NEW_YORK) for _ in range(2))
    for engine in (straight, other):
        engine.learn(stream.before)
    expected = opinions(process_all(straight, [stream.in_order], EARLIER))
    assert opinions(process_all(other, stream.batches(), EARLIER)) == expected
    assert memory_of(other) == memory_of(straight)
    twin = twin_of(other)
    twin.state.restore(other.state.snapshot())
    assert twin.state.digest() == other.state.digest()


def memory_of(engine: Engine) -> tuple[list[tuple[str, str]], bytes, int]:
    """What does not wait for a bar to be final: series, features and the newest close."""
    state = engine.state
    names = sorted(state.names())
    return names, state.features.digest([state.at(*n) for n in names]), state.newest_close


def in_sessions(stream: Stream, offset: int) -> Stream:
    """The same bars in the slots of sessions, one after the other, of weekdays."""

    def moved(bars: list[Bar]) -> list[Bar]:
        return [
            msgspec.structs.replace(
                bar, interval="5m", open_time=slot(offset + bar.open_time // MINUTE_MS)
            )
            for bar in bars
        ]

    return replace(
        stream,
        before=moved(stream.before),
        in_order=moved(stream.in_order),
        as_they_come=moved(stream.as_they_come),
    )


def slot(number: int) -> int:
    """When a slot opens, counted from the first Monday's first."""
    day, of_day = divmod(number, SESSION)
    week, weekday = divmod(day, 5)
    return FIRST_MS + (7 * week + weekday) * DAY_MS + of_day * FIVE_MS
