"""The paper market: valid bars, the same for a seed, with the features of real markets."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.events import INTERVAL_MS, Bar
from quantum_ai_engine.market.paper import BLOCK_STEPS, PaperMarket
from quantum_ai_engine.market.table import BarTable

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000
SESSION_BOUND = ("AAPL", "MSFT")


@pytest.fixture(scope="module")
def week() -> BarTable:
    return PaperMarket(11, start_ms=START_MS).table(7 * 1440)


def log_closes(table: BarTable, symbol: str) -> np.ndarray:
    return np.log(table.of(symbol)[1][:, 3])


def same_bits(left: BarTable, right: BarTable) -> bool:
    return all(
        getattr(left, name).tobytes() == getattr(right, name).tobytes()
        for name in ("symbol_index", "open_time", "ohlcv")
    )


@pytest.mark.parametrize("interval", ["1s", "1m", "15m", "4h", "1d"])
def test_every_bar_is_valid(interval: str) -> None:
    """Each row makes a bar, which checks prices, volume, alignment and symbol at birth."""
    table = PaperMarket(3, 14, start_ms=START_MS + 1, interval=interval).table(300)
    assert len(list(table.bars())) == len(table) > 0
    assert table.open_time[0] >= START_MS + 1
    assert len(table.symbols) == 14


def test_bars_come_in_time_order(week: BarTable) -> None:
    """Times never fall, and each symbol's rise strictly."""
    assert (np.diff(week.open_time) >= 0).all()
    for symbol in week.symbols:
        assert (np.diff(week.of(symbol)[0]) > 0).all()


def test_a_seed_gives_the_same_bits() -> None:
    """The same seed is the same market to the bit, another seed another market."""
    first, again, other = (PaperMarket(seed, start_ms=0).table(600) for seed in (1, 1, 2))
    assert same_bits(first, again)
    assert not same_bits(first, other)


@given(
    st.lists(
        st.tuples(st.sampled_from(["table", "bars"]), st.integers(0, 2 * BLOCK_STEPS)),
        max_size=6,
    ),
    st.integers(1, 6),
)
def test_how_bars_are_taken_does_not_matter(takes: list[tuple[str, int]], symbols: int) -> None:
    """L16: bars do not depend on how many more are drawn, or by table or one by one."""
    market = PaperMarket(5, symbols, start_ms=START_MS)
    taken: list[Bar] = []
    for way, count in takes:
        source = market.table(count).bars() if way == "table" else islice(market, count)
        taken += source
    taken += islice(market, 3)
    assert taken == list(islice(PaperMarket(5, symbols, start_ms=START_MS), len(taken)))


def test_a_table_of_steps_covers_those_steps() -> None:
    """Tables one after the other cover their own steps, also those in which nothing traded."""
    market = PaperMarket(5, 1, start_ms=0)
    tables = [market.table(1) for _ in range(3 * BLOCK_STEPS)]
    for step, table in enumerate(tables):
        assert set(table.open_time.tolist()) <= {step * 60_000}
    next(iter(market))
    assert market.table(2).open_time.tolist() == [(3 * BLOCK_STEPS + i) * 60_000 for i in (1, 2)]


def test_a_begun_step_is_finished_first() -> None:
    """After iteration has stopped inside a step, a table of one step is the rest of it."""
    market = PaperMarket(5, 2, start_ms=0)
    first = next(iter(market))
    rest = market.table(1)
    assert first.symbol == "BTCUSDT"
    assert rest.open_time.tolist() == [first.open_time]
    assert rest.bar(0).symbol == "ETHUSDT"


def test_volatility_clusters(week: BarTable) -> None:
    """Large moves follow large moves: |return| correlates with itself ten bars before."""
    size = np.abs(np.diff(log_closes(week, "BTCUSDT")))
    assert np.corrcoef(size[10:], size[:-10])[0, 1] > 0.08


def test_the_past_tells_something_of_the_future(week: BarTable) -> None:
    """The sign of the last 20 returns meets that of the next 5 more often than chance."""
    hits: list[bool] = []
    for symbol in week.symbols:
        level = log_closes(week, symbol)
        past, future = level[20:-5] - level[:-25], level[25:] - level[20:-5]
        hits += ((past > 0) == (future > 0))[(past != 0) & (future != 0)].tolist()
    assert 0.58 < np.mean(hits) < 0.68


