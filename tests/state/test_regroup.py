"""Dividing states: each symbol in its own partition, each series as it was."""

from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.config import Venue
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.events import Bar, Command
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import SnapshotError
from quantum_ai_engine.state.regroup import regroup

from .streams import NEAR, bar_at, bars_at, engine_of, process_all

SYMBOLS = [f"S{i}" for i in range(9)]
VENUES = {"S3": Venue("America/New_York", "09:30", "16:00")}


def told(symbols: list[str]) -> Engine:
    """An engine that has taken bars of these symbols, of two intervals, some of them late."""
    engine = engine_of(NEAR, venues=VENUES, max_series=20)
    for i, symbol in enumerate(symbols):
        minutes = [*range(100 + 30 * (i % 7)), 400, 401, 399]
        path = [_of(symbol, bar) for bar in bars_at(minutes)]
        process_all(engine, [path, [_of(symbol, bar_at(j, interval="5m")) for j in range(3)]])
    return engine


def _of(symbol: str, bar: Bar) -> Bar:
    return Bar(symbol, bar.interval, bar.open_time, *bar.ohlcv)


def partition_of(partitions: int, symbol: str) -> int:
    return crc32(symbol.encode()) % partitions


def divided(partitions: int) -> list[list[bytes]]:
    """Snapshots of engines of that many partitions."""
    owned: list[list[str]] = [[] for _ in range(partitions)]
    for symbol in SYMBOLS:
        owned[partition_of(partitions, symbol)].append(symbol)
    return [told(symbols).state.snapshot() for symbols in owned]


def restored(parts: list[bytes]) -> Engine:
    engine = engine_of(NEAR, venues=VENUES)
    engine.state.restore(parts)
    return engine


def series_of(snapshots: list[list[bytes]]) -> dict[tuple[str, str], Any]:
    """What belongs to each series: features, positions, open predictions, orders and feed."""
    series = {}
    for parts in snapshots:
        state = restored(parts).state
        for name in state.names():
            assert name not in series
            at = state.at(*name)
            own = state.judgement.saved_places([at])
            nothing = msgspec.structs.replace(own, units=b"", prices=b"")  # it was sold
            features, positions = state.features.digest([at]), state.positions.remembered(at)
            series[name] = features, positions, state.whole(at), nothing
    return series


def evidence_of(parts: list[bytes]) -> Any:
    """What belongs to no series, but for the paper portfolio."""
    saved = restored(parts).state.judgement.saved()
    return saved.agents, saved.settled, saved.trust, saved.standings, saved.policy, saved.brain


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6))
def test_each_series_keeps_its_state_in_its_new_partition(old: int, new: int) -> None:
    """L40: from any number of partitions to any other: the same series, bit for bit."""
    before = divided(old)
    after = regroup(before, Calendars(VENUES), lambda s: partition_of(new, s), new)
    assert len(after) == new
    for partition, parts in enumerate(after):
        engine = restored(parts)
        assert {partition_of(new, symbol) for symbol, _ in engine.state.names()} <= {partition}
    assert series_of(after) == series_of(before)
    assert len(series_of(after)) == 2 * len(SYMBOLS)


def test_there_and_back_is_where_one_was() -> None:
    """L43: once evidence is common, divided and joined again the snapshots have the same bytes."""
    four = regroup(divided(2), Calendars(VENUES), lambda s: partition_of(4, s), 4)
    two = regroup(four, Calendars(VENUES), lambda s: partition_of(2, s), 2)
    assert regroup(two, Calendars(VENUES), lambda s: partition_of(4, s), 4) == four
    assert series_of(two) == series_of(divided(2))


def test_the_evidence_of_who_has_seen_most_goes_to_all() -> None:
    """L31: it is not begun anew where its series go, and paper portfolios are cash then."""
    before = divided(3)
    most = max(before, key=lambda parts: restored(parts).state.judgement.ledger.settled)
    assert evidence_of(most)[1] > 0
    for parts in regroup(before, Calendars(VENUES), lambda s: partition_of(2, s), 2):
        assert evidence_of(parts) == evidence_of(most)
        portfolio = restored(parts).state.judgement.portfolio.saved()
        held = restored(most).state.judgement.portfolio.saved()
        assert portfolio.cash == portfolio.equity == held.equity
        assert not any(portfolio.units)


def test_the_strictest_brain_holds_for_all() -> None:
    """L50: a partition that was halted is no reason for the others to go on."""
    before = divided(3)
    halted = restored(before[1])
    halted.state.apply(Command.HALT)
    before[1] = halted.state.snapshot()
    for parts in regroup(before, Calendars(VENUES), lambda s: partition_of(2, s), 2):
        assert restored(parts).state.judgement.brain.get().state == "HALTED"


def test_a_partition_without_symbols_has_an_empty_snapshot() -> None:
    """L43: it restores to a state that knows nothing."""
    parts = regroup(divided(1), Calendars(VENUES), lambda _: 1, 3)
    engine = engine_of(NEAR, venues=VENUES)
    for empty in (parts[0], parts[2]):
        engine.state.restore(empty)
    assert engine.state.names() == []
    assert series_of([parts[1]]) == series_of(divided(1))
    assert evidence_of(parts[1]) == evidence_of(divided(1)[0])


def test_a_series_that_two_partitions_claim_is_refused() -> None:
    """L45: one owner per series, or nobody knows which state is true."""
    parts = told(["S1"]).state.snapshot()
    with pytest.raises(SnapshotError, match="the series S1 1m was restored before"):
        regroup([parts, parts], Calendars(VENUES), lambda _: 0, 1)


def test_more_series_than_one_engine_may_have_are_divided() -> None:
    """L40: dividing is what one does when one engine has too many."""
    parts = told(SYMBOLS).state.snapshot()
    halves = regroup([parts], Calendars(VENUES), lambda s: partition_of(2, s), 2)
    assert len(series_of(halves)) == 18
