"""The lane of callers: behind live rounds, in short slices, with no trace in their plans."""

import asyncio
from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest

from quantum_ai_engine.agents.lane import Lane
from quantum_ai_engine.agents.pool import Answer, Request
from quantum_ai_engine.events import Abstained

from .test_pool import PATIENCE_S, Pools, Reader, windows


@pytest.fixture
def pools() -> Iterator[Pools]:
    made = Pools()
    yield made
    made.close()


def steps(pools: Pools, reader: Reader) -> list[int]:
    """How many rows were in each batch that a reader was asked for."""
    return [rows for _, rows in reader.asked]


async def turns(count: int = 20) -> None:
    """Let everything else on the event loop go on that can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_answers_come_in_order_and_to_the_bit(pools: Pools) -> None:
    """L53: each row has its own answer, however many slices were made of them."""
    first, second = Reader("first"), Reader("second")
    lane = Lane(pools.make(first, second))
    values = [i / 64 for i in range(37)]
    answers = await lane.predict([Request(first, windows(*values)), Request(second, windows(0.5))])
    assert answers[0].probabilities.tolist() == values
    assert answers[1].probabilities.tolist() == [0.5]
    assert sum(steps(pools, first)) == 37
    assert (await lane.predict([Request(first, windows())]))[0].probabilities.tolist() == []


async def test_slices_begin_with_one_row_and_grow_while_they_are_cheap(pools: Pools) -> None:
    """L46: of an agent that nothing is known of one row is asked; then as many as fit 5 ms."""
    reader = Reader("reader")
    await Lane(pools.make(reader), slice_s=PATIENCE_S).predict(
        [Request(reader, windows(*[0.5] * 300))]
    )
    assert steps(pools, reader)[0] == 1
    assert max(steps(pools, reader)) == 256
    dear = Reader("dear")
    await Lane(pools.make(dear), slice_s=0.0).predict([Request(dear, windows(*[0.5] * 5))])
    assert steps(pools, dear) == [1] * 5


async def test_nothing_begins_while_a_live_round_is_on(pools: Pools) -> None:
    """L46: live bars first: what a caller waits for begins when no round is on any more."""
    reader = Reader("reader")
    lane = Lane(pools.make(reader))
    with lane.live():
        with lane.live():
            asked = asyncio.create_task(lane.predict([Request(reader, windows(0.25))]))
            await turns()
            assert reader.asked == []
        await turns()
        assert reader.asked == []  # the other round is still on
    assert (await asked)[0].probabilities.tolist() == [0.25]


async def test_a_live_round_waits_for_one_slice_at_most(pools: Pools) -> None:
    """L46: a round that begins while a slice is with the only worker is next; the rest waits."""
    caller, live = Reader("caller", pools.held), Reader("live")
    pool = pools.make(caller, live)
    lane = Lane(pool, slice_s=0.0)
    asked = asyncio.create_task(lane.predict([Request(caller, windows(0.1, 0.2, 0.3))]))
    assert await asyncio.to_thread(pools.held.entered.wait, PATIENCE_S)
    with lane.live():
        round_ = asyncio.create_task(pool.predict([Request(live, windows(0.5))]))
        await turns()
        pools.held.released.set()
        assert (await round_)[0].probabilities.tolist() == [0.5]
        assert len(caller.asked) == 1
    assert (await asked)[0].probabilities.tolist() == [0.1, 0.2, 0.3]


async def test_plans_of_rounds_take_no_notice(pools: Pools) -> None:
    """L46: neither a lent worker nor what callers' batches cost sheds anybody of a live round."""
    caller, live = Reader("caller", pools.held), Reader("live")
    pool = pools.make(caller, live, workers=2, deadline_s=PATIENCE_S)
    for _ in range(3):  # each of its batches would take 0.6 of the deadline
        pool._planner.learn("live", 1, 0.6 * PATIENCE_S)
        pool._planner.learn("caller", 1, 0.6 * PATIENCE_S)
    timings = deque()  # type: ignore[var-annotated]
    lent = asyncio.create_task(pool.lend(Request(caller, windows(0.1)), timings))
    assert await asyncio.to_thread(pools.held.entered.wait, PATIENCE_S)
    demands = [Request(live, windows(0.5)), Request(caller, windows(0.5))]
    assert pool._plan(demands).run == (0, 1)  # as two free workers can
    pools.held.released.set()
    await lent
    assert [(one.agent, one.rows) for one in timings] == [("caller", 1)]
    assert not pool._timings


async def test_who_hangs_abstains_and_holds_one_worker_at_most(pools: Pools) -> None:
    """L02: a late slice is a typed abstention; until it ends its agent is not asked again."""
    stuck, other = Reader("stuck", pools.held), Reader("other")
    pool = pools.make(stuck, other, workers=2, deadline_s=0.05)
    lane = Lane(pool)
    for _ in range(3):
        answers = await lane.predict([Request(a, windows(0.5)) for a in (stuck, other)])
        assert reasons(answers) == [(Abstained.DEADLINE,), (None,)]
    assert len(stuck.asked) == 1
    pools.held.released.set()
    while pool.busy_workers:
        await asyncio.sleep(0.001)
    answers = await lane.predict([Request(stuck, windows(0.5))])
    assert reasons(answers) == [(None,)]


async def test_a_caller_that_gives_up_leaves_nothing_behind(pools: Pools) -> None:
    """L46: what runs then counts as abandoned work, and the next caller is served."""
    held, other = Reader("held", pools.held), Reader("other")
    pool = pools.make(held, other, workers=2)
    lane = Lane(pool)
    asked = asyncio.create_task(lane.predict([Request(held, windows(0.5))]))
    assert await asyncio.to_thread(pools.held.entered.wait, PATIENCE_S)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert pool._lent_now is None
    assert reasons(await lane.predict([Request(other, windows(0.5))])) == [(None,)]


async def test_a_failure_is_that_agents_alone(pools: Pools) -> None:
    """L02: an agent that raises or gives no finite number abstains, and it is reported."""

    def fail() -> None:
        raise ZeroDivisionError("broken")

    broken, odd = Reader("broken", fail), Reader("odd", say=lambda values: values * np.nan)
    lane = Lane(pools.make(broken, odd))
    answers = await lane.predict([Request(a, windows(0.5)) for a in (broken, odd)])
    assert reasons(answers) == [(Abstained.ERROR,), (Abstained.NON_FINITE,)]
    assert [name for name, _ in pools.reported] == ["broken"]


def reasons(answers: list[Answer]) -> list[tuple[Abstained | None, ...]]:
    return [answer.reasons for answer in answers]
