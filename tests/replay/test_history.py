"""What is chosen of a record: symbols, a span or the last blocks, and what warms up."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.config import Venue
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market import stream
from quantum_ai_engine.market.files import BarFileError
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.replay import source as sources
from quantum_ai_engine.replay.blocks import Blocks, LastBlocks
from quantum_ai_engine.replay.history import Selection, Wanted, WarmUp, select
from quantum_ai_engine.replay.source import FileSource, Spool, SpoolSource

from ..market.test_stream import START_MS, TABLE, written
from ..state.streams import bar_at, bars_at
from .records import Record, selection

MINUTE = 60_000


def bars_of(history: Selection, after: int = 0) -> list[Bar]:
    return [bar for one in history.slices(after) for bar in one.bars]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_file_comes_by_open_time_part_by_part(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L53: however small the parts, each open time comes once with all of its bars."""
    monkeypatch.setattr(stream, "PART_ROWS", 100)
    monkeypatch.setattr(stream, "PART_BYTES", 4096)
    history = select(FileSource(written(tmp_path, suffix)), Wanted(), {}, WarmUp(0, 0))
    slices = list(history.slices())
    assert [bar for one in slices for bar in one.bars] == list(TABLE.bars())
    assert [one.open_time_ms for one in slices] == np.unique(TABLE.open_time).tolist()
    assert history.rows == len(TABLE)


def test_of_a_file_only_the_chosen_symbols_come(tmp_path: Path) -> None:
    """A symbol that is not there is refused by name."""
    path, names = written(tmp_path, ".csv"), TABLE.symbols[1:3]
    history = select(FileSource(path, names), Wanted(), {}, WarmUp(0, 0))
    assert bars_of(history) == [bar for bar in TABLE.bars() if bar.symbol in names]
    with pytest.raises(BarFileError, match="has no bars of NONE; leave it out of --symbols"):
        select(FileSource(path, ("NONE", *names)), Wanted(), {}, WarmUp(0, 0))


def test_a_file_that_names_no_symbol_has_the_one_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    rows = [f"{START_MS + MINUTE * i},100,102,99,101,5" for i in range(5)]
    path.write_text("\n".join(["time,open,high,low,close,volume", *rows]))
    history = select(FileSource(path, ["X"]), Wanted(), {}, WarmUp(0, 0))
    assert [bar.symbol for bar in bars_of(history)] == ["X"] * 5
    with pytest.raises(BarFileError, match="name the one it has with --symbols"):
        select(FileSource(path), Wanted(), {}, WarmUp(0, 0))


def test_rows_that_are_no_bars_are_counted_by_reason(tmp_path: Path) -> None:
    """L41: nothing is dropped in silence."""
    path = tmp_path / "bars.csv"
    rows = [
        f"{START_MS + MINUTE * i},X,100,102,99,{101 if i % 3 else 200},{-1 if i == 4 else 5}"
        for i in range(9)
    ]
    path.write_text("\n".join(["time,symbol,open,high,low,close,volume", *rows]))
    slices = list(select(FileSource(path), Wanted(), {}, WarmUp(0, 0)).slices())
    refused = sum((one.refused for one in slices), start=type(slices[0].refused)())
    assert refused == {"outside_range": 3, "negative_volume": 1}
    assert sum(one.rows for one in slices) == 9
    assert sum(len(one.bars) for one in slices) == 5


minutes = st.lists(st.integers(0, 40), min_size=1, max_size=60)


@given(minutes, st.integers(0, 40), st.integers(0, 40), st.integers(0, 8), st.integers(1, 7))
def test_of_a_span_come_its_bars_and_before_them_the_warm_up(
    when: list[int], start: int, length: int, warm: int, part: int
) -> None:
    """L44: every bar of the span, as many before it as were asked for if there are, none after."""
    bars = [bar_at(minute) for minute in sorted(set(when))]
    start_ms, end_ms = MINUTE * start, MINUTE * (start + length + 1)
    told = [bar for bar in bars if start_ms <= bar.open_time < end_ms]
    record, wanted = Record(bars, part), Wanted(start_ms, end_ms)
    if not told:
        with pytest.raises(BarFileError, match="has no bars"):
            select(record, wanted, {}, WarmUp(warm, warm))
        return
    history = select(record, wanted, {}, WarmUp(warm, warm))
    before = [bar for bar in bars if bar.open_time < start_ms]
    want = told if not start else before[max(0, len(before) - warm) :] * (warm > 0) + told
    assert bars_of(history) == want
    assert history.rows == len(want)
    for after in range(len(want) + 1):
        assert bars_of(history, after) == want[after:]


