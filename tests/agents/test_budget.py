"""The CPU contract: no 10 s window above the budget, whatever rounds do, and one thread each."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.agents.budget import (
    SAMPLES,
    THREAD_VARIABLES,
    WINDOW_S,
    CpuBudget,
    bound_threads,
)
from quantum_ai_engine.agents.pool import budget, worker_count

STEP_S = 0.05


class Process:
    """A process in simulated time: rounds that burn as they please, rests as the budget says.

    `idle` is how many cores it burns in a rest; no rest may last for more than a window.
    """

    def __init__(self, budget: CpuBudget, idle: float = 0.0) -> None:
        self.budget = budget
        self.idle = idle
        self.now_s = self.cpu_s = self.rested_s = 0.0
        self.course = [(0.0, 0.0)]

    def run(self, seconds: float, cores: float) -> None:
        """Burn evenly, sampled as by the pulse of the daemon."""
        while seconds > 1e-9:
            step = min(STEP_S, seconds)
            self.now_s, self.cpu_s = self.now_s + step, self.cpu_s + step * cores
            self.course.append((self.now_s, self.cpu_s))
            self.budget.update(self.now_s, self.cpu_s)
            seconds -= step

    def round(self, *phases: tuple[float, float]) -> None:
        rest_began = self.now_s
        while wait_s := self.budget.wait_s(self.now_s, self.cpu_s):
            self.run(wait_s, self.idle)
            assert self.now_s - rest_began <= WINDOW_S + 1e-6
        began = self.now_s
        self.rested_s += began - rest_began
        for seconds, cores in phases:
            self.run(seconds, cores)
        self.budget.took(self.now_s - began)

    def dearest_window(self) -> float:
        """CPU seconds of the dearest 10 s, by brute force; each window ends where something did."""
        now_s, cpu_s = np.array(self.course).T
        before = np.interp(now_s - WINDOW_S, now_s, cpu_s)
        starts = now_s[now_s < self.now_s - WINDOW_S]
        after = np.interp(starts + WINDOW_S, now_s, cpu_s) - np.interp(starts, now_s, cpu_s)
        return float(max((cpu_s - before).max(), after.max(initial=0.0)))


shares = st.floats(0.0, 1.0)
phases = st.lists(st.tuples(shares, shares), min_size=1, max_size=3)


@given(machine=st.sampled_from([1, 2, 4, 8]), rounds=st.lists(phases, min_size=5, max_size=60))
def test_no_window_is_above_the_budget(
    machine: int, rounds: list[list[tuple[float, float]]]
) -> None:
    """L46: whatever rounds of up to 5 s burn (2.5 s on a single core), the budget holds."""
    cores = min(3.5, machine - 0.5)
    workers = worker_count(3.5, machine)
    process = Process(CpuBudget(cores, workers, machine, 5.0))
    process.budget.took(2.5)  # on a single core nothing is foreseen for nothing
    most, longest = min(workers + 1, machine), 2.5 if machine == 1 else 5.0
    for made in rounds:
        process.round(*((length * longest / len(made), burn * most) for length, burn in made))
    assert process.dearest_window() <= cores * WINDOW_S + 1e-4


@given(cores=st.floats(0.5, 6.0), idle=st.floats(0.0, 0.05), seed=st.integers(0, 2**32 - 1))
def test_any_budget_holds_while_rounds_do_not_grow_suddenly(
    cores: float, idle: float, seed: int
) -> None:
    """L46: a budget of any size is kept by rounds of up to twice the longest of late; at most what
    an idle process burns comes on top."""
    rng = np.random.default_rng(seed)
    workers = worker_count(cores, 8)
    process = Process(CpuBudget(cores, workers, 8, 5.0), idle)
    longest = min(1.0, cores * WINDOW_S / (2 * workers + 2))
    process.budget.took(longest)
    for _ in range(60):
        length = rng.uniform(0.0, longest)
        process.round((length, rng.choice([1.0, rng.random()]) * (workers + 1)))
        process.budget.took(longest)
    assert process.dearest_window() <= (cores + idle) * WINDOW_S + 1e-4


@pytest.mark.parametrize("idle", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("deadline_s", [1.0, 5.0, 10.0])
def test_no_rest_lasts_for_ever(idle: float, deadline_s: float) -> None:
    """L34: after one slow round of any budget and machine, what an idle process burns does not
    renew its rest; and the budget is kept by rounds that alone burn at most half of it."""
    budgets, machines, slow = (0.5, 1.0, 1.9, 2.0, 3.5, 3.99), (1, 2, 4, 8), (0.2, 1.25, 2.5, 5.0)
    for budget_cores, machine, longest in itertools.product(budgets, machines, slow):
        cores, workers = budget(budget_cores, machine), worker_count(budget_cores, machine)
        most = min(workers + 1, machine)
        process = Process(CpuBudget(cores, workers, machine, deadline_s), idle)
        seconds = min(longest, deadline_s, cores * WINDOW_S / (2 * most))
        process.budget.took(longest)
        for _ in range(3):
            process.round((seconds, float(most)))
        assert process.dearest_window() <= (cores + idle) * WINDOW_S + 1e-4


def test_a_rest_ends_even_if_it_burns_more_than_the_budget() -> None:
    """L34: of a budget too small for an idle process a rest is still no longer than a window."""
    process = Process(CpuBudget(0.05, 1, 2, 5.0), idle=0.2)
    for _ in range(5):
        process.round((1.0, 1.0))  # asserts it
    assert process.rested_s == pytest.approx(4 * WINDOW_S)


@pytest.mark.parametrize("machine", [2, 4, 8])
def test_workers_alone_never_rest(machine: int) -> None:
    """L46: a process that burns no more than its workers is not slowed down, by long rounds or
    short ones."""
    workers = worker_count(3.5, machine)
    for seconds in (0.05, 0.7, 5.0):
        process = Process(CpuBudget(min(3.5, machine - 0.5), workers, machine, 5.0))
        for _ in range(round(60 / seconds)):
            process.round((seconds, float(workers)))
        assert process.rested_s < 0.01 * process.now_s


def test_flat_out_the_budget_is_used() -> None:
    """Rounds that burn all that they can have what the workers alone would have, not less."""
    process = Process(CpuBudget(3.5, 3, 4, 5.0))
    while process.now_s < 120.0:
        process.round((0.2, 4.0))
    assert 2.95 <= process.cpu_s / process.now_s <= 3.5


def test_a_single_core_is_shared() -> None:
    """On one core the budget is half of it, and short rounds get nearly all of that half."""
    process = Process(CpuBudget(0.5, 1, 1, 5.0))
    while process.now_s < 120.0:
        process.round((0.05, 1.0))
    assert 0.45 <= process.cpu_s / process.now_s <= 0.505  # it ends with a burst


def test_a_rest_without_work_is_the_last_one() -> None:
    """After the rest that it asked for the budget asks for no other, and asking changes nothing."""
    budget = CpuBudget(1.5, 1, 2, 5.0)
    for tenth in range(50):
        budget.update(tenth / 10, tenth / 5)
    wait_s = budget.wait_s(5.0, 10.0)
    assert wait_s == budget.wait_s(5.0, 10.0) > 0.0
    assert budget.wait_s(5.0 + wait_s, 10.0) == pytest.approx(0.0, abs=1e-9)


def test_memory_is_bounded() -> None:
    """Rounds of a microsecond, or hours between them: a window's samples are all that is kept."""
    budget = CpuBudget(3.5, 3, 4, 5.0)
    for i in range(20_000):
        budget.update(i * 1e-3, i * 1e-3)
    assert len(budget._samples) <= 2 * SAMPLES + 3
    budget.update(1e6, 30.0)
    assert len(budget._samples) <= 2


