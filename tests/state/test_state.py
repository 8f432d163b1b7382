"""The state as one object: when bars are overdue, how large it gets, how it is saved."""

from datetime import UTC, datetime

import numpy as np
import pytest

from quantum_ai_engine.config import IngestSettings, Venue
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.events import INTERVAL_MS, LAST_TIME_MS, Bar, Reason
from quantum_ai_engine.features.store import DEPTH, KEPT
from quantum_ai_engine.state.saved import PART_SERIES

from .streams import (
    LATE,
    MINUTE_MS,
    NEAR,
    bar_at,
    bars_at,
    batched,
    engine_of,
    opinions,
    process,
    process_all,
    twin_of,
)

HOUR_MS = 3_600_000
NEW_YORK = Venue("America/New_York", "09:30", "16:00")
CHICAGO = Venue("America/Chicago", "17:00", "16:00")
FOREX = Venue("America/New_York", "17:00", "17:00")


def ms(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


def opened_at(open_time: int, symbol: str = "AAA", interval: str = "1m") -> Bar:
    return bar_at(open_time // INTERVAL_MS[interval], symbol, interval)


def overdue(engine: Engine, now_ms: int, intervals: float = 2.5) -> list[str]:
    return [bar.symbol for bar in engine.state.overdue(now_ms, intervals)]


def test_a_series_is_overdue_when_its_next_bar_should_have_closed_long_ago() -> None:
    """L07: counted from the close of the newest bar, per series, by its own interval."""
    engine = engine_of()
    engine.learn([bar_at(9), bar_at(10), bar_at(10, "BBB"), bar_at(2, "CCC", "5m")])
    close = 11 * MINUTE_MS
    assert overdue(engine, close) == []
    assert overdue(engine, close + 150_000) == []
    assert overdue(engine, close + 150_001) == ["AAA", "BBB"]
    assert overdue(engine, 15 * MINUTE_MS + 750_001) == ["AAA", "BBB", "CCC"]
    engine.learn([bar_at(12)])
    assert overdue(engine, close + 150_001) == ["BBB"]
    assert list(engine.state.overdue(close + 150_001, 2.5)) == [bar_at(10, "BBB")]


def test_a_late_bar_or_a_revision_does_not_put_off_what_is_overdue() -> None:
    """L07: the newest close time counts, not that something came."""
    engine = engine_of()
    engine.learn(bars_at([*range(100), 101]))
    engine.learn([bar_at(100), bar_at(101, close=90.0)])
    assert overdue(engine, 102 * MINUTE_MS + 150_001) == ["AAA"]


@pytest.mark.parametrize(
    ("venue", "last_close", "next_open"),
    [
        (NEW_YORK, ms(2024, 1, 4, 21), ms(2024, 1, 5, 14, 30)),  # Thursday night
        (NEW_YORK, ms(2024, 1, 5, 21), ms(2024, 1, 8, 14, 30)),  # a weekend
        (NEW_YORK, ms(2024, 3, 8, 21), ms(2024, 3, 11, 13, 30)),  # … in which the clocks change
        (NEW_YORK, ms(2024, 1, 5, 23), ms(2024, 1, 8, 14, 30)),  # a bar after the close
        (NEW_YORK, ms(2024, 1, 8, 14, 30), ms(2024, 1, 8, 14, 30)),  # just before the opening
        (NEW_YORK, ms(2024, 1, 8, 20, 59), ms(2024, 1, 8, 20, 59)),  # the last bar is missing
        (CHICAGO, ms(2024, 1, 4, 22), ms(2024, 1, 4, 23)),  # an hour in the afternoon
        (CHICAGO, ms(2024, 1, 5, 22), ms(2024, 1, 7, 23)),  # Friday to Sunday evening
        (FOREX, ms(2024, 1, 4, 22), ms(2024, 1, 4, 22)),  # round the clock …
        (FOREX, ms(2024, 1, 5, 22), ms(2024, 1, 7, 22)),  # … but on the weekend
        (Venue(), ms(2024, 1, 5, 21), ms(2024, 1, 5, 21)),
        (Venue(), 0 + MINUTE_MS, MINUTE_MS),
    ],
    ids=str,
)
def test_nights_and_weekends_do_not_make_a_series_overdue(
    venue: Venue, last_close: int, next_open: int
) -> None:
    """L07: between sessions nothing is due; from the next opening on the same rule holds."""
    engine = engine_of(venues={"AAA": venue})
    engine.learn([opened_at(last_close - MINUTE_MS)])
    quiet = range(last_close, next_open + 150_001, max(1, (next_open - last_close) // 50))
    assert {tuple(overdue(engine, now_ms)) for now_ms in quiet} == {()}
    assert overdue(engine, next_open + 150_000) == []
    assert overdue(engine, next_open + 150_001) == ["AAA"]


def test_series_beyond_the_bound_are_refused_whatever_their_bars() -> None:
    """L42: the bound holds for symbol × interval, across a restart too."""
    engine = engine_of(max_series=2)
    bars = [bar_at(100), bar_at(20, "AAA", "5m"), bar_at(100, "BBB"), bar_at(101)]
    done = process(engine, bars)
    assert [(at, r.reason) for at, r in done.refused] == [(2, Reason.TOO_MANY_SERIES)]
    assert engine.state.names() == [("AAA", "1m"), ("AAA", "5m")]
    twin = twin_of(engine)
    twin.state.restore(engine.state.snapshot())
    assert [r.reason for _, r in process(twin, bars).refused] == [Reason.TOO_MANY_SERIES]
    assert process(twin, bars).duplicates == 3


def test_memory_of_a_series_is_fixed() -> None:
    """L42: after 10,000 bars, many late or revised, all is as large as after 400."""
    engine = engine_of(NEAR)
    sizes = []
    late = [[i, i + 2, i + 1] for i in range(0, 10_002, 3)]
    minutes = [minute for three in late for minute in three]
    for bars in batched(bars_at(minutes), [402, 9_600]):
        process_all(engine, batched(bars, [100]))
        features, positions = engine.state.features, engine.state.positions
        arrays = [features._states, features._checkpoints, features._base, features._recent]
        arrays += features._rings.values()
        remembered = len(positions.remembered(0)[1])
        size = len(engine.state.snapshot()[1])
        sizes.append(([array.nbytes for array in arrays], remembered, size // 10_000))
    assert sizes[0] == sizes[1]


def test_a_snapshot_comes_in_parts_of_a_bounded_size() -> None:
    """L42: as many series as go into a part of about a megabyte, however many there are."""
    engine = engine_of(NEAR)
    symbols = [f"S{i}" for i in range(2 * PART_SERIES + 1)]
    path = bars_at(range(KEPT + DEPTH - 1))
    for symbol in symbols:
        engine.learn([Bar(symbol, "1m", b.open_time, *b.ohlcv) for b in path])
    parts = engine.state.snapshot()
    assert len(parts) == 4
    assert max(map(len, parts)) < 1 << 20
    twin = twin_of(engine)
    twin.state.restore(parts)
    assert twin.state.digest() == engine.state.digest()
    assert sorted(twin.state.names()) == sorted(engine.state.names())
    some = engine.state.snapshot([("S3", "1m"), ("S1", "1m")])
    twin = twin_of(engine)
    twin.state.restore(some)
    assert twin.state.names() == [("S1", "1m"), ("S3", "1m")]


def test_the_digest_tells_states_apart() -> None:
    """L43: a bar, a value, a hole and a signal each make another; the order of symbols does not."""
    path = bars_at(range(200))
    other = [*path[:-1], bar_at(199, close=99.0)]
    digests = []
    for bars in (path, path[:-1], other, [*path[:150], *path[151:]]):
        engine = engine_of()
        engine.learn(bars)
        digests.append(engine.state.digest())
    engine = engine_of()
    process_all(engine, [path])
    digests.append(engine.state.digest())
    assert len(set(digests)) == len(digests)
    pairs = [bars_at(range(9), symbol) for symbol in ("AAA", "BBB")]
    one, same = engine_of(), engine_of()
    for a, b in zip(*pairs, strict=True):
        one.learn([a, b])
        same.learn([b, a])
    assert one.state.digest() == same.state.digest()
    assert one.state.snapshot() == same.state.snapshot()


def test_how_often_a_signal_was_amended_is_no_part_of_the_digest() -> None:
    """L43: what counts is what was said last."""
    path = bars_at(range(200))
    straight, amended = engine_of(), engine_of()
    process_all(straight, [path])
    process_all(amended, [path[:-1], [bar_at(199, close=90.0)], path[-1:]])
    assert amended.state.digest() == straight.state.digest()
    assert amended.state.snapshot() != straight.state.snapshot()


@pytest.mark.parametrize("interval", ["1s", "1m", "5m", "1h", "1d"])
@pytest.mark.parametrize("start", ["epoch", "end"])
def test_the_ends_of_time(interval: str, start: str) -> None:
    """L43: bars of any interval at either end of time are taken, in any order, and restored."""
    length = INTERVAL_MS[interval]
    count = 220
    first = 0 if start == "epoch" else LAST_TIME_MS // length - count + 1
    ohlcv = [bar_at(i).ohlcv for i in range(count)]
    path = [Bar("AAA", interval, (first + i) * length, *ohlcv[i]) for i in range(count)]
    assert start == "epoch" or path[-1].open_time + length > LAST_TIME_MS
    engine, straight = engine_of(), engine_of()
    straight.learn(path)
    mixed = [path[i] for j in range(0, count, 4) for i in (j + 1, j + 3, j, j + 2)]
    process_all(engine, batched(mixed, [5]))
    assert engine.state.features.digest([0]) == straight.state.features.digest([0])
    twin = twin_of(engine)
    twin.state.restore(engine.state.snapshot())
    assert twin.state.digest() == engine.state.digest()
    assert list(engine.state.overdue(path[-1].close_time, 2.5)) == []


def test_intervals_of_a_symbol_are_series_of_their_own() -> None:
    """L53: late bars of one interval change nothing of another, nor do its signals."""
    minutes, fives = bars_at(range(100, 200)), bars_at(range(20, 40), interval="5m")
    both, alone = engine_of(), engine_of()
    late = [*minutes[:97], minutes[98], minutes[97], minutes[99]]
    mixed = [bar for i in range(20) for bar in (*late[5 * i : 5 * i + 5], fives[i])]
    signals = process_all(both, batched(mixed, [9]))
    assert opinions(signals) == opinions(process_all(alone, [minutes]))
    assert both.state.find("AAA", "5m") is not None
    one = both.state.features.digest([both.state.at("AAA", "1m")])
    assert one == alone.state.features.digest([0])


@pytest.mark.parametrize("count", [1, 2, LATE, LATE + 1, 63, 64, 65])
def test_a_late_bar_may_be_the_very_first(count: int) -> None:
    """L43: before all others, within the bound: as if it had come first; else it is refused."""
    engine, straight = engine_of(), engine_of()
    process_all(engine, [bars_at(range(1, count + 1))])
    done = process(engine, [bar_at(0)])
    if count > LATE:
        assert [r.reason for _, r in done.refused] == [Reason.LATE]
    else:
        straight.learn(bars_at(range(count + 1)))
        assert done.late == 1
        assert engine.state.digest() == straight.state.digest()


@pytest.mark.parametrize("late_bars", [0, 1, 3, 64])
def test_the_late_bound_is_exact(late_bars: int) -> None:
    """L41: with as many newer bars as the setting says a revision is taken, with one more not."""
    engine = engine_of(NEAR, ingest=IngestSettings(late_bars=late_bars))
    process_all(engine, [bars_at(range(300))])
    good = process(engine, [bar_at(299 - late_bars, close=91.0)])
    assert (good.revised, good.refused) == (1, [])
    ((_, bad),) = process(engine, [bar_at(298 - late_bars, close=91.0)]).refused
    assert bad.reason is Reason.REVISION
    assert f"{late_bars + 1} after it: more than ingest.late_bars = {late_bars}" in bad.detail


@pytest.mark.parametrize("count", [191, 192, 193, 255, 256, 257, 319, 320, 321])
def test_late_where_the_checkpoint_moves(count: int) -> None:
    """L43: a late bar just before, at and after the bar that moves the checkpoint; twice over."""
    path = bars_at(range(count + 5))
    for lost in range(count - 3, count + 3):
        engine, straight = engine_of(NEAR), engine_of(NEAR)
        process_all(engine, [path[:lost], path[lost + 1 : lost + 3]])
        done = process(engine, [path[lost], path[lost], *path[lost + 3 :]])
        assert (done.late, done.duplicates) == (1, 1)
        straight.learn(path)
        assert engine.state.features.digest([0]) == straight.state.features.digest([0])
        assert engine.state.features.snapshot([0]) == straight.state.features.snapshot([0])
        assert np.array_equal(engine.state.features.recent(0), straight.state.features.recent(0))
