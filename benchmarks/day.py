"""A day of the paper market with a crash, a frozen feed and a broken agent: what the engine says.

`python -m benchmarks.day` trains four small agents per seed, warms engines up, drives them through
the day, writes the tables of docs/day.md and, of the first seed, draws docs/day.svg.
"""

import argparse
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import machine
from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.agents.pool import Answer, Request
from quantum_ai_engine.config import EngineSettings, Settings
from quantum_ai_engine.engine import Engine, Identity, Now, Round
from quantum_ai_engine.events import Bar, Change, Command
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

PAGE = Path(__file__).parents[1] / "docs" / "day.md"
PLOT = PAGE.with_suffix(".svg")
START_MS, MINUTE_MS, DAY = 1_735_689_600_000, 60_000, 1_440  # DAY in minutes
HISTORY_DAYS, WARM_UP_DAYS = 11, 4
LISTED, SESSIONS = 10, ("AAPL", "MSFT")  # the paper market's first; those two are left out
KINDS = ("sigor", "momentum", "xgboost", "lightgbm")
ALONE = ("xgboost",)
TIMES = (-3.0, -1.0)  # a broken agent's log-odds are so many times what they were; the first drawn

CRASH = range(4 * 60, 5 * 60)  # minutes of the day
FALL_FRAC, CRASH_SIGMAS, CRASH_VOLUME = 0.06, 4.0, 5.0
FREEZE = range(9 * 60, 9 * 60 + 45)
BREAK = 13 * 60
COMMANDS = {22 * 60: Command.HALT, 22 * 60 + 30: Command.RESUME}

Floats = NDArray[np.float64]
THINNED = 4  # minutes between points of the plot
HOURS = np.arange(0, DAY, THINNED) / 60


class Breakable:
    """An agent that can break: from then on its log-odds are `times` what they were."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.times = 1.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def predict(self, windows: Floats) -> Floats:
        """P(up) [n] of windows."""
        p = np.clip(self._agent.predict(windows), 1e-9, 1.0 - 1e-9)
        return p if self.times == 1.0 else 1.0 / (1.0 + (p / (1.0 - p)) ** -self.times)


class Here:
    """A predictor that asks its agents at once."""

    def __init__(self, agents: Sequence[Breakable]) -> None:
        self.agents = tuple(agents)

    async def predict(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request."""
        return [
            Answer(r.agent.predict(r.windows.array()), (None,) * len(r.windows)) for r in requests
        ]


class Minute(NamedTuple):
    """What held when the bars of a minute had been dealt with.

    `gross` and `net` are of the targets told and still valid; equity is the paper portfolio's.
    """

    state: str
    mode: str
    breakers: tuple[str, ...]
    standings: tuple[str, ...]
    alarms: tuple[tuple[str, ...], ...]
    trust: tuple[float, ...]
    base: float
    gross: float
    net: float
    equity: float
    volatility: float


@dataclass(slots=True)
class Course:
    """What was seen: all changes, the minutes of the day, and which agent broke."""

    names: tuple[str, ...]
    starts_ms: int
    times: float
    changes: list[Change] = field(default_factory=list)
    minutes: list[Minute] = field(default_factory=list)
    broken: int = 0
    told: dict[str, tuple[int, float]] = field(default_factory=dict)  # symbol: until when, target
    agents: list[str] = field(default_factory=list)  # rows: what they were, and are before it


class Market(NamedTuple):
    """Bars to train on; those to warm up with, and of the day, minute by minute."""

    history: BarTable
    warm_up: list[list[Bar]]
    day: list[list[Bar]]


def market(seed: int) -> Market:
    """The paper market without its session symbols; what happens in the day is planted."""
    paper = PaperMarket(seed, LISTED, start_ms=START_MS)
    history, warm_up, day = (
        round_the_clock(paper.table(days * DAY)) for days in (HISTORY_DAYS, WARM_UP_DAYS, 1)
    )
    frozen = day.symbols[1::2]
    minutes = [
        [bar for bar in bars if i not in FREEZE or bar.symbol not in frozen]
        for i, bars in enumerate(by_minute(_crashed(day, seed)))
    ]
    return Market(history, list(by_minute(warm_up)), minutes)


