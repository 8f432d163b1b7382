"""The twin: an engine of the same settings that takes the whole bar stream without a break."""

import contextlib
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

from quantum_ai_engine.agents.budget import bound_loaded
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.agents.pool import AgentPool
from quantum_ai_engine.config import Loaded, bundle_dir
from quantum_ai_engine.daemon.build import build_id, version
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import START
from quantum_ai_engine.daemon.feed import BarFeed
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.pages import Entry
from quantum_ai_engine.engine import Engine, Identity, Now
from quantum_ai_engine.features.sessions import Calendars

BATCH = 500


@dataclass(slots=True)
class Uninterrupted:
    """What the twin made of the stream: signals as on the wire, and its state's hashes.

    `bars` are the entries of the stream; `hashes` maps those positions that were asked for and
    are in the stream to the hash there.
    """

    agents: tuple[str, ...]
    bars: int = 0
    signals: list[bytes] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)


async def run_twin(loaded: Loaded, client: Client, positions: Collection[str]) -> Uninterrupted:
    """Take the stream through an engine of our own, and note its state at these positions."""
    settings = loaded.settings
    venues = settings.sessions.by_symbol()
    agents = load_agents(bundle_dir(settings), settings.agents.order, venues)
    bound_loaded()
    deadline_s = settings.agents.deadline_ms / 1000
    pool = AgentPool(agents, 1, deadline_s, lambda *_: None, lambda *_: None)
    identity = Identity(
        settings.engine.environment, f"{version()}+{build_id()}", loaded.config_hash
    )
    engine = Engine(settings, pool, identity, Calendars(venues))
    feed = BarFeed(client, Keys.of(settings.redis), settings.engine.environment)
    made = Uninterrupted(tuple(agent.name for agent in agents))
    try:
        await pool.start()
        await _through(engine, feed, frozenset(positions), made)
    finally:
        pool.close()
    return made


async def _through(
    engine: Engine, feed: BarFeed, positions: frozenset[str], made: Uninterrupted
) -> None:
    """Take the stream from its beginning to its end, in batches that end at the positions."""
    if START in positions:
        made.hashes[START] = engine.state.digest()
    position, latest = START, time.time_ns() // 1_000_000
    while entries := await feed.read(position, BATCH, 1):
        for part in _parts(entries, positions):
            bars, _, _ = feed.decode(part, latest)
            done = await engine.process(bars, Now(), lambda _: contextlib.nullcontext())
            made.bars += len(part)
            made.signals += [msgspec.json.encode(signal) for signal in done.signals]
            if (end := part[-1][0].decode()) in positions:
                made.hashes[end] = engine.state.digest()
        position = entries[-1][0].decode()


def _parts(entries: Sequence[Entry], positions: frozenset[str]) -> list[Sequence[Entry]]:
    """The entries, cut after each that is one of the positions."""
    cuts = [i + 1 for i, (name, _) in enumerate(entries) if name.decode() in positions]
    edges = [0, *cuts, len(entries)]
    return [entries[a:b] for a, b in pairwise(edges) if a < b]