def test_the_last_blocks_have_their_warm_up_before_them() -> None:
    """L44: a block is whole, and what warms it up is no part of it."""
    history = selection(bars_at(range(100)), WarmUp(20, 20), blocks=3, block_bars=10)
    assert history.blocks == (70 * MINUTE, 80 * MINUTE, 90 * MINUTE)
    assert history.start_ms == 70 * MINUTE
    assert history.warm_from_ms == 50 * MINUTE
    assert "warm-up: 20 bars" in history.notes[0]
    earlier = selection(
        bars_at(range(100)), WarmUp(20, 20), blocks=3, block_bars=10, end_ms=55 * MINUTE
    )
    assert earlier.blocks == (25 * MINUTE, 35 * MINUTE, 45 * MINUTE)
    assert bars_of(earlier)[-1].open_time == 54 * MINUTE


def test_too_few_bars_for_the_blocks_are_said_or_refused() -> None:
    """Fewer blocks are told aloud, and none at all is refused."""
    history = selection(bars_at(range(100)), WarmUp(75, 75), blocks=3, block_bars=10)
    assert history.blocks == (80 * MINUTE, 90 * MINUTE)
    assert "only the last 2 of 3 blocks" in history.notes[0]
    with pytest.raises(BarFileError, match="too few for a block after a warm-up of 95"):
        selection(bars_at(range(100)), WarmUp(95, 95), blocks=3, block_bars=10)


def test_a_symbol_that_came_late_does_not_hold_up_the_others() -> None:
    """It is said of whom the warm-up is short."""
    old, young = bars_at(range(100)), bars_at(range(85, 100), "BBB")
    bars = sorted(old + young, key=lambda bar: bar.open_time)
    history = selection(bars, WarmUp(20, 10), start_ms=90 * MINUTE)
    assert history.warm_from_ms == 70 * MINUTE
    assert "BBB warms up with 5 bars, not with 20: its first signals come later" in history.notes


def test_where_symbols_have_sessions_a_block_is_one() -> None:
    """Blocks of a venue begin with its sessions, by its own clock."""
    venue = Venue("America/New_York", "09:30", "16:00")
    monday = 1_704_724_200_000  # 2024-01-08 09:30 there
    opens = [monday + day * 86_400_000 for day in range(5)]
    times = [opened + hour * 3_600_000 for opened in opens for hour in range(6)]
    bars = [Bar("AAPL", "30m", time, 10.0, 12.0, 9.0, 11.0, 5.0) for time in times]
    history = select(Record(bars), Wanted(blocks=2), {"AAPL": venue}, WarmUp(6, 6))
    assert history.blocks == tuple(opens[-2:])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 4), st.integers(1, 5))
def test_the_last_blocks_are_where_blocks_from_there_on_begin(
    steps: list[int], count: int, bars: int
) -> None:
    times = np.cumsum(steps)
    last = LastBlocks(count, (bars, None))
    for part in np.array_split(times, 3):
        last.update(part)
    found = last.get()
    assert len(found) == min(count, len(times) // bars)
    if not found:
        return
    blocks, begun = Blocks(bars), []
    for time in times[found[0][1] :].tolist():
        before = blocks.get()
        blocks.update(time)
        if blocks.get() != before:
            begun.append(time)
    assert begun == [time for time, _ in found]


def spooled(path: Path, bars: list[Bar]) -> Iterator[Bar]:
    spool = Spool(path)
    spool.write(bars)
    spool.close()
    return (bar for rows in SpoolSource(path, "the stream").parts() for bar in rows.bars())  # type: ignore[misc]


def test_a_stream_is_spooled_as_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L53: late bars, other intervals and revisions keep their place."""
    monkeypatch.setattr(sources, "SPOOLED_AT_ONCE", 7)
    bars = [
        *bars_at(range(20)),
        bar_at(5, close=90.0),
        bar_at(1, interval="5m"),
        Bar("AAA", "1m", 7 * MINUTE, 100.0, 120.0, 80.0, 99.0, 1.0, 3),
    ]
    assert list(spooled(tmp_path / "bars.parquet", bars)) == bars


def test_a_longer_file_takes_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L42: a file is never held as a whole, neither looked through nor read."""
    monkeypatch.setattr(stream, "PART_ROWS", 500)
    peaks = []
    for rows in (3_000, 12_000):
        table = PaperMarket(3, 4, start_ms=START_MS).table(rows // 2).rows(0, rows)
        path = written(tmp_path, ".parquet", table)
        tracemalloc.start()
        try:
            history = select(FileSource(path), Wanted(blocks=3, block_bars=50), {}, WarmUp(60, 60))
            assert sum(len(one.bars) for one in history.slices()) > 400
            whole = select(FileSource(path), Wanted(), {}, WarmUp(60, 60))
            assert sum(len(one.bars) for one in whole.slices()) == rows
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
