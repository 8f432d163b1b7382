"""When bars are final: each once, in ascending moments, in whatever order they came."""

from collections.abc import Sequence
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.events import Bar
from quantum_ai_engine.state.finality import Finality, Moment

LATE = 3
SERIES = (("AAA", "1m"), ("BBB", "1m"), ("AAA", "5m"))
FOR_EVER = 10**15
Came = list[tuple[float, int, Bar]]


def bar(series: int, number: int, close: float = 1.0) -> Bar:
    symbol, interval = SERIES[series]
    length = 60_000 if interval == "1m" else 300_000
    return Bar(symbol, interval, number * length, 1.0, 2.0, 0.5, close, 1.0)


def moments(came: Sequence[tuple[int, Bar]], late_bars: int = LATE) -> list[Moment]:
    """What these bars give, in this order, and in the end."""
    finality = Finality(late_bars)
    given_ = []
    for series, one in came:
        given_ += finality.advance(one.close_time)
        finality.update(series, one)
    return given_ + finality.advance(FOR_EVER)


def told(given_: Sequence[Moment]) -> list[tuple[int, tuple[tuple[int, Bar], ...]]]:
    """When which bars were final; which intervals were known by then depends on what had come."""
    return [(moment.at_ms, moment.bars) for moment in given_]


@st.composite
def comings(draw: st.DrawFn) -> tuple[Came, int]:
    """Bars of three series with holes, each with when it comes: less late than is too late."""
    chance, late_bars = Random(draw(st.integers(0, 2**20))), draw(st.integers(0, 5))
    came: Came = []
    for series in range(len(SERIES)):
        for number in range(draw(st.integers(0, 30))):
            one = bar(series, number)
            if chance.random() < 0.85:
                delay = chance.choice([0.0, 0.0, chance.random()]) * (late_bars + 1)
                came.append((one.close_time + 0.999 * delay * one.interval_ms, series, one))
                if chance.random() < 0.2:  # at first with another close
                    wrong = msgspec.structs.replace(one, close=1.5)
                    came.append((one.close_time, series, wrong))
    return came, late_bars


@settings(max_examples=200)
@given(comings())
def test_any_order_within_the_late_time_gives_the_same_moments(case: tuple[Came, int]) -> None:
    """L53: bars up to `late_bars` intervals late, and revised, are final when they would be."""
    came, late_bars = case
    in_time = sorted({(s, one.close_time): one for _, s, one in _by_time(came)}.items())
    in_order = [(s, one) for (s, at), one in sorted(in_time, key=lambda x: (x[0][1], x[0][0]))]
    as_they_come = [(s, one) for _, s, one in _by_time(came)]
    assert told(moments(as_they_come, late_bars)) == told(moments(in_order, late_bars))


def _by_time(came: Came) -> Came:
    """In the order in which they come; of two at once that with the wrong close first."""
    return sorted(came, key=lambda x: (x[0], x[1], -x[2].close))


@settings(max_examples=200)
@given(comings())
def test_each_bar_is_final_once_and_moments_ascend(case: tuple[Came, int]) -> None:
    """L33: no bar is judged twice, none is left out, and time never goes back."""
    came, late_bars = case
    given_ = moments([(s, one) for _, s, one in _by_time(came)], late_bars)
    times = [moment.at_ms for moment in given_]
    assert times == sorted(set(times))
    finals = [(series, one) for moment in given_ for series, one in moment.bars]
    true = {(s, one.close_time): one for _, s, one in _by_time(came)}
    assert len(finals) == len(true)
    assert {(s, one.close_time): one for s, one in finals} == true
    for moment in given_:
        names = [(one.symbol, one.interval) for _, one in moment.bars]
        assert names == sorted(set(names))
        for _, one in moment.bars:
            assert moment.at_ms == one.close_time + (late_bars + 1) * one.interval_ms


@pytest.mark.parametrize("late_bars", [0, 1, 3])
def test_a_moment_comes_before_the_bar_that_makes_it_one(late_bars: int) -> None:
    """L28: a bar is final as soon as, and not before, a close is so many intervals later."""
    finality = Finality(late_bars)
    finality.update(0, bar(0, 0))
    assert not finality.is_final(bar(0, 0))
    assert finality.advance(bar(0, late_bars).close_time) == []
    assert not finality.is_final(bar(0, 0))
    [moment] = finality.advance(bar(0, late_bars + 1).close_time)
    assert moment.bars == ((0, bar(0, 0)),)
    assert finality.is_final(bar(0, 0))
    assert finality.advance(bar(0, late_bars + 1).close_time) == []


def test_a_bar_that_comes_later_than_that_is_in_no_moment() -> None:
    """L33: what was judged is not judged again; a value that comes in time takes its place."""
    late, at_last = (0, bar(0, 0, 1.5)), [(0, bar(0, 9))]
    assert moments([(0, bar(0, 0)), (0, bar(0, LATE + 1)), late, *at_last])[0].bars == (
        (0, bar(0, 0)),
    )
    assert moments([(0, bar(0, 0)), (0, bar(0, LATE)), late, *at_last])[0].bars == (late,)


@settings(max_examples=100)
@given(comings(), st.integers(0, 200))
def test_restored_anywhere_it_gives_the_rest(case: tuple[Came, int], cut: int) -> None:
    """L43: the clock and the bars that are not final yet are all there is to know."""
    came, late_bars = case
    path = [(s, one) for _, s, one in _by_time(came)]
    cut %= len(path) + 1
    finality, given_ = Finality(late_bars), list[Moment]()
    clock = 0
    for series, one in path[:cut]:
        given_ += finality.advance(one.close_time)
        finality.update(series, one)
        clock = max(clock, one.close_time)
    other = Finality(late_bars)
    other.restore(clock, {one.interval_ms for _, one in path[:cut]})
    for series, one in path[:cut]:
        other.update(series, one)
    for series, one in path[cut:]:
        given_ += other.advance(one.close_time)
        other.update(series, one)
    assert given_ + other.advance(FOR_EVER) == moments(path, late_bars)
