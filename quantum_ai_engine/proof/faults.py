"""What is broken: faults that strike at random moments, and the scenarios made of them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from signal import SIGCONT, SIGSTOP
from typing import NamedTuple, TypeAlias

from quantum_ai_engine.proof.rig import Rig

LONGEST_TAIL = 64 * 1024  # bytes cut off an AOF
LONGEST_OUTAGE_S = 0.2
PAUSE_LEASES, ZOMBIE_LEASES = (0.1, 1.5), (1.2, 2.0)
RULES, NEURAL = ("momentum", "sigor"), ("gru", "momentum")

Strike: TypeAlias = Callable[[Rig], Awaitable[None]]


async def kill_engine(rig: Rig) -> None:
    """kill -9 of an engine."""
    await rig.moment()
    await (await rig.victim()).kill()


async def kill_redis(rig: Rig) -> None:
    """kill -9 of Redis; it comes back on its data."""
    await rig.moment()
    await rig.server.kill()
    await asyncio.sleep(rig.chance.uniform(0.0, LONGEST_OUTAGE_S))
    await rig.restart_server()


async def cut_tail(rig: Rig) -> None:
    """The same, and the end of its AOF is gone, as after a power failure."""
    settled = await rig.settled()
    await rig.moment()
    await rig.server.kill()
    rig.server.cut(settled, rig.chance.randint(1, LONGEST_TAIL))
    await rig.restart_server()


async def pause_engine(rig: Rig) -> None:
    """An engine stands still, shorter or longer than its lease."""
    await rig.moment()
    paused = await rig.victim()
    paused.send(SIGSTOP)
    await asyncio.sleep(rig.chance.uniform(*PAUSE_LEASES) * _lease_s(rig))
    paused.send(SIGCONT)


async def wake_zombie(rig: Rig) -> None:
    """The owner stands still until another engine owns the partition and commits; then it wakes."""
    await rig.moment()
    zombie = await rig.owner()
    zombie.send(SIGSTOP)
    rig.feeder.want(rig.feeder.upto + 1)  # so that there is something to take over
    await asyncio.sleep(rig.chance.uniform(*ZOMBIE_LEASES) * _lease_s(rig))
    await rig.commit()
    zombie.send(SIGCONT)


def _lease_s(rig: Rig) -> float:
    return rig.loaded.settings.redis.lease_ms / 1000


class Extent(NamedTuple):
    """How many faults, over how many bars."""

    faults: int
    bars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Strikes drawn at random from some, spread over a feed; `agents` are the kinds that serve.

    Where `strikes` are none, the faults are the replies of which a share is lost or torn.
    """

    about: str
    strikes: tuple[Strike, ...]
    full: Extent
    quick: Extent
    engines: int = 1
    drop_share: float = 0.0
    tear_share: float = 0.0
    agents: tuple[str, ...] = RULES


SCENARIOS: Mapping[str, Scenario] = {
    "engine-killed": Scenario(
        about="kill -9 of the engine",
        strikes=(kill_engine,),
        full=Extent(1000, 50_000),
        quick=Extent(12, 900),
    ),
    "redis-killed": Scenario(
        about="kill -9 of Redis",
        strikes=(kill_redis,),
        full=Extent(100, 50_000),
        quick=Extent(6, 900),
        agents=NEURAL,
    ),
    "replies-lost": Scenario(
        about="2 % of the replies lost, 1 % cut in the middle",
        strikes=(),
        full=Extent(0, 50_000),
        quick=Extent(0, 3_000),
        drop_share=0.02,
        tear_share=0.01,
    ),
    "two-owners": Scenario(
        about="two engines, killed or stopped for a while",
        strikes=(kill_engine, pause_engine),
        full=Extent(200, 50_000),
        quick=Extent(6, 900),
        engines=2,
    ),
    "zombies": Scenario(
        about="owners stopped until another has taken over",
        strikes=(wake_zombie,),
        full=Extent(100, 50_000),
        quick=Extent(4, 600),
        engines=2,
    ),
    "aof-cut": Scenario(
        about="kill -9 of Redis, the end of its AOF cut off",
        strikes=(cut_tail,),
        full=Extent(100, 50_000),
        quick=Extent(6, 900),
    ),
    "mixed": Scenario(
        about="all of these",
        strikes=(kill_engine, kill_redis, cut_tail, pause_engine, wake_zombie),
        full=Extent(200, 50_000),
        quick=Extent(8, 900),
        engines=2,
        drop_share=0.01,
        tear_share=0.005,
        agents=NEURAL,
    ),
}
