"""Every name that the engine uses in Redis, made in one place."""

from dataclasses import dataclass
from zlib import crc32

from quantum_ai_engine.config import RedisSettings

ROOMS = ("risk", "policy", "supervisor")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one partition and the channels, which all partitions share.

    >>> Keys("quantum").bars, Keys("quantum", partitions=4, partition=2).bars
    ('quantum:bars', 'quantum:{2}:bars')
    """

    prefix: str
    partitions: int = 1
    partition: int = 0

    @classmethod
    def of(cls, settings: RedisSettings) -> "Keys":
        """The keys of the first partition that the settings name."""
        return cls(settings.prefix, settings.partitions, settings.served[0])

    @classmethod
    def served(cls, settings: RedisSettings) -> "tuple[Keys, ...]":
        """The keys of each partition that the settings name."""
        return tuple(cls.of(settings).at(partition) for partition in settings.served)

    def at(self, partition: int) -> "Keys":
        """The keys of another partition."""
        return Keys(self.prefix, self.partitions, partition)

    @property
    def bars(self) -> str:
        return self._key("bars")

    @property
    def state(self) -> str:
        return self._key("state")

    @property
    def signals(self) -> str:
        return self._key("signals")

    @property
    def dead(self) -> str:
        return self._key("dead")

    @property
    def control(self) -> str:
        return self._key("control")

    @property
    def equity(self) -> str:
        return self._key("equity")

    @property
    def records(self) -> str:
        return self._key("records")

    @property
    def heartbeat(self) -> str:
        return self._key("heartbeat")

    @property
    def rooms(self) -> dict[str, str]:
        """Whose changes are told in which stream."""
        return {room: self._key(room) for room in ROOMS}

    def room_channel(self, room: str) -> str:
        return f"{self.prefix}:{room}"

    @property
    def bars_channel(self) -> str:
        return f"{self.prefix}:bars"

    @property
    def heartbeat_channel(self) -> str:
        return f"{self.prefix}:heartbeat"

    @property
    def signal_channels(self) -> str:
        """The pattern of all signal channels."""
        return f"{self.prefix}:signals:*"

    def signal_channel(self, symbol: str) -> str:
        return f"{self.prefix}:signals:{symbol}"

    def feed(self, source: str) -> str:
        """Where the feed of a recorded source keeps its position."""
        return self._key(f"feed:{source}")

    def _key(self, name: str) -> str:
        if self.partitions == 1:
            return f"{self.prefix}:{name}"
        # The braces keep a partition's keys in one slot of a cluster: the commit needs them there.
        return f"{self.prefix}:{{{self.partition}}}:{name}"


def partition_of(symbol: str, partitions: int) -> int:
    """The partition in which a symbol lives."""
    return crc32(symbol.encode()) % partitions