def test_the_environment_is_overruled() -> None:
    """L46: what a shell has set for other programs does not break the contract."""
    environment = {"OMP_NUM_THREADS": "64", "HOME": "/root"}
    bound_threads(environment)
    assert environment == {"HOME": "/root", **dict.fromkeys(THREAD_VARIABLES, "1")}


LIBRARIES = """
import json, os, sys, time
from pathlib import Path
from quantum_ai_engine.agents.budget import bound_loaded, bound_threads

bound_threads()
import numpy as np
import torch
bound_loaded()
bound_loaded()  # as in a second daemon of the process
from concurrent.futures import ThreadPoolExecutor

def threads():
    tasks = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return len([task for task in tasks if task != "jemalloc_bg_thd"])  # Arrow's; gives memory back

def neural():
    torch.set_num_threads(1)
    model, x = torch.nn.Linear(512, 512), torch.randn(2048, 512)
    with torch.inference_mode():
        for _ in range(10):
            model(x)

def blas():
    a = np.random.default_rng(0).standard_normal((700, 700))
    for _ in range(4):
        a @ a

def xgboost():
    import xgboost
    x = np.random.default_rng(0).standard_normal((2000, 20))
    data = xgboost.DMatrix(x, label=x[:, 0] > 0)
    booster = xgboost.train({"nthread": 1, "objective": "binary:logistic"}, data, 10)
    for _ in range(20):
        booster.inplace_predict(x)

def lightgbm():
    import lightgbm
    x = np.random.default_rng(0).standard_normal((2000, 20))
    data = lightgbm.Dataset(x, label=x[:, 0] > 0)
    booster = lightgbm.train({"num_threads": 1, "verbose": -1}, data, 10)
    for _ in range(20):
        booster.predict(x, num_threads=1)

told = {}
with ThreadPoolExecutor(1) as worker:
    for name in sys.argv[1:]:
        wall, cpu = time.perf_counter(), time.process_time()
        worker.submit(globals()[name]).result()
        told[name] = (time.process_time() - cpu) / (time.perf_counter() - wall)
    told["threads"] = threads()
print(json.dumps(told))
"""


