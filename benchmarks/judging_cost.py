"""What judging costs: CPU time of settling and sizing per bar, and bytes of state.

`python -m benchmarks.judging_cost` prints the tables of docs/supervisor.md and the dearest parts.
"""

import cProfile
import pstats
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

import quantum_ai_engine.engine as engine_module
from benchmarks.day import at_once, by_minute, round_the_clock
from benchmarks.measure import Timing, machine
from quantum_ai_engine.agents.base import Past
from quantum_ai_engine.agents.manifest import Blocks, HeldOut, ReliabilityBin
from quantum_ai_engine.agents.pool import Answer, Request
from quantum_ai_engine.config import EngineSettings, Settings
from quantum_ai_engine.engine import Engine, Identity
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.schema import SETS, FeatureSet
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.state.saved import Body, Head
from quantum_ai_engine.state.state import EngineState

SEED, START_MS = 1, 1_735_689_600_000
LEFT_OUT = 2  # symbols of the paper market that do not trade round the clock, left out
WARM_MINUTES, SETTLED_MINUTES = 300, 60  # without predictions, and with
MINUTES = 48  # of a run: two periods of blocks
CASES = ((8, 1_000), (8, 1), (1, 2))
SHOWN = 14  # of the dearest functions
RUNS = {1_000: 5, 2: 15, 1: 15}

HEAD = (
    "| agents | symbols | settling | sizing | noting | judging in all | whole engine | share |\n"
    "|---|---|---|---|---|---|---|---|"
)

Floats = NDArray[np.float64]


class Constant:
    """An agent whose answers cost nothing: they lie ready, and are as good as chance."""

    horizon_bars, interval, clamped, unavailable = 5, "1m", 0, None

    def __init__(self, name: str, feature_set: FeatureSet) -> None:
        self.name, self.bundle, self.feature_set = name, f"{sum(name.encode()):012x}", feature_set
        self.past = Past(0.5, 0.0, _held_out())
        rng = np.random.default_rng(sum(name.encode()))
        self.answers = np.clip(rng.normal(0.5, 0.1, 4_001), 0.01, 0.99)

    def warm_up(self) -> None:
        """There is nothing to warm up."""

    def predict(self, windows: Floats) -> Floats:
        """P(up) [n]."""
        return self.answers[: len(windows)]


def _held_out() -> HeldOut:
    levels = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    spread = tuple(0.02 * (level - 0.5) for level in levels)
    blocks = Blocks(100, 4, 40, levels, spread, spread, spread)
    bins = (ReliabilityBin(0.4, 0.6, 4_000, 0.5, 0.5),)
    return HeldOut(4_000, 0.26, 0.25, 0.0, 0.01, 0.002, 0.5, 0.0, bins, blocks)


