"""What the tests of this room share."""

from pathlib import Path

import pytest

from quantum_ai_engine.proof.agents import train_agents
from quantum_ai_engine.proof.faults import RULES


@pytest.fixture(scope="session")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of rule agents, which start without torch."""
    return train_agents(RULES, tmp_path_factory.mktemp("agents"))
