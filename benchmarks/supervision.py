"""False alarms and delay of the supervisor, against the seed's rule, ADWIN and Page-Hinkley.

`python -m benchmarks.supervision --seeds 5 --delay-seeds 8 --reach 6000` prints the tables of
docs/supervisor.md.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN, PageHinkley
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.special import ndtr

from benchmarks.measure import machine
from quantum_ai_engine.config import SupervisorSettings
from quantum_ai_engine.supervisor.standing import Baseline, SavedStanding, Standing, State
from quantum_ai_engine.training.scores import blocks, newey_west

Array = NDArray[np.float64]

MARKETS = ("healthy", "heavy-tailed", "GARCH", "regimes")
HORIZON_BARS, INTERVAL_MS = 5, 60_000
EDGE, SIGNAL_MEMORY = 0.109, 0.9  # of one bar's return; gives forecasts with a true sd of 0.08
ERROR_SD, ERROR_MEMORY = 0.06, 0.8  # … and an error of their own: sd 0.1 in all
TOGETHER = 0.4  # correlation of symbols
WILD_TREND = -0.06  # of one bar's noise: 45 % of horizons rise
HELD_OUT_BARS, HISTORY_BARS = 10_000, 6_000
SEED_WINDOW_BARS, CHUNK_BARS = 500, 500
STREAMS = 7  # one agent, seven tests
FAULTS = (
    *[("fresh noise", x) for x in (0.05, 0.2, 0.5)],
    *[("lasting noise", x) for x in (0.05, 0.2, 0.5)],
    *[("overconfident", x) for x in (0.05, 0.2, 0.5)],
    *[("bias", x) for x in (0.02, 0.05)],
)


@dataclass(frozen=True)
class Stream:
    """Forecasts and outcomes of one agent, [bars, symbols]."""

    probability: Array
    rose: Array


def stream(market: str, bars: int, symbols: int, seed: int) -> Stream:
    """A simulated market, forecasts with small skill, and what happened `HORIZON_BARS` later."""
    rng = np.random.default_rng([seed, MARKETS.index(market)])
    n = bars + HORIZON_BARS
    common = noise(market, (n, 1), rng)
    shock = math.sqrt(TOGETHER) * common + math.sqrt(1 - TOGETHER) * noise(
        market, (n, symbols), rng
    )
    strength, volatility, trend = weather(market, n, rng)
    signal = lasting(rng.standard_normal((n, symbols)), SIGNAL_MEMORY)
    move = np.zeros((n, symbols))
    move[1:] = (strength * EDGE * signal + trend)[:-1] + shock[1:]
    price = np.cumsum(scaled(market, move, volatility), axis=0)
    rose = (price[HORIZON_BARS:] > price[:-HORIZON_BARS]).astype(float)
    reach = EDGE * (1 - SIGNAL_MEMORY**HORIZON_BARS) / (1 - SIGNAL_MEMORY) / math.sqrt(HORIZON_BARS)
    error = ERROR_SD * lasting(rng.standard_normal((n, symbols)), ERROR_MEMORY)
    centre = base_rate(market) - 0.5
    probability = np.clip(ndtr(reach * signal) + centre + error, 0.0, 1.0)
    return Stream(probability[:bars], rose[:bars])


def base_rate(market: str) -> float:
    """How often prices rise: half the time in calm regimes and otherwise."""
    fallen = float(ndtr(WILD_TREND * math.sqrt(HORIZON_BARS)))
    return (0.5 + fallen) / 2.0 if market == "regimes" else 0.5


def lasting(shocks: Array, memory: float) -> Array:
    """First-order autoregression with unit variance."""
    out: Array = lfilter([math.sqrt(1 - memory**2)], [1.0, -memory], shocks, axis=0)
    return out


def noise(market: str, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    if market == "heavy-tailed":
        return rng.standard_t(3, shape) / math.sqrt(3)
    if market == "GARCH":
        return rng.standard_t(5, shape) / math.sqrt(5 / 3)
    return rng.standard_normal(shape)


def weather(market: str, n: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Strength of the signal, volatility and trend, bar by bar.

    Regimes last 500 bars in the mean: calm with half, or wild with 1.5 times the usual signal,
    three times the volatility, and a trend downward.
    """
    if market != "regimes":
        return np.ones((n, 1)), np.ones((n, 1)), np.zeros((n, 1))
    is_wild = (np.cumsum(rng.random(n) < 1 / 500) % 2 == 1)[:, None]
    return np.where(is_wild, 1.5, 0.5), np.where(is_wild, 3.0, 1.0), is_wild * WILD_TREND


