"""Who answers a round in time: costs learned online, and agents shed before they are late."""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import NamedTuple

from quantum_ai_engine.agents.base import LARGEST_BATCH

SHED_ABOVE, BACK_BELOW = 0.9, 0.7  # of the deadline
PROBE_EVERY, PATIENCE = 8, 16  # rounds
REMEMBERED = 31  # batches of one size
KEPT_WHEN_SHED = 8  # of them
BELIEVED = 3  # batches, against what larger ones say


class Plan(NamedTuple):
    """Positions of the demands to be run, and of those shed whose cost is to be measured.

    A probe is one batch, behind everything else; its answers go nowhere.
    """

    run: tuple[int, ...]
    probed: tuple[int, ...]


class Cost:
    """Seconds of an agent's batches by size, learned online.

    Sizes are powers of two, as the shapes are to which neural agents pad. What a batch costs is
    the lower median of the last 31 of its size: not even a dozen outliers, as a stalled machine
    makes them, count for anything, nor does one among the first three. More rows never cost
    less: where sizes disagree the newest batch is right, but one or two of a size prove nothing
    against a larger size that is cheaper.

    >>> cost = Cost()
    >>> for seconds in (0.2, 0.2, 20.0):
    ...     cost.update(200, seconds)
    >>> cost.get(256), cost.get(3)
    (0.2, 0.2)
    """

    def __init__(self) -> None:
        self._latest: dict[int, deque[float]] = {}
        self._known: dict[int, float] = {}  # never falls with the size

    def update(self, rows: int, seconds: float) -> None:
        """A batch of so many rows has taken so long."""
        size = _size(rows)
        latest = self._latest.setdefault(size, deque(maxlen=REMEMBERED))
        latest.append(seconds)
        now = median_low(latest)
        if len(latest) < BELIEVED:
            now = min([now, *(s for k, s in self._known.items() if k > size)])
        for k, s in self._known.items():
            self._known[k] = max(s, now) if k > size else min(s, now)
        self._known[size] = now

    def get(self, rows: int) -> float:
        """Seconds of a batch; of a size not seen yet, those of larger ones, else in proportion."""
        size, known = _size(rows), self._known
        if not known:
            return 0.0
        nearest = min((k for k in known if k >= size), default=max(known))
        return known[nearest] * 2.0 ** max(0, size - nearest)

    def forget(self) -> None:
        """Remember so little of each size that five batches outvote all before them."""
        for size, latest in self._latest.items():
            self._latest[size] = deque(list(latest)[-KEPT_WHEN_SHED:], REMEMBERED)


@dataclass(slots=True)
class _Standing:
    """One agent: its cost, from how many rows of a round on it is shed, and its turns as a probe.

    `unprobed` counts the rounds it was shed since the last probe, `patience` after how many a
    probe may be late.
    """

    cost: Cost = field(default_factory=Cost)
    shed_from: float = math.inf
    unprobed: int = 0
    patience: int = PATIENCE

    def limit(self, asked: int) -> float:
        """Up to which share of the deadline it may work in a round of so many rows."""
        return BACK_BELOW if 2 * asked >= self.shed_from else SHED_ABOVE

    def update(self, asked: int, is_run: bool) -> None:
        """Take note of what was decided for a round of so many rows."""
        if not is_run:
            self.cost.forget()  # probes are rare: let few of them decide
            self.shed_from = min(self.shed_from, asked)
        elif asked >= self.shed_from:
            self.shed_from, self.unprobed, self.patience = math.inf, 0, PATIENCE

    def is_probed(self, fits: bool) -> bool:
        """Whether its turn has come, in a round in which it was shed."""
        self.unprobed += 1
        if self.unprobed < (PROBE_EVERY if fits else self.patience):
            return False
        self.unprobed = 0
        if not fits:
            self.patience *= 2
        return True


