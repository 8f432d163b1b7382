"""The long run: 5,000,000 bars at price 60,000 with moves of 0.01, against exact recomputation."""

import math
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.exact import DIGITS, Columns, columns_at
from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.columns import COLUMNS, NAMES
from quantum_ai_engine.features.schema import SETS

PAGE = Path(__file__).parents[1] / "docs" / "features.md"
BARS, CHUNK, CHECKED = 5_000_000, 50_000, 100
LOOKBACK = 4_000  # bars the exact columns begin with: two sessions, and every recursion settled
START_MS, MINUTE_MS, DAY_MS = 946_684_800_000, 60_000, 86_400_000
PRICE_TICKS, TICKS = 6_000_000, 100.0


def write() -> str:
    """Run, and put the table of all columns between its marks in docs/features.md."""
    table = "\n".join(_table())
    text = PAGE.read_text(encoding="utf-8")
    marks = r"(<!-- columns: made by `python -m benchmarks accuracy` -->\n).*?(<!-- end -->)"
    text = re.sub(marks, lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")
    return table


def _table() -> list[str]:
    early, errors = _errors_after(CHUNK), _errors_after(BARS)
    worst, worst_early = (max(x, key=lambda name: x[name][0]) for x in (errors, early))
    sets = {
        column: [s.name for s in SETS.values() if column in map(s.kernel_name, s.columns)]
        for column in NAMES
    }
    ranked = sorted(errors, key=lambda name: errors[name][1], reverse=True)
    return [
        f"After {BARS:,} bars, over the last {CHECKED}, against decimals of {DIGITS} digits: the "
        f"largest error is {errors[worst][0]:.1e} (`{worst}`); after the first {CHUNK:,} bars it "
        f"was {early[worst_early][0]:.1e} (`{worst_early}`). Relative to a column's size (the "
        "root mean square of its values) the largest are "
        + ", ".join(f"`{name}` {errors[name][1]:.1e}" for name in ranked[:5])
        + f"; the median column has {errors[ranked[len(ranked) // 2]][1]:.1e}.",
        "",
        "| column | sets | ready at | settled at | largest error | relative to its size |",
        "|---|---|---|---|---|---|",
        *(
            f"| `{c.name}` | {', '.join(sets[c.name])} | {c.ready_at} | {c.settled_at}"
            f"{_sessions(c.sessions)} | {' | '.join(map(_number, errors[c.name]))} |"
            for c in COLUMNS
        ),
    ]


def _sessions(openings: int) -> str:
    return f", {openings} session opening{'s' if openings > 1 else ''}" if openings else ""


def _number(x: float) -> str:
    return f"{x:.1e}" if x else "0"


def _errors_after(bars: int) -> dict[str, tuple[float, float]]:
    """Of every column: its largest error, and that as a share of its size."""
    newest, rows = _long_run(bars)
    exact = columns_at(newest, CHECKED)
    return {name: _errors(name, rows[:, i], exact) for i, name in enumerate(NAMES)}


def _errors(name: str, values: NDArray[np.float64], exact: list[Columns]) -> tuple[float, float]:
    """Largest error of a column, and its share of the column's root mean square."""
    right = [row[name] for row in exact]
    error = max(
        float(abs(Decimal(got) - want)) for got, want in zip(values.tolist(), right, strict=True)
    )
    size = math.sqrt(sum(float(x) ** 2 for x in right) / len(right))
    return error, error / size if size else 0.0


def _long_run(total: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The newest bars [LOOKBACK, BAR_WIDTH] and kernel rows [CHECKED, columns] of the run."""
    rng = np.random.default_rng(7)
    state, out = kernel.new_states(1)[0], np.empty((CHUNK, kernel.COLUMN_COUNT))
    ticks = PRICE_TICKS
    for start in range(0, total, CHUNK):
        bars, ticks = _bars(rng, start, ticks)
        kernel.history(state, bars, out)
    return bars[-LOOKBACK:], out[-CHECKED:]


def _bars(rng: np.random.Generator, start: int, last: int) -> tuple[NDArray[np.float64], int]:
    """CHUNK bars from bar `start` on: a walk in ticks that is pulled back to 60,000."""
    moves = rng.integers(-1, 2, CHUNK)
    close = last + np.cumsum(moves)
    # Reflected so that millions of steps stay near the price.
    close = PRICE_TICKS + np.abs((close - PRICE_TICKS - 100) % 400 - 200) - 100
    opened = np.concatenate([[last], close[:-1]]) + rng.integers(-1, 2, CHUNK)
    high = np.maximum(opened, close) + rng.integers(0, 2, CHUNK)
    low = np.minimum(opened, close) - rng.integers(0, 2, CHUNK)
    volume = rng.integers(0, 50_000, CHUNK) / 1_000.0
    volume[rng.random(CHUNK) < 0.01] = 0.0
    times = START_MS + MINUTE_MS * np.arange(start, start + CHUNK)
    day = times // DAY_MS
    prices = [x / TICKS for x in (opened, high, low, close)]
    minute = np.full(CHUNK, MINUTE_MS)
    columns = [*prices, volume, times, minute, day * DAY_MS, (day + 1) * DAY_MS, (day + 3) % 7]
    return np.column_stack(columns).astype(np.float64), int(close[-1])
