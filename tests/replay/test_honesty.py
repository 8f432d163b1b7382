"""Checks that a replay is honest: each passes on the engine, and fails on what is planted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.config import EngineSettings, Settings
from quantum_ai_engine.engine import Engine, Identity
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.columns import NAMES
from quantum_ai_engine.features.schema import FeatureSet
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import FeatureStore, Rows
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.replay.honesty import lookahead, warmup
from quantum_ai_engine.replay.inline import Inline

from ..conftest import START_MS

Floats = NDArray[np.float64]
SETTINGS = Settings(engine=EngineSettings(clock="bars"))
LEAKING = "ret_1"


@pytest.fixture(scope="module")
def agents(bundles: Path) -> tuple[Agent, ...]:
    loaded = load_agents(bundles)
    for agent in loaded:
        agent.warm_up()
    return loaded


@pytest.fixture(scope="module")
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, 1_500).bars())


def engine_of(agents: Sequence[Agent]) -> Engine:
    return Engine(SETTINGS, Inline(agents), Identity("live", "0+test", "abc"), Calendars({}))


class Peeking(FeatureStore):
    """A store with a leak: one column of each bar is that of the next bar of its series."""

    def step(self, series: NDArray[np.int64], bars: Floats, versions: Floats | None = None) -> Rows:
        rows = super().step(series, bars, versions)
        column = NAMES.index(LEAKING)
        for one in np.unique(series):
            places = np.flatnonzero(series == one)
            rows.values[places[:-1], column] = rows.values[places[1:], column]
        return rows


def peeking(agents: Sequence[Agent]) -> Engine:
    engine = engine_of(agents)
    sets = tuple({agent.feature_set.name: agent.feature_set for agent in agents}.values())
    engine.state.features = Peeking(sets)
    return engine


async def test_the_engine_does_not_look_ahead(agents: tuple[Agent, ...], bars: list[Bar]) -> None:
    """L16: what comes after a bar, and whether anything does, changes nothing about it."""
    finding = await lookahead(lambda _: engine_of(agents), bars, cuts=2)
    assert finding.passed, finding.sentence
    assert finding.numbers["signals"] > 500
    assert "stayed the same to the bit" in finding.sentence


async def test_a_feature_shifted_by_one_bar_is_caught(
    agents: tuple[Agent, ...], bars: list[Bar]
) -> None:
    """L16: a leak that is planted is found, and its column named."""
    finding = await lookahead(lambda _: peeking(agents), bars, cuts=2)
    assert not finding.passed
    assert f"column {LEAKING}" in finding.sentence
    assert "field row_hash of signals" in finding.sentence


async def test_an_agent_that_peeks_is_caught(bars: list[Bar], agents: tuple[Agent, ...]) -> None:
    """L16: features may be honest, and an agent not: then votes change with the future."""
    finding = await lookahead(lambda own: engine_of([Knowing(agents[0], own)]), bars, cuts=2)
    assert not finding.passed
    assert "column" not in finding.sentence
    assert "field votes of signals" in finding.sentence


class Knowing:
    """An agent that answers by a close that is still to come."""

    def __init__(self, agent: Agent, bars: Sequence[Bar]) -> None:
        self.name, self.bundle, self.feature_set = "knowing", "0" * 12, agent.feature_set
        self.horizon_bars, self.interval, self.past = agent.horizon_bars, "1m", agent.past
        self.unavailable: str | None = None
        self.clamped = 0
        self._last = bars[-1].close

    def warm_up(self) -> None: ...

    def predict(self, windows: Floats) -> Floats:
        return np.full(len(windows), 0.3 + 0.4 * (self._last % 1.0))


async def test_the_start_changes_nothing_once_warmed_up(
    agents: tuple[Agent, ...],
) -> None:
    """L13: rows and votes are the same to the bit once columns have settled."""
    market = PaperMarket(7, 1, start_ms=START_MS)
    bars = list(market.table(3_600).bars())
    finding = await warmup(lambda _: engine_of(agents), bars, agents, Calendars({}))
    assert finding.passed, finding.sentence
    assert 50 < finding.numbers["columns_same_after_bars"] < 1_500


async def test_a_memory_of_the_start_is_caught(agents: tuple[Agent, ...], bars: list[Bar]) -> None:
    """L17: a statistic that runs since the start never comes out the same, and is named."""
    finding = await warmup(lambda _: remembering(agents), bars, agents, Calendars({}))
    assert not finding.passed
    assert f"column {LEAKING}" in finding.sentence


class Remembering(FeatureStore):
    """A store of which one column hangs on all bars since the start."""

    def __init__(self, sets: tuple[FeatureSet, ...]) -> None:
        super().__init__(sets)
        self._sum = 0.0

    def step(self, series: NDArray[np.int64], bars: Floats, versions: Floats | None = None) -> Rows:
        rows = super().step(series, bars, versions)
        sums = self._sum + np.cumsum(bars[:, 4])
        self._sum = float(sums[-1])
        rows.values[:, NAMES.index(LEAKING)] = sums
        return rows


def remembering(agents: Sequence[Agent]) -> Engine:
    engine = engine_of(agents)
    sets = tuple({agent.feature_set.name: agent.feature_set for agent in agents}.values())
    engine.state.features = Remembering(sets)
    return engine
