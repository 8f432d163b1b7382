"""Four agents, one of them broken half-way: trust beside other ways to weigh them.

`python -m benchmarks.trust` writes the tables of docs/trust.md and draws docs/trust.svg.
"""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import machine, measure
from quantum_ai_engine.config import TrustSettings
from quantum_ai_engine.supervisor.trust import Expert, Trust

PAGE = Path(__file__).parents[1] / "docs" / "trust.md"
PLOT = PAGE.with_suffix(".svg")
SEEDS = range(1, 6)
MOMENTS, SYMBOLS, DELAY = 12_000, 10, 5
HALF, AFTER = MOMENTS // 2, 1_000
SIGNAL = 0.4  # standard deviation of the true log-odds
NOISE = (0.3, 0.5, 0.8, 1.2)  # of what each agent sees of it
BREAKS = {
    "never": "none breaks",
    "quiet": "noise of the same spread",
    "flipped": "its opinion reversed",
    "loud": "log-odds of ±3 by chance",
}
WINDOW = 1_000
MEMORIES = (500, 2_000, 20_000)
SPREADS, HELD, SHOWN_AT = (0.05, 0.2), (1, 15), (0, 500, 1_000, 2_000, 6_000, MOMENTS - 1)
RUNS, ROWS = 9, (1, 1_000)

Array = NDArray[np.float64]


class Simulated(NamedTuple):
    """Log-odds [T, S, A] of agents and outcomes [T, S]."""

    log_odds: Array
    rose: Array


class Run(NamedTuple):
    """Weights of agents [T, A], and of the base rate [T]."""

    trust: Array
    base: Array


def simulate(seed: int, broken: str) -> Simulated:
    """Calibrated agents that see the truth through noise; the best one breaks half-way."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.0, SIGNAL, (MOMENTS, SYMBOLS))
    rose = (rng.random((MOMENTS, SYMBOLS)) < logistic(truth)).astype(np.float64)
    noise = np.array(NOISE)
    kept = SIGNAL**2 / (SIGNAL**2 + noise**2)
    seen = truth[..., np.newaxis] + noise * rng.normal(size=(MOMENTS, SYMBOLS, len(NOISE)))
    log_odds = kept * seen
    first = log_odds[HALF:, :, 0]
    other = rng.normal(size=first.shape)
    log_odds[HALF:, :, 0] = {
        "never": first,
        "quiet": other * SIGNAL * np.sqrt(kept[0]),
        "flipped": -first,
        "loud": 3.0 * np.sign(other),
    }[broken]
    return Simulated(log_odds, rose)


def logistic(log_odds: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-log_odds)))


def brier(simulated: Simulated, trust: Array) -> Array:
    """Of the forecast, pooled in log-odds as the engine's is: the mean [T] over symbols."""
    pooled = (simulated.log_odds * trust[:, np.newaxis, :]).sum(axis=2)
    return np.asarray(((logistic(pooled) - simulated.rose) ** 2).mean(axis=1))


@cache
def trusted(seed: int, broken: str, memory: int) -> Run:
    return hedged(simulate(seed, broken), TrustSettings(memory_outcomes=memory))


def hedged(simulated: Simulated, settings: TrustSettings) -> Run:
    """Trust as the engine uses it: outcomes settle late, against the weights of their time."""
    agents = simulated.log_odds.shape[2]
    losses = (logistic(simulated.log_odds) - simulated.rose[..., np.newaxis]) ** 2
    losses = np.concatenate((losses, np.full((MOMENTS, SYMBOLS, 1), 0.25)), axis=2)
    trust = Trust([Expert(str(i), "", 1.0) for i in range(agents)], settings)
    everyone, nobody = np.ones(agents, dtype=bool), np.zeros(agents, dtype=bool)
    decided, run = [], Run(np.empty((MOMENTS, agents)), np.empty(MOMENTS))
    for t in range(MOMENTS):
        if t >= DELAY:
            rows = np.broadcast_to(decided[t - DELAY], (SYMBOLS, agents + 1))
            trust.update(losses[t - DELAY], rows)
        shares = trust.shares(everyone, nobody)
        run.trust[t], run.base[t] = shares.trust, shares.base
        decided.append(shares.weights)
    return run


