"""Connections that find the server that takes our writes, also when it has become another one.

redis-py's own `RedisCluster` is not used: to learn which key an XREAD names it asks one node, twice
for each XREAD, and once that node is dead every XREAD fails for ever, on healthy nodes, too
(redis 8.1). Here each client serves one partition, whose keys lie in one slot, and so each
connection goes to the node of that slot: every command, script and subscription just works.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import (
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

LOOKUP_TIMEOUT_S = 1.0
NO_CLUSTER = "cluster support disabled"


class Address(NamedTuple):
    """Where a node listens."""

    host: str
    port: int


AskSlots: TypeAlias = Callable[[Address], Awaitable[list[Any]]]


class Route:
    """The way to a server. Connections older than `turn` are closed before they are used again."""

    def __init__(self) -> None:
        self.turn = 0

    def leave(self, since: int) -> None:
        """A connection made in turn `since` found a server that does not take our writes."""
        if since == self.turn:
            self.turn += 1

    async def find(self) -> Address | None:
        """The address to connect to; None: the one that was given, resolved anew."""
        return None

    def doubt(self) -> None:
        """Nobody answers at the address that was found."""


class SlotRoute(Route):
    """The way to the node of a cluster that serves a slot, asked of any node for each connection.

    A node that did not answer, or whose answer led nowhere, is asked last next time.
    """

    def __init__(self, slot: int, seed: Address, ask: AskSlots) -> None:
        super().__init__()
        self._slot = slot
        self._seed = seed
        self._ask = ask
        self._nodes = [seed]

    def leave(self, since: int) -> None:
        if since == self.turn:
            self.doubt()
        super().leave(since)

    def doubt(self) -> None:
        self._nodes.append(self._nodes.pop(0))

    async def find(self) -> Address:
        failure: Exception = ClusterDownError("CLUSTERDOWN no node was asked")
        for _ in range(len(self._nodes)):
            node = self._nodes[0]
            try:
                return self._owner(node, await self._ask(node))
            except (RedisError, OSError) as error:
                if NO_CLUSTER in str(error):
                    return node  # it has all slots; `redis.cluster` is for the start to check
                failure = error
            self.doubt()
        raise failure

    def _owner(self, asked: Address, ranges: list[Any]) -> Address:
        """Who serves our slot, by an answer to CLUSTER SLOTS; the nodes that it names are kept."""
        found: Address | None = None
        named: list[Address] = []
        for first, last, *nodes in ranges:
            addresses = [_address(asked, node) for node in nodes]
            named += addresses
            if first <= self._slot <= last:
                found = addresses[0]
        if found is None:
            raise ClusterDownError(f"CLUSTERDOWN no node serves slot {self._slot}")
        known = [node for node in self._nodes if node in named or node == self._seed]
        self._nodes = list(dict.fromkeys([*known, *named]))
        return found


def _address(asked: Address, node: list[Any]) -> Address:
    """Of a node in CLUSTER SLOTS; one without a name is where the one that was asked is."""
    return Address(node[0].decode() if node[0] else asked.host, int(node[1]))


def leads_elsewhere(error: ResponseError) -> bool:
    """Whether a server says that not it, but another one, takes our writes."""
    is_elsewhere = isinstance(error, MovedError | ReadOnlyError | ClusterDownError)
    return is_elsewhere or "-READONLY " in str(error)  # the second: from within a script


class _Routed(AbstractConnection):
    """A connection that goes where its route leads, and tells it where it cannot stay."""

    def __init__(self, *, route: Route, **options: Any) -> None:
        self._route = route
        self._since = route.turn
        super().__init__(**options)

    async def connect(self) -> None:
        """Connect, if not connected already, or if the server is to be looked for anew."""
        if self._since != self._route.turn:
            await self.disconnect()
        await super().connect()  # type: ignore[no-untyped-call]

    async def _connect(self) -> None:
        self._since = self._route.turn
        if (found := await self._route.find()) is not None:
            self.host, self.port = found
        try:
            await super()._connect()  # type: ignore[safe-super,no-untyped-call]
        except OSError:
            self._route.doubt()
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """The next reply. Raises what the server says is wrong."""
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            if leads_elsewhere(error):
                self._route.leave(self._since)
            raise


class _Tcp(_Routed, Connection):
    """By TCP."""


class _Tls(_Routed, SSLConnection):
    """By TCP, encrypted."""


class _Unix(_Routed, UnixDomainSocketConnection):
    """By a unix socket."""


ROUTED: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: _Tcp,
    SSLConnection: _Tls,
    UnixDomainSocketConnection: _Unix,
}


def slot_asker(kind: type[AbstractConnection], options: dict[str, Any]) -> AskSlots:
    """How to ask a node for CLUSTER SLOTS, with the options of the client's own connections."""
    times = {"socket_timeout": LOOKUP_TIMEOUT_S, "socket_connect_timeout": LOOKUP_TIMEOUT_S}

    async def ask(node: Address) -> list[Any]:
        connection = kind(**{**options, **times, **node._asdict()})
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("CLUSTER", "SLOTS")
            return list(await connection.read_response())
        finally:
            await connection.disconnect(nowait=True)

    return ask
