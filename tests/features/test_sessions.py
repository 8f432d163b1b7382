"""Sessions: which one a bar belongs to, in any zone, across changes of the clock."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.config import Venue
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.columns import NAMES
from quantum_ai_engine.features.kernel import BAR_WIDTH
from quantum_ai_engine.features.schema import SESSION_COLUMNS
from quantum_ai_engine.features.sessions import Calendar, Calendars

from .bars import CHICAGO, DAY, HOUR, MINUTE, NEW_YORK, TOKYO, market, walk
from .bars import UTC as UTC_DAY
from .oracle_terms import SessionRule

VENUES = [
    UTC_DAY,
    NEW_YORK,
    CHICAGO,
    TOKYO,
    Venue("Europe/Berlin", "00:00", "24:00"),
    Venue("Australia/Lord_Howe", "10:00", "10:00"),  # clocks change by half an hour
    Venue("America/Sao_Paulo", "00:00", "00:00"),  # until 2018 clocks changed at midnight
    Venue("Pacific/Apia", "23:59", "00:01"),  # had no 30 December 2011
    Venue("America/New_York", "02:30", "03:30"),  # a time that does not exist on one day of a year
]


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


FIRST, LAST = ms(2004, 1, 1), ms(2030, 1, 1)
times = st.integers(FIRST, LAST) | st.integers(FIRST // DAY, LAST // DAY).map(lambda d: d * DAY)
changes = st.sampled_from(
    [ms(2024, 3, 10), ms(2024, 11, 3), ms(2024, 3, 31), ms(2024, 10, 27), ms(2024, 4, 7)]
).flatmap(lambda start: st.integers(start - DAY, start + 2 * DAY))


def by_rule(venue: Venue, time_ms: int) -> tuple[int, int, int]:
    """What the oracle says, which has no table."""
    rule = SessionRule(venue.zone, venue.opens, venue.closes)
    return (*rule.session(time_ms), rule.local(time_ms).weekday())


def by_rows(calendar: Calendar, asked: list[int]) -> list[tuple[int, ...]]:
    rows = calendar.rows(np.array(asked, dtype=np.int64), np.ones((len(asked), 5)), MINUTE)
    assert rows[:, 5].tolist() == asked
    assert (rows[:, :5] == 1.0).all()
    assert (rows[:, 6] == MINUTE).all()
    return [tuple(map(int, row[7:])) for row in rows]


@pytest.mark.parametrize("venue", VENUES, ids=lambda v: f"{v.zone} {v.opens} {v.closes}")
@settings(deadline=None, max_examples=6)
@given(asked=st.lists(times | changes, min_size=1, max_size=8))
def test_one_bar_and_many_have_the_sessions_of_the_rule(venue: Venue, asked: list[int]) -> None:
    """L11: live and offline find the same session and weekday, those of the written rule.

    In any order of asking: tables grow backwards and forwards.
    """
    expected = [by_rule(venue, time_ms) for time_ms in asked]
    live = Calendar(venue)
    assert [live.of(time_ms) for time_ms in asked] == expected
    assert [live.of(time_ms) for time_ms in asked[::-1]] == expected[::-1]
    assert by_rows(Calendar(venue), asked) == expected
    assert by_rows(live, asked) == expected


@pytest.mark.parametrize("venue", VENUES, ids=lambda v: f"{v.zone} {v.opens} {v.closes}")
def test_every_half_hour_of_two_years(venue: Venue) -> None:
    """Each change of the clock, and each bar between, is where the rule has it."""
    asked = list(range(ms(2011, 12, 1), ms(2012, 12, 1), 30 * MINUTE))[::5]
    asked += list(range(ms(2024, 2, 25), ms(2024, 4, 10), 30 * MINUTE))
    assert by_rows(Calendar(venue), asked) == [by_rule(venue, time_ms) for time_ms in asked]


def test_the_default_is_a_day_of_utc() -> None:
    """Without a venue a session is 24 hours from midnight UTC, from the epoch on."""
    calendar = Calendars({}).of("ANY")
    for time_ms in (0, 1, DAY - 1, DAY, ms(2024, 2, 29, 23, 59)):
        opened = time_ms // DAY * DAY
        assert calendar.of(time_ms) == (opened, opened + DAY, (time_ms // DAY + 3) % 7)


def test_daylight_saving_moves_the_opening() -> None:
    """New York opens at 14:30 UTC in winter and at 13:30 in summer."""
    calendar = Calendar(NEW_YORK)
    winter, summer = calendar.of(ms(2024, 3, 8, 15)), calendar.of(ms(2024, 3, 11, 15))
    assert winter == (ms(2024, 3, 8, 14, 30), ms(2024, 3, 8, 21), 4)
    assert summer == (ms(2024, 3, 11, 13, 30), ms(2024, 3, 11, 20), 0)


def test_a_bar_after_the_close_belongs_to_the_session_opened_last() -> None:
    """Evening and early morning are the day's before; the opening itself is the new one's."""
    calendar, opened = Calendar(NEW_YORK), ms(2024, 1, 3, 14, 30)
    session = opened, opened + 6 * HOUR + 30 * MINUTE
    for later in (0, 7 * HOUR, 20 * HOUR, DAY - 1):
        assert calendar.of(opened + later)[:2] == session
    assert calendar.of(opened + DAY)[0] == opened + DAY
    assert calendar.of(opened - 1)[0] == opened - DAY


def test_a_close_at_or_before_the_opening_is_on_the_next_day() -> None:
    """Chicago's futures open at 17:00 and close at 16:00 tomorrow, by local weekday."""
    opens, closes, weekday = Calendar(CHICAGO).of(ms(2024, 1, 9, 5))  # Monday 23:00 there
    assert (opens, closes, weekday) == (ms(2024, 1, 8, 23), ms(2024, 1, 9, 22), 0)
    same = Venue("UTC", "09:00", "09:00")
    assert Calendar(same).of(ms(2024, 1, 9, 12))[:2] == (ms(2024, 1, 9, 9), ms(2024, 1, 10, 9))


