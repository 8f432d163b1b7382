"""Money is counted right: oracles earn what they should, shuffles nothing, and faults are seen."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.config import Settings
from quantum_ai_engine.engine import Engine, Identity, Round
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.replay.account import Account
from quantum_ai_engine.replay.cheat import (
    CLAIMED,
    Oracle,
    cheat,
    lucky,
    open_account,
    outcomes,
    shuffle,
    shuffled,
    tradable,
)
from quantum_ai_engine.replay.inline import Inline
from quantum_ai_engine.replay.probe import rows_of
from quantum_ai_engine.replay.step import Step

from ..conftest import START_MS

IDENTITY = Identity("live", "0+test", "abc")
SETTINGS = Settings()


@pytest.fixture(scope="module")
def bars() -> list[Bar]:
    return list(PaperMarket(7, 2, start_ms=START_MS).table(1_500).bars())


@pytest.fixture(scope="module")
def agents(bundles: Path) -> tuple[Agent, ...]:
    loaded = tuple(agent for agent in load_agents(bundles) if agent.name == "gru")
    for agent in loaded:
        agent.warm_up()
    return loaded


def engine_of(agents: Sequence[Agent]) -> Engine:
    return Engine(tradable(SETTINGS), Inline(agents), IDENTITY, Calendars({}))


async def test_an_oracle_earns_what_its_accuracy_is_worth(bars: list[Bar]) -> None:
    """L53: signals are filled at the next open: then an edge of known size has a known worth."""
    finding = await cheat(SETTINGS, IDENTITY, bars, 0.8)
    assert finding.passed, finding.sentence
    numbers = finding.numbers
    assert numbers["should"] > 10 * numbers["error"]
    assert numbers["gross"] == pytest.approx(numbers["should"], abs=4 * numbers["error"])


async def test_without_an_edge_an_oracle_loses_its_costs(bars: list[Bar]) -> None:
    """L37: trading noise costs exactly what trading costs."""
    finding = await cheat(SETTINGS, IDENTITY, bars, 0.5)
    assert finding.passed, finding.sentence
    assert finding.numbers["net"] < 0.0
    assert finding.numbers["net"] == pytest.approx(
        -finding.numbers["costs"], abs=4 * finding.numbers["error"]
    )


class Hasty(Account):
    """An account with the oldest fault: it fills a signal at the open of the signal's own bar."""

    def take(self, step: Step) -> None:
        interval_ms = step.bars[0].interval_ms
        for signal in step.told.signals:
            early = signal.close_time - interval_ms
            self._note(msgspec.structs.replace(signal, close_time=early))
        super().take(Step(step.bars, Round()))


class Free(Account):
    """An account that forgets what trading costs."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.replay, {})
        self._cost_frac = 0.0


async def test_a_fill_at_the_own_bar_is_caught(bars: list[Bar]) -> None:
    """L53: what is bought before it was decided earns too much, or too little."""
    hasty = await cheat(SETTINGS, IDENTITY, bars, 0.8, account=lambda s: Hasty(s.replay, {}))
    assert not hasty.passed
    assert "money is not counted right" in hasty.sentence


async def test_forgotten_costs_are_caught(bars: list[Bar]) -> None:
    """L53: an account without costs is seen by its turnover."""
    free = await cheat(SETTINGS, IDENTITY, bars, 0.5, account=Free)
    assert not free.passed
    assert free.numbers["costs"] == 0.0 < free.numbers["costs_due"]


async def test_nothing_is_earned_where_nothing_can_be_known(
    bars: list[Bar], agents: tuple[Agent, ...]
) -> None:
    """L16: with moves in random order a real agent earns its drift, before costs."""
    finding = await shuffle(lambda _: engine_of(agents), SETTINGS, bars, shuffles=2)
    assert finding.passed, finding.sentence
    assert finding.numbers["fills"] > 100
    assert "nothing, as it must be" in finding.sentence


async def test_an_agent_that_knows_is_caught_by_a_shuffle(bars: list[Bar]) -> None:
    """L16: who earns where nothing can be known has seen what is to come."""
    finding = await shuffle(knowing, SETTINGS, bars, shuffles=2, account=open_account)
    assert not finding.passed
    assert "something knows what is to come" in finding.sentence


def knowing(bars: Sequence[Bar]) -> Engine:
    oracle = Oracle("1m")
    after = outcomes(bars)
    oracle.learn(
        rows_of(engine_of([oracle]), bars),
        {key: 0.5 + CLAIMED * one.sign for key, one in after.items()},
    )
    return engine_of([oracle])


async def test_who_trades_nothing_shows_nothing(bars: list[Bar]) -> None:
    """L05: a check of no trades is no check that passed."""
    finding = await cheat(SETTINGS, IDENTITY, bars[:20], 0.6)
    assert not finding.passed
    assert "give more bars" in finding.sentence


@hypothesis_settings(max_examples=25)
@given(st.integers(0, 1_000))
def test_a_shuffle_keeps_every_move(seed: int) -> None:
    """The moves are the same ones, at the same times, and each bar could have happened."""
    bars = list(PaperMarket(seed, 2, start_ms=START_MS).table(40).bars())
    other = shuffled(bars, np.random.default_rng(seed))
    assert [(b.symbol, b.open_time) for b in other] == [(b.symbol, b.open_time) for b in bars]
    assert moves(other) == moves(bars)


def moves(bars: Sequence[Bar]) -> Counter[tuple[str, float, float]]:
    """What each bar after the first did, rounded as prices are."""
    found: Counter[tuple[str, float, float]] = Counter()
    before: dict[str, float] = {}
    for bar in bars:
        if bar.symbol in before:
            move = math.log(bar.close / before[bar.symbol])
            found[bar.symbol, round(move, 9), bar.volume] += 1
        before[bar.symbol] = bar.close
    return found


@given(st.floats(0.0, 1.0), st.integers(0, 2**32))
def test_draws_are_right_as_often_as_they_should_be(chance: float, seed: int) -> None:
    """Of 2,000 draws the share is within five standard errors, and each is the same again."""
    keys = [("BTCUSDT", "1m", 60_000 * i) for i in range(2_000)]
    drawn = [lucky(seed, key, chance) for key in keys]
    assert drawn == [lucky(seed, key, chance) for key in keys]
    error = math.sqrt(chance * (1.0 - chance) * len(keys))
    assert abs(sum(drawn) - chance * len(keys)) <= 5.0 * error + 1e-9
