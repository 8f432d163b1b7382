"""The panel: who is asked about which bar, who answers what, and who abstains and why."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import Agent, Past
from quantum_ai_engine.agents.panel import Ballot, Question, ask
from quantum_ai_engine.agents.pool import Answer, Request
from quantum_ai_engine.events import Abstained, Abstention
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.features.store import Windows

Floats = NDArray[np.float64]
GRU, PATCH = SETS["gru9"], SETS["patchtst8"]
LONG_AGO = 10_000


class Reader:
    """An agent whose probability is the newest value of its first column."""

    bundle, horizon_bars, clamped = "0" * 12, 5, 0

    def __init__(self, name: str, set_name: str = "gru9", interval: str = "1m") -> None:
        self.name, self.interval = name, interval
        self.feature_set = SETS[set_name]
        self.unavailable: str | None = None
        self.past = Past()

    def warm_up(self) -> None: ...

    def predict(self, windows: Floats) -> Floats:
        return windows[:, -1, 0]


class Here:
    """Asks in the calling thread, and remembers how many windows each agent got."""

    def __init__(self, *agents: Agent, why: Abstained | None = None) -> None:
        self.agents = agents
        self.asked: list[tuple[str, int]] = []
        self._why = why

    async def predict(self, requests: Sequence[Request]) -> list[Answer]:
        self.asked = [(r.agent.name, len(r.windows)) for r in requests]
        return [
            Answer(r.agent.predict(r.windows.array()), (self._why,) * len(r.windows))
            for r in requests
        ]


def windows(*values: float) -> dict[str, Windows]:
    """By feature set, windows of one value each."""
    return {
        s.name: Windows.of(
            np.array(values)[:, np.newaxis, np.newaxis] * np.ones((s.window, len(s.columns)))
        )
        for s in (GRU, PATCH)
    }


def answers(panel: Here, questions: Sequence[Question], values: Sequence[float]) -> list[Ballot]:
    return asyncio.run(ask(panel, questions, windows(*values)))


def question(seen: int = LONG_AGO, whole: int = 128, interval: str = "1m") -> Question:
    return Question(interval, seen, whole)


def test_each_agent_is_asked_once_about_all_it_can_answer() -> None:
    """L53: answers go back to the bars that they are of, whoever was asked about which."""
    panel = Here(Reader("near"), Reader("far", "patchtst8"))
    questions = [question(whole=32), question(), question(whole=31), question(whole=127)]
    got = answers(panel, questions, [0.2, 0.4, 0.6, 0.8])
    assert panel.asked == [("near", 3), ("far", 1)]
    near, far = (Abstention(name, Abstained.GAP) for name in ("near", "far"))
    assert got == [
        Ballot([(0, 0.2)], [far]),
        Ballot([(0, 0.4), (1, 0.4)], []),
        Ballot([], [near, far]),
        Ballot([(0, 0.8)], [far]),
    ]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (question(seen=GRU.window_ready_at - 1), Abstained.WARMING_UP),
        (question(seen=GRU.window_ready_at - 1, whole=1), Abstained.WARMING_UP),
        (question(seen=GRU.window_ready_at, whole=GRU.window - 1), Abstained.GAP),
        (question(interval="5m", seen=1, whole=1), Abstained.OTHER_INTERVAL),
        (question(seen=GRU.window_ready_at, whole=GRU.window), None),
    ],
)
def test_why_an_agent_cannot_be_asked(asked: Question, reason: Abstained | None) -> None:
    """L13: another interval, too few bars, or a hole in its own window; the first of these."""
    panel = Here(Reader("near"))
    (got,) = answers(panel, [asked], [0.7])
    if reason is None:
        assert got == Ballot([(0, 0.7)], [])
    else:
        assert got == Ballot([], [Abstention("near", reason)])
        assert panel.asked == [("near", 0)]


def test_an_agent_that_is_not_there_is_never_asked() -> None:
    """L02: it abstains from every bar, gap or not."""
    missing = Reader("missing")
    missing.unavailable = "torch is not installed"
    panel = Here(missing, Reader("near"))
    first, second = answers(panel, [question(), question(whole=1)], [0.7, 0.7])
    assert first == Ballot([(1, 0.7)], [Abstention("missing", Abstained.UNAVAILABLE)])
    assert second.answers == []
    assert [a.reason for a in second.abstained] == [Abstained.UNAVAILABLE, Abstained.GAP]


def test_what_an_agent_answers_with_a_reason_is_no_vote() -> None:
    """L02: its number goes nowhere."""
    (got,) = answers(Here(Reader("near"), why=Abstained.DEADLINE), [question()], [0.7])
    assert got == Ballot([], [Abstention("near", Abstained.DEADLINE)])


def test_answers_name_the_place_of_their_agent() -> None:
    """L53: also where an agent before it abstains, and in the declared order."""
    panel = Here(Reader("far", "patchtst8"), Reader("one"), Reader("two"))
    both, all_three = answers(panel, [question(whole=100), question()], [0.6, 0.4])
    assert both == Ballot([(1, 0.6), (2, 0.6)], [Abstention("far", Abstained.GAP)])
    assert all_three == Ballot([(0, 0.4), (1, 0.4), (2, 0.4)], [])


def test_no_question_has_no_answer() -> None:
    """An empty batch asks everybody about nothing."""
    panel = Here(Reader("near"))
    empty = {s.name: Windows.of(np.empty((0, s.window, len(s.columns)))) for s in (GRU, PATCH)}
    assert asyncio.run(ask(panel, [], empty)) == []
