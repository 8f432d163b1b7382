"""What was said last of each series: stances, and what a late bar may still amend."""

from bisect import bisect_left
from hashlib import blake2b

import msgspec

from quantum_ai_engine.events import Signal
from quantum_ai_engine.risk.stance import Level

_ENCODER = msgspec.msgpack.Encoder()


class Said(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the newest signal of a bar said; `version` counts how often it was amended.

    `content` is a hash of all that follows from the bars.
    """

    close_time: int
    version: int
    level: Level
    target: float
    wanted: float
    content: bytes

    @classmethod
    def of(cls, signal: Signal, level: Level, wanted: float) -> "Said":
        """What a signal says, at which level, and what was wanted before caps over all symbols."""
        version = int(signal.id.rpartition("|")[2]) if signal.amends else 0
        told = (signal.row_hash, signal.votes, signal.abstained, signal.filled, signal.stance)
        content = blake2b(_ENCODER.encode((*told, signal.holdings)), digest_size=8).digest()
        return cls(signal.close_time, version, level, signal.target, wanted, content)

    def agrees(self, other: "Said") -> bool:
        """Whether somebody who knows the one learns nothing from the other."""
        return self.target == other.target and self.content == other.content


NOTHING = Level.FLAT, 0.0


class _Series:
    """The last things said of one series, by close time, and level and target before them."""

    __slots__ = ("before", "said")

    def __init__(self, before: tuple[Level, float] = NOTHING, said: tuple[Said, ...] = ()) -> None:
        self.before = before
        self.said = list(said)


class Positions:
    """Levels and targets of all series, with a memory of `memory` bars: they can be taken back.

    What counts for a bar is that of the last signal before it, so that a bar that comes
    late is decided upon as if it had come in time.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._series: list[_Series] = []

    def reserve(self, series: int) -> None:
        """Make room for `series` series: flat, with nothing said."""
        self._series += [_Series() for _ in range(series - len(self._series))]

    def before(self, series: int, close_time: int) -> tuple[Level, float]:
        """The level and the target with which a bar begins."""
        one = self._series[series]
        at = _place(one.said, close_time)
        if not at:
            return one.before
        last = one.said[at - 1]
        return last.level, last.target

    def said(self, series: int, close_time: int) -> Said | None:
        """What was said of a bar, if it is remembered."""
        one = self._series[series].said
        at = _place(one, close_time)
        return one[at] if at < len(one) and one[at].close_time == close_time else None

    def update(self, series: int, said: Said) -> None:
        """Take note of what was said of a bar, for the first time or again."""
        one = self._series[series]
        at = _place(one.said, said.close_time)
        if at == len(one.said):
            one.said.append(said)
        else:
            is_again = one.said[at].close_time == said.close_time
            one.said[at : at + is_again] = [said]
        if len(one.said) > self._memory:
            first = one.said.pop(0)
            one.before = first.level, first.target

    def remembered(self, series: int) -> tuple[tuple[Level, float], tuple[Said, ...]]:
        """All of one series, for `restore`."""
        return self._series[series].before, tuple(self._series[series].said)

    def restore(self, series: int, before: tuple[Level, float], said: tuple[Said, ...]) -> None:
        """Give a series what was `remembered`."""
        self._series[series] = _Series(before, said)


def _place(said: list[Said], close_time: int) -> int:
    """How many of them are of earlier bars."""
    if not said or said[-1].close_time < close_time:  # as of every bar that comes in time
        return len(said)
    return bisect_left(said, close_time, key=_close_time)


def _close_time(said: Said) -> int:
    return said.close_time