def inverse_mse(simulated: Simulated, window: int) -> Array:
    """Weights [T, A] of 1 / mean Brier over the last `window` moments that have settled."""
    losses = (logistic(simulated.log_odds) - simulated.rose[..., np.newaxis]) ** 2
    sums = np.cumsum(np.vstack((np.zeros(losses.shape[2]), losses.mean(axis=1))), axis=0)
    end = np.maximum(np.arange(MOMENTS) - DELAY + 1, 0)
    start = np.maximum(end - window, 0)
    means = (sums[end] - sums[start]) / np.maximum(end - start, 1)[:, np.newaxis]
    means[end == 0] = 1.0
    return np.asarray((1.0 / means) / (1.0 / means).sum(axis=1, keepdims=True))


def losses_of_all(seed: int, broken: str) -> dict[str, Array]:
    """Brier [T] of each way to weigh."""
    simulated = simulate(seed, broken)
    agents = simulated.log_odds.shape[2]
    alone = [brier(simulated, np.tile(row, (MOMENTS, 1))) for row in np.eye(agents)]
    return {
        "trust": brier(simulated, trusted(seed, broken, TrustSettings().memory_outcomes).trust),
        "equal weights": brier(simulated, np.full((MOMENTS, agents), 1.0 / agents)),
        "inverse MSE, running": brier(simulated, inverse_mse(simulated, MOMENTS)),
        f"inverse MSE, {WINDOW:,} moments": brier(simulated, inverse_mse(simulated, WINDOW)),
        "best single agent in hindsight": min(alone, key=lambda x: float(x.mean())),
        "base rate": np.full(MOMENTS, 0.25),
    }


SPANS = {
    "whole run": slice(None),
    "first half": slice(0, HALF),
    f"{AFTER:,} moments after the break": slice(HALF, HALF + AFTER),
    "second half": slice(HALF, None),
}


def scores(broken: str) -> dict[str, list[str]]:
    """Way → mean ± standard error over seeds, by span, in 10⁻⁴ below the base rate."""
    runs = [losses_of_all(seed, broken) for seed in SEEDS]
    return {
        way: [
            shown(np.array([1e4 * (0.25 - run[way][span].mean()) for run in runs]))
            for span in SPANS.values()
        ]
        for way in runs[0]
        if way != "base rate"
    }


def shown(values: Array) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1) / np.sqrt(len(values)):.1f}"


def accuracy() -> list[str]:
    lines = [
        f"| the best agent becomes | weights | {' | '.join(SPANS)} |",
        "|---|---|" + "---|" * 4,
    ]
    for broken, words in BREAKS.items():
        for way, row in scores(broken).items():
            lines.append(f"| {words} | {way} | {' | '.join(row)} |")
    return lines


def memories() -> list[str]:
    lines = [
        f"| `memory_outcomes` | {' | '.join(BREAKS.values())} |",
        "|---|" + "---|" * len(BREAKS),
    ]
    for memory in MEMORIES:
        row = []
        for broken in BREAKS:
            runs = [(simulate(s, broken), trusted(s, broken, memory)) for s in SEEDS]
            gains = [0.25 - brier(simulated, run.trust).mean() for simulated, run in runs]
            row.append(shown(1e4 * np.array(gains)))
        lines.append(f"| {memory:,} | {' | '.join(row)} |")
    return lines