def round_the_clock(table: BarTable) -> BarTable:
    """The same without the symbols that have sessions."""
    symbols = tuple(symbol for symbol in table.symbols if symbol not in SESSIONS)
    place = np.array([symbols.index(s) if s in symbols else -1 for s in table.symbols], np.int32)
    index = place[table.symbol_index]
    kept = index >= 0
    return BarTable(symbols, index[kept], table.interval, table.open_time[kept], table.ohlcv[kept])


def by_minute(table: BarTable) -> Iterator[list[Bar]]:
    """The bars of each open time, oldest first."""
    for _, bars in groupby(table.bars(), key=lambda bar: bar.open_time):
        yield list(bars)


def _crashed(table: BarTable, seed: int) -> BarTable:
    """The same with an hour in which all fall, in wide swings, and stay down."""
    minute = (table.open_time - table.open_time[0]) // MINUTE_MS
    path = _fall(table, np.random.default_rng([seed, 1]))
    start = np.zeros((CRASH.start + 1, path.shape[1]))
    ends = np.concatenate((start, path, np.tile(path[-1:], (DAY - CRASH.stop, 1))))
    before, after = (np.exp(ends[minute + k, table.symbol_index]) for k in (0, 1))
    ohlcv = table.ohlcv.copy()
    ohlcv[:, 0] *= before
    ohlcv[:, 3] *= after
    edges = ohlcv[:, [0, 3]]
    ohlcv[:, 1] = np.maximum(ohlcv[:, 1] * np.maximum(before, after), edges.max(axis=1))
    ohlcv[:, 2] = np.minimum(ohlcv[:, 2] * np.minimum(before, after), edges.min(axis=1))
    ohlcv[(minute >= CRASH.start) & (minute < CRASH.stop), 4] *= CRASH_VOLUME
    return BarTable(table.symbols, table.symbol_index, table.interval, table.open_time, ohlcv)


def _fall(table: BarTable, rng: np.random.Generator) -> Floats:
    """What the crash adds to log prices after each of its minutes [minutes, symbols]."""
    closes = [np.log(table.ohlcv[table.symbol_index == i, 3]) for i in range(len(table.symbols))]
    usual = np.array([np.diff(close).std() for close in closes])  # [symbols]
    swings = rng.normal(0.0, CRASH_SIGMAS, (len(CRASH), len(usual))) * usual
    swings += rng.normal(0.0, CRASH_SIGMAS, (len(CRASH), 1)) * usual.mean()
    path = np.cumsum(swings, axis=0)
    steps = np.linspace(0.0, 1.0, len(CRASH) + 1)[1:, None]
    return np.asarray(path - steps * (path[-1] - np.log1p(-FALL_FRAC)))


def drive(bars: Market, directory: Path, kinds: Sequence[str], times: float) -> Course:
    """Warm an engine with these agents up, and go through the day."""
    agents = [Breakable(one) for one in load_agents(directory, KINDS) if one.name in kinds]
    settings = Settings(engine=EngineSettings(clock="bars"))
    engine = Engine(settings, Here(agents), Identity("day", "", ""), Calendars({}))
    course = Course(tuple(agent.name for agent in agents), bars.day[0][0].open_time, times)
    for minute in bars.warm_up:
        _take(engine, course, minute)
    for i, minute in enumerate(bars.day):
        if i == BREAK:
            trust = course.minutes[-1].trust
            course.broken = trust.index(max(trust))
            agents[course.broken].times = times
            course.agents = list(_rated(engine, agents))
        if i in COMMANDS:
            course.changes += engine.state.apply(COMMANDS[i])
        _take(engine, course, minute)
        course.minutes.append(_seen(engine, course, minute[0].close_time))
    return course


