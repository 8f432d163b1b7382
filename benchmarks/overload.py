"""The CPU contract under overload: a real pool of real agents, three times too much to do."""

import asyncio
import contextlib
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from quantum_ai_engine.agents.base import LARGEST_BATCH, Agent
from quantum_ai_engine.agents.budget import WINDOW_S, CpuBudget, bound_threads
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.agents.pool import AgentPool, Request, worker_count
from quantum_ai_engine.events import Abstained
from quantum_ai_engine.features.store import Windows
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

PLOT = Path(__file__).parents[1] / "docs" / "overload.svg"
START_MS = 1_735_689_600_000
ORDER = ("gru", "lightgbm", "xgboost", "patchtst", "transformer")
DEADLINE_S, SAMPLE_S = 2.0, 0.1
BUDGET_CORES = 3.5


@dataclass(frozen=True, slots=True)
class Phase:
    """So long, so much work for each deadline (1: all workers busy until then), loop busy too."""

    name: str
    seconds: float
    load: float
    is_loop_busy: bool = False


PHASES = (
    Phase("a third of what is possible", 16.0, 1 / 3),
    Phase("3 times too much", 40.0, 3.0),
    Phase("the same, and a busy event loop", 30.0, 3.0, True),
    Phase("a third again", 20.0, 1 / 3),
)


