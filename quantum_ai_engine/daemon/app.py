"""The life of the daemon: build, start, run, stop."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import msgspec
import structlog
from aiohttp import web

from quantum_ai_engine.agents.budget import CpuBudget, bound_loaded
from quantum_ai_engine.agents.bundle import BundleError
from quantum_ai_engine.agents.bundled import BundledAgent
from quantum_ai_engine.agents.lane import Lane
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.agents.pool import AgentPool, budget, worker_count
from quantum_ai_engine.config import (
    ConfigError,
    Loaded,
    Settings,
    bundle_dir,
    config_hash,
    redis_dir,
    state_dir,
)
from quantum_ai_engine.daemon import access, door, http, logs, pulse
from quantum_ai_engine.daemon.activation import passed_socket
from quantum_ai_engine.daemon.build import build_id, version
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.desk import Desk
from quantum_ai_engine.daemon.embedded import EmbeddedRedis, NoPlaceError
from quantum_ai_engine.daemon.feed import bridge
from quantum_ai_engine.daemon.judged import JudgedCollector
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.killswitch import KillSwitch
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.notify import Notifier, watchdog_interval_s
from quantum_ai_engine.daemon.ownership import Entrance
from quantum_ai_engine.daemon.page.facts import Sources
from quantum_ai_engine.daemon.page.history import History
from quantum_ai_engine.daemon.page.page import Page
from quantum_ai_engine.daemon.page.ring import Ring
from quantum_ai_engine.daemon.predicting import Home, Predicting
from quantum_ai_engine.daemon.reload import Reloader, ReloadRefusedError, Requests
from quantum_ai_engine.daemon.rounds import Rounds, Shared
from quantum_ai_engine.daemon.routes import Route
from quantum_ai_engine.daemon.shifted import ShiftCollector
from quantum_ai_engine.daemon.status import InForce, Status
from quantum_ai_engine.daemon.tasks import end
from quantum_ai_engine.engine import Engine, Identity
from quantum_ai_engine.features.sessions import Calendars

STOP_WITHIN_S = 1.5
INTERRUPTED = 130
CALLERS_CPU_S = 0.5  # what a batch of callers' predictions may burn

log = structlog.get_logger()


class EmbeddedRedisEnded(Exception):  # noqa: N818 (what happened)
    """Our own Redis ended while the daemon was running."""


class Daemon:
    """Everything that serves, put together from the settings and not yet started.

    `read_again` gives the settings anew from all their layers, for a reload.
    """

    def __init__(
        self,
        loaded: Loaded,
        notifier: Notifier,
        read_again: Callable[[], Loaded] | None = None,
    ) -> None:
        self.settings = settings = loaded.settings
        access.check(settings.http)
        self.notifier = notifier
        build = build_id()
        self.metrics = Metrics(version(), build, loaded.config_hash)
        try:
            agents = load_agents(
                bundle_dir(settings), settings.agents.order, settings.sessions.by_symbol()
            )
        except BundleError as error:
            raise ConfigError(str(error)) from error
        bound_loaded()
        self.status = Status.of(agents, settings.redis.served)
        cores, deadline_s = len(os.sched_getaffinity(0)), settings.agents.deadline_ms / 1000
        workers = worker_count(settings.agents.budget_cores, cores)
        self._budget = CpuBudget(
            budget(settings.agents.budget_cores, cores), workers, cores, deadline_s
        )
        self.pool = AgentPool(
            agents,
            workers,
            deadline_s,
            lambda name, seconds: self.metrics.inference.labels(name).observe(seconds),
            _report_agent,
        )
        self.lane = Lane(self.pool)
        self.desk = Desk(self.lane, self._spares, settings.http, self.metrics)
        self._engine_name = f"{version()}+{build}"
        self.status.in_force = InForce(self._engine_name, loaded.config_hash)
        self.metrics.observe_pool(self.pool)
        self._calendars = Calendars(settings.sessions.by_symbol())
        self._killswitch = KillSwitch(state_dir(settings))
        self.stop = asyncio.Event()
        self.ready = asyncio.Event()
        self.rounds: dict[int, Rounds] = {}
        register = self.metrics.registry.register
        register(JudgedCollector(lambda: [e.state.judgement for e in self._engines().values()]))
        register(ShiftCollector(lambda: [e.shifts for e in self._engines().values()]))
        self._read_again = read_again
        reloader = Reloader(
            read_again, lambda: self.settings, lambda: self.rounds, self._engine_of, self._apply
        )
        self.reloads = Requests(reloader, self.status, self.metrics, notifier)
        self._ring, self._history = Ring(), History(self.status, self.metrics)
        self.http_address = ""

    async def run(self) -> None:
        """The whole life: start, say READY, serve until `stop`, leave."""
        async with (
            redis_server(self.settings) as (url, server),
            self._connected(url) as client,
        ):
            self.rounds = self._rounds(client)
            await self._killswitch.look()
            page = self._page(client)
            async with (
                self._warm_pool(),
                self._listening(page),
                self._door(),
                asyncio.TaskGroup() as tasks,
            ):
                service = [tasks.create_task(task) for task in self._background(client, page)]
                if server is not None:
                    service.append(tasks.create_task(_outlive(server)))
                work = {tasks.create_task(one.run(self.stop)) for one in self.rounds.values()}
                try:
                    if await self._is_settled(work):
                        self._say_ready(url)
                    await self._serve(work)
                finally:
                    # The group itself cancels once, and that may go unheard.
                    await end([*service, *work])

    async def _is_settled(self, work: set[asyncio.Task[None]]) -> bool:
        """Wait until each partition is owned or stood by for, or Redis found unreachable.

        False when `stop`, or the end of a partition's rounds, came first: what makes a start
        fail is said before READY.
        """
        settled = asyncio.ensure_future(self._settled())
        stopped = asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait({*work, settled, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return settled.done() and not stopped.done()
        finally:
            await end([settled, stopped])

    async def _settled(self) -> None:
        for one in self.rounds.values():
            await one.settled.wait()

    async def _serve(self, work: set[asyncio.Task[None]]) -> None:
        """Until rounds end by themselves, or for a short while after `stop`."""
        stopped = asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait({*work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        self.status.stopping = True
        self.notifier.stopping()
        _, late = await asyncio.wait(work, timeout=STOP_WITHIN_S)
        if late:
            # Nothing is lost: what is not committed is read again at the next start.
            await end(late)
            log.warning("Stopped before the batch in hand was committed", event_name="stop_late")
        log.info("Stopped", event_name="stopped", signals=self.status.signals)

    def _rounds(self, client: Client) -> dict[int, Rounds]:
        """The rounds of each partition that is served."""
        shared = Shared(
            self.settings,
            self._make_engine,
            Entrance(client, self.settings),
            self._budget,
            self.lane,
            self._killswitch,
            self.status,
            self.metrics,
            self._ring,
        )
        keys = Keys.of(self.settings.redis)
        return {p: Rounds(shared, client.at(p), keys.at(p)) for p in self.settings.redis.served}

    def _make_engine(self) -> Engine:
        return self._engine_of(self.settings)

    def _engine_of(self, settings: Settings) -> Engine:
        """An engine of these settings, which knows nothing yet."""
        hashed = config_hash(settings)
        identity = Identity(settings.engine.environment, self._engine_name, hashed)
        return Engine(settings, self.pool, identity, self._calendars)

    def _apply(self, settings: Settings) -> None:
        """Put other settings in force for all that is not of a partition."""
        if settings.log.level != self.settings.log.level:
            logs.set_level(settings.log.level)
        self.settings = settings
        self.status.in_force.config_hash = config_hash(settings)

    def _engines(self) -> dict[int, Engine]:
        return {p: rounds.engine for p, rounds in self.rounds.items()}

    def _spares(self) -> bool:
        """Whether callers may have a batch of predictions without making a live round rest."""
        return self._budget.spares(time.monotonic(), time.process_time(), CALLERS_CPU_S)

    def _page(self, client: Client) -> Page:
        """The live page of all partitions that are served."""
        sources = Sources(
            lambda: self.settings,
            self.status,
            self.metrics,
            self._ring,
            self._history,
            self._engines,
        )
        return Page(sources, client)

    def _home_of(self, symbol: str) -> Home | None:
        """Engine and status of the partition in which a symbol lives, if that is served here."""
        rounds = self.rounds.get(partition_of(symbol, self.settings.redis.partitions))
        return (rounds.engine, rounds.status) if rounds else None

    def _background(self, client: Client, page: Page) -> Iterator[Coroutine[None, None, None]]:
        """What runs beside the rounds; the death of any of it ends the daemon."""
        settings = self.settings
        yield pulse.measure_process(self.status, self.metrics, self._budget)
        yield pulse.report(self.status, self.metrics, self.notifier)
        for rounds in self.rounds.values():
            yield pulse.Heart(rounds, self.status).run()
        yield self._killswitch.watch()
        yield self.reloads.run(self.ready)
        yield self.desk.run()
        if settings.http.enabled:
            yield self._history.run(self._engines)
            yield page.hub.run()
        interval_s = watchdog_interval_s(os.environ, os.getpid())
        if interval_s is not None:
            watchdog = pulse.Watchdog(self.pool, self.status, interval_s)
            yield watchdog.run(self.notifier, interval_s / 3, _complain)
        if settings.ingest.pubsub_bridge:
            yield self._bridge(client)

    async def _bridge(self, client: Client) -> None:
        """Copy what comes on the bar channel, as soon as it is known which partitions are ours."""
        await self.ready.wait()
        served = [rounds.keys for rounds in self.rounds.values()]
        await bridge(
            client, served, self.metrics.bridged.inc, lambda p: self.rounds[p].ownership.is_ours
        )

    def _say_ready(self, url: str) -> None:
        for agent in self.pool.agents:
            if agent.unavailable:
                log.warning(
                    f"Agent {agent.name} abstains from every bar: {agent.unavailable}",
                    event_name="agent_unavailable",
                    agent=agent.name,
                )
            if isinstance(agent, BundledAgent) and (others := agent.other_versions):
                log.warning(
                    f"Agent {agent.name} was trained with other versions; its golden pair came out",
                    event_name="agent_other_versions",
                    agent=agent.name,
                    versions="; ".join(others),
                )
        self.notifier.ready()
        self.ready.set()
        log.info(
            "Ready: agents are warmed up and their golden pairs came out",
            event_name="ready",
            agents=[agent.name for agent in self.pool.agents],
            workers=self.pool.workers,
            redis=url,
            http=self.http_address or "off",
            version=self._engine_name,
            config_hash=self.status.in_force.config_hash,
        )

    @contextlib.asynccontextmanager
    async def _warm_pool(self) -> AsyncIterator[None]:
        try:
            await self.pool.start()
            # What is there by now stays: without it a full collection would take 50 ms.
            gc.collect()
            gc.freeze()
            yield
        except BundleError as error:
            raise ConfigError(str(error)) from error
        finally:
            self.pool.close()
            gc.unfreeze()

    @contextlib.asynccontextmanager
    async def _door(self) -> AsyncIterator[None]:
        """Let `qae ctl reload` in, where there is something to reload."""
        if self._read_again is None:
            yield
            return
        async with door.listening(door.runtime_dir(os.environ), self._answer):
            yield

    async def _answer(self, word: str) -> dict[str, Any]:
        """What is told to who asks by the door."""
        if word != "reload":
            return {"refused": f"{word!r} is not understood; there is `reload`"}
        try:
            return (await self.reloads.reload())._asdict()
        except ReloadRefusedError as refused:
            return {"refused": str(refused)}

    @contextlib.asynccontextmanager
    async def _listening(self, page: Page) -> AsyncIterator[None]:
        settings, passed = self.settings.http, passed_socket(os.environ, os.getpid())
        if not settings.enabled:
            if passed is not None:
                passed.close()
                raise ConfigError(
                    "http.enabled is false, but systemd listens for us: "
                    "systemctl disable --now quantum-ai-engine.socket"
                )
            yield
            return
        runner = await self._listen(page, passed)
        try:
            host, port, *_ = runner.addresses[0]
            scheme = "https" if settings.tls_cert else "http"
            self.http_address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
            yield
        finally:
            await http.close(runner)

    def routes(self) -> list[Route]:
        """All that is answered over HTTP but the page."""
        return [
            *http.Api(self.status, self.metrics, self._engines).routes(),
            *Predicting(self._home_of, self.desk, self.metrics).routes(),
        ]

    async def _listen(self, page: Page, passed: socket.socket | None) -> web.AppRunner:
        settings = self.settings.http
        if passed is not None:  # who may ask depends on where it really listens
            settings = msgspec.structs.replace(settings, host=passed.getsockname()[0])
            try:
                access.check(settings)
            except ConfigError:
                passed.close()
                raise
        try:
            return await http.serve(self.routes(), page, settings, passed)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on http.host = {settings.host}, http.port = {settings.port}: "
                f"{error.strerror}; choose another port, or 0 for any"
            ) from error

    @contextlib.asynccontextmanager
    async def _connected(self, url: str) -> AsyncIterator[Client]:
        try:
            client = connect(self.settings.redis, url)
        except ValueError as error:
            raise ConfigError(f"redis.url = {url!r}: {error}") from error
        async with client:
            yield client


@contextlib.contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM or SIGINT sets `stop`; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def received() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def reload_on_hangup(reloads: Requests, stop: asyncio.Event) -> Iterator[None]:
    """SIGHUP asks for a reload; where it says that the terminal is gone, it sets `stop`."""
    loop, had_terminal = asyncio.get_running_loop(), _has_terminal()

    def received() -> None:
        if had_terminal and not _has_terminal():
            stop.set()
        else:
            reloads.ask()

    loop.add_signal_handler(signal.SIGHUP, received)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _has_terminal() -> bool:
    """Whether the process has a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


@contextlib.asynccontextmanager
async def redis_server(settings: Settings) -> AsyncIterator[tuple[str, EmbeddedRedis | None]]:
    """The address of Redis; without `redis.url` one of our own is started, and ended after."""
    if settings.redis.url:
        yield settings.redis.url, None
        return
    try:
        server = EmbeddedRedis(redis_dir(settings))
        async with server:
            yield server.url, server
    except NoPlaceError as error:
        raise ConfigError(str(error)) from error


async def _outlive(server: EmbeddedRedis) -> None:
    """Raise when our own Redis ends before we do: a fresh start recovers both."""
    code = await server.wait()
    raise EmbeddedRedisEnded(f"our own Redis ended with status {code}; see {server.directory}")


def _report_agent(name: str, error: BaseException) -> None:
    log.error(
        f"Agent {name} failed and abstains",
        event_name="agent_failed",
        agent=name,
        detail=str(error),
    )


def _complain(wrong: str) -> None:
    log.error(f"The watchdog is not fed: {wrong}", event_name="watchdog_starved")
