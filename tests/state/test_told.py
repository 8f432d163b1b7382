"""What was told: due at the next open, amended until then, flat once it has expired."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.events import Bar
from quantum_ai_engine.risk.positions import Said
from quantum_ai_engine.risk.stance import Level
from quantum_ai_engine.state.told import SavedTold, Told

MINUTE_MS = 60_000
VALID_MS = 2 * MINUTE_MS


def bar(minute: int) -> Bar:
    return Bar("AAA", "1m", minute * MINUTE_MS, 1.0, 1.0, 1.0, 1.0, 1.0)


def said(minute: int, target: float, wanted: float | None = None) -> Said:
    """What was said of the bar that opens at a minute."""
    level = Level.STRONG_LONG if target > 0.0 else Level.FLAT
    return Said((minute + 1) * MINUTE_MS, 0, level, target, wanted or target, b"")


def telling(*all_said: Said) -> Told:
    told = Told()
    told.reserve(1)
    for one in all_said:
        told.note(0, one, one.close_time + VALID_MS)
    return told


def orders(told: Told, *minutes: int) -> list[float | None]:
    return [told.order(0, bar(minute)) for minute in minutes]


def test_a_target_is_an_order_at_the_next_open() -> None:
    """L53: not on the bar that it was decided on; and it is an order once."""
    assert orders(telling(said(10, 0.3)), 10, 11, 12, 13) == [None, 0.3, None, None]


def test_a_target_that_expires_is_an_order_to_be_flat() -> None:
    """L07, L39: past `valid_until` nothing is held on the strength of it; that is told once."""
    told = telling(said(10, 0.3))
    assert orders(told, 11, 13) == [0.3, None]
    assert told.wanted().tolist() == [0.3]
    assert orders(told, 14, 15, 16) == [0.0, None, None]
    assert told.wanted().tolist() == [0.0]


def test_after_a_hole_it_is_too_late_to_begin() -> None:
    """L39: a target that had expired before the next bar opened was never to be filled."""
    assert orders(telling(said(10, 0.3)), 14, 15) == [0.0, None]


def test_what_is_amended_takes_the_place_of_the_first() -> None:
    """L33: before its order is due only the last word counts."""
    assert orders(telling(said(10, 0.3), said(10, 0.1)), 11) == [0.1]


def test_of_several_the_newest_is_in_force() -> None:
    """L53: by close time, whatever was told last; and after a hole as well."""
    assert orders(telling(said(11, 0.2), said(10, 0.3)), 12, 13) == [0.2, None]


def test_an_old_target_that_comes_late_undoes_no_newer_one() -> None:
    """L39: what is told of a bar long past is no order while a newer one is in force."""
    told = telling(said(10, 0.3), said(12, 0.2))
    assert orders(told, 11, 13) == [0.3, 0.2]
    told.note(0, said(9, 0.7), said(9, 0.7).close_time + VALID_MS)
    assert orders(told, 14) == [None]
    assert told.wanted().tolist() == [0.2]


def test_series_are_independent() -> None:
    """L53: an order of one is none of another, and what is wanted is told by place."""
    told = telling(said(10, 0.3, wanted=0.5))
    told.reserve(3)
    told.note(2, said(10, 0.2), 13 * MINUTE_MS)
    assert told.wanted().tolist() == [0.0, 0.0, 0.0]
    assert [told.order(series, bar(11)) for series in range(3)] == [0.3, None, 0.2]
    assert told.wanted().tolist() == [0.5, 0.0, 0.2]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from([0.0, 0.2, 0.5])), max_size=20),
    st.integers(0, 25),
)
def test_restored_anywhere_it_goes_on(tell: list[tuple[int, float]], cut: int) -> None:
    """L43: through a snapshot, the same orders come of the same bars."""
    straight, stopped = telling(), telling()
    for minute in range(25):
        if minute == cut:
            packed = msgspec.msgpack.encode(stopped.saved(0))
            stopped = telling()
            stopped.restore(0, msgspec.msgpack.decode(packed, type=SavedTold))
        for told in (straight, stopped):
            for at, target in tell:
                if at == minute:
                    told.note(0, said(at, target), (at + 1) * MINUTE_MS + VALID_MS)
        assert straight.order(0, bar(minute)) == stopped.order(0, bar(minute))
    assert straight.saved(0) == stopped.saved(0)


@pytest.mark.parametrize("valid_ms", [0, MINUTE_MS, 10 * MINUTE_MS])
def test_it_holds_for_as_long_as_it_is_valid(valid_ms: int) -> None:
    """L07: up to and with the open at `valid_until`."""
    told = Told()
    told.reserve(1)
    told.note(0, said(10, 0.3), 11 * MINUTE_MS + valid_ms)
    last = 11 + valid_ms // MINUTE_MS
    assert orders(told, *range(11, last + 2)) == [0.3, *[None] * (last - 11), 0.0]
