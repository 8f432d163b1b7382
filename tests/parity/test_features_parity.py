"""The kernel against an oracle: the definitions of the columns in 40-digit decimal arithmetic.

The oracle shares nothing with the kernel: no ring, no shift, no logarithm, no float. It rounds at
the fortieth digit, so a difference from it is the kernel's own error, and that may be no more than
`TOLERANCE` (some 18 roundings) of the column's `scale`.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.schema import SETS

TOLERANCE = Decimal("2e-15")
EPSILON = Decimal("1e-10")
HALF, ONE = Decimal("0.5"), Decimal(1)
SETTLED = 700  # bars: 24·(26+1) for the EMA of 26, 48·14 for Wilder's of 14
COLUMN_NAMES = [name for name, _ in kernel.COLUMNS]

Bars = NDArray[np.float64]


class History:
    """All bars of a series as exact decimals, with the recursions run from the first bar."""

    def __init__(self, bars: Bars) -> None:
        exact = [[Decimal(float(value)) for value in bar] for bar in bars]
        self.o, self.h, self.l, self.c, self.v = (list(field) for field in zip(*exact, strict=True))
        moves = [now - before for before, now in zip(self.c, self.c[1:], strict=False)]
        self.r = [Decimal(0)] + [
            (now / before).ln() for before, now in zip(self.c, self.c[1:], strict=False)
        ]
        self.gain = wilder_14([max(move, Decimal(0)) for move in moves])
        self.loss = wilder_14([max(-move, Decimal(0)) for move in moves])
        self.ema_12, self.ema_26 = ema(self.c, 12), ema(self.c, 26)


def ema(values: Sequence[Decimal], period: int) -> list[Decimal]:
    """Seeded with the first value; α = 2/(p+1)."""
    averages = [values[0]]
    for value in values[1:]:
        averages.append(averages[-1] + (value - averages[-1]) * 2 / (period + 1))
    return averages


def wilder_14(changes: Sequence[Decimal]) -> list[Decimal]:
    """By bar: the mean of the first 14 changes at bar 15, then (prev·13 + x)/14."""
    averages = [Decimal(0)] * 14
    if len(changes) >= 14:
        averages.append(sum(changes[:14]) / Decimal(14))
        for change in changes[14:]:
            averages.append((averages[-1] * 13 + change) / 14)
    return averages


def last(values: Sequence[Decimal], t: int, period: int) -> Sequence[Decimal]:
    return values[t - period + 1 : t + 1]


def mean(values: Sequence[Decimal]) -> Decimal:
    return sum(values, Decimal(0)) / len(values)


def deviation(values: Sequence[Decimal]) -> Decimal:
    centre = mean(values)
    return mean([(value - centre) ** 2 for value in values]).sqrt()


def rsi_14(x: History, t: int) -> Decimal:
    moves = x.gain[t] + x.loss[t]
    return x.gain[t] / moves if moves > EPSILON * x.c[t] else HALF


def bollinger_20(x: History, t: int) -> Decimal:
    window = last(x.c, t, 20)
    s = deviation(window)
    return (x.c[t] - (mean(window) - 2 * s)) / (4 * s) if s > EPSILON * x.c[t] else HALF


def volume_ratio_20(x: History, t: int) -> Decimal:
    average = mean(last(x.v, t, 20))
    return x.v[t] / average if average else ONE


def volatility_20(x: History, t: int) -> Decimal:
    s = deviation(last(x.r, t, 20))
    return s if s > EPSILON else Decimal(0)


# Column: the bar at which it is ready, and its formula.
DEFINITIONS: dict[str, tuple[int, Callable[[History, int], Decimal]]] = {
    "log_return": (2, lambda x, t: x.r[t]),
    "sma_10": (10, lambda x, t: (x.c[t] / mean(last(x.c, t, 10))).ln()),
    "sma_30": (30, lambda x, t: (x.c[t] / mean(last(x.c, t, 30))).ln()),
    "momentum_5": (6, lambda x, t: x.c[t] / x.c[t - 5] - 1),
    "rsi_14": (15, rsi_14),
    "bollinger_20": (20, bollinger_20),
    "volume_ratio_20": (20, volume_ratio_20),
    "high_low": (1, lambda x, t: (x.h[t] - x.l[t]) / x.c[t]),
    "open_close": (1, lambda x, t: (x.c[t] - x.o[t]) / x.o[t]),
    "log_high": (1, lambda x, t: (x.h[t] / x.c[t]).ln()),
    "log_low": (1, lambda x, t: (x.l[t] / x.c[t]).ln()),
    "log_volume_ratio": (20, lambda x, t: ((1 + x.v[t]) / (1 + mean(last(x.v, t, 20)))).ln()),
    "volatility_20": (21, volatility_20),
    "macd": (26, lambda x, t: (x.ema_12[t] - x.ema_26[t]) / x.c[t]),
    "momentum_10": (11, lambda x, t: (x.c[t] / x.c[t - 10]).ln()),
}
SETS_OF_THE_CONTRACT = {
    "gru9": "log_return sma_10 sma_30 momentum_5 rsi_14 bollinger_20 volume_ratio_20 high_low"
    " open_close",
    "patchtst8": "log_return log_high log_low log_volume_ratio volatility_20 rsi_14 macd"
    " momentum_10",
}
LONE = Decimal(4)  # a deviation over 20 is less exact when the newest value lies far from all
# Products and quotients only: their error is a share of the value itself.
PURE_RATIOS = {"rsi_14", "volume_ratio_20", "high_low", "open_close"}


def scale(column: str, x: History, t: int, exact: Decimal) -> Decimal:
    """What the tolerance is a share of: the value, and the numbers whose difference it is."""
    if column in PURE_RATIOS:
        return abs(exact)
    if column == "bollinger_20":  # one rounding of a price, in units of 4s; and that of s
        s = deviation(last(x.c, t, 20))
        return max(LONE * abs(exact), LONE, x.c[t] / s / 4) if s else ONE
    if column == "volatility_20":
        return max(ONE, LONE * abs(exact))
    if column == "macd":  # a rounding of an average as large as the dearest bar before
        return max(x.c[: t + 1]) / x.c[t]
    return max(ONE, abs(exact))


def assert_row_is_exact(x: History, t: int, row: NDArray[np.float64], bar: int) -> None:
    """Row t agrees with the definitions; `bar` counts the series' bars up to it from 1."""
    for column, (ready_at, formula) in DEFINITIONS.items():
        value = float(row[COLUMN_NAMES.index(column)])
        if bar < ready_at:
            assert np.isnan(value), f"{column} at bar {bar}: {value}"
            continue
        exact = formula(x, t)
        error = abs(Decimal(value) - exact)
        assert error <= TOLERANCE * scale(column, x, t, exact), f"{column} at bar {bar}: {value}"


