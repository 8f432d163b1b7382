"""Gaps: who abstains and for how long, what a backfill heals, what is filled in, and sessions."""

from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random

import msgspec
import numpy as np
import pytest

from quantum_ai_engine.config import IngestSettings, Venue
from quantum_ai_engine.engine import Engine, Round
from quantum_ai_engine.events import Abstained, Bar, Reason, Signal
from quantum_ai_engine.features.store import DEPTH, FILLED, KEPT, VERSION
from quantum_ai_engine.state.state import FILLED_MOST

from .streams import (
    ALL,
    FAR,
    LATE,
    MIDDLE,
    NEAR,
    Follower,
    bar_at,
    bars_at,
    batched,
    engine_of,
    final,
    flat_at,
    process,
    process_all,
)

NEW_YORK = {"AAA": Venue("America/New_York", "09:30", "16:00")}
CHICAGO = {"AAA": Venue("America/Chicago", "17:00", "16:00")}
FLAT = IngestSettings(gap_fill="flat", late_bars=LATE)
FIVE_MS = 300_000


def minute_of(*moment: int) -> int:
    """Five minutes since the epoch, of a moment in UTC."""
    made: int = int(datetime(*moment, tzinfo=UTC).timestamp() * 1000) // FIVE_MS  # type: ignore[misc, arg-type]
    return made


FRIDAY, MONDAY = minute_of(2024, 1, 5, 14, 30), minute_of(2024, 1, 8, 14, 30)
SESSION = 78  # bars of five minutes


class Fives(Follower):
    """Followers of bars of five minutes."""

    interval = "5m"


FIVES = (Fives("near", "momentum2", 300.0), Fives("middle", "gru9", 60.0))


def fives(start: int, count: int) -> list[Bar]:
    return bars_at(range(start, start + count), interval="5m")


def abstained(signals: Sequence[Signal]) -> list[dict[str, Abstained]]:
    return [{a.agent: a.reason for a in signal.abstained} for signal in signals]


def filled_rows(engine: Engine) -> int:
    return int((engine.state.features.recent(0)[:, VERSION] == FILLED).sum())


def taken(engine: Engine, bars: Sequence[Bar]) -> Round:
    """One batch, in which nothing is refused."""
    done = process(engine, bars)
    assert done.refused == []
    return done


def test_a_window_with_a_hole_is_not_asked_about_and_recovers_by_itself() -> None:
    """L13: after a hole each agent abstains until its own window holds no hole again."""
    engine = engine_of()
    process_all(engine, [bars_at(range(300))])
    signals = process_all(engine, [bars_at(range(301, 460))])
    for bars_since, reasons in enumerate(abstained(signals), start=1):
        waiting = {agent.name for agent in ALL if bars_since < agent.feature_set.window}
        assert reasons == dict.fromkeys(waiting, Abstained.GAP)
    assert engine.state.whole(0) == 128


def test_with_every_window_broken_there_is_no_signal_and_the_reason_is_named() -> None:
    """L02: where every agent abstains because of a gap, nothing is published and the gap named."""
    engine = engine_of(MIDDLE, FAR)
    process_all(engine, [bars_at(range(300))])
    done = taken(engine, bars_at(range(305, 315)))
    assert (done.gaps, done.signals, done.silent) == (1, [], {"no_effective_vote": 10})
    assert {abstention.reason for abstention in done.unheard} == {Abstained.GAP}


def test_a_young_series_is_warming_up_before_it_has_a_gap() -> None:
    """L13: what was never whole is warming up, hole or not."""
    engine = engine_of(NEAR, MIDDLE)
    done = taken(engine, bars_at([*range(30), *range(31, 50)]))
    reasons = {a.reason for signal in done.signals for a in signal.abstained}
    assert reasons == {Abstained.WARMING_UP}


