"""Where callers' predictions wait: bounded, together, behind live rounds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

import pytest

from quantum_ai_engine.agents.lane import Lane
from quantum_ai_engine.agents.panel import Ballot, Inquiry, Question
from quantum_ai_engine.config import HttpSettings
from quantum_ai_engine.daemon.desk import BATCH, Desk
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.routes import Refusal
from quantum_ai_engine.daemon.tasks import end

from ..agents.test_pool import PATIENCE_S, Pools, Reader, windows

METRICS = ("1", "a", "b")
T = TypeVar("T")


@pytest.fixture
def pools() -> Iterator[Pools]:
    made = Pools()
    yield made
    made.close()


class Room:
    """A desk that runs, its lane, and whether the CPU budget has room."""

    def __init__(self, pools: Pools, reader: Reader, **settings: int) -> None:
        self.lane = Lane(pools.make(reader), slice_s=PATIENCE_S)
        self.is_spare = True
        self.metrics = Metrics(*METRICS)
        http = HttpSettings(**settings)  # type: ignore[arg-type]
        self.desk = Desk(self.lane, lambda: self.is_spare, http, self.metrics)
        self.life = asyncio.create_task(self.desk.run())

    def ask(self, value: float) -> "asyncio.Task[tuple[float, Ballot]]":
        """Ask about a series whose one agent answers with this value."""
        return asyncio.create_task(self.desk.ask(looking(lambda: (inquiry(value), value))))


def looking(look: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    """The same, to be awaited."""

    async def looks() -> T:
        return look()

    return looks


def inquiry(value: float) -> Inquiry:
    return Inquiry(Question("1m", 10_000, 128), {"two": windows(value)})


@pytest.fixture
async def room(pools: Pools) -> AsyncIterator[Callable[..., Room]]:
    rooms: list[Room] = []

    def make(reader: Reader, **settings: int) -> Room:
        rooms.append(Room(pools, reader, **settings))
        return rooms[-1]

    yield make
    await end([one.life for one in rooms])


async def turns(count: int = 30) -> None:
    """Let everything else on the event loop go on that can."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_waits_is_asked_about_together(pools: Pools, room: Callable[..., Room]) -> None:
    """L53: one batch at a time; who came meanwhile is the next one, and gets its own answer."""
    reader = Reader("reader", pools.held)
    one = room(reader)
    first = one.ask(0.5)
    assert await asyncio.to_thread(pools.held.entered.wait, PATIENCE_S)
    others = [one.ask(i / 128) for i in range(1, 11)]
    await turns()
    assert len(reader.asked) == 1
    pools.held.released.set()
    assert (await first)[1].answers == [(0, 0.5)]
    for i, asked in enumerate(others, start=1):
        value, ballot = await asked
        assert ballot.answers == [(0, value)] == [(0, i / 128)]
    assert [rows for _, rows in reader.asked] == [1, 10]


async def test_a_batch_is_bounded(room: Callable[..., Room]) -> None:
    """L46: however many wait, no more than a batch is with the agents at once."""
    reader = Reader("reader")
    one = room(reader)
    with one.lane.live():
        asked = [one.ask(0.5) for _ in range(2 * BATCH)]
        await turns()
    await asyncio.gather(*asked)
    assert max(rows for _, rows in reader.asked) <= BATCH
    assert sum(rows for _, rows in reader.asked) == 2 * BATCH


async def test_beyond_the_queue_callers_are_sent_away(room: Callable[..., Room]) -> None:
    """L41: 429 says why and when to come again, and is counted; who leaves makes room."""
    desk = (one := room(Reader("reader"), predict_queue=64)).desk
    with desk.places(60):
        words = r"60 predictions .* at most 64 .*http.predict_queue"
        with pytest.raises(Refusal, match=words) as no, desk.places(5):
            pytest.fail("there is no room for them")
        assert (no.value.status, no.value.headers) == (429, {"Retry-After": "1"})
        with desk.places(4):
            assert one.metrics.registry.get_sample_value("qae_waiting_predictions") == 64
    with desk.places(64):
        pass
    sent_away = one.metrics.registry.get_sample_value("qae_predictions_total", {"status": "429"})
    assert sent_away == 5
    assert one.metrics.registry.get_sample_value("qae_waiting_predictions") == 0


