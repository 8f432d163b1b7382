"""Agents asked one after the other, where they are: for checks that run many short replays."""

from collections.abc import Sequence

import numpy as np

from quantum_ai_engine.agents.base import Agent, in_batches
from quantum_ai_engine.agents.pool import Answer, Request
from quantum_ai_engine.events import Abstained


class Inline:
    """Who answers for agents without threads and without a deadline; they must be warmed up."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.agents = tuple(agents)

    async def predict(self, requests: Sequence[Request]) -> list[Answer]:
        return [_answer(request) for request in requests]


def _answer(request: Request) -> Answer:
    """What fails raises: a check must not go on without an agent."""
    if not len(request.windows):
        return Answer(np.empty(0), ())
    probabilities = in_batches(request.agent.predict, request.windows.array())
    finite = np.isfinite(probabilities)
    return Answer(probabilities, tuple(None if ok else Abstained.NON_FINITE for ok in finite))
