"""How it went lately: speed and latency over a minute, trust and scores over hours."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import Histogram

from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.status import Status
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.state.judgement import Judgement

PERIOD_S = 5.0
MINUTE = 12  # periods
POINTS_KEPT = 2000


class Counts(NamedTuple):
    """What had been done at a moment of the monotonic clock; `latency` counts by bucket."""

    at_s: float
    bars: int
    signals: int
    latency: tuple[tuple[float, float], ...]


class Point(NamedTuple):
    """A judgement at a time of the bars, by agent: None where nothing has settled.

    `trust` has the base rate's share last. `brier` is of the recent past; `base` is that of the
    base rate on the same bars.
    """

    at_ms: int
    trust: tuple[float, ...]
    brier: tuple[float | None, ...]
    base: tuple[float | None, ...]


class Recent(NamedTuple):
    """Bars and signals a second, and bounds of latency in seconds, over the last minute.

    None where nothing is known: no span of time yet, or no signal in it.
    """

    bars_per_s: float | None = None
    signals_per_s: float | None = None
    p50_s: float | None = None
    p99_s: float | None = None


class History:
    """Keeps a few counts a minute, and a point of each partition when its judgement has moved.

    That is all which runs while nobody looks, but for appending to the ring.
    """

    def __init__(self, status: Status, metrics: Metrics) -> None:
        self._status = status
        self._metrics = metrics
        self._counts: deque[Counts] = deque(maxlen=MINUTE + 1)
        self.points: dict[int, deque[Point]] = {}

    async def run(self, engines: Callable[[], Mapping[int, Engine]]) -> None:
        """Keep taking notes, until cancelled."""
        while True:
            self.update(time.monotonic(), engines())
            await asyncio.sleep(PERIOD_S)

    def update(self, at_s: float, engines: Mapping[int, Engine]) -> None:
        """Take a note at a moment of the monotonic clock."""
        self._counts.append(self._count(at_s))
        for partition, engine in engines.items():
            judgement = engine.state.judgement
            points = self.points.setdefault(partition, deque(maxlen=POINTS_KEPT))
            if judgement.rulings[-1].at_ms > (points[-1].at_ms if points else 0):
                points.append(_point(judgement))

    def recent(self, now_s: float) -> Recent:
        """How it went since the oldest count that is kept."""
        if not self._counts:
            return Recent()
        before, now = self._counts[0], self._count(now_s)
        span_s = now.at_s - before.at_s
        if span_s <= 0.0:
            return Recent()
        known = dict(before.latency)
        buckets = [(bound, count - known[bound]) for bound, count in now.latency]
        return Recent(
            (now.bars - before.bars) / span_s,
            (now.signals - before.signals) / span_s,
            quantile(buckets, 0.5),
            quantile(buckets, 0.99),
        )

    def _count(self, at_s: float) -> Counts:
        latency = tuple(buckets(self._metrics.bar_to_signal).get("", ()))
        return Counts(at_s, self._status.processed, self._status.signals, latency)


def buckets(histogram: Histogram) -> dict[str, list[tuple[float, float]]]:
    """The upper bounds and cumulated counts of a histogram, by its label, if it has one."""
    found: dict[str, list[tuple[float, float]]] = {}
    for metric in histogram.collect():
        for sample in metric.samples:
            if sample.name.endswith("_bucket"):
                labels: dict[str, Any] = dict(sample.labels)
                bound = float(labels.pop("le"))
                found.setdefault("".join(labels.values()), []).append((bound, sample.value))
    return found


def quantile(buckets: Sequence[tuple[float, float]], q: float) -> float | None:
    """The upper bound of the bucket in which a quantile lies; None without any observation.

    >>> quantile([(0.01, 90.0), (0.1, 100.0)], 0.5), quantile([(0.01, 0.0)], 0.5)
    (0.01, None)
    """
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return None
    return next(bound for bound, count in buckets if count >= q * total)


def _point(judgement: Judgement) -> Point:
    scores = [judgement.scores.recent(column) for column in range(len(judgement.agents))]
    return Point(
        judgement.rulings[-1].at_ms,
        tuple(judgement.trust.weights.tolist()),
        tuple(score.brier if score else None for score in scores),
        tuple(score.brier - score.paired if score else None for score in scores),
    )
