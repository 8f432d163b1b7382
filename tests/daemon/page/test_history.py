"""Tests of what is kept over time: bounded, and of this process's own counts."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.page.history import MINUTE, PERIOD_S, History, Recent, quantile
from quantum_ai_engine.daemon.page.ring import Place, Ring
from quantum_ai_engine.daemon.status import Status
from quantum_ai_engine.events import Change

from ...following import signal


def history() -> tuple[History, Status, Metrics]:
    metrics, status = Metrics("0", "0", "0"), Status.of([])
    return History(status, metrics), status, metrics


def test_speed_and_latency_are_of_the_last_minute() -> None:
    """L09: rates of what was counted where the work is done; older work is in none of them."""
    kept, status, metrics = history()
    metrics.bar_to_signal.observe(4.0)
    for period in range(MINUTE + 3):
        kept.update(period * PERIOD_S, {})
        status.processed += 10
        status.signals += 5
        metrics.bar_to_signal.observe(0.009)
    recent = kept.recent((MINUTE + 3) * PERIOD_S)
    assert recent == Recent(10 / PERIOD_S, 5 / PERIOD_S, 0.01, 0.01)


def test_without_a_span_of_time_nothing_is_known() -> None:
    """L08: not 0, but nothing; and no latency where no signal came."""
    kept, _, _ = history()
    assert kept.recent(1.0) == Recent()
    kept.update(1.0, {})
    assert kept.recent(1.0) == Recent()
    assert kept.recent(2.0) == Recent(0.0, 0.0, None, None)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.floats(0.01, 1.0))
def test_a_quantile_is_the_first_bound_that_holds_enough(counts: list[int], q: float) -> None:
    buckets = [(float(i), float(sum(counts[: i + 1]))) for i in range(len(counts))]
    bound = quantile(buckets, q)
    if not sum(counts):
        assert bound is None
        return
    assert bound is not None
    below = [count for edge, count in buckets if edge < bound]
    assert dict(buckets)[bound] >= q * sum(counts)
    assert not below or below[-1] < q * sum(counts)


@given(
    st.integers(1, 20),
    st.lists(st.integers(0, 15), max_size=8),
    st.integers(0, 30),
    st.integers(0, 60),
)
def test_a_ring_tells_what_is_new_and_how_much_is_gone(
    kept: int, rounds: list[int], filled: int, place: int
) -> None:
    """What it returns and what it counts as missed are together all that came after a place."""
    ring, said = Ring(kept, kept), list[Any]()
    before = [signal(minute=-100 + i) for i in range(filled)]
    for count in rounds:
        new = [signal(minute=len(said) + i) for i in range(count)]
        said += new
        ring.add(new, [])
    ring.fill(before, [])
    found, missed = ring.signals_after(place)
    assert len(found) + missed == max(0, len(said) - place)
    assert found == said[len(said) - len(found) :]
    assert ring.place == Place(len(said), 0)
    everything = [*before, *said]
    assert list(ring.signals()) == everything[::-1][:kept]


def test_a_ring_gives_only_what_is_wanted() -> None:
    ring = Ring()
    for room, after in (("risk", "HALTED"), ("policy", "DEFENSIVE"), ("risk", "ACTIVE")):
        ring.add([], [Change(room, 0, "", "", after, ())])  # type: ignore[arg-type]
    found = ring.changes(lambda change: change.room == "risk")
    assert [change.after for change in found] == ["ACTIVE", "HALTED"]
