"""The order of bars: what a bar is to the recent ones of its series, and runs without a hole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.config import Venue
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.order import Arrival, place_of, whole_runs
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import FILLED, RECENT_WIDTH

MINUTE = 60_000
CALENDARS = Calendars({})
VALUES = (5.0, 9.0, 1.0, 6.0, 7.0)


def bar_at(minute: int, *values: float, revision: int = 0) -> Bar:
    return Bar("BTCUSDT", "1m", minute * MINUTE, *(values or VALUES), revision)


def recent(*minutes: int, filled: tuple[int, ...] = (), revision: int = 0) -> NDArray[np.float64]:
    """Bars of these minutes, some of them filled in, as the store has them."""
    rows = [(*CALENDARS.row(bar_at(m)), FILLED if m in filled else revision) for m in minutes]
    return np.array(rows).reshape(-1, RECENT_WIDTH)


def test_a_bar_after_all_others_is_new() -> None:
    """The first, the next, or one after a hole."""
    for known, minute in ((recent(), 0), (recent(4, 5), 6), (recent(4, 5), 60)):
        assert place_of(known, bar_at(minute)) == (Arrival.NEW, len(known), False)


def test_the_same_bar_is_a_duplicate() -> None:
    """L43: bars read again after a crash are recognised, as far back as they are known."""
    known = recent(0, 1, 3)
    for at, minute in enumerate((0, 1, 3)):
        assert place_of(known, bar_at(minute)) == (Arrival.DUPLICATE, at, True)


@pytest.mark.parametrize("at", range(5))
def test_other_values_at_a_known_time_are_a_revision(at: int) -> None:
    """L41: any one of the five values makes a bar another version."""
    values = list(VALUES)
    values[at] += 0.25 if at != 1 else 1.0
    assert place_of(recent(2, 3, 4), bar_at(3, *values)) == (Arrival.REVISION, 1, True)


@pytest.mark.parametrize(
    ("revision", "arrival"),
    [(0, Arrival.DUPLICATE), (1, Arrival.DUPLICATE), (2, Arrival.REVISION), (3, Arrival.REVISION)],
)
def test_the_highest_revision_holds(revision: int, arrival: Arrival) -> None:
    """L53: an earlier version that comes after a later one changes nothing."""
    other = bar_at(3, 5.0, 9.0, 1.0, 6.5, 7.0, revision=revision)
    assert place_of(recent(2, 3, 4, revision=2), other) == (arrival, 1, True)


def test_a_later_revision_of_the_same_values_is_remembered() -> None:
    """L53: else one between the two, with other values, would take its place."""
    known, later = recent(2, 3, 4, revision=1), bar_at(3, revision=2)
    assert place_of(known, later) == (Arrival.REVISION, 1, True)


def test_a_bar_between_known_ones_is_late() -> None:
    """L41: before the first, or in a hole: late, and where it belongs is told."""
    known = recent(2, 5, 6)
    places = {minute: place_of(known, bar_at(minute)) for minute in (0, 1, 3, 4)}
    assert {p.arrival for p in places.values()} == {Arrival.LATE}
    assert {m: (p.at, p.takes_place) for m, p in places.items()} == {
        0: (0, False),
        1: (0, False),
        3: (1, False),
        4: (1, False),
    }


@pytest.mark.parametrize("values", [VALUES, (6.0, 6.0, 6.0, 6.0, 0.0)])
def test_a_bar_for_a_filled_place_is_late(values: tuple[float, ...]) -> None:
    """L16: it has not come yet, whatever was put in its place; it takes that."""
    known = recent(2, 3, 4, filled=(3,))
    assert place_of(known, bar_at(3, *values)) == (Arrival.LATE, 1, True)


@given(st.sets(st.integers(0, 60), max_size=30), st.integers(0, 70))
def test_with_the_bar_in_its_place_time_runs_forward(minutes: set[int], minute: int) -> None:
    """L53: whatever is known, inserted where `place_of` says the bars are in order."""
    known = recent(*sorted(minutes))
    place = place_of(known, bar_at(minute))
    assert place.takes_place == (minute in minutes)
    times = (known[:, 5] / MINUTE).tolist()
    times[place.at : place.at + place.takes_place] = [minute]
    assert times == sorted({*minutes, minute})


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_runs_end_at_holes(holes: list[bool]) -> None:
    """L13: each run counts from the bar after the hole; the first is not known to have one."""
    run, expected = 0, []
    for i, is_hole in enumerate(holes):
        run = 1 if is_hole or i == 0 else run + 1
        expected.append(run)
    assert whole_runs(np.array(holes)).tolist() == expected


def test_holes_are_those_of_the_calendar() -> None:
    """L07: between sessions there is none."""
    venue = Venue("America/New_York", "09:30", "16:00")
    opened = 1_704_465_000_000 // (5 * MINUTE)  # Friday 2024-01-05
    first = np.arange(opened + 70, opened + 78)
    second = np.arange(opened + 3 * 288, opened + 3 * 288 + 5)
    times = np.concatenate([first, second]) * 5 * MINUTE
    calendar = Calendars({"AAPL": venue}).of("AAPL")
    assert not calendar.holes(times, 5 * MINUTE).any()
    assert (
        calendar.holes(np.delete(times, 7), 5 * MINUTE).tolist()
        == [False] * 7 + [True] + [False] * 4
    )
    assert (
        Calendars({}).of("AAPL").holes(times, 5 * MINUTE).tolist()
        == [False] * 8 + [True] + [False] * 4
    )