class Ready:
    """A predictor whose answers differ from round to round and need no windows."""

    def __init__(self, agents: Sequence[Constant]) -> None:
        self.agents = tuple(agents)
        self._round = 0

    async def predict(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request."""
        self._round += 1
        start = 7 * self._round % 3_000
        answers = []
        for agent, request in zip(self.agents, requests, strict=True):
            n = len(request.windows)
            answers.append(Answer(agent.answers[start : start + n], (None,) * n))
        return answers


class Clock:
    """CPU time of this process spent in what it wraps, and how often that was called."""

    def __init__(self) -> None:
        self.ns = self.calls = 0

    def around(self, work: Callable[..., object]) -> Callable[..., object]:
        """The same work, timed."""

        def timed(*arguments: object) -> object:
            began = time.process_time_ns()
            result = work(*arguments)
            self.ns += time.process_time_ns() - began
            self.calls += 1
            return result

        return timed

    def own_ns(self) -> float:
        """What one call counts although nothing is done in it."""
        idle = Clock()
        nothing = idle.around(lambda *_: None)
        for _ in range(20_000):
            nothing(1, 2, 3)
        return idle.ns / idle.calls


class Cost(NamedTuple):
    """CPU µs per bar of one run: of all, of settling, of sizing and of noting."""

    whole: float
    settling: float
    sizing: float
    noting: float


@dataclass(slots=True)
class Rig:
    """An engine in which everything settles, and the bars that come next."""

    engine: Engine
    minutes: Iterator[list[Bar]]

    def run(self, minutes: int) -> int:
        """Process so many minutes; how many bars they had."""
        some = islice(self.minutes, minutes)
        return sum(at_once(self.engine, minute).processed for minute in some)

    def cost(self) -> Cost:
        """One run with only settling timed, and one with sizing and noting timed as well."""
        settling, sizing, noting = Clock(), Clock(), Clock()
        state = self.engine.state
        with _timed(state, "settle", settling):
            began = time.process_time_ns()
            bars = self.run(MINUTES)
            whole = time.process_time_ns() - began
        own = settling.own_ns()
        with _timed(engine_module, "decide", sizing), _timed(state, "note", noting):
            more = self.run(MINUTES)
        parts = (clock.ns - own * clock.calls for clock in (sizing, noting))
        sized, noted = (ns / more / 1_000 for ns in parts)
        settled = (settling.ns - own * settling.calls) / bars / 1_000
        return Cost(whole / bars / 1_000, settled, sized, noted)


@contextmanager
def _timed(owner: object, name: str, clock: Clock) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, clock.around(kept))
    try:
        yield
    finally:
        setattr(owner, name, kept)


def rig(agents: int, symbols: int) -> Rig:
    """An engine with so many agents, over all feature sets, and series that have a past."""
    sets = islice(cycle(SETS.values()), agents)
    constant = [Constant(f"agent{i}", feature_set) for i, feature_set in enumerate(sets)]
    settings = Settings(engine=EngineSettings(clock="bars"))
    engine = Engine(settings, Ready(constant), Identity("cost", "", ""), Calendars({}))
    paper = PaperMarket(SEED, symbols + LEFT_OUT, start_ms=START_MS)
    steps = WARM_MINUTES + SETTLED_MINUTES + 2 * MINUTES * (RUNS[symbols] + 6)
    table = round_the_clock(paper.table(steps))
    served = set(table.symbols[:symbols])
    minutes = ([bar for bar in bars if bar.symbol in served] for bars in by_minute(table))
    for minute in islice(minutes, WARM_MINUTES):
        engine.learn(minute)
    made = Rig(engine, minutes)
    made.run(SETTLED_MINUTES)
    return made


def costs(agents: int, symbols: int) -> tuple[Rig, str]:
    """The rig after its runs, and its row of the table."""
    made = rig(agents, symbols)
    made.cost()  # the first one warms up
    runs = [made.cost() for _ in range(RUNS[symbols])]
    judging = [run.settling + run.sizing + run.noting for run in runs]
    columns = [list(column) for column in zip(*runs, strict=True)]
    shares = [part / run.whole for part, run in zip(judging, runs, strict=True)]
    cells = [_shown(column) for column in (*columns[1:], judging, columns[0])]
    share = f"{statistics.median(shares):.0%} ({min(shares):.0%}–{max(shares):.0%})"
    return made, f"| {agents} | {symbols:,} | {' | '.join(cells)} | {share} |"


def _shown(us: Sequence[float]) -> str:
    seconds = [x / 1e6 for x in us]
    return Timing(statistics.median(seconds), min(seconds), max(seconds)).show("µs")


def sizes(engine: Engine) -> dict[str, int]:
    """Bytes of a snapshot by what they are of."""
    head, *bodies = engine.state.parts()
    top = msgspec.msgpack.decode(head, type=Head)
    read = [msgspec.msgpack.decode(body, type=Body) for body in bodies]
    found = {
        "agents, trust, standings, policy, brain": _size([top.judgement]),
        f"{len(top.rulings)} rulings": _size([top.rulings]),
    }
    for name in type(read[0].judgement).__struct_fields__:
        found[name] = _size([getattr(body.judgement, name) for body in read])
    judged, whole = sum(found.values()), len(head) + sum(map(len, bodies))
    return found | {"judgement in all": judged, "the rest": whole - judged, "whole": whole}


def _size(parts: Sequence[object]) -> int:
    return sum(len(msgspec.msgpack.encode(part)) for part in parts)


def state_rows(measured: dict[str, dict[str, int]], series: Sequence[int]) -> Iterator[str]:
    """Bytes of each part, and bytes per series."""
    names = dict.fromkeys(name for one in measured.values() for name in one)
    for name in names:
        cells = [
            f"{one.get(name, 0):,} ({one.get(name, 0) / count:,.0f})"
            for one, count in zip(measured.values(), series, strict=True)
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def parts(made: Rig, minutes: int) -> Iterator[str]:
    """What takes most of settling, with all that it calls: shares of the CPU time."""
    profiler = cProfile.Profile(time.process_time)
    with _profiled(made.engine.state, profiler):
        made.run(minutes)
    found = pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
    took = {
        f"`{Path(file).stem}.{name}`": times[3]
        for (file, _, name), times in found
        if "quantum_ai_engine" in file and not name.startswith("<")
    }
    whole = max(took.values())
    for name, seconds in sorted(took.items(), key=lambda one: -one[1])[2 : 2 + SHOWN]:
        yield f"{name} {seconds / whole:.0%}"


@contextmanager
def _profiled(state: EngineState, profiler: cProfile.Profile) -> Iterator[None]:
    kept = state.settle
    state.settle = lambda moment: profiler.runcall(kept, moment)  # type: ignore[method-assign]
    try:
        yield
    finally:
        state.settle = kept  # type: ignore[method-assign]


def main() -> None:
    rows, measured, counts, profiled = [], dict[str, dict[str, int]](), [], []
    for agents, symbols in CASES:
        made, row = costs(agents, symbols)
        rows.append(row)
        measured[f"{agents} agents, {symbols:,} series"] = sizes(made.engine)
        counts.append(symbols)
        print(row, flush=True)
        minutes = MINUTES * (1 if symbols > 100 else 10)
        profiled.append(f"- {agents} agents, {symbols:,} series: {', '.join(parts(made, minutes))}")
    print(f"\nOn {machine()}, seed {SEED}.\n\n{HEAD}")
    print("\n".join(rows))
    print(f"\n| bytes (per series) | {' | '.join(measured)} |\n{'|---' * (len(CASES) + 1)}|")
    print("\n".join([*state_rows(measured, counts), "", *profiled]))


if __name__ == "__main__":
    main()