@pytest.mark.parametrize("count", [1, 3, 40, 64, 65, 150])
@pytest.mark.parametrize("is_random", [False, True])
def test_a_backfill_heals_at_once(count: int, is_random: bool) -> None:
    """L13: with the last missing bar in its place, all agents vote on the next, in any order."""
    engine, whole = engine_of(), engine_of()
    missing = bars_at(range(300, 300 + count))
    if is_random:
        Random(count).shuffle(missing)
    process_all(engine, [bars_at(range(300)), bars_at([300 + count])])
    for batch in batched(missing, [1, 2, 100]):
        assert taken(engine, batch).late == len(batch)
    process_all(whole, [bars_at(range(301 + count))])
    assert engine.state.features.digest([0]) == whole.state.features.digest([0])
    (signal,) = process_all(engine, [bars_at([301 + count])])
    assert signal.abstained == ()
    assert signal == process_all(whole, [bars_at([301 + count])])[0]


def test_one_missing_bar_that_comes_far_too_late_heals_all_the_same() -> None:
    """L13: a hole is healed as long as it is remembered; beyond the late bound nothing else is."""
    engine, whole = engine_of(valid_intervals=2.0), engine_of(valid_intervals=2.0)
    path = bars_at(range(500))
    process_all(engine, [path[:400], path[401:]])
    done = taken(engine, [path[400]])
    # Of a bar 99 bars back nothing is said any more; of the newest only that they were amended.
    assert (done.late, done.silent) == (1, {"expired": 1})
    assert [s.close_time for s in done.signals] == [bar.close_time for bar in path[-3:]]
    process_all(whole, [path])
    assert engine.state.features.digest([0]) == whole.state.features.digest([0])
    refused = process(engine, [flat_at(450, path[0]), flat_at(100, path[0])]).refused
    assert [one.reason for _, one in refused] == [Reason.REVISION, Reason.LATE]


def test_a_hole_that_is_not_remembered_stays() -> None:
    """L41: a bar for a hole behind the checkpoint is refused, one right after it is not."""
    engine = engine_of()
    count = KEPT + DEPTH  # now the checkpoint moves
    path = bars_at(i for i in range(count + 2) if i not in (DEPTH - 1, DEPTH + 1))
    process_all(engine, [path])
    recent = engine.state.features.recent(0)
    assert len(recent) == KEPT
    first = int(recent[0, 5]) // 60_000
    assert first == DEPTH + 2
    (refused,) = process(engine, [bar_at(DEPTH + 1)]).refused
    assert refused[1].reason is Reason.LATE
    assert "ingest.late_bars = 3" in refused[1].detail


def test_flat_bars_stand_for_missing_ones() -> None:
    """L16: flat at the last close, without volume; counted, marked, and no agent abstains."""
    engine = engine_of(ingest=FLAT)
    path = bars_at(range(300))
    process_all(engine, [path])
    done = taken(engine, bars_at([305]))
    assert (done.processed, done.gaps, done.filled) == (1, 1, 5)
    (signal,) = done.signals
    assert (signal.filled, signal.abstained) == (5, ())
    shown = engine.state.features.recent_bars(0, 6)
    close = path[-1].close
    assert shown[:5].tolist() == [[close] * 4 + [0.0]] * 5
    # As if somebody had sent them, but for the mark.
    told = engine_of()
    process_all(told, [path, [flat_at(i, path[-1]) for i in range(300, 305)]])
    (same,) = process_all(told, [bars_at([305])])
    assert (same.row_hash, same.probability) == (signal.row_hash, signal.probability)
    assert same.filled == 0


def test_a_signal_says_how_many_bars_of_the_longest_window_were_filled() -> None:
    """L01: the count falls when the filled bars leave the window, and is 0 and not on the wire."""
    engine = engine_of(NEAR, MIDDLE, ingest=FLAT)  # the longest window is 32
    process_all(engine, [bars_at(range(300))])
    signals = process_all(engine, [bars_at([303, *range(304, 340)])])
    assert [signal.filled for signal in signals] == [3] * 29 + [2, 1] + [0] * 6
    assert [b'"filled"' in msgspec.json.encode(signal) for signal in signals] == [True] * 31 + [
        False
    ] * 6


@pytest.mark.parametrize(("missing", "filled"), [(FILLED_MOST, FILLED_MOST), (FILLED_MOST + 1, 0)])
@pytest.mark.parametrize("size", [1, 500])
def test_a_long_hole_stays_a_hole(missing: int, filled: int, size: int) -> None:
    """L16: what was not there for long is not made up; agents abstain."""
    engine = engine_of(ingest=FLAT)
    process_all(engine, [bars_at(range(250))])
    after = bars_at(range(250 + missing, 260 + missing))
    rounds = [taken(engine, batch) for batch in batched(after, [size])]
    assert sum(done.filled for done in rounds) == filled
    assert rounds[0].signals[0].filled == filled
    assert (Abstained.GAP in abstained(rounds[0].signals)[0].values()) == (filled == 0)


