"""Tests of what is wrong, in words."""

import pytest

from quantum_ai_engine.daemon.page import words
from quantum_ai_engine.daemon.page.wrong import TESTS, wrong
from quantum_ai_engine.daemon.status import AgentStatus, PartitionStatus, Status
from quantum_ai_engine.events import Abstained
from quantum_ai_engine.risk.brain import State as Risk
from quantum_ai_engine.risk.policy import Mode
from quantum_ai_engine.supervisor.standing import Check
from quantum_ai_engine.supervisor.standing import State as Standing


@pytest.fixture
def status() -> Status:
    """Of an engine with which all is well."""
    partition = PartitionStatus(partition=0, position="1-1", redis_error=None)
    return Status({"gru": AgentStatus(votes=1)}, {0: partition}, effective_votes=1.0)


def test_nothing_is_wrong_where_all_is_well(status: Status) -> None:
    assert wrong(status, {}) == []


def test_each_fault_is_one_sentence(status: Status) -> None:
    """The worst come first, and each ends as a sentence does."""
    status.loop_lag_s = 0.5
    status.refused = 1234
    status.partitions[0].lag_bars = 5000
    status.partitions[0].stale = tuple(f"S{i} 1m" for i in range(7))
    status.agents["gru"].reason = Abstained.ERROR
    found = wrong(status, {})
    assert [one.tone for one in found] == ["bad", "bad", "bad", "note", "note", "note"]
    assert all(one.text.endswith(".") for one in found)
    text = " ".join(one.text for one in found)
    for part in ("500 ms late", "S4 1m and 2 more", "Agent gru does not vote: abstains: it failed"):
        assert part in text


def test_the_reason_of_the_state_is_told(status: Status) -> None:
    """L05: in the words of the health endpoint."""
    status.partitions[0].redis_error = "Connection refused"
    [one] = wrong(status, {})
    assert one == ("bad", f"The engine is degraded: {status.reason()}.")


def test_every_name_on_the_wire_has_words_and_a_tone() -> None:
    """L01: no reason and no state is shown as nothing, and none by its colour alone."""
    assert set(words.ABSTAINED) == set(Abstained)
    assert set(TESTS) == set(Check)
    for state in (*Risk, *Mode, *Standing):
        assert words.tone(state) in ("good", "note", "bad")
    assert len(set(words.SHAPES.values())) == len(words.SHAPES)
    assert words.tone("HALTED") == words.tone("degraded") == "bad"
