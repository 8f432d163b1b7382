"""What was said last of each series: stances, and what a late bar may still amend."""

from bisect import bisect_left
from hashlib import blake2b

import msgspec

from quantum_ai_engine.events import Signal, Stance


class Said(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the newest signal of a bar said; `version` counts how often it was amended.

    `content` is a hash of all that follows from the bars.
    """

    close_time: int
    version: int
    stance: Stance
    content: bytes

    @classmethod
    def of(cls, signal: Signal) -> "Said":
        """What a signal says."""
        version = int(signal.id.rpartition("|")[2]) if signal.amends else 0
        told = (signal.row_hash, signal.votes, signal.abstained, signal.filled)
        content = blake2b(msgspec.msgpack.encode(told), digest_size=8).digest()
        return cls(signal.close_time, version, signal.stance, content)

    def agrees(self, other: "Said") -> bool:
        """Whether somebody who knows the one learns nothing from the other."""
        return self.stance is other.stance and self.content == other.content


class _Series:
    """The last things said of one series, by close time, and the stance before them."""

    __slots__ = ("before", "said")

    def __init__(self, before: Stance = Stance.FLAT, said: tuple[Said, ...] = ()) -> None:
        self.before = before
        self.said = list(said)


class Positions:
    """The stances of all series, with a memory of `memory` bars so that they can be taken back.

    The stance that counts for a bar is that of the last signal before it, so that a bar that comes
    late is decided upon as if it had come in time.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._series: list[_Series] = []

    def reserve(self, series: int) -> None:
        """Make room for `series` series: flat, with nothing said."""
        self._series += [_Series() for _ in range(series - len(self._series))]

    def stance_before(self, series: int, close_time: int) -> Stance:
        """The stance with which a bar begins."""
        one = self._series[series]
        at = bisect_left(one.said, close_time, key=_close_time)
        return one.said[at - 1].stance if at else one.before

    def said(self, series: int, close_time: int) -> Said | None:
        """What was said of a bar, if it is remembered."""
        one = self._series[series].said
        at = bisect_left(one, close_time, key=_close_time)
        return one[at] if at < len(one) and one[at].close_time == close_time else None

    def update(self, series: int, said: Said) -> None:
        """Take note of what was said of a bar, for the first time or again."""
        one = self._series[series]
        at = bisect_left(one.said, said.close_time, key=_close_time)
        is_again = at < len(one.said) and one.said[at].close_time == said.close_time
        one.said[at : at + is_again] = [said]
        if len(one.said) > self._memory:
            one.before = one.said.pop(0).stance

    def remembered(self, series: int) -> tuple[Stance, tuple[Said, ...]]:
        """All of one series, for `restore`."""
        return self._series[series].before, tuple(self._series[series].said)

    def restore(self, series: int, before: Stance, said: tuple[Said, ...]) -> None:
        """Give a series what was `remembered`."""
        self._series[series] = _Series(before, said)


def _close_time(said: Said) -> int:
    return said.close_time
