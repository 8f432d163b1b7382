"""A replay from its beginning, or from where it was interrupted, to its files."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from quantum_ai_engine.replay.history import History
from quantum_ai_engine.replay.kept import KEPT_VERSION, Kept, Saved, Tally, add
from quantum_ai_engine.replay.run import Replay, Stretch
from quantum_ai_engine.replay.step import Step

SIGNALS = "signals.parquet"
KEPT = ".unfinished"


class Follower(Protocol):
    """Whoever takes the steps of a replay, one after the other."""

    def take(self, step: Step) -> None:
        """Take the next step."""


def fingerprint(*facts: object) -> str:
    """What two replays have in common if one may go on where the other was.

    >>> fingerprint("BTCUSDT", 1_000) == fingerprint("BTCUSDT", 1_001)
    False
    """
    return hashlib.sha256(msgspec.msgpack.encode([*map(str, facts)])).hexdigest()


async def drive(
    replay: Replay,
    history: History,
    followers: Sequence[Follower],
    out: Path,
    print_of: str,
    report: Callable[[int], None],
) -> Tally:
    """Write the signals of a replay into a directory, and hand each step to the followers.

    A replay of the same fingerprint `print_of` that was interrupted goes on: the followers are
    first given the steps that were taken. `report(rows)` is told how many rows have been read.
    """
    kept = Kept(out / KEPT)
    saved = kept.find(print_of)
    tally = saved.tally if saved else Tally()
    if saved is None:
        kept.begin()
    else:
        replay.restore(saved.snapshot)
        for step in kept.steps():
            _hand(step, followers)
    try:
        async for stretch in replay.stretches(history, saved.rows if saved else 0):
            _count(tally, stretch)
            kept.add(stretch.steps)
            for step in stretch.steps:
                _hand(step, followers)
            if stretch.is_settled:
                kept.finish_part()
                snapshot = replay.engine.state.snapshot()
                where = (kept.parts, stretch.rows, tally, snapshot)
                kept.save(Saved(KEPT_VERSION, print_of, *where))
            report(stretch.rows)
        kept.finish_part()
    finally:
        kept.close()
    kept.join(out / SIGNALS)
    kept.remove()
    return tally


def _hand(step: Step, followers: Sequence[Follower]) -> None:
    for follower in followers:
        follower.take(step)


def _count(tally: Tally, stretch: Stretch) -> None:
    tally.warmed += stretch.warmed
    tally.duplicates += stretch.duplicates
    add(tally.refused, stretch.refused)
    tally.update(stretch.steps)