def test_a_real_bar_takes_the_place_of_a_filled_one() -> None:
    """L16: the bars filled in after it are laid anew from its close, and signals amended."""
    engine, straight = engine_of(ingest=FLAT), engine_of(ingest=FLAT)
    path = bars_at(range(300))
    signals = process_all(engine, [path, bars_at([305]), bars_at([302])])
    assert filled_rows(engine) == 4
    shown = engine.state.features.recent_bars(0, 6)[:, 3].tolist()
    middle = bar_at(302).close
    assert shown == [path[-1].close, path[-1].close, middle, middle, middle, bar_at(305).close]
    expected = process_all(straight, [path, bars_at([302]), bars_at([305])])
    assert engine.state.digest() == straight.state.digest()
    assert final(signals) == final(expected)
    assert [(s.filled, s.amends is None) for s in signals[-2:]] == [(2, True), (4, False)]


def test_a_bar_that_equals_a_filled_one_only_takes_its_mark() -> None:
    """L01: nothing moves but `filled`, and that is said."""
    engine = engine_of(ingest=FLAT)
    path = bars_at(range(300))
    process_all(engine, [path, bars_at([301])])
    done = taken(engine, [flat_at(300, path[-1])])
    assert (done.late, done.revised, done.again) == (1, 0, 1)
    late, amended = done.signals
    assert (late.filled, amended.filled) == (0, 0)
    assert amended.amends == f"AAA|1m|{302 * 60_000}"
    assert process(engine, [flat_at(300, path[-1])]).duplicates == 1


def test_a_revision_that_equals_a_flat_bar_is_a_real_bar() -> None:
    """L16: a bar is filled in only where none came, whatever the values of those that came."""
    engine = engine_of(ingest=FLAT)
    path = bars_at(range(300))
    process_all(engine, [path])
    done = taken(engine, [flat_at(299, path[298])])
    assert (done.revised, filled_rows(engine), done.signals[0].filled) == (1, 0, 0)


@pytest.mark.parametrize("missing", [129, 100, 66])
@pytest.mark.parametrize("count", [10, 191, 192, 254, 255, 256])
def test_a_late_bar_can_make_a_hole_small_enough_to_be_filled(missing: int, count: int) -> None:
    """L16: two short holes where one long one was are filled, as they would have been in order."""
    engine, straight = engine_of(ingest=FLAT), engine_of(ingest=FLAT)
    middle, after = count + missing // 2, count + missing
    engine.learn(bars_at([*range(count), after]))
    engine.learn(bars_at([middle]))
    straight.learn(bars_at([*range(count), middle, after]))
    assert filled_rows(engine) == missing - 1
    assert engine.state.features.digest([0]) == straight.state.features.digest([0])
    assert engine.state.features.snapshot([0]) == straight.state.features.snapshot([0])


def test_a_late_bar_behind_filled_ones_and_the_checkpoint_is_refused() -> None:
    """L41: few bars with many filled in between: what is forgotten is refused, not misplaced."""
    engine = engine_of(ingest=FLAT)
    real = [*range(189), 253, 318, 383]
    process_all(engine, [bars_at(real)])
    recent = engine.state.features.recent(0)
    first = int(recent[0, 5]) // 60_000
    assert (len(recent), int((recent[:, VERSION] != FILLED).sum())) == (KEPT, 3)
    digest = engine.state.digest()
    done = process(engine, [bar_at(188), bar_at(first - 1)])
    assert [one.reason for _, one in done.refused] == [Reason.LATE] * 2
    assert engine.state.digest() == digest
    assert taken(engine, [bar_at(first)]).late == 1  # takes the place of the first that is known