def _take(engine: Engine, course: Course, bars: Sequence[Bar]) -> None:
    done = at_once(engine, bars)
    course.changes += done.changes
    course.told |= {one.symbol: (one.valid_until, one.target) for one in done.signals}


def at_once(engine: Engine, bars: Sequence[Bar]) -> Round:
    """What becomes of bars of one time, when agents answer at once."""
    asked = engine.process(bars, Now(), lambda _: nullcontext())
    while True:
        try:
            asked.send(None)  # it waits for nobody, but lets others run
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]


def _seen(engine: Engine, course: Course, now_ms: int) -> Minute:
    judgement = engine.state.judgement
    ruling = judgement.rulings[-1]
    shares = ruling.shares((True,) * len(judgement.agents))
    verdicts = [standing.get() for standing in judgement.standings if standing]
    targets = [target for until_ms, target in course.told.values() if until_ms >= now_ms]
    return Minute(
        ruling.risk.state,
        ruling.policy.mode,
        ruling.risk.breakers,
        tuple(verdict.state.value for verdict in verdicts),
        tuple(tuple(alarm.test.value for alarm in verdict.alarms) for verdict in verdicts),
        tuple(shares.trust.tolist()),
        shares.base,
        sum(map(abs, targets)),
        sum(targets),
        judgement.portfolio.equity,
        judgement.policy.get().volatility_frac,
    )


def _rated(engine: Engine, agents: Sequence[Breakable]) -> Iterator[str]:
    """Each agent's scores held out, and live up to now."""
    judgement = engine.state.judgement
    for i, agent in enumerate(agents):
        was, now = agent.past.held_out, judgement.scores.pooled(i)
        assert was
        assert now
        held_out = f"{was.paired:+.4f} ± {was.paired_stderr:.4f} | {was.bias:+.3f}"
        standing = judgement.states[i].value
        yield f"| {agent.name} | {held_out} | {now.paired:+.4f} | {now.bias:+.3f} | {standing} |"


def drawdowns(course: Course, start: int = 0) -> Floats:
    """Of the paper portfolio, from its highest since a minute of the day, minute by minute."""
    equity = np.array([minute.equity for minute in course.minutes[start:]])
    return np.asarray(1.0 - equity / np.maximum.accumulate(equity))