def scaled(market: str, move: Array, volatility: Array) -> Array:
    """Moves times their volatility; with GARCH(1, 1) it follows from the moves before."""
    if market != "GARCH":
        return move * volatility
    out, variance = np.empty_like(move), np.ones(move.shape[1])
    for t in range(len(move)):
        out[t] = move[t] * np.sqrt(variance)
        variance = 0.02 + 0.1 * out[t] ** 2 + 0.88 * variance
    return out


@cache
def baseline(market: str, symbols: int, seed: int) -> Baseline:
    """As a bundle's manifest has it: measured on a span of its own."""
    s = stream(market, HELD_OUT_BARS, symbols, 1_000_000 + seed)
    at = np.repeat(np.arange(HELD_OUT_BARS) * INTERVAL_MS, symbols)
    residual = (s.probability - s.rose).ravel()
    loss, base_loss = residual**2, ((base_rate(market) - s.rose) ** 2).ravel()
    difference = loss - base_loss
    spread = blocks(at, (loss, residual, difference), HORIZON_BARS - 1)
    return Baseline(
        float(loss.mean()),
        float(base_loss.mean()),
        float(difference.mean()),
        newey_west(difference, at, HORIZON_BARS, INTERVAL_MS),
        float(s.probability.mean()),
        spread.bars,
        spread.count,
        spread.levels,
        spread.paired,
    )


def broken(s: Stream, fault: str, size: float, seed: int) -> Stream:
    """The same stream from an agent whose Brier score is `size` higher, or that is so biased."""
    if fault == "bias":
        return Stream(np.clip(s.probability + size, 0.0, 1.0), s.rose)
    rng = np.random.default_rng([seed, 77])
    fresh = rng.standard_normal(s.probability.shape)
    memory = ERROR_MEMORY if fault == "lasting noise" else 0.0
    wrong = (
        s.probability - s.probability.mean() if fault == "overconfident" else lasting(fresh, memory)
    )

    def at(strength: float) -> Array:
        return np.clip(s.probability + strength * wrong, 0.0, 1.0)

    def beyond(strength: float) -> float:
        return float(((at(strength) - s.rose) ** 2).mean() - (1.0 + size) * before)

    before = float(((s.probability - s.rose) ** 2).mean())
    return Stream(at(brentq(beyond, 0.0, 20.0)), s.rose)


class Supervisor:
    """Ours, at the level of WATCH or of DRIFT."""

    def __init__(self, held_out: Baseline, base_rate: float) -> None:
        self._base_rate = base_rate
        self.standing = Standing(
            held_out, SupervisorSettings(), horizon_bars=HORIZON_BARS, streams=STREAMS
        )
        self.state = State.WARMUP
        self._tested = 0

    def update(self, slot: int, probability: Array, rose: Array) -> None:
        self.standing.update(slot * INTERVAL_MS, slot, probability, rose, self._base_rate)
        if self.standing.tested != self._tested:
            self._tested, self.state = self.standing.tested, self.standing.get().state

    def restore(self, saved: SavedStanding) -> None:
        self.standing.restore(saved)
        self._tested, self.state = self.standing.tested, self.standing.get().state

    @property
    def level(self) -> int:
        """0 fine, 1 WATCH, 2 DRIFT, 3 QUARANTINED."""
        return max(list(State).index(self.state) - 1, 0)


def seed_alarms(s: Stream, held_out: Baseline) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The seed's rules on a window: the MSE is above 1.05 of its baseline; |bias| above 0.01."""
    residual = (s.probability - s.rose).mean(axis=1)
    loss = ((s.probability - s.rose) ** 2).mean(axis=1)
    ones = np.ones(SEED_WINDOW_BARS) / SEED_WINDOW_BARS
    mse, bias = (lfilter(ones, 1.0, x) for x in (loss, residual))
    is_full = np.arange(len(loss)) >= SEED_WINDOW_BARS
    return is_full & (mse > 1.05 * held_out.brier), is_full & (np.abs(bias) > 0.01)


def river_alarms(make: Callable[[], ADWIN | PageHinkley], s: Stream) -> NDArray[np.bool_]:
    """Where a detector of river with its defaults alarms; it begins anew by itself."""
    detector, out = make(), np.zeros(len(s.rose), dtype=bool)
    for t, loss in enumerate(((s.probability - s.rose) ** 2).mean(axis=1).tolist()):
        detector.update(loss)
        out[t] = detector.drift_detected
    return out


def others(s: Stream, held_out: Baseline) -> dict[str, NDArray[np.bool_]]:
    mse, bias = seed_alarms(s, held_out)
    return {
        "seed: MSE": mse,
        "seed: bias": bias,
        "ADWIN": river_alarms(ADWIN, s),
        "Page-Hinkley": river_alarms(PageHinkley, s),
    }


