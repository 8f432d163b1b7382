"""Recorded bars read from real files: every format of times, every way to be unreadable."""

import gzip
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from quantum_ai_engine.events import Reason, Refused
from quantum_ai_engine.market.files import read_bars

START_MS = 1_714_521_600_000  # 2024-05-01T00:00Z
MINUTE_MS = 60_000
TIMES_MS = [START_MS, START_MS + MINUTE_MS, START_MS + 2 * MINUTE_MS]
HEADER = "open_time,symbol,interval,open,high,low,close,volume"
CELLS = "BTCUSDT,1m,100,102,99,101,5"

Write = Callable[..., Path]


@pytest.mark.parametrize("name", ["bars.csv", "bars.csv.gz", "BARS.CSV", "bars.CSV.GZ"])
def test_csv(write: Write, name: str) -> None:
    """A CSV file is read plain or gzipped, and prices arrive to the last bit."""
    path = write(
        HEADER, f"{START_MS},ADABTC,5m,5.330000000000001e-05,6e-05,5e-05,0.1e-3,0", name=name
    )
    table = read_bars(str(path))
    assert (table.symbols, table.interval) == (("ADABTC",), "5m")
    assert table.ohlcv.tolist() == [[5.330000000000001e-05, 6e-05, 5e-05, 0.1e-3, 0.0]]


def test_parquet(write_parquet: Write) -> None:
    """A Parquet file with whole and 32-bit numbers and coded names gives the same table."""
    path = write_parquet(
        TIMES_MS,
        symbol=pa.array(["A", "B", "A"]).dictionary_encode(),
        interval=pa.array(["1m"] * 3, pa.large_string()),
        open=pa.array([100, 100, 100]),
        close=pa.array([101.5] * 3, pa.float32()),
        unused=pa.array([[1], [2], [3]]),
    )
    table = read_bars(path)
    assert table.symbols == ("A", "B")
    assert table.of("A")[0].tolist() == [TIMES_MS[0], TIMES_MS[2]]
    assert table.bar(1).close == 101.5


@pytest.mark.parametrize(
    "header",
    [
        "timestamp,ticker,timeframe,o,h,l,c,v",
        "Date,Pair,Interval,Open,High,Low,Close,Volume",
        " TS , Symbol , TimeFrame , OPEN , HIGH , LOW , CLOSE , Base Volume ",
        "\ufeffopenTime,symbol,interval,open_price,high_price,low_price,close_price,base-volume",
        '"datetime","symbol","interval","open","high","low","close","vol"',
    ],
)
def test_columns_are_found_by_common_names(write: Write, header: str) -> None:
    """Common names of columns are understood in any case."""
    bar = read_bars(write(header, f"{START_MS},{CELLS}")).bar(0)
    assert (bar.symbol, bar.open_time, bar.high, bar.volume) == ("BTCUSDT", START_MS, 102.0, 5.0)


def test_the_most_telling_name_wins(write: Write, write_parquet: Write) -> None:
    """Where several columns could be meant, and where a name repeats, the first is taken."""
    path = write(f"date,{HEADER},volume", f"never,{START_MS},{CELLS},-7")
    assert (read_bars(path).bar(0).open_time, read_bars(path).bar(0).volume) == (START_MS, 5.0)
    twice = write_parquet([START_MS], date=["never"])
    table = parquet.read_table(twice)
    parquet.write_table(table.append_column("volume", pa.array([-7.0])), twice)
    assert read_bars(twice).bar(0).volume == 5.0


def iso(zone: timezone | None, form: str = "%Y-%m-%dT%H:%M:%S%z") -> list[str]:
    moments = [datetime.fromtimestamp(ms / 1000, zone or UTC) for ms in TIMES_MS]
    return [moment.replace(tzinfo=zone).strftime(form) for moment in moments]


