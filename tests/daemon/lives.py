"""For tests of restarts: daemons that are cut off, streams in disorder, and what is compared."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from quantum_ai_engine.config import BREAKERS, Loaded, Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.notify import Notifier
from quantum_ai_engine.daemon.tasks import end
from quantum_ai_engine.events import Bar

from .test_app import KEYS, changed, feed, published, serving, until

LATE = 3
MEASURED = {"produced_at", "latency_us"}  # what may differ between two runs over the same bars
Event = dict[str, Any]


def unbroken(settings: Settings) -> Settings:
    """The same without breakers: agents that were hardly trained would open that of trust."""
    lines = [f"{name} {b.trip} {b.clear} {b.dwell_ms} off" for name, b in BREAKERS.items()]
    return changed(settings, "risk", breakers=tuple(lines))


def nervous(settings: Settings) -> Settings:
    """The same with thresholds among the agents' opinions: a stance depends on the one before."""
    return changed(unbroken(settings), "risk", short_threshold=0.445, exit_hysteresis=0.01)


def restless(settings: Settings, snapshot_bars: int) -> Settings:
    """The same with small batches, and a snapshot every few of them."""
    small = changed(nervous(settings), "ingest", batch=7, late_bars=LATE)
    return changed(small, "engine", snapshot_bars=snapshot_bars)


def disordered(bars: Sequence[Bar], seed: int) -> list[Bar]:
    """The bars with some late, some doubled and some that are first told wrong."""
    chance = random.Random(seed)
    told: list[tuple[float, Bar]] = []
    for i, bar in enumerate(bars):
        symbols = len({one.symbol for one in bars[max(0, i - 9) : i + 1]})
        late = i + symbols * chance.choice([0, 0, 0, 0, 0, 1, LATE - 1]) + 0.5
        told.append((late if late > i + 1 else i, bar))
        if chance.random() < 0.2:
            told.append((late + chance.randrange(4 * symbols), bar))
        if chance.random() < 0.1:
            wrong = msgspec.structs.replace(bar, volume=bar.volume + 1.0)
            told.append((i, wrong))
            told[-2:] = [(i, wrong), (late, bar)]
    return [bar for _, bar in sorted(told, key=lambda one: one[0])]


@contextlib.asynccontextmanager
async def cut_off(settings: Settings, client: Client) -> AsyncIterator[Daemon]:
    """A daemon that is cut off where it stands at the end of the context, as a kill does.

    Its lease ends with it: another one of this process would wait for that.
    """
    daemon = Daemon(Loaded(settings, {}), Notifier(None))
    task = asyncio.create_task(daemon.run())
    try:
        await until(lambda: daemon.ready.is_set() or task.done())
        yield daemon
    finally:
        await end([task])
        with contextlib.suppress(*Unreachable):
            await client.hset(Keys.of(settings.redis).state, "lease_until", 1)


async def told(client: Client, keys: Keys = KEYS) -> list[Event]:
    """All signals in the stream, but for what was measured."""
    return [
        {name: value for name, value in signal.items() if name not in MEASURED}
        for signal in await published(client, keys)
    ]


async def at_the_end(daemon: Daemon, client: Client, partition: int = 0) -> None:
    """Return when a daemon has dealt with all entries."""
    [(newest, _)] = await client.xrevrange(daemon.rounds[partition].keys.bars, count=1)
    await until(lambda: daemon.rounds[partition].position == newest.decode())


def state_of(daemon: Daemon, partition: int = 0) -> str:
    """The hash of the engine's state."""
    return daemon.rounds[partition].engine.state.digest()


def brain_of(daemon: Daemon, partition: int = 0) -> tuple[str, tuple[str, ...]]:
    """The state of the risk brain, and the breakers that are open."""
    verdict = daemon.rounds[partition].engine.state.judgement.brain.get()
    return verdict.state.value, verdict.breakers


def memory_of(daemon: Daemon, partition: int = 0) -> Any:
    """What bars and records alone bring back: the features and the levels of all series."""
    state = daemon.rounds[partition].engine.state
    at = [state.at(*name) for name in sorted(state.names())]
    remembered = [state.positions.remembered(i) for i in at]
    levels = [(was, [(one.close_time, one.level) for one in s]) for (was, _), s in remembered]
    return state.features.digest(at), levels


async def uninterrupted(
    settings: Settings,
    client: Client,
    bars: Sequence[Bar],
    state_of: Callable[[Daemon], Any] = state_of,
) -> tuple[list[Event], Any]:
    """The signals and the state of a twin to whom nothing happens; Redis is empty afterwards."""
    async with serving(settings) as daemon:
        await feed(client, bars)
        await at_the_end(daemon, client)
        state = state_of(daemon)
    signals = await told(client)
    await client.flushall()
    return signals, state


def restored(events: Sequence[Event]) -> list[Event]:
    """The log lines that tell how a state was restored."""
    return [event for event in events if event.get("event_name") == "state_restored"]


def named(events: Sequence[Event], name: str) -> list[Event]:
    """The log lines of an event."""
    return [event for event in events if event.get("event_name") == name]