@dataclass(slots=True)
class Course:
    """What was seen: (seconds, CPU seconds) and, round by round, who was shed whole and in part."""

    names: tuple[str, ...]
    cores: float
    workers: int
    cpu: list[tuple[float, float]] = field(default_factory=list)
    rounds: list[tuple[float, Phase, frozenset[str], frozenset[str]]] = field(default_factory=list)
    rested_s: dict[str, float] = field(default_factory=dict)
    began: list[float] = field(default_factory=list)

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of all 10 s windows, and the cores that each used on average."""
        at, cpu = np.array(self.cpu).T
        full = at >= at[0] + WINDOW_S
        before = np.interp(at[full] - WINDOW_S, at, cpu)
        return at[full], (cpu[full] - before) / WINDOW_S

    def of(self, phase: Phase) -> list[tuple[float, frozenset[str], frozenset[str]]]:
        return [(at, shed, late) for at, p, shed, late in self.rounds if p is phase]


def section() -> str:
    """Text and tables of the page; the plot beside it."""
    bound_threads()  # for torch and the boosters, which are not loaded yet
    with tempfile.TemporaryDirectory() as directory:
        _train(Path(directory))
        course = asyncio.run(_drive(load_agents(Path(directory), _order(Path(directory)))))
    _plot(course)
    at, cores = course.windows()
    back = _recovery_s(course)
    return "\n".join(
        [
            f"A pool of {course.workers} worker(s) with the agents {', '.join(course.names)}, in "
            f"this order, and a deadline of {DEADLINE_S:g} s. The budget is {course.cores:g} "
            "cores for everything in the process. What a round asks is set by the measured cost "
            "of the agents; *flips* are changes of who is shed from one round to the next. The "
            "busy event loop encodes JSON whenever it can.",
            "",
            "![cores used and agents that answered, over time](overload.svg)",
            "",
            "| load | rounds | dearest 10 s, cores | shed, share of rounds | late in part | "
            "flips per minute | rest |",
            "|---|---|---|---|---|---|---|",
            *(_row(course, phase, at, cores) for phase in PHASES),
            "",
            f"The dearest of all 10 s windows used {cores.max():.2f} of {course.cores:g} cores. "
            f"All agents answered again {back}.",
        ]
    )


def _row(course: Course, phase: Phase, at: np.ndarray, cores: np.ndarray) -> str:
    began = course.began[PHASES.index(phase)]
    ends = (at >= began) & (at <= began + phase.seconds)
    rounds = course.of(phase)
    shares = {n: sum(n in shed for _, shed, _ in rounds) / len(rounds) for n in course.names}
    shed = ", ".join(f"{name} {share:.2f}" for name, share in shares.items() if share)
    late = sum(bool(late) for _, _, late in rounds)
    flips = sum(a[1] != b[1] for a, b in pairwise(rounds)) / phase.seconds * 60.0
    return (
        f"| {phase.name} | {len(rounds)} | {cores[ends].max():.2f} | {shed or 'nobody'} | "
        f"{late} rounds | {flips:.1f} | {course.rested_s.get(phase.name, 0.0):.1f} s |"
    )


def _recovery_s(course: Course) -> str:
    began = course.began[-1]
    good = [at - began for at, shed, late in course.of(PHASES[-1]) if not shed and not late]
    return f"{good[0]:.1f} s after the load had fallen" if good else "not within the run"


def _train(directory: Path) -> None:
    history = PaperMarket(1, 8, start_ms=START_MS).table(3_000)
    options = TrainOptions(epochs=1, samples_per_epoch=8_000)
    for kind in ORDER:
        train_bundle(kind, history, directory, options, lambda _: None)


def _order(directory: Path) -> tuple[str, ...]:
    return tuple(name for name in ORDER if (directory / name).is_dir())


async def _drive(agents: Sequence[Agent]) -> Course:
    """All phases, one after the other, with the pool and the budget as the daemon has them."""
    machine = len(os.sched_getaffinity(0))
    workers = worker_count(BUDGET_CORES, machine)
    cores = min(BUDGET_CORES, machine - 0.5)
    course = Course(tuple(agent.name for agent in agents), cores, workers)
    pool = AgentPool(agents, workers, DEADLINE_S, lambda *_: None, _fail)
    await pool.start()
    budget = CpuBudget(cores, workers, machine, DEADLINE_S)
    full_s = sum(_seconds(agent) for agent in agents)  # of a full batch of all agents
    try:
        async with _watched(budget):
            with _sampled(course):
                for phase in PHASES:
                    rows = math.ceil(phase.load * DEADLINE_S * workers / full_s * LARGEST_BATCH)
                    await _phase(course, phase, pool, budget, rows)
    finally:
        pool.close()
    return course


async def _phase(
    course: Course, phase: Phase, pool: AgentPool, budget: CpuBudget, rows: int
) -> None:
    """Rounds of so many rows, one each deadline, or as fast as they go."""
    requests = [Request(agent, _windows(agent, rows)) for agent in pool.agents]
    course.began.append(time.monotonic())
    end, busy = time.monotonic() + phase.seconds, asyncio.ensure_future(_busy(phase.is_loop_busy))
    due = time.monotonic()
    while time.monotonic() < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due = max(due + DEADLINE_S, time.monotonic())
        while wait_s := budget.wait_s(time.monotonic(), time.process_time()):
            course.rested_s[phase.name] = course.rested_s.get(phase.name, 0.0) + wait_s
            await asyncio.sleep(wait_s)
        began = time.monotonic()
        answers = await pool.predict(requests)
        budget.took(time.monotonic() - began)
        missed = [sum(why is Abstained.DEADLINE for why in a.reasons) / rows for a in answers]
        names = list(zip(course.names, missed, strict=True))
        shed = frozenset(name for name, share in names if share == 1.0)
        late = frozenset(name for name, share in names if 0.0 < share < 1.0)
        course.rounds.append((time.monotonic(), phase, shed, late))
    busy.cancel()


async def _busy(is_busy: bool) -> None:
    """Keep the event loop at work, in pieces of about a millisecond."""
    page = {str(i): i / 7 for i in range(2_000)}
    while is_busy:
        json.dumps(page)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def _watched(budget: CpuBudget) -> AsyncIterator[None]:
    """The budget hears of the CPU time often, as from the pulse of the daemon."""

    async def watch() -> None:
        while True:
            budget.update(time.monotonic(), time.process_time())
            await asyncio.sleep(SAMPLE_S)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()


@contextlib.contextmanager
def _sampled(course: Course) -> Iterator[None]:
    """CPU time of the process every 0.1 s, from a thread that no load of the loop holds up."""
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_S):
            course.cpu.append((time.monotonic(), time.process_time()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _seconds(agent: Agent) -> float:
    """Of a full batch, alone on the machine: the middle one of three."""
    windows, taken = _windows(agent, LARGEST_BATCH).array(), []
    for _ in range(3):
        began = time.perf_counter()
        agent.predict(windows)
        taken.append(time.perf_counter() - began)
    return sorted(taken)[1]


def _windows(agent: Agent, rows: int) -> Windows:
    shape = (LARGEST_BATCH, agent.feature_set.window, len(agent.feature_set.columns))
    noise = Windows.of(np.random.default_rng(0).standard_normal(shape))
    return noise.take([i % LARGEST_BATCH for i in range(rows)])


def _fail(name: str, error: BaseException) -> None:
    raise RuntimeError(f"agent {name} failed") from error


def _plot(course: Course) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "overload", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(8, 4), sharex=True, layout="constrained")
    start = course.began[0]
    at, cores = course.windows()
    second = np.array(course.cpu)[:: round(1.0 / SAMPLE_S)]
    used = np.diff(second[:, 1]) / np.diff(second[:, 0])
    axes[0].plot(second[1:, 0] - start, used, alpha=0.3, linewidth=1, label="each second")
    axes[0].plot(at - start, cores, label="10 s up to now")
    axes[0].axhline(course.cores, color="black", linestyle="--", linewidth=1, label="budget")
    axes[0].set(ylabel="cores", ylim=(0, None))
    axes[0].legend(loc="lower center", ncols=3)
    for i, name in enumerate(course.names):
        answered = [t - start for t, _, shed, late in course.rounds if name not in shed | late]
        missed = [t - start for t, _, shed, late in course.rounds if name in shed]
        axes[1].scatter(answered, [-i] * len(answered), s=8, color="tab:blue")
        axes[1].scatter(missed, [-i] * len(missed), s=8, color="tab:red", marker="x", linewidth=1)
    axes[1].set(xlabel="seconds", yticks=[-i for i in range(len(course.names))])
    axes[1].set_yticklabels(course.names)
    for axis in axes:
        axis.grid(alpha=0.3)
        for began, phase in zip(course.began, PHASES, strict=True):
            axis.axvspan(
                began - start,
                began - start + phase.seconds,
                color="tab:orange",
                alpha=0.06 * (phase.load > 1.0) * (1 + phase.is_loop_busy),
            )
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)