def measured() -> dict[str, float]:
    works = ["neural", "blas", *(n for n in ("xgboost", "lightgbm") if importlib.util.find_spec(n))]
    environment = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIBRARIES, *works],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, float] = json.loads(done.stdout)
    return told


def test_libraries_add_no_threads() -> None:
    """L46: with one worker, torch, BLAS, XGBoost and LightGBM use one core between them."""
    told = measured()
    assert told.pop("threads") == 2  # the main thread and the worker
    assert all(cores < 1.3 for cores in told.values()), told


@given(
    st.lists(st.tuples(st.floats(0.05, 8.0), st.floats(0.0, 2.0)), max_size=8),
    st.floats(0.0, 2.0),
)
def test_what_is_spared_for_others_makes_no_round_rest(
    course: list[tuple[float, float]], more_s: float
) -> None:
    """L46: where so much may be burnt besides, a round that comes right after it begins at once."""
    process = Process(CpuBudget(1.5, 1, 2, 5.0))
    for seconds, cores in course:
        process.run(seconds, cores)
    if process.budget.spares(process.now_s, process.cpu_s, more_s):
        assert process.budget.wait_s(process.now_s, process.cpu_s + more_s) == 0.0


def test_a_busy_window_spares_nothing() -> None:
    """L46: callers wait before a live round would have to."""
    process = Process(CpuBudget(1.5, 1, 2, 5.0))
    process.run(4.0, 1.0)
    assert process.budget.spares(process.now_s, process.cpu_s, 0.5)
    process.run(5.0, 1.2)
    assert not process.budget.spares(process.now_s, process.cpu_s, 0.5)
    process.run(5.0, 0.0)
    assert process.budget.spares(process.now_s, process.cpu_s, 0.5)
