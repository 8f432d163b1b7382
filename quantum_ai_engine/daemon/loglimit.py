"""How many log lines of one kind are written: a burst, then one now and then, none lost unseen."""

import math
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

MOST_KINDS = 10_000  # that are remembered at once


@dataclass(slots=True)
class _Kind:
    event: str
    left: float
    at_s: float
    held_back: int = 0


class LineLimit:
    """A bucket of `burst` lines for each kind, into which one line flows back in `again_s` seconds.

    A kind is an event and what it is about: a flood from one symbol hides no line of another one.
    Lines held back are counted by event, and the next one of their kind says how many they were.

    >>> now_s = 0.0
    >>> limit = LineLimit(2, 60.0, lambda: now_s)
    >>> [limit.take("gap", "BTCUSDT") for _ in range(4)]
    [0, 0, None, None]
    >>> now_s = 60.0
    >>> limit.take("gap", "BTCUSDT"), limit.suppressed
    (2, {'gap': 2})
    """

    def __init__(
        self, burst: int, again_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._again_s = again_s
        self._clock = clock
        self._kinds: dict[Hashable, _Kind] = {}  # the one that was heard longest ago is first
        self._suppressed: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()

    @property
    def suppressed(self) -> dict[str, int]:
        """Event → lines held back since the start."""
        return dict(self._suppressed)

    def take(self, event: str, subject: str) -> int | None:
        """How many lines of this kind were held back before this one; None: it is held back, too.

        It changes the count of its kind, so it is asked once for a line.
        """
        now_s = self._clock()
        kind = self._kinds.pop((event, subject), None) or _Kind(event, self._burst, now_s)
        kind.left = min(self._burst, kind.left + (now_s - kind.at_s) / self._again_s)
        kind.at_s = now_s
        self._kinds[event, subject] = kind
        self._forget()
        # Fractions of a line that flow back one by one may add up to a hair less than a whole.
        if kind.left < 1.0 and not math.isclose(kind.left, 1.0):
            kind.held_back += 1
            self._suppressed[event] += 1
            return None
        kind.left = max(0.0, kind.left - 1.0)
        before, kind.held_back = kind.held_back, 0
        return before

    def untold(self) -> dict[str, int]:
        """Event → lines held back of which no line has told yet; they are told by this."""
        told, self._untold = self._untold, Counter()
        for kind in self._kinds.values():
            told[kind.event] += kind.held_back
            kind.held_back = 0
        return {event: lines for event, lines in sorted(told.items()) if lines}

    def _forget(self) -> None:
        """Keep the memory bounded: who was silent longest begins anew."""
        if len(self._kinds) > MOST_KINDS:
            kind = self._kinds.pop(next(iter(self._kinds)))
            self._untold[kind.event] += kind.held_back
