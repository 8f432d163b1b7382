"""A round over many open times, given back as one for each of them."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import INTERVAL_MS, Bar
from quantum_ai_engine.replay.history import Slice
from quantum_ai_engine.replay.step import Step


def steps_of(batch: Sequence[Slice], done: Round) -> Iterator[Step]:
    """The steps of a round over these slices, in which every bar came in time.

    What is counted beside the bars, and comparisons of features, come with the last of them.
    """
    refused = {position for position, _ in done.refused}
    rounds, kept, position = [Round() for _ in batch], list[tuple[Bar, ...]](), 0
    for one in batch:
        places = range(position, position + len(one.bars))
        kept.append(
            tuple(bar for at, bar in zip(places, one.bars, strict=True) if at not in refused)
        )
        position += len(one.bars)
    _share(batch, done, rounds)
    for bars, told in zip(kept, rounds, strict=True):
        told.processed = len(bars)
        told.longest_interval_ms = max((bar.interval_ms for bar in bars), default=0)
    last = next((told for bars, told in zip(kept[::-1], rounds[::-1], strict=True) if bars), None)
    if last is not None:
        _count(done, last)
    yield from (Step(bars, told) for bars, told in zip(kept, rounds, strict=True) if bars)


def _share(batch: Sequence[Slice], done: Round, rounds: Sequence[Round]) -> None:
    """Give each round what was said of its bars, and what changed with them."""
    place = {one.open_time_ms: i for i, one in enumerate(batch)}
    for signal in done.signals:
        opened = signal.close_time - INTERVAL_MS[signal.interval]
        rounds[place[opened]].signals.append(signal)
    for record in done.records:
        opened = record.prediction.close_time - INTERVAL_MS[record.interval]
        rounds[place[opened]].records.append(record)
    closes = [max((bar.close_time for bar in one.bars), default=0) for one in batch]
    newest = list(accumulate(closes, max))
    for change in done.changes:
        # The bar with which the clock came so far brought the moment about.
        at = next((i for i, close in enumerate(newest) if close >= change.at_ms), len(batch) - 1)
        rounds[at].changes.append(change)


def merged(rounds: Sequence[Round]) -> Round:
    """One round of some that followed each other, in which nothing was refused."""
    whole = Round()
    for done in rounds:
        whole.processed += done.processed
        whole.longest_interval_ms = max(whole.longest_interval_ms, done.longest_interval_ms)
        whole.signals += done.signals
        whole.records += done.records
        whole.changes += done.changes
        _count(done, whole)
    return whole


def _count(done: Round, told: Round) -> None:
    """Add what is counted of a round, but for its bars."""
    told.late += done.late
    told.revised += done.revised
    told.gaps += done.gaps
    told.filled += done.filled
    told.again += done.again
    told.silent.update(done.silent)
    told.unheard += done.unheard
    told.shifts += done.shifts