async def test_nothing_is_looked_at_while_a_live_round_is_on(room: Callable[..., Room]) -> None:
    """L07: a series is looked at when its turn comes, so that the answer is of its newest bar."""
    one, newest = room(Reader("reader")), [0.1]
    with one.lane.live():
        asked = asyncio.create_task(one.desk.ask(looking(lambda: (inquiry(newest[0]), newest[0]))))
        await turns()
        newest[0] = 0.9
    assert await asked == (0.9, Ballot([(0, 0.9)], []))


async def test_callers_rest_before_live_rounds_would(room: Callable[..., Room]) -> None:
    """L46: while the CPU budget has no room to spare, nobody is asked."""
    reader = Reader("reader")
    one = room(reader)
    one.is_spare = False
    asked = one.ask(0.5)
    await turns()
    assert reader.asked == []
    one.is_spare = True
    assert (await asked)[0] == 0.5


async def test_at_the_deadline_a_caller_is_told(room: Callable[..., Room]) -> None:
    """L46: live bars go first, but nobody waits for ever, and who has gone is not asked about."""
    reader = Reader("reader")
    one = room(reader, predict_deadline_ms=20)
    words = "no answer within 0.02 s .*live bars go first"
    with one.lane.live(), pytest.raises(Refusal, match=words) as late:
        await one.ask(0.5)
    assert late.value.status == 504
    await turns()
    assert reader.asked == []
    assert not one.desk._waiting


async def test_a_batch_that_hangs_is_left_at_the_deadline(
    pools: Pools, room: Callable[..., Room]
) -> None:
    """L47: the desk goes on when nobody waits for a batch any more."""
    one = room(Reader("reader", pools.held), predict_deadline_ms=50)
    with pytest.raises(Refusal, match="no answer within"):
        await one.ask(0.5)
    pools.held.released.set()
    while True:  # until the worker is free again
        _, ballot = await one.ask(0.25)
        if ballot.answers:
            break
    assert ballot.answers == [(0, 0.25)]


async def test_who_cannot_be_looked_at_spoils_nobody_else(room: Callable[..., Room]) -> None:
    """L02: a refusal, and even a failure of ours, is raised where it was asked, and there alone."""

    def refuse() -> tuple[Inquiry, float]:
        raise Refusal("no bar of NOPE was seen", 404)

    def fail() -> tuple[Inquiry, float]:
        raise ZeroDivisionError("ours")

    one = room(Reader("reader"))
    refused, failed = (asyncio.create_task(one.desk.ask(looking(look))) for look in (refuse, fail))
    assert (await one.ask(0.5))[0] == 0.5
    with pytest.raises(Refusal, match="NOPE"):
        await refused
    with pytest.raises(ZeroDivisionError, match="ours"):
        await failed
    assert (await one.ask(0.25))[0] == 0.25


async def test_a_failed_round_is_told_to_all_that_were_in_it(room: Callable[..., Room]) -> None:
    """L47: the desk outlives it."""
    one = room(Reader("reader"))
    odd = Inquiry(Question("1m", 10_000, 128), {})  # of no feature set
    with pytest.raises(KeyError):
        await one.desk.ask(looking(lambda: (odd, None)))
    assert (await one.ask(0.25))[0] == 0.25


async def test_at_the_end_callers_are_told(pools: Pools, room: Callable[..., Room]) -> None:
    """L10: who waits when the engine stops gets 503 with the reason, in a batch or not."""
    one = room(Reader("reader", pools.held))
    inside = one.ask(0.5)
    assert await asyncio.to_thread(pools.held.entered.wait, PATIENCE_S)
    outside = one.ask(0.5)
    await turns()
    await end([one.life])
    for asked in (inside, outside):
        with pytest.raises(Refusal, match="the engine is stopping") as stopped:
            await asked
        assert stopped.value.status == 503
