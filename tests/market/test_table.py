"""Columns of bars: what they give back, and what they refuse to be."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from quantum_ai_engine.events import Bar, Reason, Refused
from quantum_ai_engine.market.table import BarTable, UnknownSymbolError

GOOD = [100.0, 102.0, 99.0, 101.0, 5.0]
HIGH_BELOW_LOW = [100.0, 98.0, 99.0, 101.0, 5.0]


def table_of(*rows: tuple[str, int, list[float]], interval: str = "1m") -> BarTable:
    symbols = tuple(dict.fromkeys(symbol for symbol, _, _ in rows))
    return BarTable(
        symbols,
        np.array([symbols.index(symbol) for symbol, _, _ in rows], np.int32),
        interval,
        np.array([open_time for _, open_time, _ in rows], np.int64),
        np.array([ohlcv for _, _, ohlcv in rows], np.float64).reshape(-1, 5),
    )


@pytest.fixture
def table() -> BarTable:
    return table_of(
        ("BTCUSDT", 0, GOOD),
        ("ETHUSDT", 0, [2.0, 3.0, 1.0, 2.5, 7.0]),
        ("BTCUSDT", 60_000, HIGH_BELOW_LOW),
        ("ETHUSDT", 120_000, [2.5, 4.0, 2.0, 3.0, 8.0]),
    )


def test_a_bar_holds_plain_numbers(table: BarTable) -> None:
    """A bar of a table equals one made by hand, down to the types that encoders need."""
    bar = table.bar(1)
    assert bar == Bar("ETHUSDT", "1m", 0, 2.0, 3.0, 1.0, 2.5, 7.0)
    assert {type(getattr(bar, name)) for name in ("open", "high", "low", "close")} == {float}
    assert type(bar.open_time) is int


def test_a_refused_row_does_not_end_the_iteration(table: BarTable) -> None:
    """L41: a bad row is raised with its reason, and the next call goes on with the next bar."""
    bars = table.bars(1)
    assert next(bars).symbol == "ETHUSDT"
    with pytest.raises(Refused) as refused:
        next(bars)
    assert refused.value.reason is Reason.HIGH_BELOW_LOW
    assert next(bars) == table.bar(3)
    assert list(bars) == []


def test_of_gives_the_bars_of_one_symbol(table: BarTable) -> None:
    """L53: columns of a symbol hold its own bars only, however the symbols interleave."""
    open_time, ohlcv = table.of("ETHUSDT")
    assert open_time.tolist() == [0, 120_000]
    assert ohlcv[:, 3].tolist() == [2.5, 3.0]


def test_of_does_not_copy_where_there_is_one_symbol() -> None:
    """A table of one symbol hands out its own columns."""
    table = table_of(("BTCUSDT", 0, GOOD))
    assert table.of("BTCUSDT")[1] is table.ohlcv


def test_only_keeps_the_bars_of_the_symbols_named(table: BarTable) -> None:
    """The names given set the order of names; the order of bars stays that of time."""
    assert table.only(["ETHUSDT"]).bar(1) == table.bar(3)
    turned = table.only(["ETHUSDT", "BTCUSDT", "ETHUSDT"])
    assert turned.symbols == ("ETHUSDT", "BTCUSDT")
    assert [turned.bar(i) for i in (0, 1, 3)] == [table.bar(i) for i in (0, 1, 3)]


def test_an_unknown_symbol_is_refused_by_name(table: BarTable) -> None:
    """Asking for a symbol that is not there names those that are."""
    with pytest.raises(UnknownSymbolError, match="'SOLUSDT'; there are BTCUSDT, ETHUSDT"):
        table.of("SOLUSDT")


@pytest.mark.parametrize(("fraction", "bars"), [(0.0, 0), (0.5, 2), (0.99, 3), (1.0, 4)])
def test_head_is_the_first_in_time(table: BarTable, fraction: float, bars: int) -> None:
    """L27: a part of a table is its beginning in time, never a shuffle."""
    assert table.head(fraction).open_time.tolist() == table.open_time[:bars].tolist()


def test_a_fraction_is_between_0_and_1(table: BarTable) -> None:
    """L51: a percentage given for a fraction is refused."""
    with pytest.raises(ValueError, match="fraction 70"):
        table.head(70)


def test_columns_cannot_be_exchanged(table: BarTable) -> None:
    """A table is frozen."""
    with pytest.raises(FrozenInstanceError):
        table.interval = "5m"  # type: ignore[misc]


def test_columns_must_fit() -> None:
    """Columns of different lengths, names that repeat and times that fall are no table."""
    index, times, ohlcv = np.zeros(2, np.int32), np.array([0, 60_000]), np.array([GOOD, GOOD])
    with pytest.raises(ValueError, match="do not fit"):
        BarTable(("A",), index, "1m", times, ohlcv[:1])
    with pytest.raises(ValueError, match="not distinct"):
        BarTable(("A", "A"), index, "1m", times, ohlcv)
    with pytest.raises(ValueError, match="open_time falls"):
        BarTable(("A",), index, "1m", times[::-1], ohlcv)