def test_symbols_move_together(week: BarTable) -> None:
    """A common factor correlates the symbols, and does not make them one."""
    _, left, right = np.intersect1d(
        week.of("BTCUSDT")[0], week.of("ETHUSDT")[0], return_indices=True
    )
    bitcoin = np.diff(log_closes(week, "BTCUSDT")[left])
    ether = np.diff(log_closes(week, "ETHUSDT")[right])
    assert 0.3 < np.corrcoef(bitcoin, ether)[0, 1] < 0.7


def test_moves_have_fat_tails(week: BarTable) -> None:
    """Jumps and clusters: some moves are far out of what a normal law gives."""
    moves = np.diff(log_closes(week, "SOLUSDT"))
    assert np.abs(moves).max() > 5.0 * moves.std()


def test_volume_rises_with_the_move(week: BarTable) -> None:
    """Volume correlates with the size of the return."""
    _, ohlcv = week.of("ETHUSDT")
    assert np.corrcoef(np.abs(np.log(ohlcv[:, 3] / ohlcv[:, 0])), ohlcv[:, 4])[0, 1] > 0.4


def test_sessions_have_gaps_between_them(week: BarTable) -> None:
    """Two symbols trade in a daily session only; the others around the clock."""
    for symbol in week.symbols:
        open_time = week.of(symbol)[0]
        overnight = (np.diff(open_time) > 3_600_000).sum()
        assert overnight == (6 if symbol in SESSION_BOUND else 0)
    time_ms = week.of("AAPL")[0] % DAY_MS
    assert (time_ms.min(), time_ms.max()) == (13.5 * 3_600_000, 20 * 3_600_000 - 60_000)


def test_some_bars_are_missing(week: BarTable) -> None:
    """Around the clock a few bars are missing, and only a few."""
    missing = 7 * 1440 - len(week.only(["BTCUSDT"])), 7 * 1440 - len(week.only(["ETHUSDT"]))
    assert 0 < sum(missing) < 20


def test_bars_have_bodies_and_shadows(week: BarTable) -> None:
    """Close, open, high and low differ as they do in a market, and opens slip a little."""
    open_, high, low, close = week.of("BTCUSDT")[1][:, :4].T
    assert np.mean(open_ == close) < 0.05
    assert np.mean((high > np.maximum(open_, close)) & (low < np.minimum(open_, close))) > 0.9
    assert 0.0 < np.mean(np.abs(open_[1:] - close[:-1])) < 0.3 * np.mean(np.abs(close - open_))


def test_busy_hours_are_busy(week: BarTable) -> None:
    """The afternoon (UTC) has more volume than the night."""
    open_time, ohlcv = week.of("BTCUSDT")
    hour = open_time % DAY_MS // 3_600_000
    volume = ohlcv[:, 4]
    assert volume[(hour >= 13) & (hour < 17)].mean() > 1.5 * volume[hour < 5].mean()


def test_prices_are_in_ticks(week: BarTable) -> None:
    """A price is a decimal number of its symbol's tick, exactly."""
    prices = week.of("BTCUSDT")[1][:, :4]
    assert (np.round(prices, 2) == prices).all()


@pytest.mark.parametrize("interval", ["1m", "1d"])
def test_prices_stay_finite_and_positive(interval: str) -> None:
    """Over a million steps prices neither vanish nor explode."""
    market = PaperMarket(2, 3, start_ms=0, interval=interval)
    lowest, highest = np.inf, 0.0
    for _ in range(20):
        prices = market.table(50_000).ohlcv[:, :4]
        lowest, highest = min(lowest, prices.min()), max(highest, prices.max())
    assert 0.0 < lowest < highest < 1e8


def test_bad_parameters_are_refused() -> None:
    """No symbols and an unknown interval are refused by name."""
    with pytest.raises(ValueError, match="symbols = 0"):
        PaperMarket(1, 0, start_ms=0)
    with pytest.raises(ValueError, match="interval '7m' is not one of 1s, "):
        PaperMarket(1, start_ms=0, interval="7m")


def test_the_next_bar_follows_the_start() -> None:
    """The first bar opens at the first multiple of the interval that is not before the start."""
    assert next(iter(PaperMarket(1, start_ms=300_000, interval="5m"))).open_time == 300_000
    late = next(iter(PaperMarket(1, start_ms=300_001, interval="5m")))
    assert late.open_time == 2 * INTERVAL_MS["5m"]
