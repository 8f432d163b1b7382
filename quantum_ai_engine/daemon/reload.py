"""Settings read anew while the daemon serves: all that is in them takes effect, or nothing."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import structlog

from quantum_ai_engine.config import ConfigError, Loaded, Settings
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.notify import Notifier
from quantum_ai_engine.daemon.rounds import NotSavedError, Rounds
from quantum_ai_engine.daemon.status import Status
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.features.store import SnapshotError

PAUSE_WITHIN_S = 10.0  # a round that Redis does not take may last for ever
# What may change while the engine serves. It takes effect between two rounds, and the state is
# saved there: a restart never takes bars from before through it.
ROOMS = ("risk", "trust", "quality", "policy", "replay")  # the last is read by replays alone
KEYS = frozenset(
    {"engine.stale_intervals", "engine.valid_intervals", "ingest.lagging_ms", "log.level"}
)
# … but for what the state so far was measured by: its figures would mean something else.
MEASURED_BY = frozenset(
    {
        "policy.block_bound_frac",
        "policy.block_ms",
        "policy.cost_bps",
        "policy.error_rate",
        "policy.min_blocks",
        "policy.recovery_halflife_ms",
        "policy.volatility_halflife_ms",
        "policy.volatility_period_ms",
        "risk.day_starts_hour",
    }
)

log = structlog.get_logger()


class ReloadRefusedError(Exception):
    """The settings in force stay: one sentence that says why and what to do."""


class Reloaded(NamedTuple):
    """What is in force now; `changed` names the keys that were different before."""

    generation: int
    config_hash: str
    changed: tuple[str, ...]


class Reloader:
    """Puts settings that are read anew in the place of those in force.

    They are read and checked first, then all partitions of the process pause between two rounds,
    the state of each is handed to an engine of the new settings and saved, and only then all go
    on with them. Whatever fails before that leaves everything as it was.

    `read` gives the settings as at the start, from all their layers; without it there is nothing
    to read again. `make_engine` makes an engine for given settings, `apply` puts them in force for
    all that is not of a partition.
    """

    def __init__(
        self,
        read: Callable[[], Loaded] | None,
        in_force: Callable[[], Settings],
        rounds: Callable[[], Mapping[int, Rounds]],
        make_engine: Callable[[Settings], Engine],
        apply: Callable[[Settings], None],
    ) -> None:
        self._read = read
        self._in_force = in_force
        self._rounds = rounds
        self._make_engine = make_engine
        self._apply = apply

    async def reload(self) -> tuple[str, ...]:
        """Put what the layers say now in force; the keys that changed.

        Raises `ReloadRefusedError`.
        """
        if self._read is None:
            raise ReloadRefusedError("this engine was started without settings to be read again")
        try:
            settings = (await asyncio.to_thread(self._read)).settings
        except ConfigError as error:
            raise ReloadRefusedError(str(error)) from error
        changed = changes(self._in_force(), settings)
        if fixed := [key for key in changed if not may_change(key)]:
            raise ReloadRefusedError(
                f"{', '.join(fixed)} cannot change while the engine serves, so nothing did: "
                "restart it, or take that back and reload again"
            )
        if changed:
            await self._swap(settings)
        return changed

    async def _swap(self, settings: Settings) -> None:
        """All partitions at once, each between two of its rounds."""
        rounds = self._rounds()
        async with contextlib.AsyncExitStack() as pauses:
            try:
                async with asyncio.timeout(PAUSE_WITHIN_S):
                    for one in rounds.values():
                        await pauses.enter_async_context(one.paused())
                engines = {p: self._make_engine(settings) for p in rounds}
                for partition, one in rounds.items():
                    await one.hand_over(engines[partition])
                    for each in rounds.values():
                        each.status.turns += 1  # the watchdog sees work done
            except TimeoutError as error:
                raise ReloadRefusedError(
                    "a round is under way that Redis does not take; reload again when it serves"
                ) from error
            except (NotSavedError, SnapshotError) as error:
                raise ReloadRefusedError(f"{error}; reload again when Redis serves") from error
            # From here on nothing can fail, and nobody else has a turn.
            for partition, one in rounds.items():
                one.use(settings, engines[partition])
            self._apply(settings)


class Requests:
    """Those who want a reload: they are served one after another, in the daemon's task group."""

    def __init__(
        self, reloader: Reloader, status: Status, metrics: Metrics, notifier: Notifier
    ) -> None:
        self._reloader = reloader
        self._status = status
        self._metrics = metrics
        self._notifier = notifier
        self._waiting: asyncio.Queue[asyncio.Future[Reloaded] | None] = asyncio.Queue()

    def ask(self) -> None:
        """Ask for a reload whose end is told by the log alone."""
        self._waiting.put_nowait(None)

    async def reload(self) -> Reloaded:
        """Ask for a reload and wait for its end. Raises `ReloadRefusedError`."""
        asked: asyncio.Future[Reloaded] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(asked)
        return await asked

    async def run(self, ready: asyncio.Event) -> None:
        """Serve them once the daemon is ready, until cancelled."""
        await ready.wait()
        while True:
            await self._serve(await self._waiting.get())

    async def _serve(self, asked: asyncio.Future[Reloaded] | None) -> None:
        self._notifier.reloading(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        try:
            changed = await self._reloader.reload()
        except ReloadRefusedError as refused:
            self._say_refused(refused)
            if asked is not None and not asked.done():
                asked.set_exception(refused)
        else:
            done = self._say_reloaded(changed)
            if asked is not None and not asked.done():
                asked.set_result(done)

    def _say_refused(self, refused: ReloadRefusedError) -> None:
        self._status.in_force.refused = str(refused)
        self._metrics.reload_successful.set(0)
        self._tell_manager()
        log.error(
            f"The settings were not reloaded: {refused}",
            event_name="config_refused",
            generation=self._status.in_force.generation,
            config_hash=self._status.in_force.config_hash,
        )

    def _say_reloaded(self, changed: tuple[str, ...]) -> Reloaded:
        in_force = self._status.in_force
        in_force.refused = None
        in_force.generation += bool(changed)
        self._metrics.show_config(in_force.config_hash, in_force.generation)
        self._tell_manager()
        log.info(
            f"Settings reloaded: {', '.join(changed) or 'nothing was changed'}",
            event_name="config_reloaded",
            changed=changed,
            generation=in_force.generation,
            config_hash=in_force.config_hash,
            positions={p: one.position for p, one in self._status.partitions.items()},
        )
        return Reloaded(in_force.generation, in_force.config_hash, changed)

    def _tell_manager(self) -> None:
        self._notifier.ready()
        self._notifier.status(self._status.line())


def changes(before: Settings, after: Settings) -> tuple[str, ...]:
    """The keys whose values differ, secrets among them.

    >>> from quantum_ai_engine.config import LogSettings
    >>> changes(Settings(), Settings(log=LogSettings(level="debug")))
    ('log.level',)
    """
    old, new = _flat(before), _flat(after)
    return tuple(key for key in old if old[key] != new[key])


def may_change(key: str) -> bool:
    """Whether a key may change while the engine serves.

    >>> may_change("risk.long_threshold"), may_change("redis.url")
    (True, False)
    """
    if key in MEASURED_BY:
        return False
    return key in KEYS or key.partition(".")[0] in ROOMS


def _flat(settings: Settings) -> dict[str, Any]:
    rooms = msgspec.to_builtins(settings)
    return {f"{room}.{key}": value for room, table in rooms.items() for key, value in table.items()}