def test_a_night_and_a_weekend_are_no_gap() -> None:
    """L07: between the close of a session and the next opening nothing is missing."""
    for start in (FRIDAY, minute_of(2024, 3, 8, 14, 30)):  # then the clocks change
        engine = engine_of(*FIVES, venues=NEW_YORK)
        shift = 12 if start != FRIDAY else 0
        monday = start + MONDAY - FRIDAY - shift
        done = taken(
            engine,
            [
                *fives(start, SESSION),
                *fives(monday, SESSION),
                *fives(monday + 288, SESSION),
            ],
        )
        assert done.gaps == 0
        assert engine.state.whole(0) == 128
        assert {a.reason for s in done.signals for a in s.abstained} == {Abstained.WARMING_UP}


def test_sessions_that_are_missing_as_a_whole_are_taken_for_holidays() -> None:
    """L07: no calendar here knows the holidays; half a missing session is a gap."""
    engine = engine_of(*FIVES, venues=NEW_YORK)
    process_all(engine, [fives(FRIDAY, SESSION)])
    assert taken(engine, fives(MONDAY + 288, SESSION)).gaps == 0
    done = taken(engine, fives(MONDAY + 2 * 288 + 39, 39))
    assert done.gaps == 1
    assert engine.state.whole(0) == 39


def test_bars_outside_the_session_are_no_gap() -> None:
    """L07: some bars after the close and before the opening, with holes: nothing is missing."""
    engine = engine_of(*FIVES, venues=NEW_YORK)
    evening = [*fives(FRIDAY + SESSION + 3, 2), *fives(FRIDAY + SESSION + 20, 1)]
    early = fives(MONDAY - 7, 3)
    done = taken(engine, [*fives(FRIDAY, SESSION), *evening, *early, *fives(MONDAY, SESSION)])
    assert done.gaps == 0
    assert engine.state.whole(0) == 128


@pytest.mark.parametrize("lost_before", [1, 5])
@pytest.mark.parametrize("lost_after", [0, 3])
def test_only_what_a_session_lacks_is_filled_in(lost_before: int, lost_after: int) -> None:
    """L16: nothing is made up for a night, a weekend or a holiday around a few missing bars."""
    for days in (3, 4):  # to Monday, or to Tuesday
        engine = engine_of(*FIVES, venues=NEW_YORK, ingest=FLAT)
        process_all(engine, [fives(FRIDAY, SESSION - lost_before)])
        done = taken(engine, fives(FRIDAY + days * 288 + lost_after, 10))
        assert done.filled == lost_before + lost_after
        times = engine.state.features.recent(0)[:, 5].astype(np.int64)
        filled = engine.state.features.recent(0)[:, VERSION] == FILLED
        expected = [
            *range(FRIDAY + SESSION - lost_before, FRIDAY + SESSION),
            *range(FRIDAY + days * 288, FRIDAY + days * 288 + lost_after),
        ]
        assert (times[filled] // FIVE_MS).tolist() == expected
        assert done.signals[-1].abstained == () or engine.state.whole(0) < 128


def test_a_late_bar_of_a_missing_session_does_not_undo_what_was_filled_in() -> None:
    """L41: holes too long to be filled where short ones were: refused, with that reason."""
    engine = engine_of(*FIVES, venues=NEW_YORK, ingest=FLAT)
    process_all(engine, [fives(FRIDAY, 18), fives(FRIDAY + 288 * 4, 5)])  # 60 missing
    process_all(engine, [fives(FRIDAY + 288 * 5, 5)])  # 73 missing, not filled
    digest = engine.state.digest()
    (refused,) = process(engine, [bar_at(MONDAY + 70, interval="5m")]).refused
    assert refused[1].reason is Reason.LATE
    assert "a session that was missing as a whole" in refused[1].detail
    assert engine.state.digest() == digest


def test_futures_that_trade_overnight_have_their_weekend() -> None:
    """L07: a session of Chicago runs from evening to afternoon; Friday to Sunday is no gap."""
    engine = engine_of(venues=CHICAGO)
    hour = 3_600_000
    thursday = int(datetime(2024, 1, 4, 23, tzinfo=UTC).timestamp()) * 1000 // hour
    sunday = thursday + 3 * 24
    bars = bars_at([*range(thursday, thursday + 23), *range(sunday, sunday + 23)], interval="1h")
    assert taken(engine, bars).gaps == 0
    assert engine.state.whole(0) == 46
