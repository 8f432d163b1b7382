"""The pool: real threads, a real deadline, and typed reasons instead of numbers."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import LARGEST_BATCH, Past
from quantum_ai_engine.agents.bundle import BundleError
from quantum_ai_engine.agents.plan import PATIENCE
from quantum_ai_engine.agents.pool import TIMINGS, AgentPool, Request
from quantum_ai_engine.events import Abstained
from quantum_ai_engine.features.schema import FeatureSet
from quantum_ai_engine.features.store import Windows

Floats = NDArray[np.float64]
PATIENCE_S = 10.0


class Reader:
    """An agent whose probability is the first value of its window."""

    bundle, horizon_bars, interval, clamped = "0" * 12, 5, "1m", 0
    unavailable: str | None = None
    past = Past()
    feature_set = FeatureSet("two", ("ret_1", "high_low"), window=4)

    def __init__(
        self,
        name: str,
        think: Callable[[], object] = lambda: None,
        say: Callable[[Floats], object] = lambda values: values,
    ) -> None:
        self.name = name
        self.warmed: list[int] = []
        self.asked: list[tuple[int, int]] = []  # thread, rows
        self._think = think
        self._say = say

    def warm_up(self) -> None:
        self.warmed.append(threading.get_ident())

    def predict(self, windows: Floats) -> Floats:
        self.asked.append((threading.get_ident(), len(windows)))
        self._think()
        return self._say(windows[:, 0, 0].copy())  # type: ignore[return-value] # anybody's


class Cold(Reader):
    """An agent whose golden pair does not come out."""

    def warm_up(self) -> None:
        raise BundleError("bundle cold: the golden input gives probabilities off by 0.3")


class Held:
    """Holds an agent until it is released."""

    def __init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.released.wait(PATIENCE_S)


class Pools:
    """Makes pools and keeps what they tell."""

    def __init__(self) -> None:
        self.observed: list[tuple[str, float]] = []
        self.reported: list[tuple[str, BaseException]] = []
        self.held = Held()
        self._made: list[AgentPool] = []

    def make(self, *agents: Reader, workers: int = 1, deadline_s: float = PATIENCE_S) -> AgentPool:
        pool = AgentPool(
            agents,
            workers,
            deadline_s,
            lambda name, seconds: self.observed.append((name, seconds)),
            lambda name, error: self.reported.append((name, error)),
        )
        self._made.append(pool)
        return pool

    def close(self) -> None:
        self.held.released.set()
        for pool in self._made:
            pool.close()


@pytest.fixture
def pools() -> Iterator[Pools]:
    made = Pools()
    yield made
    made.close()


def fail() -> None:
    raise ZeroDivisionError("broken")


def windows(*first: float) -> Windows:
    """Windows [n, 4, 2] that begin with these values."""
    made = np.zeros((len(first), 4, 2))
    made[:, 0, 0] = first
    return Windows.of(made)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def test_every_agent_is_warmed_up_in_every_worker(pools: Pools) -> None:
    """L26: before READY each thread that will serve has run each agent."""
    agents = [Reader("a"), Reader("b")]
    pool = pools.make(*agents, workers=3)
    await pool.start()
    for agent in agents:
        assert len(set(agent.warmed)) == len(agent.warmed) == 3
        assert threading.get_ident() not in agent.warmed
    await pool.predict([Request(agent, windows(0.1)) for agent in agents * 8])
    assert {thread for thread, _ in agents[0].asked} <= set(agents[0].warmed)


async def test_an_agent_that_does_not_warm_up_stops_the_start(pools: Pools) -> None:
    """L24: an agent that fails its golden pair is never ready."""
    with pytest.raises(BundleError, match="bundle cold"):
        await pools.make(Reader("a"), Cold("cold"), workers=2).start()


async def test_answers_come_in_the_order_of_requests(pools: Pools) -> None:
    """L53: each answer belongs to its request and row, whichever agent was done first."""
    first = Reader("first", pools.held)
    second = Reader("second", pools.held.released.set)  # done before the first
    pool = pools.make(first, second, workers=2)
    answers = await pool.predict([Request(first, windows(0.1, 0.2)), Request(second, windows(0.3))])
    assert [answer.probabilities.tolist() for answer in answers] == [[0.1, 0.2], [0.3]]
    assert [answer.reasons for answer in answers] == [(None, None), (None,)]


async def test_an_agent_that_raises_abstains(pools: Pools) -> None:
    """L02: an exception becomes the reason `error` and is reported; the others answer."""
    good, bad = Reader("good"), Reader("bad", fail)
    pool = pools.make(bad, good)
    answers = await pool.predict([Request(bad, windows(0.5, 0.5)), Request(good, windows(0.6))])
    assert answers[0].reasons == (Abstained.ERROR, Abstained.ERROR)
    assert np.isnan(answers[0].probabilities).all()
    assert answers[1].probabilities.tolist() == [0.6]
    assert [(name, str(error)) for name, error in pools.reported] == [("bad", "broken")]


@pytest.mark.parametrize(
    ("say", "complaint"),
    [
        (lambda values: values[:-1], r"shape \(1,\) for 2 windows"),
        (lambda values: np.append(values, 0.5), r"shape \(3,\) for 2 windows"),
        (lambda values: values[:, None], r"shape \(2, 1\) for 2 windows"),
        (lambda _: 0.5, r"shape \(\) for 2 windows"),
        (lambda _: None, r"shape \(\) for 2 windows"),
        (lambda _: ["up", "down"], "could not convert string"),
    ],
)
async def test_an_answer_of_the_wrong_shape_is_an_error(
    pools: Pools, say: Callable[[Floats], object], complaint: str
) -> None:
    """L02: what is not one number for each row is no answer; it is reported, the others go on."""
    bad, good = Reader("bad", say=say), Reader("good")
    pool = pools.make(bad, good)
    answers = await pool.predict([Request(a, windows(0.5, 0.6)) for a in (bad, good)])
    assert answers[0].reasons == (Abstained.ERROR, Abstained.ERROR)
    assert np.isnan(answers[0].probabilities).all()
    assert answers[1].probabilities.tolist() == [0.5, 0.6]
    ((name, error),) = pools.reported
    assert name == "bad"
    assert isinstance(error, ValueError)
    assert re.search(complaint, str(error))


async def test_no_number_is_made_of_one_that_is_not_finite(pools: Pools) -> None:
    """L02: a row whose answer is NaN or infinite abstains, and only that row."""
    agent = Reader("a")
    (answer,) = await pools.make(agent).predict([Request(agent, windows(0.4, np.nan, np.inf, 0.6))])
    bad = Abstained.NON_FINITE
    assert answer.reasons == (None, bad, bad, None)


async def test_a_late_result_goes_nowhere(pools: Pools) -> None:
    """L46: at the deadline the rows abstain; what the agent says later reaches nobody."""
    agent = Reader("slow", pools.held)
    pool = pools.make(agent, deadline_s=0.05)
    (answer,) = await pool.predict([Request(agent, windows(0.9, 0.9))])
    assert answer.reasons == (Abstained.DEADLINE,) * 2
    pools.held.released.set()
    await until(lambda: pool.busy_workers == 0)
    assert np.isnan(answer.probabilities).all()
    (answer,) = await pool.predict([Request(agent, windows(0.2))])
    assert answer.probabilities.tolist() == [0.2]
    assert pools.reported == []


async def test_later_agents_are_shed_first(pools: Pools) -> None:
    """L46: past the deadline waiting work is dropped, in the reverse of the declared order."""
    first, second, third = Reader("first"), Reader("second", pools.held), Reader("third")
    pool = pools.make(first, second, third, deadline_s=0.3)
    answers = await pool.predict([Request(a, windows(0.7)) for a in (first, second, third)])
    late = Abstained.DEADLINE
    assert [answer.reasons for answer in answers] == [(None,), (late,), (late,)]
    pools.held.released.set()
    await until(lambda: pool.busy_workers == 0)
    await pool.probe()  # goes through the same queue: what waited before it would have run
    assert third.asked == []


async def test_the_loop_runs_while_agents_work(pools: Pools) -> None:
    """L46: inference happens in a worker; here only the loop can let it go on."""
    agent = Reader("a", pools.held)
    pool = pools.make(agent)
    asked = asyncio.ensure_future(pool.predict([Request(agent, windows(0.5))]))
    await until(pools.held.entered.is_set)
    pools.held.released.set()
    assert (await asked)[0].probabilities.tolist() == [0.5]
    assert agent.asked[0][0] != threading.get_ident()


async def test_more_rows_than_the_largest_batch(pools: Pools) -> None:
    """A long request is cut into batches and put together again in order."""
    agent, rows = Reader("a"), 2 * LARGEST_BATCH + 88
    values = np.linspace(0.0, 1.0, rows)
    (answer,) = await pools.make(agent, workers=2).predict([Request(agent, windows(*values))])
    assert sorted(n for _, n in agent.asked) == [88, LARGEST_BATCH, LARGEST_BATCH]
    assert answer.probabilities.tobytes() == values.tobytes()
    assert answer.reasons == (None,) * rows


async def test_nothing_asked_nothing_answered(pools: Pools) -> None:
    """No request, or one without rows, needs no worker."""
    agent = Reader("a")
    pool = pools.make(agent)
    assert await pool.predict([]) == []
    (answer,) = await pool.predict([Request(agent, windows())])
    assert (len(answer.probabilities), answer.reasons, agent.asked) == (0, (), [])


async def test_each_batch_is_observed(pools: Pools) -> None:
    """L09: the observer is told of each batch where it ran, with its seconds."""
    agent = Reader("a")
    pool = pools.make(agent)
    await pool.predict([Request(agent, windows(*[0.5] * (LARGEST_BATCH + 1)))])
    assert [name for name, _ in pools.observed] == ["a", "a"]
    assert all(0.0 <= seconds < PATIENCE_S for _, seconds in pools.observed)


async def test_a_probe_is_real_work(pools: Pools) -> None:
    """L05: a probe takes one batch through a real worker; an agent that fails it is reported."""
    pool = pools.make(Reader("a"))
    await pool.probe()
    assert [name for name, _ in pools.observed] == ["a"]
    await pools.make(Reader("b", fail)).probe()
    assert [name for name, _ in pools.reported] == ["b"]


async def test_starting_measures_the_smallest_and_the_largest_batch(pools: Pools) -> None:
    """L46: what batches cost is known before the first round."""
    agent = Reader("a")
    await pools.make(agent).start()
    assert [rows for _, rows in agent.asked] == [1, LARGEST_BATCH]


async def test_who_would_be_late_is_shed_before_it_is_asked(pools: Pools) -> None:
    """L46: an agent known to be too slow abstains at once, and does not hold up the others."""
    slow, quick = Reader("slow", lambda: time.sleep(0.2)), Reader("quick")
    pool = pools.make(quick, slow, deadline_s=0.1)
    await pool.start()
    slow.asked.clear()
    first, second = await pool.predict(
        [Request(quick, windows(0.3)), Request(slow, windows(0.3, 0.4))]
    )
    assert (first.probabilities.tolist(), first.reasons) == ([0.3], (None,))
    assert second.reasons == (Abstained.DEADLINE, Abstained.DEADLINE)
    assert slow.asked == []


async def test_who_was_shed_is_measured_again_and_comes_back(pools: Pools) -> None:
    """L34: a shed agent's batches are tried now and then, so that it can return."""
    pause = [0.2]
    slow, quick = Reader("slow", lambda: time.sleep(pause[0])), Reader("quick")
    pool = pools.make(quick, slow, deadline_s=0.1)
    await pool.start()
    pause[0] = 0.0
    for _ in range(2_000):
        _, answer = await pool.predict([Request(quick, windows(0.3)), Request(slow, windows(0.3))])
        await until(lambda: pool.busy_workers == 0)
        if answer.reasons == (None,):
            return
    pytest.fail("it never came back")


