"""Redis clients with our own time-outs and no hidden retries."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import RedisError

from quantum_ai_engine.config import ConfigError, RedisSettings

Client = Redis
CONNECTIONS = 16
Unreachable = (RedisError, OSError)  # what a command raises while Redis cannot serve it


def connect(settings: RedisSettings, url: str) -> Client:
    """A client of `url`; it connects at its first command.

    The client never repeats a command by itself: who sends a command knows whether it may be
    repeated. `redis.timeout_ms` is above `redis.block_ms`, so an idle read is not a failure.
    """
    timeout_s = settings.timeout_ms / 1000
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=timeout_s,
        password=settings.password or None,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        client_name="quantum-ai-engine",
    )
    return Redis.from_pool(pool)


def backoff(settings: RedisSettings) -> ExponentialWithJitterBackoff:
    """How long to wait after each failure in a row: doubling, with jitter, bounded."""
    return ExponentialWithJitterBackoff(base=0.05, cap=settings.backoff_max_ms / 1000)


async def check_server(client: Client, settings: RedisSettings) -> None:
    """Refuse a server that may throw our keys away when its memory is full."""
    memory = await client.info("memory")
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and not settings.allow_eviction:
        raise ConfigError(
            f"Redis has maxmemory-policy {policy}: under memory pressure it would drop state and "
            "signals; set it to noeviction, or set redis.allow_eviction = true"
        )