def table(course: Course) -> list[str]:
    """Every change since the engine began."""
    lines = ["| time | room | subject | change | reasons |", "|---|---|---|---|---|"]
    for one in course.changes:
        days, minute = divmod((one.at_ms - course.starts_ms) // MINUTE_MS, DAY)
        time = f"{f'{-days} d before, ' if days else ''}{minute // 60:02}:{minute % 60:02}"
        reasons = "; ".join(one.reasons)
        change = f"{one.before} → {one.after}"
        lines.append(f"| {time} | {one.room} | {one.subject} | {change} | {reasons} |")
    return lines


Holds = Callable[[Minute], bool]


def after(course: Course, start: int, checks: Sequence[Holds]) -> list[str]:
    """Minutes from `start` until each holds, 0 if it did before; `–` if it never does."""
    minutes = course.minutes[start - 1 :]
    firsts = (next((i for i, m in enumerate(minutes) if holds(m)), None) for holds in checks)
    return ["–" if first is None else str(max(first - 1, 0)) for first in firsts]


def outside(course: Course) -> list[str]:
    """How soon the crash and the freeze were told, and how long after their end they were over."""
    cells = []
    for span, name in ((CRASH, "volatility_ratio"), (FREEZE, "stale_feed")):
        opens: Holds = lambda m, name=name: name in m.breakers  # type: ignore[misc] # noqa: E731
        cells += after(course, span.start, [opens])
        cells += after(course, span.stop, [lambda m, opens=opens: not opens(m)])  # type: ignore[misc]
    before, later = (course.minutes[i].volatility for i in (CRASH.start - 1, CRASH.stop + 5))
    fallen = drawdowns(course)[CRASH.start : CRASH.stop].max()
    return [*cells, f"{fallen:.2%}", f"{before:.2%}, {later:.2%}"]


def broken(course: Course) -> list[str]:
    """How soon the broken agent was told, and what it cost."""
    i = course.broken
    trust, base = course.minutes[BREAK - 1].trust[i], course.minutes[-1].base
    checks: list[Holds] = [
        lambda m: m.trust[i] * (1.0 - m.base) < trust / 2.0,
        lambda m: "short_window" in m.alarms[i],
        lambda m: m.standings[i] in ("drift", "quarantined"),
        lambda m: m.standings[i] == "quarantined",
        lambda m: m.mode == "DEFENSIVE",
        lambda m: "trust_collapsed" in m.breakers,
        lambda m: "daily_loss" in m.breakers,
    ]
    start, cells = f"{course.names[i]}, {trust:.2f}", after(course, BREAK, checks)
    return [start, *cells, f"{drawdowns(course, BREAK).max():.2%}", f"{base:.2f}"]


def draw(courses: Sequence[Course]) -> None:
    """Bands, exposure, equity and trust, a column for each course."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "day", "svg.fonttype": "none", "font.size": 8})
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 10.0), layout="constrained")
    axes = figure.subplots(4, len(courses), sharex=True, height_ratios=(3, 2, 2, 2), squeeze=False)
    for column, course in zip(axes.T, courses, strict=True):
        column[0].set_title(f"agents: {', '.join(course.names)}\n", loc="left", size=9)
        for minute, word in ((CRASH.start, "crash"), (FREEZE.start, "freeze"), (BREAK, "break")):
            column[0].text(minute / 60, 1.0, word, size=7)
        for panel, fill in zip(column, (_bands, _exposure, _equity, _trust), strict=True):
            fill(panel, course)
            for span in (CRASH, FREEZE, range(BREAK, DAY)):
                panel.axvspan(span.start / 60, span.stop / 60, color="#d55e00", alpha=0.07, lw=0)
            panel.margins(x=0)
        column[-1].set(xlabel="hour of the day", xticks=range(0, 25, 2))
    figure.savefig(PLOT, metadata={"Date": None})


COLOURS = {  # Okabe and Ito 2008
    **dict.fromkeys(("ACTIVE", "NORMAL", "ok", "closed"), "#d9e5dc"),
    **dict.fromkeys(("AGGRESSIVE", "warmup"), "#56b4e9"),
    **dict.fromkeys(("REDUCING", "watch"), "#f0e442"),
    **dict.fromkeys(("DEFENSIVE", "drift", "open"), "#e69f00"),
    **dict.fromkeys(("HALTED", "quarantined"), "#d55e00"),
}


def _bands(panel: Any, course: Course) -> None:
    minutes = course.minutes
    opened = sorted({name for minute in minutes for name in minute.breakers})
    rows = {"state": [m.state for m in minutes], "mode": [m.mode for m in minutes]}
    words = ("closed", "open")
    rows |= {f"breaker {n}": [words[n in m.breakers] for m in minutes] for n in opened}
    rows |= {f"agent {n}": [m.standings[i] for m in minutes] for i, n in enumerate(course.names)}
    for y, values in enumerate(rows.values()):
        start = 0
        for value, run in groupby(values):
            length = len(list(run))
            panel.broken_barh([(start / 60, length / 60)], (-y - 0.4, 0.8), color=COLOURS[value])
            if value not in words and length >= 100:
                panel.text((start + length / 2) / 60, -y, value, ha="center", va="center", size=6)
            start += length
    panel.set_yticks([-y for y in range(len(rows))], list(rows))


def _exposure(panel: Any, course: Course) -> None:
    for name, colour in (("gross", "#0072b2"), ("net", "#d55e00")):
        told = [getattr(minute, name) for minute in course.minutes]
        panel.plot(HOURS, told[::THINNED], color=colour, lw=0.7, label=name)
    panel.set(ylabel="exposure told", ylim=(-1.05, 1.05))
    panel.legend(frameon=False, ncols=2, loc="lower left")


def _equity(panel: Any, course: Course) -> None:
    equity = [m.equity / course.minutes[0].equity for m in course.minutes]
    panel.plot(HOURS, equity[::THINNED], color="#1b2129", lw=1.0)
    panel.set(ylabel="paper equity, 1 at 00:00", ylim=(0.95, None))
    below, fallen = panel.twinx(), -100.0 * drawdowns(course)[::THINNED]
    below.fill_between(HOURS, fallen, color="#d55e00", alpha=0.4, lw=0)
    below.set(ylabel="drawdown in the day, %", ylim=(-15.0, 0.0))


def _trust(panel: Any, course: Course) -> None:
    shown = course.minutes[::THINNED]
    for i, name in enumerate(course.names):
        label = f"{name} (breaks)" if i == course.broken else name
        panel.plot(HOURS, [m.trust[i] for m in shown], lw=1.3, label=label)
    base = [m.base for m in shown]
    panel.plot(HOURS, base, color="#1b2129", ls=":", lw=1.3, label="base rate's share")
    panel.set(ylabel="trust", ylim=(-0.05, 1.05))
    panel.legend(frameon=False, loc="center left")


def write(name: str, lines: Sequence[str]) -> None:
    """Put lines between their marks in the page."""
    text, body = PAGE.read_text(encoding="utf-8"), "\n".join(lines)
    marks = rf"(<!-- {name}: made by `python -m benchmarks.day` -->\n).*?(<!-- end -->)"
    text, found = re.subn(marks, lambda m: f"{m[1]}\n{body}\n\n{m[2]}", text, flags=re.DOTALL)
    assert found == 1, name
    PAGE.write_text(text, encoding="utf-8")
    print(body, flush=True)


HEADS = {
    "agents": "seed | agent | held out: paired score | bias | live: paired score | bias | standing",
    "outside": "seed | agents | volatility_ratio opens | closes, after the end | stale_feed "
    "opens | closes, after the end | drawdown in the crash | volatility of equity a day, before, "
    "after",
    "broken": "seed | agents | log-odds × | breaks, its trust | trust halved | short window | "
    "DRIFT | QUARANTINED | DEFENSIVE | trust_collapsed | daily_loss | drawdown | base rate",
}


def run(seed: int, home: Path) -> tuple[list[Course], dict[str, list[str]]]:
    """The day with all agents and with one, with each way to break; and rows of the tables."""
    bars, courses = market(seed), []
    for kind in KINDS:
        train_bundle(kind, bars.history, home, TrainOptions(seed=seed), lambda _: None)
    rows: dict[str, list[str]] = {name: [] for name in HEADS}
    for times in TIMES:
        for kinds in (KINDS, ALONE):
            courses.append(course := drive(bars, home, kinds, times))
            start = f"| {seed} | {len(kinds)} | "
            if times == TIMES[0]:
                rows["outside"].append(start + " | ".join(outside(course)) + " |")
            rows["broken"].append(start + " | ".join([f"{times:g}", *broken(course)]) + " |")
    rows["agents"] = [f"| {seed} {row}" for row in courses[0].agents]
    return courses, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    seeds, tables = parser.parse_args().seeds, dict[str, list[str]]()
    for name, head in HEADS.items():
        tables[name] = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    for seed in seeds:
        with tempfile.TemporaryDirectory() as home:
            courses, rows = run(seed, Path(home))
        for name, lines in rows.items():
            tables[name] += lines
        if seed == seeds[0]:
            draw(courses[:2])
            write("all changes", table(courses[0]))
            write("changes alone", table(courses[1]))
    for name, lines in tables.items():
        write(name, lines)
    write("machine", [f"Seeds {', '.join(map(str, seeds))}; {machine()}."])


if __name__ == "__main__":
    main()
