"""Feature shift through the engine: what is counted, what is named, what does not hang on it."""

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.bundle import read_bundle
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.config import IngestSettings
from quantum_ai_engine.engine import Engine, Round
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.supervisor.shift import Comparison
from quantum_ai_engine.supervisor.standing import State
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

from .state.streams import engine_of, process, twin_of
from .training.conftest import make_walk

Floats = NDArray[np.float64]
TRAINED, KNOWN = 6_000, 500  # bars of a table: those of the training, and the last ones of them
ROWS = 41  # of a comparison: a hundredth of the train span


@pytest.fixture(scope="module")
def table() -> BarTable:
    """Two symbols, 4,000 minutes."""
    return make_walk(symbols=2, bars=4_000)


@pytest.fixture(scope="module")
def agent(table: BarTable, tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """A real `sigor`, trained on the first of the bars."""
    directory = tmp_path_factory.mktemp("shifts")
    made = train_bundle("sigor", table.rows(0, TRAINED), directory, TrainOptions(), lambda _: None)
    return load_agent(read_bundle(made.bundle.path))


def without_reference(agent: Agent) -> Agent:
    """The same agent, of whose features nobody knows how they were spread."""
    blind = load_agent(agent.source)
    blind.past = blind.past._replace(reference=None)
    return blind


def taught(agent: Agent, table: BarTable) -> Engine:
    """An engine that knows the last bars of the training."""
    engine = engine_of(agent, ingest=IngestSettings(late_bars=3))
    engine.learn(list(table.rows(TRAINED - KNOWN, TRAINED).bars()))
    return engine


def served(engine: Engine, ohlcv: Floats, table: BarTable) -> list[Round]:
    """The bars after the training with other values, in batches."""
    after = table.rows(TRAINED, TRAINED + len(ohlcv))
    bars = list(BarTable(after.symbols, after.symbol_index, "1m", after.open_time, ohlcv).bars())
    return [process(engine, bars[i : i + 100]) for i in range(0, len(bars), 100)]


def told(rounds: list[Round]) -> list[Comparison]:
    return [comparison for done in rounds for _, comparison in done.shifts]


def live(table: BarTable) -> Floats:
    return table.ohlcv[TRAINED:].copy()


def wilder(table: BarTable, times: float) -> Floats:
    """Moves so many times as large, symbol by symbol; volumes as they are."""
    ohlcv = live(table)
    for place in range(len(table.symbols)):
        own = table.symbol_index[TRAINED:] == place
        prices = np.log(ohlcv[own, :4])
        ohlcv[own, :4] = np.exp(prices[0, 0] + times * (prices - prices[0, 0]))
    return ohlcv


def columns(comparison: Comparison) -> set[str]:
    """Those that are named as moved."""
    return {one.column for one in comparison.worst if one.psi > one.threshold}


@pytest.fixture(scope="module")
def wild(agent: Agent, table: BarTable) -> tuple[Engine, list[Round]]:
    """An engine that was served moves three times as large, and its rounds."""
    engine = taught(agent, table)
    return engine, served(engine, wilder(table, 3.0), table)


def test_a_healthy_feed_is_no_shift(agent: Agent, table: BarTable) -> None:
    """L29: bars that go on as in training are compared, and nothing is told of them."""
    engine = taught(agent, table)
    assert told(served(engine, live(table), table)) == []
    shift = engine.shifts.of[agent.name]
    rows = len(table) - TRAINED
    assert shift.get() is not None
    assert (shift.rows, shift.pending) == (ROWS, rows % ROWS)


def test_volumes_ten_times_as_large_are_named(agent: Agent, table: BarTable) -> None:
    """L29: what reads volumes is named, and no other column; once they are usual it is over."""
    ohlcv = live(table)
    ohlcv[:, 4] *= 10.0
    first, second, *_ = told(served(taught(agent, table), ohlcv[:600], table))
    assert first.is_shift
    assert columns(first) == {"vol_z_20"}
    assert not second.is_shift
    assert columns(second) == set()


def test_another_volatility_is_a_shift_and_no_drift(
    agent: Agent, table: BarTable, wild: tuple[Engine, list[Round]]
) -> None:
    """L29: moves three times as large are told once, by name; the agent is as good as it was."""
    engine, rounds = wild
    (shift,) = told(rounds)
    last = engine.shifts.of[agent.name].get()
    assert shift.is_shift
    assert last is not None
    assert {"ret_1", "rv_60"} <= columns(last)
    judged = [change for done in rounds for change in done.changes if change.room == "supervisor"]
    assert {change.after for change in judged} <= {"warmup", "ok"}
    assert engine.state.judgement.ledger.settled > 1_000
    assert engine.state.judgement.states == (State.OK,)


def test_nothing_hangs_on_a_shift(
    agent: Agent, table: BarTable, wild: tuple[Engine, list[Round]]
) -> None:
    """L34: signals, records, changes and state are those of an engine that compares nothing."""
    engine, rounds = wild
    blind = taught(without_reference(agent), table)
    assert blind.shifts.of == {}
    others = served(blind, wilder(table, 3.0), table)
    for done, other in zip(rounds, others, strict=True):
        assert done.signals == other.signals
        assert done.records == other.records
        assert done.changes == other.changes
        assert done.silent == other.silent
    assert engine.state.digest() == blind.state.digest()
    assert engine.state.snapshot() == blind.state.snapshot()


def test_each_bar_counts_once_when_it_comes(agent: Agent, table: BarTable) -> None:
    """A repeat, another version, a bar that is looked at again and a silent one count nothing."""
    engine = taught(agent, table)
    shift = engine.shifts.of[agent.name]
    bars = [bar for bar in table.rows(TRAINED, TRAINED + 60).bars() if bar.symbol == "WALK0"]
    assert shift.pending == 0  # of all that was learned
    process(engine, bars[:10])
    assert shift.pending == 10
    process(engine, bars[:10])
    process(engine, [revised(bars[9])])
    assert shift.pending == 10
    process(engine, [bars[10], revised(bars[10])])
    assert shift.pending == 11
    process(engine, [bars[12], bars[13], bars[11]])  # late, and two are looked at again
    assert shift.pending == 14
    engine.learn(bars[14:20])
    assert shift.pending == 14


def test_a_restart_counts_from_zero(agent: Agent, table: BarTable) -> None:
    """L43: what was counted is no part of the state: it is gone, and the state is the same."""
    engine = taught(agent, table)
    process(engine, list(table.rows(TRAINED, TRAINED + 100).bars()))
    again = twin_of(engine)
    again.state.restore(engine.state.snapshot())
    assert again.state.digest() == engine.state.digest()
    shift = again.shifts.of[agent.name]
    assert (shift.get(), shift.pending) == (None, 0)
    engine.forget()
    assert (engine.shifts.of[agent.name].get(), engine.shifts.of[agent.name].pending) == (None, 0)


def revised(bar: Bar) -> Bar:
    return msgspec.structs.replace(bar, volume=bar.volume * 2.0)
