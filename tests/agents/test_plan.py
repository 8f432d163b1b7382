"""Shedding: decided before the round, in declared order, and without flapping."""

import heapq
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantum_ai_engine.agents.base import LARGEST_BATCH
from quantum_ai_engine.agents.plan import (
    BACK_BELOW,
    KEPT_WHEN_SHED,
    PATIENCE,
    PROBE_EVERY,
    REMEMBERED,
    SHED_ABOVE,
    Cost,
    Plan,
    Planner,
)

Demands = list[tuple[str, int]]
DEADLINE_S = 5.0
PROBES_TO_RECOVER = KEPT_WHEN_SHED // 2 + 1  # of those remembered and the newest
rows_asked = st.integers(0, 1_200)
costs = st.floats(1e-4, 6.0)


def taught(seconds: dict[str, float], batches: int = REMEMBERED) -> Planner:
    """A planner that has seen full batches of these costs, and small ones in proportion."""
    planner = Planner()
    for agent, full in seconds.items():
        for _ in range(batches):
            for rows in (1, 16, 64, LARGEST_BATCH):
                planner.learn(agent, rows, full * rows / LARGEST_BATCH)
    return planner


def ends(planner: Planner, demands: Demands, plan: Plan, workers: int) -> dict[int, float]:
    """When each demand that is run, then each probe, is done: batch by batch, as the pool does."""
    free, done = [0.0] * workers, {}
    work = [(i, demands[i][1]) for i in plan.run]
    work += [(i, min(demands[i][1], LARGEST_BATCH)) for i in plan.probed]
    for i, rows in work:
        batches = [min(LARGEST_BATCH, rows - start) for start in range(0, rows, LARGEST_BATCH)]
        done[i] = max(
            (_put(free, planner.seconds(demands[i][0], batch)) for batch in batches), default=0.0
        )
    return done


def _put(free: list[float], seconds: float) -> float:
    end = heapq.heappop(free) + seconds
    heapq.heappush(free, end)
    return end


class Rounds:
    """Rounds of a planner whose agents truly cost what `cost` says, with noise."""

    def __init__(self, planner: Planner, workers: int = 1, seed: int = 0) -> None:
        self.planner = planner
        self.workers = workers
        self._rng = np.random.default_rng(seed)

    def __call__(self, demands: Demands, cost: Callable[[str, int], float]) -> set[str]:
        """One round; who was shed."""
        plan = self.planner.admit(demands, self.workers, DEADLINE_S)
        for i in plan.run:
            agent, rows = demands[i]
            for start in range(0, rows, LARGEST_BATCH):
                self._learn(agent, min(LARGEST_BATCH, rows - start), cost)
        for i in plan.probed:
            self._learn(demands[i][0], min(LARGEST_BATCH, demands[i][1]), cost)
        return {agent for i, (agent, _) in enumerate(demands) if i not in plan.run}

    def _learn(self, agent: str, rows: int, cost: Callable[[str, int], float]) -> None:
        self.planner.learn(agent, rows, cost(agent, rows) * self._rng.uniform(0.8, 1.2))


def linear(seconds: dict[str, float]) -> Callable[[str, int], float]:
    return lambda agent, rows: seconds[agent] * rows / LARGEST_BATCH


@given(
    seconds=st.lists(costs, min_size=1, max_size=5),
    loads=st.lists(st.lists(rows_asked, min_size=5, max_size=5), min_size=1, max_size=20),
    workers=st.integers(1, 4),
)
def test_nothing_is_planned_past_the_deadline(
    seconds: list[float], loads: list[list[int]], workers: int
) -> None:
    """L46: by its own estimates every agent that is run is done in time; if none can, one is."""
    planner = taught({str(i): s for i, s in enumerate(seconds)})
    for load in loads:
        demands = [(str(i), rows) for i, rows in zip(range(len(seconds)), load, strict=False)]
        plan = planner.admit(demands, workers, DEADLINE_S)
        done = ends(planner, demands, plan, workers)
        late = [i for i in plan.run if done[i] > SHED_ABOVE * DEADLINE_S]
        busy = [i for i in plan.run if demands[i][1]]
        assert late in ([], busy[:1])
        assert not late or len(busy) == 1
        assert busy or not any(rows for _, rows in demands)