def test_no_bars_are_no_rows() -> None:
    """An empty history has no session to look for."""
    rows = Calendar(UTC_DAY).rows(np.empty(0, dtype=np.int64), np.empty((0, 5)), MINUTE)
    assert rows.shape == (0, BAR_WIDTH)


def test_symbols_have_the_calendar_of_their_venue() -> None:
    """A live bar's row is the offline one's, by its symbol's venue; others trade 24 hours UTC."""
    calendars = Calendars({"AAPL": NEW_YORK, "MSFT": NEW_YORK, "ES": CHICAGO})
    assert calendars.of("AAPL") is calendars.of("MSFT")
    for symbol, venue in (("AAPL", NEW_YORK), ("ES", CHICAGO), ("BTCUSDT", UTC_DAY)):
        bar = Bar(symbol, "1h", ms(2024, 7, 4, 15), 10.0, 12.0, 9.0, 11.0, 5.0)
        offline = Calendar(venue).rows(np.array([bar.open_time]), np.array([bar.ohlcv]), HOUR)
        assert list(calendars.row(bar)) == offline[0].tolist()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("Mars/Olympus", "09:00", "16:00"), "there is no time zone 'Mars/Olympus'"),
        (("UTC", "9", "16:00"), "'9' is not a time of day: write HH:MM"),
        (("UTC", "09:60", "16:00"), "'09:60' is not a time of day: write HH:MM"),
        (("UTC", "-1:00", "16:00"), "'-1:00' is not a time of day: write HH:MM"),
        (("UTC", "09:00", "24:01"), "'24:01' is after 24:00"),
    ],
)
def test_a_venue_that_cannot_be_is_refused_in_one_sentence(
    words: tuple[str, str, str], says: str
) -> None:
    """L48: a wrong zone or time is named where the venue is made."""
    with pytest.raises(ValueError, match=says):
        Venue(*words)


def test_the_columns_of_the_session_are_those_that_a_venue_moves() -> None:
    """L11: what an agent must not be served with other venues than it was trained with."""
    ohlcv = walk(3000, 5)
    ohlcv[:, 0] = ohlcv[:, 1:3].mean(axis=1)  # opens that are not the closes before them
    rows = [kernel.matrix(market(ohlcv, 10 * MINUTE, venue).bars()) for venue in (UTC_DAY, CHICAGO)]
    moved = ~((rows[0] == rows[1]) | (np.isnan(rows[0]) & np.isnan(rows[1]))).all(axis=0)
    assert {name for name, is_so in zip(NAMES, moved, strict=True) if is_so} == SESSION_COLUMNS