async def test_a_probe_runs_even_if_its_round_is_over_first(pools: Pools) -> None:
    """L34: a planned probe is measured however late, and only one of an agent ever waits."""
    stuck, slow = Reader("stuck"), Reader("slow", lambda: time.sleep(0.05))
    pool = pools.make(stuck, slow, deadline_s=0.02)
    await pool.start()
    slow.asked.clear()
    stuck._think = pools.held
    for _ in range(3 * PATIENCE):  # until the second turn
        await pool.predict([Request(agent, windows(0.3)) for agent in (stuck, slow)])
    pools.held.released.set()
    await pool.probe()  # goes through the same queue
    assert [rows for _, rows in slow.asked] == [1]


async def test_workers_busy_with_abandoned_work_are_not_counted_on(pools: Pools) -> None:
    """L46: while one of two workers is stuck, only what one can do is begun."""
    first, second = (Reader(name, lambda: time.sleep(0.3)) for name in ("first", "second"))
    stuck = Reader("stuck")
    pool = pools.make(stuck, first, second, workers=2, deadline_s=0.5)
    await pool.start()
    stuck._think = pools.held
    second.asked.clear()
    await pool.predict([Request(stuck, windows(0.5))])
    answers = await pool.predict([Request(agent, windows(0.5)) for agent in (first, second)])
    assert [answer.reasons for answer in answers] == [(None,), (Abstained.DEADLINE,)]
    assert second.asked == []


