"""Feature shift as it is shown: a metric, JSON, and one log line when it begins or ends."""

from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from quantum_ai_engine.agents.base import Past
from quantum_ai_engine.daemon.http import Api
from quantum_ai_engine.daemon.journal import Journal
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.routes import application
from quantum_ai_engine.daemon.shifted import ShiftCollector, shown_shift
from quantum_ai_engine.daemon.status import Status
from quantum_ai_engine.engine import Now
from quantum_ai_engine.features.histograms import Histogram, Reference
from quantum_ai_engine.features.kernel import COLUMN_COUNT
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.supervisor.shift import Come, Comparison, Shifts, Watched

from ..state.streams import Follower, bars_at, engine_of, unmeasured

SET = SETS["momentum2"]
EVEN = Reference(4, 0, 0.99, {SET.columns[1]: Histogram((0.0,), (50, 50), 0.5)})


def shifts(*agents: str) -> Shifts:
    return Shifts(Watched(name, "1m", SET, EVEN) for name in agents)


def count(into: Shifts, values: list[float]) -> list[tuple[str, Comparison]]:
    """Let bars come whose column has these values; what turned."""
    rows = np.full((len(values), COLUMN_COUNT), np.nan)
    rows[:, SET.indices] = np.array(values)[:, np.newaxis]
    return into.update(rows, [Come("1m", 99, 60, is_first=True)] * len(values))


def test_the_metric_is_absent_before_a_comparison() -> None:
    """L08: no data is no figure; of several partitions the largest ratio is shown."""
    parts = [shifts("a", "b"), shifts("a", "b")]
    registry = CollectorRegistry()
    registry.register(ShiftCollector(lambda: parts))

    def value(agent: str) -> float | None:
        return registry.get_sample_value("qae_feature_shift", {"agent": agent})

    count(parts[0], [1.0] * 3)
    assert (value("a"), value("b")) == (None, None)
    count(parts[0], [1.0])
    far = parts[0].of["a"].get()
    assert far is not None
    assert value("a") == value("b") == far.ratio > 1.0
    count(parts[1], [-1.0, 1.0, -1.0, 1.0])
    assert value("a") == far.ratio
    count(parts[0], [-1.0, 1.0, -1.0, 1.0])
    assert value("a") == 0.0


def test_it_is_shown_with_its_columns_and_its_age() -> None:
    """L08: the last comparison, when and of how many rows, and how far the next one is."""
    some = shifts("a")
    count(some, [1.0] * 3)
    before: Any = msgspec.to_builtins(shown_shift(some.of["a"]))
    assert before == {"last": None, "columns": 1, "rows": 4, "pending": 3}
    count(some, [1.0] * 3)
    shown: Any = msgspec.to_builtins(shown_shift(some.of["a"]))
    assert shown["pending"] == 2
    last = shown["last"]
    assert (last["at_ms"], last["rows"]) == (60, 4)
    (worst,) = last["worst"]
    assert (worst["column"], worst["threshold"]) == (SET.columns[1], 0.5)
    assert last["ratio"] == pytest.approx(worst["psi"] / 0.5)
    assert shown_shift(None) is None


def test_the_beginning_and_the_end_are_told_once() -> None:
    """L54: one line when features have moved, one when they are back, none in between."""
    some, journal = shifts("a"), Journal()
    with capture_logs() as lines:
        for value in (-1.0, 1.0, 1.0, -1.0, 1.0):
            values = [value] * 4 if value > 0.0 else [-1.0, 1.0] * 2
            journal.tell([], [], [], count(some, values))
    assert [line["event_name"] for line in lines] == [
        "feature_shift",
        "feature_shift_over",
        "feature_shift",
    ]
    assert [line["log_level"] for line in lines] == ["warning", "info", "warning"]
    first, second, _ = lines
    assert (first["agent"], first["columns"], first["rows"]) == ("a", [SET.columns[1]], 4)
    assert first["ratio"] > 1.0 >= second["ratio"]


async def test_agents_are_shown_with_their_shift() -> None:
    """L08: `/agents` has the last comparison of an agent; one without a reference has none."""
    known, unknown = Follower("known", SET.name, 1.0), Follower("unknown", SET.name, 1.0)
    known.past = Past(reference=EVEN)
    engine = engine_of(known, unknown)
    engine.learn(bars_at(range(64)))
    await engine.process(bars_at(range(64, 69)), Now(), unmeasured)
    metrics, status = Metrics("1", "build", "config"), Status.of((known, unknown))
    served = application(Api(status, metrics, lambda: {0: engine}).routes())
    async with TestClient(TestServer(served)) as client:
        (partition,) = await (await client.get("/agents")).json()
    first, second = (agent["feature_shift"] for agent in partition["agents"])
    assert second is None
    assert (first["rows"], first["pending"]) == (4, 1)
    assert first["last"]["at_ms"] == 68 * 60_000
    assert [one["column"] for one in first["last"]["worst"]] == [SET.columns[1]]