@example(seconds=[1.0, 3.0, 1.0], before=[0, 577, 838], now=[65, 321, 321], who=2, more=1)
@given(
    seconds=st.lists(costs, min_size=2, max_size=5),
    before=st.lists(rows_asked, min_size=5, max_size=5),
    now=st.lists(rows_asked, min_size=5, max_size=5),
    who=st.integers(0, 4),
    more=st.integers(1, 2_000),
)
def test_more_rows_never_bring_an_agent_back(
    seconds: list[float], before: list[int], now: list[int], who: int, more: int
) -> None:
    """An agent that is shed is shed with more rows too, unless nobody could answer at all, or one
    before it, of whom less is expected in a larger round, makes room."""
    names = [str(i) for i in range(len(seconds))]
    who %= len(names)

    def shed(extra: int) -> tuple[bool, bool, list[int]]:
        planner = taught(dict(zip(names, seconds, strict=True)))
        planner.admit(list(zip(names, before, strict=False)), 2, DEADLINE_S)
        demands = [(name, now[i] + extra * (i == who)) for i, name in enumerate(names)]
        plan = planner.admit(demands, 2, DEADLINE_S)
        done = ends(planner, demands, plan, 2)
        is_late = done.get(who, 0.0) > BACK_BELOW * DEADLINE_S
        return who not in plan.run, is_late, [i for i in plan.run if i < who]

    was_shed, _, ran_before = shed(0)
    if was_shed:
        is_shed, is_late, run_before = shed(more)
        # late: the one that is run because none fits
        assert is_shed or is_late or run_before != ran_before


@given(st.integers(1, 8), st.integers(1, 1_500), st.integers(1, 4), st.floats(0.01, 3.0))
def test_of_equals_the_last_declared_is_shed_first(
    agents: int, rows: int, workers: int, seconds: float
) -> None:
    """L46: with equal costs those shed are the last ones, without a hole."""
    names = [f"agent{i}" for i in range(agents)]
    planner = taught(dict.fromkeys(names, seconds))
    plan = planner.admit([(name, rows) for name in names], workers, DEADLINE_S)
    assert plan.run == tuple(range(len(plan.run)))
    assert plan.run


def test_a_heavy_agent_does_not_silence_cheap_ones() -> None:
    """L46: one that cannot be done in time is shed; those after it run if they fit."""
    planner = taught({"heavy": 4.0, "light": 0.1, "medium": 1.0})
    demands = [("heavy", 1_024), ("light", 1_024), ("medium", 1_024)]
    assert planner.admit(demands, 1, DEADLINE_S) == Plan((1, 2), ())
    planner = taught({"heavy": 4.0, "light": 0.1, "medium": 1.0})
    assert planner.admit(demands, 4, DEADLINE_S).run == (0, 1)


def test_if_nobody_fits_the_first_declared_is_run() -> None:
    """L46: overload never means that nobody is even asked."""
    planner = taught({"a": 9.0, "b": 7.0})
    assert planner.admit([("a", 0), ("b", 256)], 2, DEADLINE_S).run == (0, 1)
    assert planner.admit([("a", 256), ("b", 256)], 2, DEADLINE_S).run == (0,)


def test_nothing_asked_nothing_shed() -> None:
    """No demand, or one without rows, is no work."""
    planner = taught({"a": 9.0})
    assert planner.admit([], 1, DEADLINE_S) == Plan((), ())
    assert planner.admit([("a", 0), ("unknown", 0)], 1, DEADLINE_S) == Plan((0, 1), ())


def test_who_was_never_measured_is_tried() -> None:
    """An agent without a cost is run, and judged by what it took."""
    planner = Planner()
    assert planner.admit([("a", 256), ("b", 256)], 1, DEADLINE_S).run == (0, 1)
    planner.learn("a", 256, 0.1)
    planner.learn("b", 256, 6.0)
    assert planner.admit([("a", 256), ("b", 256)], 1, DEADLINE_S).run == (0,)


@pytest.mark.parametrize("share", [0.4, 0.65, 0.72, 0.76, 0.8, 0.84, 0.88, 0.94, 1.2, 3.0])
@pytest.mark.parametrize("batches", [1, 4])
def test_in_steady_load_nothing_flaps(share: float, batches: int) -> None:
    """L46: 10,000 equal rounds with costs that vary by a fifth: who is shed is decided once."""
    total, rows = share * DEADLINE_S, batches * LARGEST_BATCH
    seconds = {"first": 0.2 * total / batches, "second": 0.8 * total / batches}
    rounds = Rounds(taught(seconds), seed=round(share * 1_000) + batches)
    demands = [("first", rows), ("second", rows)]
    shed = [rounds(demands, linear(seconds)) for _ in range(10_000)]
    changes = sum(a != b for a, b in pairwise(shed))
    assert changes <= (SHED_ABOVE > share > BACK_BELOW)  # a matter of chance which, but once
    if not BACK_BELOW < share < SHED_ABOVE:
        assert shed[-1] == ({"second"} if share > SHED_ABOVE else set())