def levels(supervisor: Supervisor, s: Stream, first_slot: int) -> Iterator[int]:
    for t in range(len(s.rose)):
        supervisor.update(first_slot + t, s.probability[t], s.rose[t])
        yield supervisor.level


def begun(is_on: NDArray[np.bool_]) -> int:
    """How often something went from off to on."""
    return int(np.count_nonzero(is_on[1:] & ~is_on[:-1])) + int(is_on[0])


def false_alarms(market: str, options: argparse.Namespace) -> dict[str, float]:
    """Alarms per 100,000 bars of a market where nothing is wrong."""
    counts: dict[str, int] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        s = stream(market, options.bars, options.symbols, seed)
        held_out = baseline(market, options.symbols, seed)
        ours = np.array(list(levels(Supervisor(held_out, base_rate(market)), s, 0)))
        found = {"WATCH": ours >= 1, "DRIFT": ours >= 2} | others(s, held_out)
        for name, is_on in found.items():
            counts[name] = counts.get(name, 0) + begun(is_on)
    return {name: 1e5 * n / (options.bars * options.seeds) for name, n in counts.items()}


def delays(
    market: str, options: argparse.Namespace
) -> dict[tuple[str, float], dict[str, list[float]]]:
    """Bars from a fault to the first alarm after it, fault by fault; inf where there is none."""
    found: dict[tuple[str, float], dict[str, list[float]]] = {fault: {} for fault in FAULTS}
    for seed in range(options.first_seed, options.first_seed + options.delay_seeds):
        s = stream(market, HISTORY_BARS + options.reach, options.symbols, 500_000 + seed)
        before = Stream(s.probability[:HISTORY_BARS], s.rose[:HISTORY_BARS])
        after = Stream(s.probability[HISTORY_BARS:], s.rose[HISTORY_BARS:])
        held_out = baseline(market, options.symbols, seed)
        healthy = Supervisor(held_out, base_rate(market))
        for _ in levels(healthy, before, 0):
            pass
        saved = healthy.standing.saved()
        for fault, size in FAULTS:
            bad = broken(after, fault, size, seed)
            supervisor = Supervisor(held_out, base_rate(market))
            supervisor.restore(saved)
            for name, bars in delay(supervisor, before, bad, held_out).items():
                found[fault, size].setdefault(name, []).append(bars)
    return found


def delay(
    supervisor: Supervisor, before: Stream, bad: Stream, held_out: Baseline
) -> dict[str, float]:
    watch = drift = math.inf
    for t, level in enumerate(levels(supervisor, bad, HISTORY_BARS), start=1):
        watch = min(watch, t) if level >= 1 else watch
        if level >= 2:
            drift = t
            break
    joined = zip((before.probability, before.rose), (bad.probability, bad.rose), strict=True)
    whole = Stream(*(np.concatenate(parts) for parts in joined))
    rest = {name: first_of(on[HISTORY_BARS:]) for name, on in others(whole, held_out).items()}
    made = {"WATCH": watch, "DRIFT": drift} | rest
    return {name: bars + HORIZON_BARS for name, bars in made.items()}  # outcomes come so late


def first_of(is_on: NDArray[np.bool_]) -> float:
    return float(np.argmax(is_on) + 1) if is_on.any() else math.inf


def show(x: float) -> str:
    return "none" if math.isinf(x) else f"{x:,.0f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bars", type=int, default=100_000, help="of each stream without a fault")
    parser.add_argument("--seeds", type=int, default=10, help="streams without a fault")
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--symbols", type=int, default=1)
    parser.add_argument("--delay-seeds", type=int, default=20, help="streams with each fault")
    parser.add_argument("--reach", type=int, default=20_000, help="bars after the fault")
    parser.add_argument("--markets", nargs="+", choices=MARKETS, default=list(MARKETS))
    options = parser.parse_args()
    print(f"{machine()}; {options.symbols} symbol(s)\n")
    quiet = {market: false_alarms(market, options) for market in options.markets}
    names = list(next(iter(quiet.values())))
    print(
        table(
            ["false alarms per 100,000 bars", *names],
            [[market, *(f"{row[name]:.1f}" for name in names)] for market, row in quiet.items()],
        )
    )
    for market in options.markets:
        found = delays(market, options)
        print(f"\n{market}: median bars to the alarm\n")
        print(
            table(
                ["fault", *names],
                [
                    [
                        f"{fault} {size:+.0%}" if fault != "bias" else f"bias {size}",
                        *(show(float(np.median(found[fault, size][name]))) for name in names),
                    ]
                    for fault, size in FAULTS
                ],
            )
        )


if __name__ == "__main__":
    main()