TEXT_TIMES = {
    "s": [str(ms // 1000) for ms in TIMES_MS],
    "s with fraction": [f"{ms / 1000:.3f}" for ms in TIMES_MS],
    "ms": [str(ms) for ms in TIMES_MS],
    "ms as float": [f"{ms:.1f}" for ms in TIMES_MS],
    "us": [str(ms * 1000) for ms in TIMES_MS],
    "ns": [str(ms * 1_000_000) for ms in TIMES_MS],
    "ns as float": [f"{ms * 1e6:.16e}" for ms in TIMES_MS],
    "ISO without zone": iso(None),
    "ISO with a blank": iso(None, "%Y-%m-%d %H:%M"),
    "ISO in UTC": iso(None, "%Y-%m-%dT%H:%M:%S.000Z"),
    "ISO in another zone": iso(timezone(timedelta(hours=5, minutes=30))),
    "ISO, basic": iso(UTC, "%Y%m%dT%H%M%SZ"),
    "ISO with nanoseconds": iso(None, "%Y-%m-%dT%H:%M:%S.000000000"),
    "ISO, mixed": [iso(None)[0], iso(UTC)[1], iso(timezone(-timedelta(hours=4)))[2]],
}


@pytest.mark.parametrize("form", TEXT_TIMES)
def test_times_as_text(write: Write, form: str) -> None:
    """L07: a text of time becomes the same ms, UTC, in whatever form it comes."""
    path = write(HEADER, *(f"{text},{CELLS}" for text in TEXT_TIMES[form]))
    assert read_bars(path).open_time.tolist() == TIMES_MS


ARROW_TIMES = {
    "s": pa.array([ms // 1000 for ms in TIMES_MS]),
    "s, 32 bits": pa.array([ms // 1000 for ms in TIMES_MS], pa.uint32()),
    "s as float": pa.array([ms / 1000 for ms in TIMES_MS]),
    "ns": pa.array([ms * 1_000_000 for ms in TIMES_MS]),
    "text": pa.array(iso(UTC)),
    **{
        f"timestamp {unit} {zone}": pa.array(TIMES_MS, pa.timestamp("ms")).cast(
            pa.timestamp(unit, zone)
        )
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "UTC", "Asia/Kolkata")
    },
}


@pytest.mark.parametrize("form", ARROW_TIMES)
def test_times_as_arrow_columns(write_parquet: Write, form: str) -> None:
    """L07: a typed column of time becomes the same ms, UTC, in whatever type it comes."""
    assert read_bars(write_parquet(ARROW_TIMES[form])).open_time.tolist() == TIMES_MS


@pytest.mark.parametrize(
    "days",
    [
        pa.array(["2024-05-01", "2024-05-02"]),
        pa.array(["20240501", "20240502"]),
        pa.array([20240501, 20240502]),
        pa.array([19844, 19845], pa.date32()),
    ],
)
def test_days(write_parquet: Write, days: pa.Array) -> None:
    """A day is its first ms in UTC, also where it is written as a number of eight digits."""
    table = read_bars(write_parquet(days, interval=None))
    assert table.interval == "1d"
    assert table.open_time.tolist() == [START_MS, START_MS + 86_400_000]


def test_a_wild_time_stays_wild(write: Write) -> None:
    """One time far off is refused as a bar; it neither changes the unit nor wraps around."""
    wild = 2**63 - 1
    lines = [f"{ms // 1000},{CELLS}" for ms in TIMES_MS]
    table = read_bars(write(HEADER, f"{wild},{CELLS}", *lines))
    assert table.open_time.tolist()[:3] == TIMES_MS
    with pytest.raises(Refused) as refused:
        table.bar(3)
    assert refused.value.reason is Reason.MISALIGNED_TIME


def test_bars_are_sorted_by_time_and_else_stay_in_order(write: Write) -> None:
    """Bars of one time keep the order of the file, duplicates and all."""
    lines = ["2,B,4", "1,A,1", "2,A,5", "1,B,2", "1,A,3"]
    rows = [line.split(",") for line in lines]
    cells = [
        f"{START_MS + int(at) * MINUTE_MS},{symbol},1m,1,9,1,1,{volume}"
        for at, symbol, volume in rows
    ]
    table = read_bars(write(HEADER, *cells))
    assert table.ohlcv[:, 4].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [table.symbols[i] for i in table.symbol_index] == ["A", "B", "A", "B", "A"]


def test_bad_bars_are_kept_for_the_engine_to_refuse(write: Write) -> None:
    """L41: what is no bar is neither dropped nor mended; making the bar tells the reason."""
    bad = {
        "100,98,99,101,5": Reason.HIGH_BELOW_LOW,
        "100,102,99,103,5": Reason.OUTSIDE_RANGE,
        ",102,99,101,5": Reason.NON_FINITE,
        "NaN,102,99,101,5": Reason.NON_FINITE,
        "100,inf,99,101,5": Reason.NON_FINITE,
        "100,102,99,101,null": Reason.NON_FINITE,
        "0,102,0,101,5": Reason.NON_POSITIVE_PRICE,
        "100,102,99,101,-5": Reason.NEGATIVE_VOLUME,
    }
    cells = [f"{START_MS + i * MINUTE_MS},BTCUSDT,1m,{text}" for i, text in enumerate(bad)]
    misaligned = f"{START_MS + len(bad) * MINUTE_MS + 1},{CELLS}"
    table = read_bars(write(HEADER, *cells, misaligned))
    reasons = []
    for i in range(len(table)):
        with pytest.raises(Refused) as refused:
            table.bar(i)
        reasons.append(refused.value.reason)
    assert reasons == [*bad.values(), Reason.MISALIGNED_TIME]


def test_options_name_what_the_file_does_not(write: Write) -> None:
    """Symbol and interval come from the options where no column has them."""
    path = write("time,o,h,l,c,v", f"{START_MS},100,102,99,101,5")
    table = read_bars(path, symbol="ETHUSDT", interval="4h")
    assert (table.symbols, table.interval) == (("ETHUSDT",), "4h")


def test_options_choose_among_what_the_file_has(write: Write) -> None:
    """L38: an option is never without effect: it chooses where the file has several."""
    names = [("A", "1m"), ("B", "1m"), ("A", "5m"), ("C", "5m")]
    cells = [f"{START_MS},{symbol},{interval},1,1,1,1,1" for symbol, interval in names]
    path = write(HEADER, *cells)
    assert read_bars(path, interval="1m").symbols == ("A", "B")
    assert read_bars(path, interval="5m").symbols == ("A", "C")
    chosen = read_bars(path, symbol="A", interval="5m")
    assert (len(chosen), chosen.symbols, chosen.interval) == (1, ("A",), "5m")


@pytest.mark.parametrize(("spacing_ms", "interval"), [(1_000, "1s"), (300_000, "5m")])
def test_the_interval_is_found_from_the_times(write: Write, spacing_ms: int, interval: str) -> None:
    """The usual spacing of one symbol's bars is the interval, whatever holes there are."""
    steps = [0, 1, 2, 2, 5, 6, 9, 10]
    cells = [
        f"{START_MS + step * spacing_ms},{symbol},1,1,1,1,1" for symbol in "AB" for step in steps
    ]
    path = write("time,symbol,open,high,low,close,volume", *cells)
    assert read_bars(path).interval == interval


NUMBER = st.floats(width=64)
ROW = st.tuples(
    st.integers(START_MS // MINUTE_MS, START_MS // MINUTE_MS + 99).map(lambda at: at * MINUTE_MS),
    st.sampled_from(["BTCUSDT", "ETHUSDT", "BRK.B", "NA"]),
    st.lists(NUMBER, min_size=5, max_size=5),
)


@given(st.lists(ROW, min_size=1, max_size=30), st.sampled_from(["csv", "csv.gz", "parquet"]))
def test_what_is_written_is_read(rows: list[tuple[int, str, list[float]]], extension: str) -> None:
    """Any numbers at any times come back to the bit, sorted by time, from each format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"bars.{extension}")
        times, symbols, ohlcv = zip(*rows, strict=True)
        if extension == "parquet":
            columns = [times, symbols, ["1m"] * len(rows), *zip(*ohlcv, strict=True)]
            table = pa.table([pa.array(cells) for cells in columns], HEADER.split(","))
            parquet.write_table(table, path)
        else:
            lines = [HEADER, *(f"{t},{s},1m,{','.join(map(repr, p))}" for t, s, p in rows)]
            data = "\n".join(lines).encode()
            path.write_bytes(gzip.compress(data) if extension == "csv.gz" else data)
        bars = read_bars(path)
    expected = sorted(rows, key=lambda row: row[0])
    assert bars.open_time.tolist() == [row[0] for row in expected]
    assert [bars.symbols[i] for i in bars.symbol_index] == [row[1] for row in expected]
    assert set(bars.symbols) == set(symbols)
    np.testing.assert_array_equal(bars.ohlcv, [row[2] for row in expected])


CRYPTO = Path(__file__).parents[3] / "shared" / "data" / "crypto-5m.csv.gz"


@pytest.mark.skipif(not CRYPTO.exists(), reason="the recordings are not beside the checkout")
def test_a_recorded_market() -> None:
    """A real recording is read whole, and every row makes a bar."""
    table = read_bars(CRYPTO)
    assert (len(table), len(table.symbols), table.interval) == (57_546, 10, "5m")
    assert sum(1 for _ in table.bars()) == 57_546
    assert table.bar(0).open == 5.330000000000001e-05
