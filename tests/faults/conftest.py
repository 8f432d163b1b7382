"""What a twin says to whom nothing happens, once for all tests of faults; and what is logged."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from ..daemon.test_app import BARS
from .observed import FIRST, TRIMMED, Event, Said, undisturbed


@pytest.fixture(scope="session")
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


@pytest.fixture(scope="session")
def expected(bundles: Path, bars: list[Bar], tmp_path_factory: pytest.TempPathFactory) -> Said:
    """The signals of all bars."""
    return asyncio.run(undisturbed(bundles, bars, tmp_path_factory.mktemp("twin")))


@pytest.fixture(scope="session")
def with_a_hole(bundles: Path, bars: list[Bar], tmp_path_factory: pytest.TempPathFactory) -> Said:
    """The signals of the bars that are left after the trimming."""
    left = bars[:FIRST] + bars[FIRST + TRIMMED :]
    return asyncio.run(undisturbed(bundles, left, tmp_path_factory.mktemp("hole")))


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What is logged."""
    with capture_logs() as entries:
        yield entries
