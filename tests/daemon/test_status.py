"""Tests of what the daemon says of itself: derived from work done, never from existence."""

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.daemon.answers import BarCounts, ConfigHealth, LastBar, ModelHealth
from quantum_ai_engine.daemon.status import AgentStatus, InForce, Status
from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import Abstained, Abstention, Vote

from .test_commit import signal


@pytest.fixture
def status() -> Status:
    """A status of two agents, with the one partition served."""
    named = [
        cast("Agent", SimpleNamespace(name=name, unavailable=None)) for name in ("gru", "patchtst")
    ]
    return served(Status.of(named))


def served(status: Status) -> Status:
    """The status, with all its partitions served."""
    for one in status.partitions.values():
        one.redis_error, one.position = None, "1-0"
    return status


def voted(**changes: Any) -> Round:
    """A round in which `gru` voted and `patchtst` did not."""
    abstained = (Abstention("patchtst", Abstained.WARMING_UP),)
    return Round(processed=1, signals=[msgspec.structs.replace(signal(), abstained=abstained)])


def test_before_any_work_nothing_is_ok() -> None:
    """L05: a daemon that was only started is degraded, then warming up, and never ok."""
    status = Status.of([])
    assert (status.state(), status.ready) == ("degraded", False)
    assert status.reason() == "Redis cannot serve: not connected yet"


def test_without_a_forecast_it_is_warming_up(status: Status) -> None:
    """L05, L08: no data shows as no data."""
    status.update(Round(processed=100), 0)
    assert status.state() == "warming_up"
    assert status.effective_votes is None
    assert status.health().last_bar == LastBar(None, None)
    assert {agent.state for agent in status.health().models.values()} == {"warming_up"}


def test_a_vote_makes_it_ok(status: Status) -> None:
    """L05: ok derives from a committed forecast."""
    status.update(voted(), 0)
    models = status.health().models
    assert (status.state(), status.reason()) == ("ok", None)
    assert models["gru"] == ModelHealth(
        state="active", reason=None, votes=1, abstentions=0, last_vote_close_time=120_000
    )
    assert models["patchtst"].state == "warming_up"


def test_when_every_agent_fails_it_is_degraded(status: Status) -> None:
    """L02: with no effective vote there is a visible degraded state."""
    status.update(voted(), 0)
    unheard = [Abstention(name, Abstained.ERROR) for name in ("gru", "patchtst")]
    status.update(Round(processed=1, unheard=unheard), 0)
    assert status.effective_votes == 0.0
    assert (status.state(), status.reason()) == ("degraded", "no agent gives a prediction")
    assert status.health().models["gru"].state == "error"


def test_an_agent_that_votes_again_is_active_again(status: Status) -> None:
    status.update(Round(unheard=[Abstention("gru", Abstained.DEADLINE)]), 0)
    assert status.agents["gru"].state() == "deadline"
    status.update(voted(), 0)
    assert status.agents["gru"] == AgentStatus(votes=1, last_vote_close_time=120_000, abstentions=1)


def test_in_one_round_a_vote_outweighs_an_abstention(status: Status) -> None:
    """L05: one series that warms up does not make an agent that works elsewhere look idle."""
    warming = [Abstention(name, Abstained.WARMING_UP) for name in ("gru", "patchtst")]
    status.update(with_unheard(voted(), warming), 0)
    assert status.agents["gru"].state() == "active"
    assert status.agents["gru"].abstentions == 1


def with_unheard(done: Round, unheard: list[Abstention]) -> Round:
    """The round, with bars besides for which nobody voted."""
    return dataclasses.replace(done, unheard=unheard)


def test_without_redis_it_is_degraded_and_says_why(status: Status) -> None:
    """L10: not ready always comes with its reason."""
    status.update(voted(), 0)
    status.partitions[0].redis_error = "Connection refused"
    assert (status.state(), status.ready) == ("degraded", False)
    assert status.reason() == "Redis cannot serve: Connection refused"
    assert status.line().endswith("(Redis cannot serve: Connection refused)")


def test_while_stopping_it_is_not_ready_and_says_why(status: Status) -> None:
    """L10: as above."""
    status.stopping = True
    assert (status.state(), status.ready) == ("stopping", False)
    assert status.reason() == "the daemon is stopping"


def test_counts_add_up(status: Status) -> None:
    """L09: each figure moves by what a round really did."""
    status.update(Round(processed=5, duplicates=2), 3)
    status.update(voted(), 0)
    assert status.seen == 11
    assert status.health().bars == BarCounts(processed=6, duplicates=2, refused=3)
    assert status.line() == (
        "ok: 6 bars, 1 signals, 3 refused, effective votes 1.0, lag 0 ms, settings 1"
    )


def test_settings_that_were_refused_are_told(status: Status) -> None:
    """L45: which settings are in force, and that newer ones are not."""
    status.update(voted(), 0)
    status.in_force = InForce("0.1.0+abc", "0123", 3, "unknown key risk.thresh (engine.toml)")
    assert status.line().endswith("settings 3 (newer ones were refused)")
    assert status.health().config == ConfigHealth(
        generation=3, hash="0123", refused="unknown key risk.thresh (engine.toml)"
    )


