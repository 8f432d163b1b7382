"""Redis clients with our own time-outs and no hidden retries."""

from collections.abc import Iterator
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon.route import ROUTED, Address, Route, SlotRoute, slot_asker

CONNECTIONS = 16
DEFAULT_PORT = 6379
Unreachable = (RedisError, OSError)  # what a command raises while Redis cannot serve it
KINDS: dict[str, tuple[type[Exception], ...]] = {  # of an error; the first that fits
    "refused_password": (AuthenticationError,),
    "loading": (BusyLoadingError,),
    "read_only": (ReadOnlyError,),
    "out_of_memory": (OutOfMemoryError,),
    "busy": (),
    "moved": (AskError, TryAgainError),
    "timeout": (RedisTimeoutError, TimeoutError),
    "unreachable": (RedisConnectionError, ClusterDownError, OSError),
}
# The same where no type tells: in an error that a script met, or that redis-py has no type for.
WORDS = {"read_only": "-READONLY ", "out_of_memory": "-OOM ", "busy": "BUSY "}


class Client(Redis):
    """A client of one server; in a cluster, of the node that serves one partition, wherever it is.

    Close it, and the clients of all partitions that were made with `at` are closed, too.
    """

    _settings = RedisSettings()
    _url = ""
    _partitions: dict[int, "Client"] | None = None

    def at(self, partition: int) -> "Client":
        """The client of another partition: this one, unless it is a cluster's."""
        if self._partitions is None:
            return self
        if partition not in self._partitions:
            self._partitions[partition] = _connect(self._settings, self._url, partition)
            self._partitions[partition]._partitions = self._partitions
        return self._partitions[partition]

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections."""
        for client in (self._partitions or {0: self}).values():
            await super(Client, client).aclose(close_connection_pool)


def connect(settings: RedisSettings, url: str) -> Client:
    """A client of `url`; it connects at its first command.

    The client never repeats a command by itself: who sends a command knows whether it may be
    repeated. A server that says that another one takes our writes now, or a slot of a cluster that
    has moved, is one failed command; the next one goes to where `url`, or the cluster, leads then.
    `redis.timeout_ms` is above `redis.block_ms`, so an idle read is not a failure. Raises
    `ValueError` when `url` is none.
    """
    client = _connect(settings, url, settings.served[0])
    if settings.cluster:
        client._partitions = {settings.served[0]: client}
    return client


def _connect(settings: RedisSettings, url: str, partition: int) -> Client:
    timeout_s = settings.timeout_ms / 1000
    options: dict[str, Any] = {
        "password": settings.password or None,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "client_name": "quantum-ai-engine",
        **parse_url(url),
    }
    kind: type[AbstractConnection] = options.pop("connection_class", Connection)
    route = _slot_route(kind, options, partition) if settings.cluster else Route()
    pool = BlockingConnectionPool(
        connection_class=ROUTED[kind],
        max_connections=CONNECTIONS,
        timeout=timeout_s,
        route=route,
        **options,
    )
    client = Client(connection_pool=pool)
    client.auto_close_connection_pool = True
    client._settings, client._url = settings, url
    return client


def _slot_route(
    kind: type[AbstractConnection], options: dict[str, Any], partition: int
) -> SlotRoute:
    if "path" in options:
        raise ValueError("the nodes of a cluster are reached by TCP: redis:// or rediss://")
    seed = Address(options.get("host", "localhost"), options.get("port", DEFAULT_PORT))
    # Keys.at(partition) puts the number in braces: it alone decides the slot.
    return SlotRoute(key_slot(str(partition).encode()), seed, slot_asker(kind, options))


def kind_of(error: BaseException) -> str:
    """What kept Redis from serving, in one word; what happened while connecting is a cause.

    >>> kind_of(ConnectionRefusedError(111, "Connection refused")), kind_of(ValueError())
    ('unreachable', 'other')
    """
    causes = list(_causes(error))
    for kind, types in KINDS.items():
        if any(isinstance(cause, types) for cause in causes):
            return kind
        if kind in WORDS and any(WORDS[kind] in str(cause) for cause in causes):
            return kind
    return "other"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def backoff(settings: RedisSettings) -> ExponentialWithJitterBackoff:
    """How long to wait after each failure in a row: doubling, with jitter, bounded."""
    return ExponentialWithJitterBackoff(base=0.05, cap=settings.backoff_max_ms / 1000)
