"""Whether money is counted right: an oracle earns what it should, and shuffled outcomes nothing.

Both go the whole way of a signal: engine, decision, and the account, which fills at the next open.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import Past
from quantum_ai_engine.config import BREAKERS, Settings
from quantum_ai_engine.engine import Engine, Identity
from quantum_ai_engine.events import Bar, Signal
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.replay.account import Account
from quantum_ai_engine.replay.honesty import Finding
from quantum_ai_engine.replay.inline import Inline
from quantum_ai_engine.replay.probe import Make, key_of, rows_of, signals_of, steps_of
from quantum_ai_engine.replay.published import Key

MOST_SIGMAS = 4.0  # beyond: one in 16,000 honest checks
COST_SLACK = 0.1  # of the costs: what is traded only to keep a target as prices move
CLAIMED = 0.25  # how far from ½ an oracle's answers are, whatever its accuracy
SHUFFLES = 5
_UNTRIED = 1_000_000  # outcomes: more than any check has

Floats = NDArray[np.float64]


def tradable(settings: Settings) -> Settings:
    """The same settings, but every opinion is traded: what is checked is the path, not its gates.

    Thresholds are next to ½, no breaker is on, trust stays where it began, and no limit makes a
    target hang on the ones before it or beside it.
    """
    off = tuple(f"{name} {b.trip} {b.clear} {b.dwell_ms} off" for name, b in BREAKERS.items())
    risk = msgspec.structs.replace(
        settings.risk,
        long_threshold=0.505,
        short_threshold=0.495,
        exit_hysteresis=0.0,
        add_hysteresis=0.0,
        dead_band=0.0,
        change_per_bar=1.0,
        net_cap=100.0,
        group_cap=100.0,
        breakers=off,
    )
    trust = msgspec.structs.replace(settings.trust, min_outcomes=_UNTRIED)
    engine = msgspec.structs.replace(settings.engine, clock="bars")
    return msgspec.structs.replace(settings, risk=risk, trust=trust, engine=engine)


class Oracle:
    """An agent that knows the next close of every bar, and tells the truth with some probability.

    It knows a bar by its row. What it tells of a bar is the same whenever it is asked: a draw by
    the seed and the bar's own name. It claims the same confidence whether it lies or not.
    """

    name, bundle, horizon_bars = "oracle", "0" * 12, 1
    feature_set = SETS["sigor10"]
    past = Past()
    unavailable: str | None = None
    clamped = 0

    def __init__(self, interval: str) -> None:
        self.interval = interval
        self._answers: dict[bytes, float] = {}

    def warm_up(self) -> None:
        """There is nothing to warm up."""

    def learn(self, rows: Mapping[Key, Floats], answers: Mapping[Key, float]) -> None:
        """Take what to answer of which bar; rows [columns] are the kernel's."""
        for key, answer in answers.items():
            row = rows[key][self.feature_set.indices]
            self._answers.setdefault(row.tobytes(), answer)

    def predict(self, windows: Floats) -> Floats:
        return np.array([self._answers.get(window[-1].tobytes(), 0.5) for window in windows])


class Outcome(NamedTuple):
    """What followed a bar: the sign of the next move of the close, and the return of one who buys
    at the next open and sells at the one after, both 0 where the record ends.
    """

    sign: float
    next_frac: float
    next_open_ms: int


def outcomes(bars: Sequence[Bar]) -> dict[Key, Outcome]:
    """What followed each bar that has a next one of its series."""
    series: dict[tuple[str, str], list[Bar]] = {}
    for bar in bars:
        series.setdefault((bar.symbol, bar.interval), []).append(bar)
    found = {}
    for own in series.values():
        for i, (bar, after) in enumerate(pairwise(own)):
            sold = own[i + 2].open if i + 2 < len(own) else after.close
            sign = math.copysign(1.0, after.close - bar.close) if after.close != bar.close else 0.0
            found[key_of(bar)] = Outcome(sign, sold / after.open - 1.0, after.open_time)
    return found


