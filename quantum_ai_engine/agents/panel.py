"""Asking all agents about a batch of bars."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.pool import Answer, Request
from quantum_ai_engine.events import Abstained, Abstention
from quantum_ai_engine.features.store import Windows


class Predictor(Protocol):
    """Who answers for the agents: the pool, live; anything of this shape in a replay."""

    @property
    def agents(self) -> tuple[Agent, ...]:
        """All agents, in their declared order."""

    async def predict(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order."""


class Question(NamedTuple):
    """What decides which agents can be asked about a bar.

    `seen` are the bars of its series, `whole` those in a row without a hole.
    """

    interval: str
    seen: int
    whole: int


class Ballot(NamedTuple):
    """What came of asking all agents about a bar: who answered what, by place, and who did not."""

    answers: list[tuple[int, float]]
    abstained: list[Abstention]


class Inquiry(NamedTuple):
    """One series as it was at one moment, to be asked about at any later one.

    `windows` holds, by feature set, its newest window alone, in an array of its own.
    """

    question: Question
    windows: Mapping[str, Windows]


async def inquire(predictor: Predictor, inquiries: Sequence[Inquiry]) -> list[Ballot]:
    """Ask every agent about series of one engine or several: one ballot for each inquiry."""
    if not inquiries:
        return []
    windows = {
        name: Windows.joined([one.windows[name] for one in inquiries])
        for name in inquiries[0].windows
    }
    return await ask(predictor, [one.question for one in inquiries], windows)


async def ask(
    predictor: Predictor, questions: Sequence[Question], windows: Mapping[str, Windows]
) -> list[Ballot]:
    """Ask every agent for the bars that it can answer: one ballot for each question.

    `windows` holds, by feature set, one window for each question.
    """
    ballots = [Ballot([], []) for _ in questions]
    requests, asked = [], []
    for agent in predictor.agents:
        able = []
        name = agent.name
        for i, reason in enumerate(_unable(agent, questions)):
            if reason is None:
                able.append(i)
            else:
                ballots[i].abstained.append(Abstention(name, reason))
        requests.append(Request(agent, windows[agent.feature_set.name].take(able)))
        asked.append(able)
    answers = await predictor.predict(requests)
    for place, (able, answer) in enumerate(zip(asked, answers, strict=True)):
        name, given = predictor.agents[place].name, answer.probabilities.tolist()
        for i, probability, why in zip(able, given, answer.reasons, strict=True):
            if why is None:
                ballots[i].answers.append((place, probability))
            else:
                ballots[i].abstained.append(Abstention(name, why))
    return ballots


def _unable(agent: Agent, questions: Sequence[Question]) -> Iterator[Abstained | None]:
    """Why an agent cannot be asked about each of the bars at all; None if it can."""
    ready_at, window = agent.feature_set.window_ready_at, agent.feature_set.window
    own_interval, unavailable = agent.interval, agent.unavailable
    for interval, seen, whole in questions:
        if unavailable:
            yield Abstained.UNAVAILABLE
        elif own_interval != interval:
            yield Abstained.OTHER_INTERVAL
        elif seen < ready_at:
            yield Abstained.WARMING_UP
        else:
            yield Abstained.GAP if whole < window else None
