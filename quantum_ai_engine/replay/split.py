"""A round over many open times, given back as one for each of them."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import INTERVAL_MS, Bar
from quantum_ai_engine.replay.history import Slice
from quantum_ai_engine.replay.step import Step


def steps_of(batch: Sequence[Slice], done: Round) -> list[Step]:
    """The steps of a round over these slices, in which every bar came in time.

    What is counted beside the bars comes with the last of them.
    """
    refused, position = {position for position, _ in done.refused}, 0
    steps = list[Step]()
    for one in batch:
        bars = tuple(one.bars)
        if refused:
            places = range(position, position + len(bars))
            bars = tuple(bar for at, bar in zip(places, bars, strict=True) if at not in refused)
            position += len(one.bars)
        steps.append(Step(bars, round_of(bars)))
    _share(batch, done, [step.told for step in steps])
    steps = [step for step in steps if step.bars]
    if steps:
        _count(done, steps[-1].told)
    return steps


def round_of(bars: Sequence[Bar]) -> Round:
    """A round of bars of which nothing is told yet."""
    return Round(processed=len(bars), longest_interval_ms=_longest_ms(bars))


def _longest_ms(bars: Sequence[Bar]) -> int:
    return max((INTERVAL_MS[name] for name in {bar.interval for bar in bars}), default=0)


def _share(batch: Sequence[Slice], done: Round, rounds: Sequence[Round]) -> None:
    """Give each round what was said of its bars, and what changed with them."""
    told = {one.open_time_ms: each.signals for one, each in zip(batch, rounds, strict=True)}
    for signal in done.signals:
        told[signal.close_time - INTERVAL_MS[signal.interval]].append(signal)
    closes = [one.open_time_ms + _longest_ms(one.bars) if one.bars else 0 for one in batch]
    newest = list(accumulate(closes, max))
    for change in done.changes:
        # The bar with which the clock came so far brought the moment about.
        at = min(bisect_left(newest, change.at_ms), len(batch) - 1)
        rounds[at].changes.append(change)


def merged(rounds: Sequence[Round]) -> Round:
    """One round of some that followed each other, in which nothing was refused."""
    whole = Round()
    for done in rounds:
        whole.processed += done.processed
        whole.longest_interval_ms = max(whole.longest_interval_ms, done.longest_interval_ms)
        whole.signals += done.signals
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