async def test_who_raises_does_not_come_back_by_it(pools: Pools) -> None:
    """L46: a batch that raised at once says nothing about what one costs."""
    slow, quick = Reader("slow", lambda: time.sleep(0.2)), Reader("quick")
    pool = pools.make(quick, slow, deadline_s=0.1)
    await pool.start()
    slow._think = fail
    for _ in range(20 * PATIENCE):
        _, answer = await pool.predict([Request(quick, windows(0.3)), Request(slow, windows(0.3))])
        assert answer.reasons == (Abstained.DEADLINE,)
        await until(lambda: pool.busy_workers == 0)
    assert len(slow.asked) > 2  # probes were tried


async def test_what_is_to_be_learned_is_bounded(pools: Pools) -> None:
    """Batches between rounds, as the watchdog's, do not pile up."""
    pool = pools.make(Reader("a"))
    for _ in range(TIMINGS + 5):
        await pool.probe()
    assert len(pool._timings) == TIMINGS


async def test_a_probe_that_is_given_up_is_dropped(pools: Pools) -> None:
    """L05: a check that ran out of time leaves no work behind."""
    agent = Reader("a", pools.held)
    pool = pools.make(agent, deadline_s=0.05)
    await pool.predict([Request(agent, windows(0.5))])  # is stuck
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.probe(), 0.05)
    pools.held.released.set()
    await pool.probe()
    assert len(agent.asked) == 2


