"""What changed between two rulings, in words for whoever listens."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from quantum_ai_engine.events import Change
from quantum_ai_engine.risk.policy import Cause
from quantum_ai_engine.state.ruling import Ruling
from quantum_ai_engine.supervisor.quality import Quality
from quantum_ai_engine.supervisor.standing import Check, Standing, State

Stand: TypeAlias = tuple[State, tuple[Check, ...]]  # a state, and the tests that alarm

AGENTS, FEEDS = "all agents", "all feeds"


def ruled(before: Ruling, after: Ruling, cause: Sequence[Cause], at_ms: int) -> Iterator[Change]:
    """Another mode or source of equity, another state or other breakers."""
    was, now = before.policy, after.policy
    if (was.mode, was.equity) != (now.mode, now.equity):
        causes = tuple(one.value for one in cause)
        yield Change("policy", at_ms, "", was.mode, now.mode, (*causes, f"{now.equity} equity"))
    if (before.risk.state, before.risk.breakers) != (after.risk.state, after.risk.breakers):
        reasons = after.risk.reasons
        yield Change("risk", at_ms, "", before.risk.state, after.risk.state, reasons)


def believed(
    before: Ruling, after: Ruling, symbols: Sequence[str], quality: Quality, at_ms: int
) -> Iterator[Change]:
    """The feeds that went into quarantine, or came out of it."""
    if before.quarantined.tobytes() == after.quarantined.tobytes():  # as nearly always
        return
    was_ill = np.zeros(len(after.quarantined), dtype=bool)
    was_ill[: len(before.quarantined)] = before.quarantined
    changed = np.flatnonzero(was_ill != after.quarantined).tolist()
    words = ("believed", "quarantined")
    for series in sorted(changed, key=lambda i: symbols[i]):
        is_ill = bool(after.quarantined[series])
        reasons = tuple(alarm.reason for alarm in quality.alarms(series))
        yield Change(
            "supervisor", at_ms, symbols[series], words[not is_ill], words[is_ill], reasons
        )


def spread(before: Ruling, after: Ruling, at_ms: int) -> Iterator[Change]:
    """That half of the feeds, two at least, are in quarantine at once, or are so no more."""
    needed = max(2, (len(after.quarantined) + 1) // 2)
    is_common = [np.count_nonzero(ruling.quarantined) >= needed for ruling in (before, after)]
    if is_common[0] == is_common[1]:
        return
    words = ["common cause: data" if common else "each by itself" for common in is_common]
    why = ("half of the feeds are in quarantine at once: their source or the market changed",)
    yield Change("supervisor", at_ms, FEEDS, words[0], words[1], why if is_common[1] else ())


def stood(
    names: Sequence[str],
    before: Sequence[Stand],
    standings: Sequence[Standing | None],
    at_ms: int,
) -> Iterator[Change]:
    """The agents that stand otherwise, or of which other tests alarm, each with its alarms."""
    for name, (was, alarming), standing in zip(names, before, standings, strict=True):
        if standing is None or (standing.state, standing.alarming) == (was, alarming):
            continue
        verdict = standing.get()
        reasons = tuple(
            f"{alarm.test.value}: {alarm.evidence:.4g} of {alarm.threshold:.4g}"
            for alarm in verdict.alarms
        )
        yield Change("supervisor", at_ms, name, was.value, verdict.state.value, reasons)


def together(before: Check | None, after: Check | None, at_ms: int) -> Iterator[Change]:
    """That half of the agents alarm together in a test, or do so no more."""
    if after is before:
        return
    words = [
        f"common cause: {test.value}" if test else "each by itself" for test in (before, after)
    ]
    why = ("half of the agents began to alarm together: a feed or the market changed",)
    yield Change("supervisor", at_ms, AGENTS, words[0], words[1], why if after else ())