def assert_exact(bars: Bars) -> None:
    rows = kernel.matrix(bars)
    with localcontext(prec=40):
        x = History(bars)
        for t in range(len(bars)):
            assert_row_is_exact(x, t, rows[t], t + 1)


def bars_of(closes: NDArray[np.float64], spread: float, seed: int) -> Bars:
    """Bars [n, 5] around the given closes, with wicks of about `spread` and some volume."""
    random = np.random.default_rng(seed)
    opens = np.concatenate([closes[:1], closes[:-1]])
    wicks = np.exp(-spread * random.random((2, len(closes))))
    highs, lows = np.maximum(opens, closes) / wicks[0], np.minimum(opens, closes) * wicks[1]
    return np.column_stack([opens, highs, lows, closes, random.exponential(1e3, len(closes))])


def walk(n: int, price: float, step: float, seed: int) -> Bars:
    moves = np.random.default_rng(seed).normal(0.0, step, n)
    return bars_of(price * np.exp(np.cumsum(moves)), step, seed)


def flat_stretches() -> Bars:
    bars = walk(600, 100.0, 1e-3, 11)
    for start in (0, 100, 300):
        bars[start : start + 70, :4] = bars[start, 3]
    return bars


def volume_prints() -> Bars:
    """Stretches without volume, single bars without, and bad prints of 1e12."""
    bars = walk(600, 100.0, 1e-3, 12)
    bars[100:140, 4] = 0.0
    bars[::7, 4] = 0.0
    bars[::53, 4] = 1e12
    return bars


def bad_print() -> Bars:
    bars = walk(600, 100.0, 1e-3, 13)
    bars[300, [1, 3]] = 6e9
    return bars


STORIES = {
    "a random walk": lambda: walk(600, 100.0, 1e-3, 1),
    "a wild walk": lambda: walk(600, 100.0, 0.2, 2),
    "prices near 1e-8": lambda: walk(600, 1e-8, 1e-3, 3),
    "prices near 1e9": lambda: walk(600, 1e9, 1e-3, 4),
    "a price hardly moving": lambda: bars_of(
        60_000.0 + np.random.default_rng(5).integers(-2, 3, 600) * 0.01, 1e-7, 5
    ),
    "flat stretches": flat_stretches,
    "no volume and huge volume": volume_prints,
    "one bad print of a price": bad_print,
}


def test_the_sets_are_those_of_the_contract() -> None:
    """L12: names and order of both sets are the contract's, and the oracle defines every column."""
    assert {name: " ".join(s.columns) for name, s in SETS.items()} == SETS_OF_THE_CONTRACT
    assert {column for s in SETS.values() for column in s.columns} <= set(DEFINITIONS)
    assert list(DEFINITIONS) == COLUMN_NAMES


