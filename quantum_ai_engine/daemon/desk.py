"""Where callers' predictions wait: bounded, behind live rounds, answered batch by batch."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from quantum_ai_engine.agents.lane import Lane
from quantum_ai_engine.agents.panel import Ballot, Inquiry, inquire
from quantum_ai_engine.config import HttpSettings
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.routes import Refusal

BATCH = 64  # predictions that are asked for together, at most
SPARE_PART_S = 0.05  # how often it is looked whether the CPU budget has room again
RETRY_AFTER_S = 1

T = TypeVar("T")


class _Asked(NamedTuple):
    """One prediction that is waited for: how to look at its series, and until when it matters."""

    look: Callable[[], Awaitable[tuple[Inquiry, Any]]]
    until: float  # by the clock of the event loop
    answer: asyncio.Future[tuple[Any, Ballot]]


class Desk:
    """Takes callers' predictions to the agents, one batch at a time, and only where there is room.

    At most `http.predict_queue` predictions are asked for and not answered; what waits while a
    batch is with the agents is the next batch. A batch begins when no live round is on and
    `spares` says that the CPU budget would let one begin at once, so that callers can neither
    hold a worker for long nor make live rounds rest.
    """

    def __init__(
        self, lane: Lane, spares: Callable[[], bool], settings: HttpSettings, metrics: Metrics
    ) -> None:
        self._lane = lane
        self._spares = spares
        self._queue = settings.predict_queue
        self._deadline_s = settings.predict_deadline_ms / 1000
        self._metrics = metrics
        self.taken = 0  # places
        self._waiting: deque[_Asked] = deque()
        self._is_asked = asyncio.Event()

    @contextlib.contextmanager
    def places(self, count: int) -> Iterator[None]:
        """So many predictions are asked for. Raises `Refusal` when there is no room for them."""
        if self.taken + count > self._queue:
            self._metrics.predictions.labels("429").inc(count)
            raise Refusal(
                f"{self.taken} predictions are asked for and not answered yet, and at most "
                f"{self._queue} may be (http.predict_queue): ask again in a moment",
                429,
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        self.taken += count
        self._metrics.waiting.set(self.taken)
        try:
            yield
        finally:
            self.taken -= count
            self._metrics.waiting.set(self.taken)

    async def ask(self, look: Callable[[], Awaitable[tuple[Inquiry, T]]]) -> tuple[T, Ballot]:
        """What agents answer about a series, looked at when its turn comes.

        Raises what `look` raises, and `Refusal` at the deadline.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._deadline_s
        asked = _Asked(look, until, loop.create_future())
        self._waiting.append(asked)
        self._is_asked.set()
        try:
            async with asyncio.timeout_at(until):
                return await asked.answer
        except TimeoutError as error:
            raise Refusal(
                f"no answer within {self._deadline_s:g} s (http.predict_deadline_ms): live bars "
                "go first, and the CPU budget is theirs",
                504,
            ) from error
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(asked)

    async def run(self) -> None:
        """Answer what is asked, until cancelled."""
        try:
            while True:
                await self._is_asked.wait()
                while not self._spares():  # noqa: ASYNC110 (nothing announces it)
                    await asyncio.sleep(SPARE_PART_S)
                await self._lane.clear()
                await self._answer(self._next())
        finally:
            for one in self._waiting:
                _refuse(one, Refusal("the engine is stopping", 503))

    def _next(self) -> list[_Asked]:
        """The longest waiting ones, less those that nobody waits for any more."""
        batch: list[_Asked] = []
        while self._waiting and len(batch) < BATCH:
            one = self._waiting.popleft()
            if not one.answer.done():
                batch.append(one)
        if not self._waiting:
            self._is_asked.clear()
        return batch

    async def _answer(self, batch: list[_Asked]) -> None:
        """Ask about all of a batch together; what goes wrong is raised where it was asked."""
        if not batch:
            return
        try:
            async with asyncio.timeout_at(max(one.until for one in batch)):
                await self._together(batch)
        except TimeoutError:
            pass  # each who asked has found that out
        except asyncio.CancelledError:
            for one in batch:
                _refuse(one, Refusal("the engine is stopping", 503))
            raise
        except Exception as error:
            for one in batch:
                _refuse(one, error)

    async def _together(self, batch: list[_Asked]) -> None:
        looked = []
        for one in batch:
            try:
                looked.append((one, *await one.look()))
            except Exception as error:
                _refuse(one, error)
        ballots = await inquire(self._lane, [inquiry for _, inquiry, _ in looked])
        for (one, _, seen), ballot in zip(looked, ballots, strict=True):
            if not one.answer.done():
                one.answer.set_result((seen, ballot))


def _refuse(one: _Asked, error: Exception) -> None:
    if not one.answer.done():
        one.answer.set_exception(error)