def without_skill(seed: int, spread: float, held: int) -> Simulated:
    """Agents that know nothing; outcomes and opinions last for `held` moments."""
    rng = np.random.default_rng(seed)
    times = -(-MOMENTS // held)
    rose = (rng.random((times, SYMBOLS)) < 0.5).astype(np.float64)
    log_odds = spread * rng.normal(size=(times, SYMBOLS, len(NOISE)))
    return Simulated(*(np.repeat(x, held, axis=0)[:MOMENTS] for x in (log_odds, rose)))


def noise() -> list[str]:
    lines = [
        f"| spread | lasts | {' | '.join(f'{t:,}' for t in SHOWN_AT)} |",
        "|---|---|" + "---|" * len(SHOWN_AT),
    ]
    for spread in SPREADS:
        for held in HELD:
            runs = [hedged(without_skill(s, spread, held), TrustSettings()) for s in SEEDS]
            base = np.array([run.base[list(SHOWN_AT)] for run in runs])
            row = [f"{x.mean():.2f} ({x.min():.2f}–{x.max():.2f})" for x in base.T]
            lines.append(f"| {spread:g} | {held} | {' | '.join(row)} |")
    return lines


def cost() -> list[str]:
    lines = ["| 9 experts, predictions that settle | `update` | `shares` |", "|---|---|---|"]
    rng = np.random.default_rng(SEEDS[0])
    agents, calls = 8, 200
    flags = np.ones(agents, dtype=bool)
    for rows in ROWS:
        trust = Trust([Expert(str(i), "", 1.0) for i in range(agents)], TrustSettings())
        losses = rng.random((rows, agents + 1)) / 4.0
        weights = np.tile(trust.shares(flags, ~flags).weights, (rows, 1))

        def update(trust: Trust = trust, losses: Array = losses, weights: Array = weights) -> None:
            for _ in range(calls):
                trust.update(losses, weights)

        def ask(trust: Trust = trust) -> None:
            for _ in range(calls):
                trust.shares(flags, ~flags)

        took = [measure(work, calls, RUNS).show("µs") for work in (update, ask)]
        lines.append(f"| {rows:,} | {' | '.join(took)} |")
    return lines


def draw() -> None:
    """Trust over time, of the first seed, for each way to break."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "trust"
    from matplotlib.figure import Figure

    colours = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")  # Okabe and Ito 2008
    styles = ("-", "--", "-.", ":")
    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for panel, (broken, words) in zip(axes.flat, BREAKS.items(), strict=True):
        run = trusted(SEEDS[0], broken, TrustSettings().memory_outcomes)
        for i, (colour, style) in enumerate(zip(colours, styles, strict=True)):
            label = f"agent {i + 1}" + (" (the one that breaks)" if i == 0 else "")
            panel.plot(run.trust[::20, i], style, color=colour, label=label, lw=1.6)
        panel.plot(run.base[::20], color="#1b2129", lw=1.0, label="base rate's share")
        if broken != "never":
            panel.axvline(HALF / 20, color="#999999", lw=1.0, ls=":")
        panel.set_title(words, loc="left", size=10)
        panel.set_xticks(range(0, MOMENTS // 20 + 1, 100))
        panel.set_xticklabels([f"{20 * x:,}" for x in range(0, MOMENTS // 20 + 1, 100)])
        panel.set_ylim(0.0, 0.7)
    for panel in axes[1]:
        panel.set_xlabel("moments")
    for panel in axes[:, 0]:
        panel.set_ylabel("trust")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(PLOT, metadata={"Date": None})


def write(name: str, lines: list[str]) -> None:
    """Put lines between their marks in the page."""
    text = PAGE.read_text(encoding="utf-8")
    marks = rf"(<!-- {name}: made by `python -m benchmarks.trust` -->\n).*?(<!-- end -->)"
    body = "\n".join(lines)
    text, found = re.subn(marks, lambda m: f"{m[1]}\n{body}\n\n{m[2]}", text, flags=re.DOTALL)
    assert found == 1, name
    PAGE.write_text(text, encoding="utf-8")
    print(body, flush=True)


def main() -> None:
    write("accuracy", accuracy())
    write("memories", memories())
    write("noise", noise())
    write(
        "cost", [f"On {machine()}, shared; medians of {RUNS} runs, lowest to highest.", "", *cost()]
    )
    draw()


if __name__ == "__main__":
    main()