@settings(max_examples=15)
@given(st.integers(0, 2**16), st.floats(1.5, 5.0), st.sampled_from([1, 3]))
def test_after_the_load_has_fallen_all_are_back(seed: int, factor: float, workers: int) -> None:
    """L46: overload for 100 rounds, then a third of the rows: nobody is shed after the first."""
    seconds = {"a": 0.4, "b": 0.4, "c": 0.4}
    rounds = Rounds(taught(seconds), workers, seed)
    full = int(LARGEST_BATCH * workers * DEADLINE_S / 1.2)
    many = [(agent, int(full * factor)) for agent in seconds]
    few = [(agent, full // 3) for agent in seconds]
    for _ in range(100):
        assert rounds(many, linear(seconds))
    assert not any(rounds(few, linear(seconds)) for _ in range(200))


@settings(max_examples=15)
@given(st.integers(0, 2**16), st.integers(1, 12))
def test_outliers_count_for_nothing(seed: int, stalled: int) -> None:
    """L46: up to a dozen batches of 100 times the cost, as of a stalled machine, shed nobody."""
    seconds = {"a": 0.4, "b": 0.4}
    rounds = Rounds(taught(seconds), 2, seed)
    demands = [(agent, 4 * LARGEST_BATCH) for agent in seconds]
    for _ in range(50):
        assert not rounds(demands, linear(seconds))
    for agent in seconds:
        for _ in range(stalled):
            rounds.planner.learn(agent, LARGEST_BATCH, 40.0)
    assert not any(rounds(demands, linear(seconds)) for _ in range(200))


@pytest.mark.parametrize("rows", [200, LARGEST_BATCH])
@pytest.mark.parametrize("where", ["start", 1, 5, 100, 200, LARGEST_BATCH])
def test_one_outlier_sheds_nobody(rows: int, where: int | str) -> None:
    """L34: a first batch of any size that took 25 times as long starves no agent of its rounds."""
    planner, seconds = Planner(), {"a": 0.2, "b": 0.2}
    for agent in seconds:
        planner.learn(agent, 1, 5.0 if where == "start" else 0.01)
        planner.learn(agent, LARGEST_BATCH, 0.2)
        if isinstance(where, int):
            planner.learn(agent, where, 5.0)
    rounds = Rounds(planner, 2)
    assert not any(rounds([("a", rows), ("b", rows)], linear(seconds)) for _ in range(100))


@pytest.mark.parametrize("outlier", [5.0, 50.0])
def test_a_stalled_start_is_forgotten_at_the_first_probe(outlier: float) -> None:
    """L34: if all that is known of an agent is one outlier, one good batch outweighs it."""
    planner, seconds = Planner(), {"a": 0.2, "b": 0.2}
    for agent, s in {"a": 0.2, "b": outlier}.items():
        planner.learn(agent, LARGEST_BATCH, s)
    rounds = Rounds(planner, 2)
    demands = [("a", LARGEST_BATCH), ("b", LARGEST_BATCH)]
    shed = [rounds(demands, linear(seconds)) for _ in range(100)]
    assert (shed[0], any(shed[PATIENCE:])) == ({"b"}, False)


def test_slow_batches_of_a_small_size_are_believed() -> None:
    """L46: who is late in rounds of 100 symbols is shed, however fast 256 rows once were."""
    planner, slow = Planner(), {"a": 0.2, "b": 15.0}
    for _ in range(REMEMBERED):
        planner.learn("b", LARGEST_BATCH, 0.2)
    rounds = Rounds(planner, 2)
    shed = [rounds([("a", 100), ("b", 100)], linear(slow)) for _ in range(100)]
    assert shed[3:] == [{"b"}] * 97


def test_what_small_sizes_cost_long_ago_starves_nobody() -> None:
    """L34: if all smaller sizes were slow once and only large ones are asked, these are right."""
    fast = {"a": 0.2, "b": 0.2}
    planner = taught(fast)
    for rows in (1, 16, 64, 100):
        for _ in range(REMEMBERED):
            planner.learn("b", rows, 6.0)
    rounds = Rounds(planner, 2)
    demands = [("a", LARGEST_BATCH), ("b", LARGEST_BATCH)]
    shed = [rounds(demands, linear(fast)) for _ in range(200)]
    assert not any(shed[PATIENCE:])


@settings(max_examples=15)
@given(st.integers(0, 2**16), st.sampled_from([2.5, 4.0, 10.0]), st.integers(20, 400))
def test_after_a_slow_spell_all_are_back(seed: int, slower: float, spell: int) -> None:
    """L46: an agent was slow for a while and is shed; probes find out that it no longer is."""
    fast, slow = {"a": 0.3, "b": 0.6}, {"a": 0.3, "b": 0.6 * slower}
    rounds = Rounds(taught(fast), 1, seed)
    demands = [("a", 3 * LARGEST_BATCH), ("b", 3 * LARGEST_BATCH)]
    for _ in range(spell):
        rounds(demands, linear(slow))
    assert rounds(demands, linear(slow)) == {"b"}
    # A probe that is late by itself has ever longer turns, until one is not.
    turns = PROBE_EVERY if slower < 10.0 else PATIENCE
    patience = PROBES_TO_RECOVER * turns + (4 * spell if slower >= 10.0 else 0)
    shed = [rounds(demands, linear(fast)) for _ in range(patience + 200)]
    assert not any(shed[patience:])
    assert sum(a != b for a, b in pairwise(shed)) == 1


def test_probes_are_few_and_in_time() -> None:
    """L46: of who is shed one batch in eight rounds is measured; one that is late ever rarer."""
    planner = taught({"a": 1.0, "b": 2.0, "c": 30.0})
    demands = [("a", 2 * LARGEST_BATCH), ("b", 4 * LARGEST_BATCH), ("c", LARGEST_BATCH)]
    probed: list[tuple[int, ...]] = [
        planner.admit(demands, 1, DEADLINE_S).probed for _ in range(16 * PROBE_EVERY)
    ]
    assert [i for i, who in enumerate(probed, 1) if 1 in who] == [
        PROBE_EVERY * n for n in range(1, 17)
    ]
    assert [i for i, who in enumerate(probed, 1) if 2 in who] == [
        PROBE_EVERY * n for n in (2, 6, 14)
    ]


def test_small_rounds_in_between_do_not_bring_back() -> None:
    """L46: that an agent manages a straggling bar says nothing about the burst of a minute."""
    planner = taught({"a": 1.6})
    burst, alone = [("b", 1), ("a", 3 * LARGEST_BATCH)], [("b", 1), ("a", 1)]
    planner.learn("b", 1, 1e-4)
    assert planner.admit(burst, 1, DEADLINE_S).run == (0,)
    for _ in range(REMEMBERED):
        planner.learn("a", LARGEST_BATCH, 1.3)  # 0.78 of the deadline: between the two shares
    for _ in range(20):
        assert planner.admit(alone, 1, DEADLINE_S).run == (0, 1)
        assert planner.admit(burst, 1, DEADLINE_S).run == (0,)


@given(
    st.lists(st.tuples(st.integers(1, LARGEST_BATCH), costs), min_size=1, max_size=40),
    st.integers(1, LARGEST_BATCH),
    st.integers(1, LARGEST_BATCH),
)
def test_more_rows_never_cost_less(learned: list[tuple[int, float]], a: int, b: int) -> None:
    """Estimates are finite and do not fall with the rows, whatever was measured."""
    cost = Cost()
    for rows, seconds in learned:
        cost.update(rows, seconds)
    assert 0.0 < cost.get(min(a, b)) <= cost.get(max(a, b)) < math.inf


def test_a_size_not_seen_is_estimated() -> None:
    """Of a size between, the larger one's cost; beyond the largest, in proportion."""
    cost = Cost()
    assert cost.get(9) == 0.0
    cost.update(1, 0.01)
    cost.update(64, 0.32)
    assert (cost.get(1), cost.get(2), cost.get(33), cost.get(256)) == (0.01, 0.32, 0.32, 1.28)


def test_it_is_deterministic() -> None:
    """The same batches and demands give the same plans."""

    def plans() -> list[set[str]]:
        rounds = Rounds(taught({"a": 1.0, "b": 1.2}), 1, seed=3)
        demands = [("a", 2 * LARGEST_BATCH), ("b", 2 * LARGEST_BATCH)]
        return [rounds(demands, linear({"a": 1.0, "b": 1.2})) for _ in range(200)]

    assert plans() == plans()