FOREX = Venue("America/New_York", "17:00", "17:00")
TRADED = [UTC_DAY, NEW_YORK, CHICAGO, TOKYO, FOREX, Venue("Europe/Berlin", "00:00", "24:00")]
weeks = st.integers(ms(2024, 1, 1) // MINUTE, ms(2024, 4, 15) // MINUTE)
lengths = st.integers(1, 60) | st.integers(1, 5 * DAY // MINUTE)


def lacking(venue: Venue, before: int, after: int, step: int) -> list[int]:
    """By the rule: when the bars open that are missing between two bars, bar by bar."""
    rule, close_time = SessionRule(venue.zone, venue.opens, venue.closes), before + step
    slots = range(close_time, after, step)
    if venue == UTC_DAY:
        return list(slots)
    (opens, closes), (opened, ends) = rule.session(before), rule.session(after)
    is_begun = opened != opens and after < ends
    return [t for t in slots if t + step <= closes or (is_begun and t >= opened)]


@pytest.mark.parametrize("venue", TRADED, ids=lambda v: f"{v.zone} {v.opens} {v.closes}")
@settings(deadline=None, max_examples=40)
@given(start=weeks, length=lengths, step=st.sampled_from([MINUTE, 5 * MINUTE, HOUR, DAY]))
def test_missing_are_the_bars_that_a_session_lacks(
    venue: Venue, start: int, length: int, step: int
) -> None:
    """L16: slot by slot: the rest of the session that was left, the start of the one entered."""
    before = start * MINUTE // step * step
    after = before + step * (1 + max(1, length * MINUTE // step))
    calendar = Calendar(venue)
    missed = calendar.missed(before + step, after, step)
    assert [t for times in missed for t in times] == lacking(venue, before, after, step)
    assert calendar.missing(before + step, after, step) == sum(map(len, missed))
    assert calendar.missing(before + step, before + step, step) == 0
    assert calendar.holes(np.array([before, after]), step).tolist() == [
        False,
        calendar.missing(before + step, after, step) > 0,
    ]


@pytest.mark.parametrize("venue", TRADED, ids=lambda v: f"{v.zone} {v.opens} {v.closes}")
@settings(deadline=None, max_examples=40)
@given(start=weeks, length=st.integers(1, 60))
def test_with_what_is_missing_nothing_is_missing(venue: Venue, start: int, length: int) -> None:
    """L16: once the missing bars are there, no two neighbours lack one between them."""
    step = 5 * MINUTE
    before = start * MINUTE // step * step
    after = before + (1 + length) * step
    calendar = Calendar(venue)
    missed = [t for times in calendar.missed(before + step, after, step) for t in times]
    assert not calendar.holes(np.array([before, *missed, after]), step).any()


def test_bars_before_the_opening_after_a_weekend_are_no_gap() -> None:
    """L07: early on Monday belongs to no session of Sunday: there was none."""
    calendar, step = Calendar(NEW_YORK), 5 * MINUTE
    friday = ms(2024, 1, 5, 21)
    for early in (ms(2024, 1, 8, 9), ms(2024, 1, 8, 14, 25), ms(2024, 1, 9, 9)):
        assert calendar.missing(friday, early, step) == 0
        assert calendar.missing(friday - step, early, step) == 1


@pytest.mark.parametrize("venue", TRADED[1:], ids=lambda v: f"{v.zone} {v.opens} {v.closes}")
@settings(deadline=None, max_examples=40)
@given(start=weeks)
def test_the_next_bar_opens_at_once_or_with_a_session_of_a_weekday(
    venue: Venue, start: int
) -> None:
    """L07: a session is of the day on which most of it lies; the weekend has none."""
    close_time = start * MINUTE
    rule = SessionRule(venue.zone, venue.opens, venue.closes)
    sessions = sorted({rule.session(close_time + i * HOUR) for i in range(6 * 24)})
    working = [
        opens
        for opens, closes in sessions
        if opens >= close_time and rule.local((opens + closes) // 2).weekday() < 5
    ]
    is_open = close_time < rule.session(close_time - 1)[1]
    expected = close_time if is_open else working[0]
    assert Calendar(venue).next_open(close_time) == expected


def test_round_the_clock_the_next_bar_opens_at_once() -> None:
    """L07: without a venue there is no weekend."""
    assert Calendar(UTC_DAY).next_open(ms(2024, 1, 6, 5)) == ms(2024, 1, 6, 5)
