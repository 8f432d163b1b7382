"""Telling engines what to do: without loading what only an engine needs."""

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.feed import BarFeed
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.events import Command


async def tell_all(client: Client, settings: Settings, command: Command) -> list[int]:
    """Put a command into every partition's stream; the partitions in which no engine is heard."""
    keys, silent = Keys.of(settings.redis), []
    for partition in range(settings.redis.partitions):
        feed = BarFeed(client.at(partition), keys.at(partition), settings.engine.environment)
        await feed.tell(command)
        if not await client.at(partition).exists(keys.at(partition).heartbeat):
            silent.append(partition)
    return silent