class Planner:
    """Decides before a round which agents are run, by what their batches have cost so far.

    Batches are thought to go to the workers as the pool hands them out: in declared order, to
    whoever is free first. An agent whose last batch would end past 0.9 of the deadline is shed
    whole. Those declared after it are run if they still fit, so that a heavy agent does not
    silence cheap ones; of equal agents the last declared is shed first. If nobody fits, the
    first declared is run: its first rows have an answer. An agent that was never measured is
    thought to cost nothing, and so is tried.

    It does not flap: who was shed comes back when it would end within 0.7 of the deadline, or
    in rounds of less than half the rows. While an agent is shed, one of its batches is measured
    every eight rounds, so that no wrong cost stands for ever; where even that would be late, in
    ever longer turns until one takes less than half of what was thought.

    Not for several threads at once.

    >>> planner = Planner()
    >>> for agent in ("gru", "transformer", "patchtst"):
    ...     planner.learn(agent, 256, 3.0 if agent == "transformer" else 0.4)
    >>> planner.admit([("gru", 512), ("transformer", 512), ("patchtst", 512)], 1, 5.0)
    Plan(run=(0, 2), probed=())
    """

    def __init__(self) -> None:
        self._agents: dict[str, _Standing] = {}

    def learn(self, agent: str, rows: int, seconds: float) -> None:
        """A batch of an agent has taken so long, in time or not."""
        standing = self._standing(agent)
        if seconds < standing.cost.get(rows) / 2:
            standing.patience = PATIENCE  # a probe may be worth it again
        standing.cost.update(rows, seconds)

    def seconds(self, agent: str, rows: int) -> float:
        """What one batch of an agent is expected to take."""
        return self._standing(agent).cost.get(rows)

    def admit(self, demands: Sequence[tuple[str, int]], workers: int, deadline_s: float) -> Plan:
        """Who of (agent, rows), in declared order, is run in the round that begins now.

        `workers` are those that are free for it.
        """
        asked = sum(rows for _, rows in demands)
        free, run = [0.0] * workers, []
        for i, (agent, rows) in enumerate(demands):
            after, end = self._scheduled(free, agent, rows)
            if end <= self._standing(agent).limit(asked) * deadline_s:
                free = after
                run.append(i)
        if asked and not any(demands[i][1] for i in run):
            first = next(i for i, (_, rows) in enumerate(demands) if rows)
            free, _ = self._scheduled(free, *demands[first])
            run = sorted([first, *run])
        shed = [i for i in range(len(demands)) if i not in run]
        for i, (agent, rows) in enumerate(demands):
            if rows:
                self._standing(agent).update(asked, i in run)
        return Plan(tuple(run), self._probes(demands, shed, free, deadline_s))

    def _standing(self, agent: str) -> "_Standing":
        return self._agents.setdefault(agent, _Standing())

    def _scheduled(self, free: list[float], agent: str, rows: int) -> tuple[list[float], float]:
        """When each worker is free after these rows, and when the last of them is done."""
        after, end = list(free), 0.0  # a heap
        for start in range(0, rows, LARGEST_BATCH):
            done = after[0] + self.seconds(agent, min(LARGEST_BATCH, rows - start))
            heapq.heapreplace(after, done)
            end = max(end, done)
        return after, end

    def _probes(
        self,
        demands: Sequence[tuple[str, int]],
        shed: Sequence[int],
        free: list[float],
        deadline_s: float,
    ) -> tuple[int, ...]:
        """Whose turn it is among those shed."""
        probed = []
        for i in shed:
            agent, rows = demands[i]
            after, end = self._scheduled(free, agent, min(rows, LARGEST_BATCH))
            if self._standing(agent).is_probed(end <= SHED_ABOVE * deadline_s):
                free = after
                probed.append(i)
        return tuple(probed)


def _size(rows: int) -> int:
    """0 for 1 row, 1 for 2, 2 for up to 4, … 8 for up to 256."""
    return (rows - 1).bit_length()
