"""What was said lately, in memory: the newest signals and changes, each with its number."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from quantum_ai_engine.events import Change, Signal

SIGNALS_KEPT, CHANGES_KEPT = 5000, 1000

T = TypeVar("T", Signal, Change)


class Place(NamedTuple):
    """How many signals and changes there were: a reader's place among them."""

    signals: int = 0
    changes: int = 0


class Ring:
    """The newest committed signals and changes.

    To add to it costs a round two appends; nothing else is done until somebody reads. Of what was
    `filled` in from before the start nothing is counted: it is older than any place.

    >>> ring = Ring(most_changes=2)
    >>> for after in ("REDUCING", "HALTED", "ACTIVE"):
    ...     ring.add([], [Change("risk", 0, "", "", after, ())])
    >>> ring.place, [change.after for change in ring.changes()]
    (Place(signals=0, changes=3), ['ACTIVE', 'HALTED'])
    >>> changes, missed = ring.changes_after(0)
    >>> [change.after for change in changes], missed
    (['HALTED', 'ACTIVE'], 1)
    """

    def __init__(self, most_signals: int = SIGNALS_KEPT, most_changes: int = CHANGES_KEPT) -> None:
        self._signals: deque[Signal] = deque(maxlen=most_signals)
        self._changes: deque[Change] = deque(maxlen=most_changes)
        self._seen_signals = self._seen_changes = 0

    def add(self, signals: Sequence[Signal], changes: Sequence[Change]) -> None:
        """Take what a commit wrote."""
        self._signals.extend(signals)
        self._changes.extend(changes)
        self._seen_signals += len(signals)
        self._seen_changes += len(changes)

    def fill(self, signals: Sequence[Signal], changes: Sequence[Change]) -> None:
        """Put what was said before the start, oldest first, in front of what is there."""
        _fill(self._signals, signals)
        _fill(self._changes, changes)

    @property
    def place(self) -> Place:
        """The place of who has read everything."""
        return Place(self._seen_signals, self._seen_changes)

    def signals(self, wanted: Callable[[Signal], bool] | None = None) -> Iterator[Signal]:
        """The signals that are wanted, newest first; to be read before anything is awaited."""
        return filter(wanted, reversed(self._signals))

    def changes(self, wanted: Callable[[Change], bool] | None = None) -> Iterator[Change]:
        """The same of changes."""
        return filter(wanted, reversed(self._changes))

    def signals_after(self, count: int) -> tuple[list[Signal], int]:
        """The signals after the first `count`, oldest first, and how many are gone already."""
        return _after(self._signals, self._seen_signals, count)

    def changes_after(self, count: int) -> tuple[list[Change], int]:
        """The same of changes."""
        return _after(self._changes, self._seen_changes, count)


def _fill(held: deque[T], before: Sequence[T]) -> None:
    room = (held.maxlen or 0) - len(held)
    held.extendleft(reversed(before[max(0, len(before) - room) :]))


def _after(held: deque[T], seen: int, count: int) -> tuple[list[T], int]:
    new = min(max(seen - count, 0), seen)
    found = list(itertools.islice(reversed(held), new))
    return found[::-1], new - len(found)
