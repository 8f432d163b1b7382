"""The loop of the daemon: read a batch, take it through the engine, commit."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import msgspec
import structlog
from redis.exceptions import AuthenticationError

from quantum_ai_engine.agents.budget import CpuBudget
from quantum_ai_engine.config import ConfigError, Settings
from quantum_ai_engine.daemon.client import Client, Unreachable, backoff, check_server
from quantum_ai_engine.daemon.commit import Conflict, DeadLetter, Ledger, cut_text
from quantum_ai_engine.daemon.feed import BarFeed, Entry
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.status import Status
from quantum_ai_engine.daemon.tasks import end
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.events import Signal, Stance

LEARN_CHUNK = 1000
REST_PART_S = 1.0

log = structlog.get_logger()


class Stopwatch:
    """Measures the stages of one round, for metrics and for the signals' own `latency_us`."""

    def __init__(self, metrics: Metrics) -> None:
        self.us: dict[str, int] = {}
        self._metrics = metrics
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.us[stage] = self.us.get(stage, 0) + round(seconds * 1e6)
        self._metrics.stages.labels(stage).observe(seconds)

    def seconds(self) -> float:
        """Since the batch was received."""
        return time.perf_counter() - self._started


class Rounds:
    """Turns entries of the bar stream into committed signals, round by round.

    The engine's state always belongs to `position`. Whenever the committed position is another
    one, the engine is built anew and warmed up silently from the stream: start-up is recovery.
    While Redis cannot serve, the loop backs off and tries again for ever.
    """

    def __init__(
        self,
        settings: Settings,
        client: Client,
        make_engine: Callable[[], Engine],
        budget: CpuBudget,
        status: Status,
        metrics: Metrics,
    ) -> None:
        self.engine = make_engine()
        self.position: str | None = None
        keys = Keys.of(settings.redis)
        self.feed = BarFeed(
            client, keys, settings.engine.environment, settings.ingest.future_tolerance_ms
        )
        self._settings = settings
        self._client = client
        self._ledger = Ledger(client, keys, uuid.uuid4().hex)
        self._make_engine = make_engine
        self._budget = budget
        self._status = status
        self._metrics = metrics
        self._stances: dict[tuple[str, str], Stance] = {}
        self._failures = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`: the batch in hand is finished and committed, no other is begun."""
        while not stop.is_set():
            try:
                await self._reload()
                while not stop.is_set():
                    await self._rest(stop)
                    if entries := await self._read(stop):
                        await self._round(entries)
                    self._status.turns += 1
            except Conflict as conflict:
                self._metrics.conflicts.inc()
                self.position = None
                log.warning(
                    "The commit was refused; state is rebuilt",
                    event_name="commit_conflict",
                    detail=str(conflict),
                )
            except Unreachable as error:
                await self._back_off(error)

    async def _reload(self) -> None:
        """Claim the partition; if the state is not that of its position, rebuild it."""
        try:
            await check_server(self._client, self._settings.redis)
        except Unreachable as error:
            # What happens while the client connects comes wrapped in a ConnectionError.
            refused = isinstance(error.__cause__ or error, AuthenticationError)
            if refused and self.position is None:
                raise ConfigError(
                    f"Redis refuses the password ({str(error).lower()}); give the right one as "
                    "the credential redis-password or as QAE_REDIS__PASSWORD"
                ) from error
            raise
        position = await self._ledger.position()
        if position != self.position:
            await self._rebuild(position)
        self._serving()

    async def _rebuild(self, position: str) -> None:
        """A new engine, taught silently by the bars before the position."""
        self.position = None
        engine = self._make_engine()
        if await self.feed.was_trimmed(position):
            self._metrics.trimmed.inc()
            log.error(
                "The committed position was trimmed out of the bar stream: bars may be missing",
                event_name="position_trimmed",
                position=position,
            )
        bars = await self.feed.tail(position, self._settings.engine.replay_bars, self._latest())
        for start in range(0, len(bars), LEARN_CHUNK):
            engine.learn(bars[start : start + LEARN_CHUNK])
            await asyncio.sleep(0)  # let the loop breathe between chunks
        log.info(
            "State rebuilt from the bar stream",
            event_name="state_rebuilt",
            position=position,
            bars=len(bars),
        )
        self.engine, self.position = engine, position
        self._status.position = position
        self._note_newest()

    def _note_newest(self) -> None:
        """Show the newest close time, once there is one."""
        if newest := self.engine.newest_close:
            self._status.last_close_time = newest
            self._metrics.last_close.set(newest / 1000)

    async def _rest(self, stop: asyncio.Event) -> None:
        """Put the next round off for as long as it could break the CPU budget; or until `stop`."""
        while not stop.is_set():
            wait_s = self._budget.wait_s(time.monotonic(), time.process_time())
            if wait_s == 0.0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, REST_PART_S)):
                    await stop.wait()
            self._metrics.rested.inc(min(wait_s, REST_PART_S))
            self._status.turns += 1

    async def _read(self, stop: asyncio.Event) -> list[Entry]:
        """The next batch; nothing when `stop` comes first."""
        assert self.position is not None
        redis, batch = self._settings.redis, self._settings.ingest.batch
        read = asyncio.ensure_future(self.feed.read(self.position, batch, redis.block_ms))
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({read, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return read.result() if read.done() else []
        finally:
            await end([read, stopped])

    async def _round(self, entries: Sequence[Entry]) -> None:
        watch = Stopwatch(self._metrics)
        now_ms = time.time_ns() // 1_000_000
        with watch("decode"):
            bars, accepted, dead = self.feed.decode(entries, self._latest())
        is_wall = self._settings.engine.clock == "wall"
        done = await self.engine.process(bars, now_ms if is_wall else None, watch)
        dead += [DeadLetter(refused, *accepted[i]) for i, refused in done.refused]
        signals = [msgspec.structs.replace(s, latency_us=watch.us) for s in done.signals]
        with watch("commit"):
            await self._commit(entries[-1][0].decode(), signals, dead)
        self._budget.took(watch.seconds())
        self._metrics.update(done, dead, watch.seconds())
        self._status.update(done, len(dead))
        self._note_newest()
        self._tell(signals, dead)

    async def _commit(
        self, end: str, signals: Sequence[Signal], dead: Sequence[DeadLetter]
    ) -> None:
        """Commit the round, as often as it takes to get an answer."""
        assert self.position is not None
        while True:
            try:
                await self._ledger.commit(self.position, end, signals, dead)
                break
            except Unreachable as error:
                await self._back_off(error)
        self.position = self._status.position = end
        self._serving()

    def _serving(self) -> None:
        """Say that Redis serves, if it did not."""
        if self._status.redis_error is not None:
            log.info("Redis serves", event_name="redis_up", position=self.position)
        self._status.redis_error = None
        self._metrics.ready.set(1)
        self._failures = 0

    async def _back_off(self, error: BaseException) -> None:
        """Say that Redis cannot serve, and wait a little longer than last time."""
        self._failures += 1
        self._status.turns += 1
        self._metrics.redis_failures.inc()
        self._metrics.ready.set(0)
        if self._status.redis_error is None or self._failures == 1:
            log.warning(
                "Redis cannot serve; trying again",
                event_name="redis_down",
                detail=str(error) or type(error).__name__,
            )
        self._status.redis_error = str(error) or type(error).__name__
        await asyncio.sleep(backoff(self._settings.redis).compute(self._failures))

    def _latest(self) -> int:
        """The last close time that can have happened: a bar is never from the future."""
        return time.time_ns() // 1_000_000 + self._settings.ingest.future_tolerance_ms

    def _tell(self, signals: Sequence[Signal], dead: Sequence[DeadLetter]) -> None:
        """Log what a person acts on: changed stances, and that entries were refused."""
        for signal in signals:
            series = (signal.symbol, signal.interval)
            if self._stances.get(series, Stance.FLAT) is not signal.stance:
                log.info(
                    f"{signal.symbol} is now {signal.stance}",
                    event_name="stance_changed",
                    symbol=signal.symbol,
                    interval=signal.interval,
                    stance=signal.stance.value,
                    probability=round(signal.probability, 4),
                    target=round(signal.target, 4),
                    signal_id=signal.id,
                )
            self._stances[series] = signal.stance
        if dead:
            log.warning(
                f"{len(dead)} entries of the bar stream were refused",
                event_name="refused",
                count=len(dead),
                reason=dead[0].refused.reason.value,
                detail=cut_text(dead[0].refused.detail),
            )
