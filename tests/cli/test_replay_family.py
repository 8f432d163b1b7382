"""`qae replay` of a family: a base, and instruments that move a multiple of it, to its files."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from quantum_ai_engine.config import BREAKERS
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.replay.drive import SIGNALS

from .test_replay import run

BASE, FAMILY = "BTCUSDT", {"BTCUSDT": 1.0, "TRIPLE": 3.0, "INVERSE": -1.0, "BEAR": -3.0}
INTERVAL_MS, MISSING_EVERY = 60_000, 47  # of the bars of instruments
SETTINGS = (
    f"risk.instruments={' '.join([BASE, *(f'{k}:{v:g}' for k, v in FAMILY.items() if k != BASE)])}",
    "risk.long_threshold=0.505",
    "risk.short_threshold=0.495",
    "risk.strong_margin=0.01",
    "risk.dead_band=0.0",
    "risk.exit_hysteresis=0.0",
    "risk.add_hysteresis=0.0",
    "replay.short_borrow_bps_per_year=0.0",
    f"risk.breakers={','.join(f'{k} {b.trip} {b.clear} 0 off' for k, b in BREAKERS.items())}",
)
Row = dict[str, Any]


def market(history: BarTable) -> dict[tuple[str, int], tuple[float, ...]]:
    """Bars of the base, and of instruments that move as they should but lack some bars."""
    made: dict[tuple[str, int], tuple[float, ...]] = {}
    prices = dict.fromkeys(FAMILY, 50.0)
    before = 0.0
    for k, bar in enumerate(bar for bar in history.bars() if bar.symbol == BASE):
        made[BASE, bar.open_time] = bar.ohlcv
        for i, (name, times) in enumerate(FAMILY.items()):
            if name == BASE:
                continue
            first = prices[name] * (1.0 + times * (bar.open / before - 1.0 if before else 0.0))
            last = first * (1.0 + times * (bar.close / bar.open - 1.0))
            prices[name] = last
            if k % MISSING_EVERY != i:
                made[name, bar.open_time] = (first, max(first, last), min(first, last), last, 1.0)
        before = bar.close
    return made


@pytest.fixture(scope="module")
def bars(history: BarTable) -> dict[tuple[str, int], tuple[float, ...]]:
    return market(history)


@pytest.fixture(scope="module")
def out(
    bars: dict[tuple[str, int], tuple[float, ...]],
    bundles: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    directory = tmp_path_factory.mktemp("family")
    lines = ["symbol,interval,open_time,open,high,low,close,volume"]
    for (name, at_ms), ohlcv in sorted(bars.items(), key=lambda one: one[0][1]):
        lines.append(",".join(map(repr, (name, "1m", at_ms, *ohlcv))).replace("'", ""))
    (directory / "bars.csv").write_text("\n".join(lines) + "\n")
    given = [word for setting in SETTINGS for word in ("--set", setting)]
    data = directory / "bars.csv"
    run("--data", data, "--bundles", bundles, "--out", directory / "out", *given)
    return directory / "out"


@pytest.fixture(scope="module")
def told(out: Path) -> list[Row]:
    rows = parquet.read_table(out / SIGNALS).column("json").to_pylist()
    return [json.loads(row) for row in rows]


@pytest.fixture(scope="module")
def fills(out: Path) -> list[Row]:
    rows: list[Row] = parquet.read_table(out / "fills.parquet").to_pylist()
    return rows


def wanted(told: list[Row]) -> dict[int, dict[str, float]]:
    """What the base's signals want of each instrument, by the close they were told at."""
    return {
        one["close_time"]: {held["instrument"]: held["target"] for held in one["holdings"]}
        for one in told
        if one["symbol"] == BASE
    }


def test_signals_of_the_base_name_all_instruments_and_hold_one(told: list[Row]) -> None:
    """L51: target over multiple of one instrument; the exposure is the target's."""
    held = set()
    for one in told:
        if one["symbol"] != BASE:
            assert not one.get("holdings")
            continue
        targets = {each["instrument"]: each["target"] for each in one["holdings"]}
        assert list(targets) == list(FAMILY)
        some = [name for name, target in targets.items() if target]
        assert len(some) <= 1
        held.update(some)
        exposure = sum(FAMILY[name] * target for name, target in targets.items())
        assert exposure == pytest.approx(one["target"], rel=1e-12)
    assert held == {*FAMILY}


def test_fills_are_in_the_instruments_at_the_opens_of_their_own_bars(
    told: list[Row], fills: list[Row], bars: dict[tuple[str, int], tuple[float, ...]]
) -> None:
    """L53: an instrument without a bar is not traded; with one, at its open, as last told."""
    wishes = wanted(told)
    assert {fill["symbol"] for fill in fills} == {*FAMILY}
    for fill in fills:
        name, at_ms = fill["symbol"], fill["open_time"]
        assert (name, at_ms) in bars
        assert fill["price"] == bars[name, at_ms][0]
        newest = max(close for close in wishes if close <= at_ms)
        assert fill["target"] == wishes[newest][name]
    filled = {(fill["symbol"], fill["open_time"]) for fill in fills}
    closes = sorted(wishes)
    unpriced = [
        (name, close)
        for before, close in pairwise(closes)
        for name in FAMILY
        if wishes[before][name] != wishes[close][name] and (name, close) not in bars
    ]
    assert len(unpriced) > 10
    assert filled.isdisjoint(unpriced)


def test_the_books_balance_at_every_bar(
    out: Path, told: list[Row], fills: list[Row], bars: dict[tuple[str, int], tuple[float, ...]]
) -> None:
    """L53: equity is what was not spent, and what is held at each instrument's own last close."""
    report = json.loads((out / "report.json").read_bytes())
    worth, capital = report["money"]["worth"], report["account"]["capital"]
    units, last = dict.fromkeys(FAMILY, 0.0), dict.fromkeys(FAMILY, 0.0)
    cash, todo = capital, iter([*fills, {"open_time": 1 << 62}])
    fill = next(todo)
    times = sorted({at_ms for _, at_ms in bars})
    equity = {
        row["open_time"]: row for row in parquet.read_table(out / "equity.parquet").to_pylist()
    }
    assert len(equity) > 1_000
    for at_ms in times:
        while fill["open_time"] == at_ms:
            cash -= fill["notional"] + fill["cost"]
            units[fill["symbol"]] += fill["units"]
            fill = next(todo)
        last |= {name: bars[name, at_ms][3] for name in FAMILY if (name, at_ms) in bars}
        if at_ms in equity:
            held = sum(units[name] * last[name] for name in FAMILY)
            assert equity[at_ms]["equity"] == pytest.approx(cash + held, rel=1e-9)
            assert equity[at_ms]["net"] == pytest.approx(held, abs=1e-6 * capital)
    assert fill["open_time"] == 1 << 62
    assert worth["costs"] == pytest.approx(sum(one["cost"] for one in fills))
    assert abs(worth["imbalance"]) < 1e-9 * capital
    own = sum(one["symbol"] != BASE for one in told)
    assert worth["ignored"] == own > 0
    gains = sum(line["pnl"] for line in report["money"]["lines"])
    assert gains - worth["costs"] == pytest.approx(worth["equity"] - capital, abs=1e-6 * capital)
