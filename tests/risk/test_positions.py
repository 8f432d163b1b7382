"""Positions: level and target that count for a bar, and what of them can still be amended."""

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.events import (
    SIGNAL_SCHEMA,
    Abstained,
    Abstention,
    Policy,
    Risk,
    Signal,
    Stance,
    Thresholds,
    Vote,
    signal_id,
)
from quantum_ai_engine.risk.positions import Positions, Said
from quantum_ai_engine.risk.stance import Level

LONG, SHORT, FLAT = Level.STRONG_LONG, Level.WEAK_SHORT, Level.FLAT
TARGETS = {LONG: 0.5, SHORT: -0.25, FLAT: 0.0}
NOTHING = FLAT, 0.0
MEMORY = 4


def said(close_time: int, level: Level = LONG, version: int = 0, content: bytes = b"") -> Said:
    return Said(close_time, version, level, TARGETS[level], 2.0 * TARGETS[level], content)


def held(level: Level) -> tuple[Level, float]:
    return level, TARGETS[level]


def knowing(*all_said: Said, memory: int = MEMORY) -> Positions:
    positions = Positions(memory)
    positions.reserve(1)
    for one in all_said:
        positions.update(0, one)
    return positions


def signal(version: int = 0, **changes: object) -> Signal:
    first = signal_id("BTCUSDT", "1m", 120_000)
    made = Signal(
        schema=SIGNAL_SCHEMA,
        id=signal_id("BTCUSDT", "1m", 120_000, version),
        environment="live",
        symbol="BTCUSDT",
        interval="1m",
        close_time=120_000,
        produced_at=120_000,
        valid_until=240_000,
        horizon_bars=5,
        probability=0.65,
        confidence=0.3,
        stance=Stance.LONG,
        target=0.3,
        votes=(Vote("gru", "0123456789ab", 0.65, 1.0),),
        abstained=(Abstention("patchtst", Abstained.GAP),),
        effective_votes=1.0,
        thresholds=Thresholds(0.6, 0.4),
        policy=Policy("NORMAL", 0.7),
        risk=Risk("ACTIVE"),
        schema_hash="00",
        row_hash="00",
        engine="0.1.0",
        config_hash="00",
        latency_us={},
        amends=first if version else None,
    )
    return msgspec.structs.replace(made, **changes)


def test_a_series_begins_flat_with_nothing_said() -> None:
    """L44: without a signal there is neither level nor target."""
    positions = knowing()
    assert positions.before(0, 60_000) == NOTHING
    assert positions.said(0, 60_000) is None
    assert positions.remembered(0) == (NOTHING, ())


def test_a_bar_begins_with_what_the_last_signal_before_it_said() -> None:
    """L53: level and target, by close time, never by what was said last."""
    positions = knowing(said(10, LONG), said(30, SHORT))
    begins = [positions.before(0, time) for time in (5, 10, 20, 30, 40)]
    assert begins == [NOTHING, NOTHING, held(LONG), held(LONG), held(SHORT)]
    positions.update(0, said(20, FLAT))
    assert positions.before(0, 30) == held(FLAT)
    assert positions.before(0, 40) == held(SHORT)


def test_what_is_said_again_takes_the_place_of_the_first() -> None:
    """L43: of a bar only what was said last is known."""
    positions = knowing(said(10, LONG), said(20, LONG), said(10, SHORT, version=1))
    assert positions.said(0, 10) == said(10, SHORT, version=1)
    assert [one.close_time for one in positions.remembered(0)[1]] == [10, 20]


def test_series_are_independent() -> None:
    """L53: what is said of one series is said of no other."""
    positions = knowing(said(10, LONG))
    positions.reserve(3)
    positions.update(2, said(20, SHORT))
    positions.reserve(2)
    assert [positions.before(i, 99)[0] for i in range(3)] == [LONG, FLAT, SHORT]


signals_of_bars = st.dictionaries(
    st.integers(1, 30), st.sampled_from(list(TARGETS)), min_size=1, max_size=12
)


@given(signals_of_bars, st.integers(0, 2**20))
def test_memory_is_bounded_and_order_within_it_does_not_matter(
    levels: dict[int, Level], seed: int
) -> None:
    """L43: said in order or a little late, the newest are known, and what held before them."""
    in_order = [said(time, level) for time, level in sorted(levels.items())]
    places = {one: i + Random(seed + i).uniform(0, MEMORY) for i, one in enumerate(in_order)}
    late = sorted(in_order, key=lambda one: places[one])
    remembered = knowing(*late).remembered(0)
    assert remembered == knowing(*in_order).remembered(0)
    assert list(remembered[1]) == in_order[-MEMORY:]
    forgotten = in_order[:-MEMORY]
    assert remembered[0] == (held(forgotten[-1].level) if forgotten else NOTHING)


def test_what_is_remembered_can_be_restored() -> None:
    """L43: restored, a series has its levels and goes on forgetting where it was."""
    positions = knowing(*(said(10 * i, LONG if i % 2 else SHORT) for i in range(9)))
    other = Positions(MEMORY)
    other.reserve(1)
    other.restore(0, *positions.remembered(0))
    for one in (positions, other):
        one.update(0, said(99, FLAT))
    assert other.remembered(0) == positions.remembered(0)


@pytest.mark.parametrize("version", [0, 1, 12])
def test_a_signal_says_what_it_says_on_the_wire_too(version: int) -> None:
    """L43: read back from the stream it is the same, version included."""
    made = signal(version)
    read = msgspec.json.decode(msgspec.json.encode(made), type=Signal)
    one = Said.of(made, LONG, 0.4)
    assert Said.of(read, LONG, 0.4) == one
    assert (one.close_time, one.version) == (120_000, version)
    assert (one.level, one.target, one.wanted) == (LONG, 0.3, 0.4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("votes", (Vote("gru", "0123456789ab", 0.66, 1.0),)),
        ("votes", (Vote("gru", "another", 0.65, 1.0),)),
        ("abstained", ()),
        ("abstained", (Abstention("patchtst", Abstained.DEADLINE),)),
        ("row_hash", "01"),
        ("filled", 1),
    ],
)
def test_what_follows_from_the_bars_makes_another_signal(name: str, value: object) -> None:
    """L01: votes, abstentions, the row and what was filled in: who holds the old one must hear."""
    told = Said.of(signal(), LONG, 0.4)
    assert not told.agrees(Said.of(signal(**{name: value}), LONG, 0.4))


@pytest.mark.parametrize("change", [{"target": 0.29}, {"stance": Stance.FLAT, "target": 0.0}])
def test_another_target_makes_another_signal(change: dict[str, object]) -> None:
    """L01: who holds the old target must hear of the new one."""
    assert not Said.of(signal(), LONG, 0.4).agrees(Said.of(signal(**change), LONG, 0.4))


@pytest.mark.parametrize(
    ("name", "value"),
    [("produced_at", 7), ("latency_us", {"predict": 3}), ("engine", "0.2.0"), ("version", 3)],
)
def test_when_and_by_whom_it_was_said_does_not(name: str, value: object) -> None:
    """L41: nobody needs to hear the same thing twice."""
    told = Said.of(signal(), LONG, 0.4)
    assert told.agrees(Said.of(signal(**{name: value}), LONG, 0.4))  # type: ignore[arg-type]


def test_what_nobody_is_told_makes_no_signal() -> None:
    """L41: the level behind a target, and what was wanted before caps, are not on the wire."""
    told = Said.of(signal(), Level.STRONG_LONG, 0.4)
    assert told.agrees(Said.of(signal(), Level.WEAK_LONG, 0.9))
