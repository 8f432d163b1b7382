"""Asking all agents about a batch of bars, and combining what they answer."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.ensemble import combine, equal_trust
from quantum_ai_engine.agents.pool import Answer, Request
from quantum_ai_engine.events import Abstained, Abstention, Forecast, Vote
from quantum_ai_engine.features.store import Windows

# What stands in a forecast's place when every agent abstained.
Unheard: TypeAlias = list[Abstention]


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


async def ask(
    predictor: Predictor, questions: Sequence[Question], windows: Mapping[str, Windows]
) -> list[Forecast | Unheard]:
    """Ask every agent for the bars that it can answer, then combine bar by bar.

    `windows` holds, by feature set, one window for each question.
    """
    votes: list[list[tuple[Agent, float]]] = [[] for _ in questions]
    abstained: list[list[Abstention]] = [[] for _ in questions]
    requests, asked = [], []
    for agent in predictor.agents:
        able = []
        for i, reason in enumerate(_unable(agent, questions)):
            if reason:
                abstained[i].append(Abstention(agent.name, reason))
            else:
                able.append(i)
        requests.append(Request(agent, windows[agent.feature_set.name].take(able)))
        asked.append(able)
    answers = await predictor.predict(requests)
    for request, able, answer in zip(requests, asked, answers, strict=True):
        for i, probability, why in zip(able, answer.probabilities, answer.reasons, strict=True):
            if why is None:
                votes[i].append((request.agent, float(probability)))
            else:
                abstained[i].append(Abstention(request.agent.name, why))
    return [combine(_weighted(v), a) or a for v, a in zip(votes, abstained, strict=True)]


def _unable(agent: Agent, questions: Sequence[Question]) -> Iterator[Abstained | None]:
    """Why an agent cannot be asked about each of the bars at all; None if it can."""
    ready_at, window = agent.feature_set.window_ready_at, agent.feature_set.window
    for interval, seen, whole in questions:
        if agent.unavailable:
            yield Abstained.UNAVAILABLE
        elif agent.interval != interval:
            yield Abstained.OTHER_INTERVAL
        elif seen < ready_at:
            yield Abstained.WARMING_UP
        else:
            yield Abstained.GAP if whole < window else None


def _weighted(votes: Sequence[tuple[Agent, float]]) -> list[Vote]:
    """Votes with equal trust."""
    return [
        Vote(agent.name, agent.bundle, probability, equal_trust(len(votes)))
        for agent, probability in votes
    ]