async def test_a_stuck_worker_is_seen(pools: Pools) -> None:
    """L46: how long the oldest batch has been running is known, and 0 when all are idle."""
    agent = Reader("a", pools.held)
    pool = pools.make(agent, workers=2)
    assert (pool.busy_workers, pool.longest_running_s()) == (0, 0.0)
    asked = asyncio.ensure_future(pool.predict([Request(agent, windows(0.5))]))
    await until(pools.held.entered.is_set)
    assert pool.busy_workers == 1
    seen = pool.longest_running_s()
    await until(lambda: pool.longest_running_s() > seen)
    pools.held.released.set()
    await asked
    await until(lambda: pool.longest_running_s() == 0.0)


async def test_closing_drops_what_waits(pools: Pools) -> None:
    """A closed pool runs nothing that waited, takes nothing more, and its threads end."""
    stuck, waiting = Reader("stuck", pools.held), Reader("waiting")
    pool = pools.make(stuck, waiting, deadline_s=0.3)
    requests = [Request(stuck, windows(0.5)), Request(waiting, windows(0.5))]
    asked = asyncio.ensure_future(pool.predict(requests))
    await until(pools.held.entered.is_set)
    worker = stuck.asked[0][0]
    pool.close()
    pools.held.released.set()
    await until(lambda: worker not in {thread.ident for thread in threading.enumerate()})
    assert (await asked)[1].reasons == (Abstained.DEADLINE,)
    assert waiting.asked == []
    with pytest.raises(RuntimeError, match="after shutdown"):
        await pool.probe()
