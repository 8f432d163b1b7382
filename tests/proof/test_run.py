"""Small real fault runs: real processes, a real Redis, and a twin that sees what differs."""

from pathlib import Path

import msgspec
import pytest

from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.proof.agents import train_agents
from quantum_ai_engine.proof.faults import RULES, SCENARIOS
from quantum_ai_engine.proof.report import COLUMNS, row, words
from quantum_ai_engine.proof.run import Plan, Result, prove
from quantum_ai_engine.proof.server import MortalRedis

from ..conftest import START_MS

BARS = 600


async def proven(name: str, faults: int, agents: Path, home: Path) -> Result:
    """A scenario in small."""
    plan = Plan(
        name=name,
        scenario=SCENARIOS[name],
        faults=faults,
        table=PaperMarket(3, 2, start_ms=START_MS).table(BARS).rows(0, BARS),
        bundles=agents,
        home=home,
        seed=2,
    )
    return await prove(plan, lambda _: None)


@pytest.mark.parametrize(
    ("name", "faults"), [("engine-killed", 5), ("replies-lost", 0), ("aof-cut", 3)]
)
async def test_nothing_is_lost_and_nothing_twice(
    name: str, faults: int, agents: Path, tmp_path: Path
) -> None:
    """L43, L40: killed, cut off and robbed of its data's end, it writes what the twin writes."""
    result = await proven(name, faults, agents, tmp_path / "run")
    assert result.is_exact, words(result)
    assert result.faults >= faults
    assert result.bars == BARS
    assert result.verdict.expected > BARS / 2
    # Some are killed before they have restored anything.
    assert result.states.checked >= (faults // 2 if name == "engine-killed" else 1)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result


async def test_two_owners(agents: Path, tmp_path: Path) -> None:
    """L45: owners that stop and wake again while another one has taken over write nothing."""
    result = await proven("zombies", 2, agents, tmp_path / "run")
    assert result.is_exact, words(result)
    assert result.states.checked >= 2


def result_with(**changes: int) -> Result:
    verdict = {"expected": 10} | changes
    return msgspec.convert(
        {
            "scenario": "s",
            "agents": ["gru"],
            "seed": 1,
            "faults": 1,
            "bars": 20,
            "verdict": verdict,
            "states": {"checked": 1, "wrong": 0, "gone": 0},
            "starts": {"processes": 1, "ready": [1.0, 2.0], "restored": None, "signal": None},
            "seconds": 3.0,
        },
        Result,
    )


def test_a_row_has_every_column() -> None:
    """L08: what was not measured says so."""
    cells = [cell.strip() for cell in row(result_with()).strip("|").split("|")]
    assert len(cells) == len(COLUMNS)
    assert cells[-3:-1] == ["1.00 / 2.00", "no data"]


@pytest.mark.parametrize("name", ["lost", "doubled", "unknown", "out_of_order", "different"])
def test_one_wrong_signal_is_enough(name: str) -> None:
    """L43: a result is exact only when nothing at all is wrong."""
    assert result_with().is_exact
    assert not result_with(**{name: 1}).is_exact


@pytest.mark.parametrize(("checked", "wrong"), [(5, 1), (0, 0)])
def test_states_must_be_right_and_looked_at(checked: int, wrong: int) -> None:
    """L43: a run in which no restored state was compared has shown nothing."""
    states = msgspec.structs.replace(result_with().states, checked=checked, wrong=wrong)
    assert not msgspec.structs.replace(result_with(), states=states).is_exact


def test_an_aof_is_cut_only_behind_its_last_rewrite(tmp_path: Path) -> None:
    """What was moved into place as a whole cannot be torn by a power failure."""
    server = MortalRedis(tmp_path)
    server.aof.write_bytes(b"x" * 100)
    assert server.cut(90, 5) == 5
    assert server.cut(90, 50) == 5
    assert server.cut(90, 50) == 0
    assert server.aof.stat().st_size == 90


def test_agents_are_trained_once(agents: Path) -> None:
    """A second run with the same kinds finds them."""
    manifest = agents / "sigor" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    assert train_agents(reversed(RULES), agents.parent) == agents
    assert manifest.stat().st_mtime_ns == before
