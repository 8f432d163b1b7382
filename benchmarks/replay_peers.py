"""Peers at one task: signals from ready-made predictions, fills at the next open, costs, a report.

`python replay_peers.py LIBRARY FILE.parquet` in an environment that has the library; it needs
nothing of the engine (nautilus_trader==1.221.0, backtesting==0.6.6, vectorbt==1.0.0 with plotly<6).
The file has symbol, time (ms), open, high, low, close, volume, probability.

A symbol is held with a twentieth of the equity, long from 0.6 on and short up to 0.4; 10 bps of
what is traded are paid.
"""

import json
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

LONG, SHORT, SHARE, COST_FRAC, CASH = 0.6, 0.4, 0.05, 0.001, 1_000_000.0


def side(probability: Any) -> Any:
    return np.where(probability >= LONG, 1.0, np.where(probability <= SHORT, -1.0, 0.0))


def backtesting(data: pd.DataFrame) -> float:
    """One symbol after the other, since it knows no portfolio; the sum of what they earned."""
    from backtesting import Backtest, Strategy

    class Predicted(Strategy):  # type: ignore[misc]
        def init(self) -> None: ...

        def next(self) -> None:
            wanted = float(self.data.Side[-1])
            now = np.sign(self.position.size) if self.position else 0.0
            if wanted == now:
                return
            self.position.close()
            if wanted > 0:
                self.buy(size=SHARE)
            elif wanted < 0:
                self.sell(size=SHARE)

    earned = 0.0
    for _, one in data.groupby("symbol"):
        frame = one.set_index(pd.to_datetime(one["time"], unit="ms"))
        frame = frame.rename(columns=str.capitalize).assign(Side=side(frame["probability"]))
        # Whole units are traded: prices far below 1 would give none of a large cash otherwise.
        stats = Backtest(frame, Predicted, cash=CASH, commission=COST_FRAC).run()
        earned += stats["Equity Final [$]"] - CASH
    return earned


def vectorbt(data: pd.DataFrame) -> float:
    """All symbols as columns of one array, in one group with one purse."""
    import vectorbt as vbt

    table = {
        name: data.pivot_table(index="time", columns="symbol", values=name).ffill().bfill()
        for name in ("open", "close", "probability")
    }
    wanted = side(table["probability"]) * SHARE
    before = np.vstack([np.zeros(wanted.shape[1]), wanted[:-1]])
    size = np.where(np.diff(before, axis=0, prepend=0.0) != 0.0, before, np.nan)
    book = vbt.Portfolio.from_orders(
        table["close"],
        size=size,
        size_type="targetpercent",
        price=table["open"],
        fees=COST_FRAC,
        init_cash=CASH,
        cash_sharing=True,
        group_by=True,
        call_seq="auto",
        freq="5min",
    )
    book.stats()
    return float(book.final_value()) - CASH


def nautilus(data: pd.DataFrame) -> float:
    """Its event-driven engine, a market order for each change."""
    from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
    from nautilus_trader.config import LoggingConfig
    from nautilus_trader.model import BarType, Money, TraderId, Venue
    from nautilus_trader.model.currencies import USDT
    from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
    from nautilus_trader.persistence.wranglers import BarDataWrangler
    from nautilus_trader.trading.strategy import Strategy

    engine = BacktestEngine(
        BacktestEngineConfig(
            trader_id=TraderId("BENCH-001"), logging=LoggingConfig(bypass_logging=True)
        )
    )
    venue = Venue("SIM")
    engine.add_venue(
        venue,
        OmsType.NETTING,
        AccountType.MARGIN,
        [Money(CASH, USDT)],
        default_leverage=Decimal(10),
    )

    class Predicted(Strategy):  # type: ignore[misc]
        def __init__(self, instrument: Any, kind: Any, sides: dict[int, float]) -> None:
            super().__init__()
            self.instrument, self.kind, self.sides, self.held = instrument, kind, sides, 0.0

        def on_start(self) -> None:
            self.subscribe_bars(self.kind)

        def on_bar(self, bar: Any) -> None:
            wanted = self.sides[bar.ts_event]
            if wanted == self.held:
                return
            price = float(bar.close)
            units = SHARE * CASH / price * (wanted - self.held)
            order = self.order_factory.market(
                self.instrument.id,
                OrderSide.BUY if units > 0 else OrderSide.SELL,
                self.instrument.make_qty(abs(units)),
            )
            self.submit_order(order)
            self.held = wanted

    for symbol, one in data.groupby("symbol"):
        instrument = _perpetual(symbol, venue)
        engine.add_instrument(instrument)
        kind = BarType.from_str(f"{instrument.id}-5-MINUTE-LAST-EXTERNAL")
        frame = one.set_index(pd.to_datetime(one["time"] + 300_000, unit="ms", utc=True))
        frame.index.name = "timestamp"
        bars = BarDataWrangler(kind, instrument).process(
            frame[["open", "high", "low", "close", "volume"]]
        )
        engine.add_data(bars)
        sides = dict(zip((bar.ts_event for bar in bars), side(one["probability"]), strict=True))
        engine.add_strategy(Predicted(instrument, kind, sides))
    engine.run()
    engine.trader.generate_account_report(venue)
    result = engine.get_result()
    return float(result.stats_pnls["USDT"]["PnL (total)"])


def _perpetual(symbol: str, venue: Any) -> Any:
    from nautilus_trader.model import InstrumentId, Price, Quantity, Symbol
    from nautilus_trader.model.currencies import BTC, USDT
    from nautilus_trader.model.instruments import CryptoPerpetual

    return CryptoPerpetual(
        instrument_id=InstrumentId(Symbol(symbol), venue),
        raw_symbol=Symbol(symbol),
        base_currency=BTC,
        quote_currency=USDT,
        settlement_currency=USDT,
        is_inverse=False,
        price_precision=9,
        price_increment=Price(1e-9, 9),
        size_precision=2,
        size_increment=Quantity(0.01, 2),
        margin_init=Decimal("0.05"),
        margin_maint=Decimal("0.02"),
        maker_fee=Decimal(str(COST_FRAC)),
        taker_fee=Decimal(str(COST_FRAC)),
        ts_event=0,
        ts_init=0,
    )


PEERS: dict[str, Callable[[pd.DataFrame], float]] = {
    "backtesting": backtesting,
    "vectorbt": vectorbt,
    "nautilus": nautilus,
}


def main(name: str, path: str) -> None:
    data = pd.read_parquet(path)
    few = data[data["time"] < data["time"].quantile(0.1)]
    PEERS[name](few)  # what is compiled or imported at first use is no part of it
    began = time.perf_counter(), time.process_time()
    earned = PEERS[name](data)
    wall_s, cpu_s = time.perf_counter() - began[0], time.process_time() - began[1]
    told = {"bars": len(data), "wall_s": wall_s, "cpu_s": cpu_s, "earned_frac": earned / CASH}
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:3])