@pytest.mark.parametrize("story", STORIES)
def test_every_column_equals_its_definition(story: str) -> None:
    """Every value of every column, NaN before it is ready, against 40-digit arithmetic."""
    assert_exact(STORIES[story]())


moves = st.floats(1e-6, 0.3) | st.floats(-0.3, -1e-6) | st.just(0.0)
volumes = st.just(0.0) | st.floats(1e-6, 1e15)
wicks = st.just(0.0) | st.floats(1e-9, 0.5)
shapes = st.lists(st.tuples(moves, wicks, wicks, volumes), min_size=31, max_size=80)


@settings(deadline=None, max_examples=100)
@given(shapes, st.sampled_from([1e-8, 0.37, 100.0, 1e9]))
def test_any_bars_give_what_the_definitions_say(
    steps: list[tuple[float, float, float, float]], price: float
) -> None:
    """Bars of any shape, with ties, gaps and jumps, agree with the definitions."""
    bars = np.empty((len(steps), 5))
    for i, (move, up, down, volume) in enumerate(steps):
        close = price * (1.0 + move)
        high, low = max(price, close) * (1.0 + up), min(price, close) * (1.0 - down)
        bars[i] = price, high, low, close, volume
        price = close
    assert_exact(bars)


def test_a_long_run_is_as_exact_as_a_short_one() -> None:
    """L18: after 200,000 bars at 60000 ± 0.02 sampled rows agree as well as the first ones."""
    random = np.random.default_rng(18)
    bars = bars_of(60_000.0 + random.integers(-2, 3, 200_000) * 0.01, 1e-7, 18)
    rows = kernel.matrix(bars)
    assert np.isfinite(rows[29:]).all()
    assert (rows[20:, COLUMN_NAMES.index("volatility_20")] > 0.0).all()
    with localcontext(prec=40):
        for t in [*random.integers(SETTLED, len(bars), 30), len(bars) - 1]:
            # Older bars weigh less than 1e-21 in the recursions and nothing in the windows.
            x = History(bars[t + 1 - SETTLED : t + 1])
            assert_row_is_exact(x, SETTLED - 1, rows[t], t + 1)


def stream(bars: Bars) -> NDArray[np.float64]:
    """The rows as the live engine makes them: one bar, one call."""
    state, out = kernel.new_states(1)[0], np.empty((len(bars), kernel.COLUMN_COUNT))
    for bar, row in zip(bars, out, strict=True):
        kernel.step(state, bar, row)
    return out


@pytest.mark.parametrize("column", COLUMN_NAMES)
def test_batch_equals_stream_bit_for_bit(column: str) -> None:
    """L11: the history in one call and bar by bar give the same 64 bits, per column."""
    at = COLUMN_NAMES.index(column)
    for story in STORIES.values():
        bars = story()
        assert kernel.matrix(bars)[:, at].tobytes() == stream(bars)[:, at].tobytes()


@settings(deadline=None, max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(1, 400))
def test_a_burst_equals_the_history_of_each_series(random: Random, burst_size: int) -> None:
    """L11: however series interleave and bursts are cut, each series gets its own rows."""
    histories = [walk(200, 100.0, 1e-3, 1), flat_stretches()[:150], volume_prints()[:250]]
    series = np.repeat(np.arange(3), [len(bars) for bars in histories])
    random.shuffle(series)
    bars, seen = np.empty((len(series), 5)), [0, 0, 0]
    for i, s in enumerate(series):
        bars[i] = histories[s][seen[s]]
        seen[s] += 1
    states, rows = kernel.new_states(3), np.empty((len(series), kernel.COLUMN_COUNT))
    counts = np.empty(len(series), dtype=np.int64)
    for start in range(0, len(series), burst_size):
        cut = slice(start, start + burst_size)
        kernel.burst(states, series[cut], bars[cut], rows[cut], counts[cut])
    for s, history in enumerate(histories):
        assert rows[series == s].tobytes() == kernel.matrix(history).tobytes()
        assert counts[series == s].tolist() == list(range(1, len(history) + 1))


@pytest.mark.parametrize("seed", range(5))
def test_a_cold_start_settles_bit_for_bit(seed: int) -> None:
    """L43: a state fed only the last 700 bars gives the rows of one that saw all, to the bit."""
    bars = walk(3_000, 60_000.0, 1e-3, seed)
    rows = kernel.matrix(bars)
    for end in (800, 1_501, 2_222, 3_000):
        cold = kernel.matrix(bars[end - SETTLED : end])
        assert cold[-1].tobytes() == rows[end - 1].tobytes()
    after = kernel.matrix(bars[1_000:])
    assert after[SETTLED - 1 :].tobytes() == rows[1_000 + SETTLED - 1 :].tobytes()
