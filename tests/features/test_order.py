"""The order of bars: each new bar once, and everything else told apart."""

from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.order import MEMORY, Arrival, Sequencer

MINUTE = 60_000


def bar_at(minute: int, close: float = 1.0, interval: str = "1m", symbol: str = "BTCUSDT") -> Bar:
    step = MINUTE if interval == "1m" else 3_600_000
    return Bar(symbol, interval, minute * step, close, close, close, close, 1.0)


def arrivals(order: Sequencer, *minutes: int) -> str:
    """The first letters of what bars of these minutes are, one after the other."""
    return "".join(order.update(0, bar_at(minute))[0] for minute in minutes)


def test_bars_in_order_are_new() -> None:
    """A series may start anywhere, and then every next bar is new and no gap."""
    order = Sequencer()
    assert arrivals(order, 1_000, 1_001, 1_002) == "nnn"
    assert order.gaps == 0


def test_a_bar_at_the_epoch_is_a_bar() -> None:
    """Time 0 is a time like any other: first new, then a duplicate."""
    order = Sequencer()
    assert arrivals(order, 0, 0, 1) == "ndn"
    assert order.gaps == 0


def test_a_repeat_is_a_duplicate() -> None:
    """L43: bars read again after a crash are recognised, as far back as the memory goes."""
    order = Sequencer()
    minutes = range(100, 100 + MEMORY)
    assert arrivals(order, *minutes) == "n" * MEMORY
    assert arrivals(order, *minutes) == "d" * MEMORY
    assert arrivals(order, 100 + MEMORY) == "n"


def test_a_repeat_beyond_the_memory_is_late() -> None:
    """A bar too old to be recognised is never taken for new."""
    order = Sequencer()
    arrivals(order, *range(100, 101 + MEMORY))
    assert arrivals(order, 100, 36, 0) == "lll"


def test_other_values_at_a_seen_time_are_a_revision() -> None:
    """A closed bar does not change: another version is told from a repeat."""
    order = Sequencer()
    arrivals(order, 5, 6)
    assert order.update(0, bar_at(5, close=2.0)) is Arrival.REVISION
    assert order.update(0, bar_at(6, close=2.0)) is Arrival.REVISION
    assert arrivals(order, 5, 6) == "dd"


def test_every_value_of_a_bar_counts() -> None:
    """A revision of any one of the five values is noticed."""
    first = Bar("BTCUSDT", "1m", 0, 5.0, 9.0, 1.0, 6.0, 7.0)
    others = [
        Bar("BTCUSDT", "1m", 0, *values)
        for values in (
            (4.0, 9.0, 1.0, 6.0, 7.0),
            (5.0, 8.0, 1.0, 6.0, 7.0),
            (5.0, 9.0, 2.0, 6.0, 7.0),
            (5.0, 9.0, 1.0, 5.0, 7.0),
            (5.0, 9.0, 1.0, 6.0, 0.0),
            (6.0, 9.0, 1.0, 5.0, 7.0),
        )
    ]
    order = Sequencer()
    order.update(0, first)
    assert [order.update(0, other) for other in others] == [Arrival.REVISION] * 6


def test_a_hole_is_one_gap_and_its_bars_are_late() -> None:
    """A hole is counted once, however long, and not filled afterwards."""
    order = Sequencer()
    assert arrivals(order, 10, 14) == "nn"
    assert order.gaps == 1
    assert arrivals(order, 12, 13, 11) == "lll"
    assert arrivals(order, 10, 14, 15) == "ddn"
    assert order.gaps == 1


def test_a_hole_of_whole_turns_of_the_memory() -> None:
    """Bars that share a place in the memory are not taken for one another."""
    order = Sequencer()
    assert arrivals(order, 10, 10 + MEMORY, 10, 10 + MEMORY) == "nnld"
    assert order.gaps == 1


def test_series_are_independent() -> None:
    """Each series has its own order, and a longer interval its own step."""
    order = Sequencer()
    hour = [bar_at(hour, interval="1h") for hour in (3, 4, 6)]
    assert order.update(0, bar_at(500)) is Arrival.NEW
    assert [order.update(1, bar) for bar in hour] == [Arrival.NEW] * 3
    assert order.gaps == 1
    assert order.update(0, bar_at(501)) is Arrival.NEW
    assert order.gaps == 1


def test_the_last_close_is_that_of_the_newest_bar() -> None:
    """L07: freshness is the newest bar's close time; late bars and repeats do not move it."""
    order = Sequencer()
    assert order.last_close(0, MINUTE) is None
    arrivals(order, 7, 9, 8, 7)
    assert order.last_close(0, MINUTE) == 10 * MINUTE


def test_growth_keeps_what_is_there() -> None:
    """Room for more series forgets nothing of those that are known."""
    order = Sequencer(capacity=1)
    arrivals(order, 3, 4)
    order.reserve(50)
    assert arrivals(order, 3, 4, 5) == "ddn"
    assert order.last_close(49, MINUTE) is None
    assert order.update(49, bar_at(0)) is Arrival.NEW


minutes_of_a_feed = st.sets(st.integers(0, 90), min_size=1, max_size=40).map(sorted)


@settings(deadline=None)
@given(
    st.lists(minutes_of_a_feed, min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_each_new_bar_is_processed_once(feeds: list[list[int]], random: Random) -> None:
    """L43: in any interleaving with repeats of what was read, each distinct new bar is new once."""
    order, seen = Sequencer(capacity=3), [0] * len(feeds)
    taken: list[tuple[int, int]] = []
    while unread := [s for s, feed in enumerate(feeds) if seen[s] < len(feed)]:
        s = random.choice(unread)
        feed, at = feeds[s], seen[s]
        if at and random.random() < 0.5:
            minute = feed[random.randrange(at)]
            arrival = order.update(s, bar_at(minute))
            far = feed[at - 1] - minute >= MEMORY
            assert arrival is Arrival.DUPLICATE or (far and arrival is Arrival.LATE)
        else:
            assert order.update(s, bar_at(feed[at])) is Arrival.NEW
            taken.append((s, feed[at]))
            seen[s] += 1
    assert sorted(taken) == [(s, minute) for s, feed in enumerate(feeds) for minute in feed]
    assert order.gaps == sum(b - a > 1 for feed in feeds for a, b in pairwise(feed))


@settings(deadline=None)
@given(st.lists(st.integers(0, 200), max_size=120))
def test_any_arrival_order_is_told_apart(minutes: list[int]) -> None:
    """A bar is new exactly when it is after all before; else it was seen lately, or it is late."""
    order, newest, seen = Sequencer(), -1, set()
    for minute in minutes:
        arrival = order.update(0, bar_at(minute))
        assert (arrival is Arrival.NEW) == (minute > newest)
        if minute <= newest:
            known = minute in seen and newest - minute < MEMORY
            if known:
                assert arrival is Arrival.DUPLICATE
            elif minute not in seen:
                assert arrival is Arrival.LATE
        else:
            newest = minute
            seen.add(minute)
