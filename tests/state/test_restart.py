"""Crash and restart: a snapshot and what came since give the state of a twin without a crash."""

from collections.abc import Sequence

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.daemon.records import decode_round, encode_round
from quantum_ai_engine.engine import Engine, Round
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.state.record import Record

from .streams import (
    FAR,
    MIDDLE,
    NEAR,
    Follower,
    Stream,
    bars_at,
    batched,
    engine_of,
    process,
    process_all,
    streams,
    twin_of,
)

WIDE = Follower("wide", "transformer173", 20.0)


def on_the_wire(records: Sequence[Record]) -> tuple[Record, ...]:
    """Records of a round as their stream gives them back."""
    return decode_round({b"b": encode_round("0-0", "1-0", records, ())}).records


def restarted(dead: Engine, parts: list[bytes], rounds: list[tuple[list[Bar], Round]]) -> Engine:
    """An engine that was killed, from its snapshot and what was read and written since."""
    engine = twin_of(dead)
    engine.state.restore(parts)
    for batch, done in rounds:
        engine.learn(batch, on_the_wire(done.records))
    return engine


@settings(max_examples=40)
@given(streams(), st.integers(0, 50), st.integers(0, 50))
def test_after_a_crash_state_and_signals_are_those_of_a_twin(
    stream: Stream, one: int, other: int
) -> None:
    """L43: killed anywhere, with a snapshot from anywhere before: the same state, the same signals.

    All fields of them are, and so are the bytes of the next snapshot.
    """
    batches = stream.batches()
    saved_at, killed_at = sorted((one % (len(batches) + 1), other % (len(batches) + 1)))
    twin = stream.engine()
    process_all(twin, batches[:saved_at])
    parts = twin.state.snapshot()
    rounds = [(batch, process(twin, batch)) for batch in batches[saved_at:killed_at]]
    engine = restarted(twin, parts, rounds)
    assert engine.state.digest() == twin.state.digest()
    assert engine.state.snapshot() == twin.state.snapshot()
    assert process_all(engine, batches[killed_at:]) == process_all(twin, batches[killed_at:])
    assert engine.state.digest() == twin.state.digest()
    assert engine.state.snapshot() == twin.state.snapshot()
    assert engine.state.newest_close == twin.state.newest_close


@settings(max_examples=40)
@given(streams(), st.lists(st.sampled_from([1, 2, 5, 64, 65, 200]), min_size=1, max_size=5))
def test_batching_changes_no_bit(stream: Stream, sizes: list[int]) -> None:
    """L43: the same stream in other batches: the same signals in every field, the same bytes."""
    engine, other = stream.engine(), stream.engine()
    signals = process_all(engine, stream.batches())
    assert process_all(other, batched(stream.as_they_come, sizes)) == signals
    assert other.state.digest() == engine.state.digest()
    assert other.state.snapshot() == engine.state.snapshot()


@settings(max_examples=20)
@given(streams())
def test_a_restored_state_gives_the_same_snapshot(stream: Stream) -> None:
    """L43: what a snapshot brings back gives that snapshot again; features, whoever serves."""
    engine = stream.engine()
    process_all(engine, stream.batches())
    parts = engine.state.snapshot()
    twin = twin_of(engine)
    twin.state.restore(parts)
    assert twin.state.snapshot() == parts
    for agents in ((NEAR,), (FAR, WIDE)):
        other = twin_of(engine, *agents)
        other.state.restore(parts)
        at = [other.state.at(*name) for name in sorted(other.state.names())]
        assert other.state.features.digest(at) == twin.state.features.digest(at)


def test_new_agents_find_their_windows_in_an_old_snapshot() -> None:
    """L43: restored under other feature sets, every window is that of a matrix of all bars."""
    for count in (1, 60, 191, 192, 255, 256, 257, 319, 320, 500):
        bars = bars_at(range(count))
        old, new = engine_of(NEAR), engine_of(MIDDLE, FAR, WIDE)
        old.learn(bars)
        new.state.restore(old.state.snapshot())
        rows = kernel.matrix(np.array([old._calendars.row(bar) for bar in bars]))
        features = new.state.features
        for name in ("gru9", "patchtst8", "transformer173"):
            whole = SETS[name]
            window = features.windows(name, np.array([0]), np.array([count]))[0]
            known = min(count, whole.window)
            expected = rows[count - known :, whole.indices]
            assert window[-known:].tobytes() == np.ascontiguousarray(expected).tobytes()
            assert np.isnan(window[:-known]).all()


def test_a_restart_with_new_agents_goes_on_at_once() -> None:
    """L43: an agent that joins at a restart votes on the first bar after it, and amends nothing."""
    bars = bars_at(range(400))
    old = engine_of(NEAR)
    process_all(old, [bars[:399]])
    new = engine_of(NEAR, FAR)
    new.state.restore(old.state.snapshot())
    (signal,) = process_all(new, [bars[399:]])
    assert [vote.agent for vote in signal.votes] == ["near", "far"]
    assert signal.amends is None


def test_versions_go_on_after_a_crash() -> None:
    """L43: a bar that was amended before a crash gets the next version after it, no used id."""
    bars = bars_at(range(100))
    wrong = [msgspec.structs.replace(bars[-1], close=price) for price in (90.0, 110.0)]
    engine = engine_of()
    process_all(engine, [bars[:-1]])
    parts = engine.state.snapshot()
    rounds = [([bar], process(engine, [bar])) for bar in wrong]
    said = [signal for _, done in rounds for signal in done.signals]
    after = restarted(engine, parts, rounds)
    base = f"AAA|1m|{bars[-1].close_time}"
    (signal,) = process_all(after, [bars[-1:]])
    assert [s.id for s in [*said, signal]] == [base, f"{base}|1", f"{base}|2"]
    assert [s.amends for s in [*said, signal]] == [None, base, base]
    assert process_all(engine, [bars[-1:]]) == [signal]


def test_records_of_series_that_nobody_knows_are_left_alone() -> None:
    """L40: where the bars of a series were trimmed, its old records are no reason to fail."""
    engine, empty = engine_of(), engine_of()
    empty.recall(process(engine, bars_at(range(100))).records)
    assert empty.state.names() == []


def test_learning_again_is_idempotent() -> None:
    """L40: bars that are read twice after a crash change nothing."""
    engine = engine_of()
    bars = bars_at(range(300))
    engine.learn(bars)
    digest = engine.state.digest()
    done = process(engine, bars[-190:])
    assert (done.duplicates, done.signals) == (190, [])
    assert engine.state.digest() == digest