def test_the_heartbeat_holds_work(status: Status) -> None:
    """L06: the last bar's close time, counts and lag."""
    status.update(voted(), 0)
    status.note_newest(120_000, 0)
    status.partitions[0].lag_ms, status.partitions[0].lag_bars, status.loop_lag_s = 7, 2, 0.0015
    status.in_force = InForce("0.1.0+abc", "0123")
    assert status.heartbeat() == {
        "state": "ok",
        "partition": 0,
        "last_bar_close_time": 120_000,
        "bars": 1,
        "signals": 1,
        "effective_votes": 1.0,
        "lag_ms": 7,
        "lag_bars": 2,
        "loop_lag_ms": 1.5,
        "stale": 0,
        "stale_series": (),
        "engine": "0.1.0+abc",
        "config_hash": "0123",
        "config_generation": 1,
    }


def test_stale_series_are_told(status: Status) -> None:
    """L06, L07: how many, and by name as far as a heartbeat has room; health names all."""
    names = tuple(f"S{i} 1m" for i in range(25))
    status.partitions[0].stale = names
    heartbeat = status.heartbeat()
    assert (heartbeat["stale"], heartbeat["stale_series"]) == (25, names[:20])
    assert status.health().stale_series == list(names)


def test_a_standby_says_who_owns_the_partition(status: Status) -> None:
    """L10, L45: not ready, with the reason."""
    status.update(voted(), 0)
    one = status.partitions[0]
    one.position, one.held_by = None, "process 7 on host"
    assert (status.state(), status.ready) == ("standby", False)
    assert status.reason() == "partition 0 is owned by process 7 on host"


def test_while_the_state_is_rebuilt_it_is_not_ready(status: Status) -> None:
    """L05, L10: whoever owns a partition, but does not know its state yet, cannot answer."""
    status.update(voted(), 0)
    status.partitions[0].position = None
    assert (status.state(), status.ready) == ("warming_up", False)
    assert status.reason() == "the state of partition 0 is rebuilt"


@pytest.fixture
def two(status: Status) -> Status:
    """The same with two partitions."""
    both = Status.of([], range(2))
    both.agents = status.agents
    return served(both)


def test_partitions_are_told_apart(two: Status) -> None:
    """L06: the heartbeat of a partition holds its own work, health the work of all."""
    two.update(voted(), 0, 1)
    two.note_newest(120_000, 1)
    two.update(Round(processed=3), 2, 0)
    two.partitions[0].lag_ms, two.partitions[1].lag_ms = 5, 7
    idle, busy = two.heartbeat(0), two.heartbeat(1)
    assert (idle["state"], idle["bars"], idle["last_bar_close_time"]) == ("warming_up", 3, None)
    assert (busy["state"], busy["bars"], busy["last_bar_close_time"]) == ("ok", 1, 120_000)
    assert (two.processed, two.refused, two.signals, two.lag_ms) == (4, 2, 1, 7)
    assert (two.state(), two.last_close_time) == ("ok", 120_000)


def test_one_partition_that_is_not_served_makes_the_daemon_not_ready(two: Status) -> None:
    """L05, L10: and the heartbeat of the other says nothing of that."""
    two.update(voted(), 0, 1)
    two.partitions[0].held_by = "process 7 on host"
    assert (two.state(), two.ready) == ("standby", False)
    assert two.heartbeat(1)["state"] == "ok"
    two.partitions[1].redis_error = "Connection refused"
    assert two.state() == "degraded"
    assert two.reason() == "Redis cannot serve: Connection refused"


def test_a_vote_of_an_unknown_agent_is_a_broken_invariant(status: Status) -> None:
    """L01: a signal cannot name an agent that the daemon does not run."""
    stranger = msgspec.structs.replace(signal(), votes=(Vote("ghost", "x", 0.7, 1.0),))
    with pytest.raises(KeyError, match="ghost"):
        status.update(Round(processed=1, signals=[stranger]), 0)


def test_an_agent_whose_library_is_missing_says_so_from_the_start() -> None:
    """L05: it is not shown as warming up, since no bar will change it."""
    missing = cast("Agent", SimpleNamespace(name="gru", unavailable="torch is not installed"))
    model = Status.of([missing]).health().models["gru"]
    assert (model.state, model.reason) == ("unavailable", "torch is not installed")


def test_what_to_install_is_still_said_after_bars(status: Status) -> None:
    """L10: an abstention from each bar does not take the reason's place."""
    status.agents["gru"].unavailable = "torch is not installed"
    status.update(Round(unheard=[Abstention("gru", Abstained.UNAVAILABLE)]), 0)
    model = status.health().models["gru"]
    assert (model.state, model.reason) == ("unavailable", "torch is not installed")