def lucky(seed: int, key: Key, chance: float) -> bool:
    """A draw that is the same for a bar whenever it is made.

    >>> lucky(1, ("BTCUSDT", "1m", 60_000), 1.0), lucky(1, ("BTCUSDT", "1m", 60_000), 0.0)
    (True, False)
    """
    drawn = blake2b(f"{seed}|{'|'.join(map(str, key))}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn) < chance * 2.0**64


class Earned(NamedTuple):
    """What an account made of signals, in fractions of its equity, summed over the bars."""

    gross: float
    costs: float
    bars: int
    trades: int


Open: TypeAlias = Callable[[Settings], Account]


def open_account(settings: Settings) -> Account:
    """The account of every replay."""
    return Account(settings.replay, settings.risk.families())


def earned(account: Account, bars: Sequence[Bar], signals: Sequence[Signal]) -> Earned:
    """Let an account follow the signals. Raises ArithmeticError when its books do not balance."""
    gross = costs = 0.0
    count = trades = 0
    for step in steps_of(bars, signals):
        account.take(step)
        mark = account.get()
        if mark is None or mark.before <= 0.0:
            continue
        gross += (mark.equity - mark.before + mark.cost + mark.borrow) / mark.before
        costs += mark.cost / mark.before
        count, trades = count + 1, trades + len(mark.fills)
    account.check()
    return Earned(gross, costs, count, trades)


async def cheat(
    settings: Settings,
    identity: Identity,
    bars: Sequence[Bar],
    accuracy: float,
    *,
    seed: int = 0,
    account: Open = open_account,
) -> Finding:
    """Whether an oracle of known accuracy earns what it should, all the way to the account.

    Its direction is right with probability p, drawn for each bar alone. So, with the exposures that
    were told, it earns (2p − 1) · Σ |target| · sign · return before costs, give or take the spread
    of the draws. At p = ½ that is nothing: it loses its costs, which are those of its turnover.
    """
    settings = tradable(settings)
    calendars = Calendars(settings.sessions.by_symbol())
    after = outcomes(bars)
    oracle = Oracle(bars[0].interval)
    answers = {key: _answer(key, one, accuracy, seed) for key, one in after.items()}
    oracle.learn(rows_of(Engine(settings, Inline([oracle]), identity, calendars), bars), answers)
    engine = Engine(settings, Inline([oracle]), identity, calendars)
    signals = await signals_of(engine, bars)
    money = earned(account(settings), bars, signals)
    edge = 2.0 * accuracy - 1.0
    should = squares = turnover = 0.0
    held: dict[str, float] = {}
    for signal in signals:
        one = _followed(signal, after)
        if one is not None:
            gain = abs(signal.target) * one.next_frac
            should += edge * one.sign * gain
            squares += gain * gain
            turnover += abs(signal.target - held.get(signal.symbol, 0.0))
            held[signal.symbol] = signal.target
    error = math.sqrt(squares * (1.0 - edge * edge))
    cost_frac = (settings.replay.fee_bps + settings.replay.slippage_bps) / 10_000.0
    return _cheated(accuracy, money, Due(should, error, cost_frac * turnover))


def _answer(key: Key, one: Outcome, accuracy: float, seed: int) -> float:
    """The truth or the lie; where nothing moved, either."""
    if one.sign == 0.0:
        return 0.5 + (CLAIMED if lucky(seed, key, 0.5) else -CLAIMED)
    told = one.sign if lucky(seed, key, accuracy) else -one.sign
    return 0.5 + CLAIMED * told


def _followed(signal: Signal, after: Mapping[Key, Outcome]) -> Outcome | None:
    """What followed a signal that could be filled; None where it had expired by the next open."""
    one = after.get((signal.symbol, signal.interval, signal.close_time))
    return one if one is not None and one.next_open_ms < signal.valid_until else None


class Due(NamedTuple):
    """What should be earned before costs with its standard error, and paid, as fractions."""

    gross: float
    error: float
    costs: float


def _cheated(accuracy: float, money: Earned, due: Due) -> Finding:
    net, should, error = money.gross - money.costs, due.gross, due.error
    sigmas = (money.gross - should) / error if error else 0.0
    numbers = {
        "accuracy": accuracy,
        "bars": money.bars,
        "fills": money.trades,
        "gross": money.gross,
        "should": should,
        "error": error,
        "sigmas": sigmas,
        "costs": money.costs,
        "costs_due": due.costs,
        "net": net,
    }
    if not money.trades:
        return Finding("cheat", False, "An oracle traded nothing: give more bars.", numbers)
    is_paid = abs(money.costs - due.costs) <= COST_SLACK * due.costs
    passed = abs(sigmas) <= MOST_SIGMAS and is_paid
    said = (
        f"An oracle that is right with p = {accuracy:g} earned {money.gross:+.4f} of its equity "
        f"before costs on {money.bars} bars and should have earned {should:+.4f} ± {error:.4f} "
        f"({sigmas:+.1f} standard errors); after costs of {money.costs:.4f}, by its "
        f"turnover {due.costs:.4f}, that is {net:+.4f}"
    )
    return Finding(
        "cheat", passed, f"{said}." if passed else f"{said}: money is not counted right.", numbers
    )


async def shuffle(
    make: Make,
    settings: Settings,
    bars: Sequence[Bar],
    *,
    shuffles: int = SHUFFLES,
    seed: int = 0,
    account: Open = open_account,
) -> Finding:
    """Whether anything is earned where there is nothing to be known.

    The moves of each symbol are put in random order, and agents, engine and account take the bars
    that come of it. Before costs targets then earn what their mean exposure earns by the drift of
    the whole record, give or take the spread of the moves. `make` gives engines of `tradable`
    settings.
    """
    settings, chance = tradable(settings), np.random.default_rng(seed)
    total, squares, costs, fills = 0.0, 0.0, 0.0, 0
    for _ in range(shuffles):
        other = shuffled(bars, chance)
        signals = await signals_of(make(other), other)
        money = earned(account(settings), other, signals)
        after = outcomes(other)
        drifts = _drifts(after)
        total += money.gross
        costs, fills = costs + money.costs, fills + money.trades
        for signal in signals:
            if (one := _followed(signal, after)) is None:
                continue
            drift = drifts[signal.symbol, signal.interval]
            total -= signal.target * drift
            squares += (signal.target * (one.next_frac - drift)) ** 2
    return _nothing(shuffles, Earned(total, costs, len(bars), fills), math.sqrt(squares))


def _nothing(shuffles: int, money: Earned, error: float) -> Finding:
    """Whether what was earned beyond drift is nothing."""
    sigmas = money.gross / error if error else 0.0
    numbers = {
        "shuffles": shuffles,
        "fills": money.trades,
        "earned": money.gross,
        "error": error,
        "sigmas": sigmas,
        "costs": money.costs,
    }
    if not money.trades:
        return Finding("shuffle", False, "Nothing was traded: give more bars.", numbers)
    passed = abs(sigmas) <= MOST_SIGMAS
    why = "nothing, as it must be" if passed else "something knows what is to come"
    said = (
        f"On {shuffles} shuffles of the moves the agents earned {money.gross:+.4f} ± {error:.4f} "
        f"of equity before costs and beyond drift ({sigmas:+.1f} standard errors), with "
        f"{money.trades} fills: {why}."
    )
    return Finding("shuffle", passed, said, numbers)


def _drifts(after: Mapping[Key, Outcome]) -> dict[tuple[str, str], float]:
    """The mean return from open to open of each series."""
    moves: dict[tuple[str, str], list[float]] = {}
    for (symbol, interval, _), one in after.items():
        moves.setdefault((symbol, interval), []).append(one.next_frac)
    return {series: math.fsum(own) / len(own) for series, own in moves.items()}


def shuffled(bars: Sequence[Bar], chance: np.random.Generator) -> list[Bar]:
    """The same times, with the moves of each series in random order, and each bar's shape with it.

    >>> bars = [Bar("A", "1m", 60_000 * i, 9.0, 11.0, 8.0, 10.0, 1.0) for i in range(3)]
    >>> [bar.open_time for bar in shuffled(bars, np.random.default_rng(1))]
    [0, 60000, 120000]
    """
    made: list[Bar] = [*bars]
    series: dict[tuple[str, str], list[int]] = {}
    for place, bar in enumerate(bars):
        series.setdefault((bar.symbol, bar.interval), []).append(place)
    for places in series.values():
        # The first bar stays: it moved from nowhere.
        order = [0, *(1 + chance.permutation(len(places) - 1)).tolist()]
        close = bars[places[0]].open
        for place, source in zip(places, order, strict=True):
            before = bars[places[source - 1]].close if source else bars[places[0]].open
            made[place] = _scaled(bars[places[source]], close / before, bars[place].open_time)
            close = made[place].close
    return made


def _scaled(bar: Bar, factor: float, open_time: int) -> Bar:
    return msgspec.structs.replace(
        bar,
        open_time=open_time,
        open=bar.open * factor,
        high=bar.high * factor,
        low=bar.low * factor,
        close=bar.close * factor,
        revision=0,
    )
