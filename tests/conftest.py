"""What all tests share: a real Redis, and real bundles trained once."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from quantum_ai_engine.config import RedisSettings, Settings
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable

# A busy machine is no failure: time decides nothing in these tests.
hypothesis_settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("patient")

START_MS = 1_735_689_600_000  # 2025-01-01


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was not tested is said, whatever the options."""
    reports = terminalreporter.getreports("skipped")
    for reason in sorted({report.longrepr[2] for report in reports}):
        terminalreporter.write_line(reason, yellow=True, bold=True)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """What a test sets up for logging, a level above all, is gone with it."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def history() -> BarTable:
    """Bars of a paper market: 3 symbols, 1,600 minutes."""
    return PaperMarket(7, 3, start_ms=START_MS).table(1_600)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory, history: BarTable) -> Path:
    """A directory with a real `gru` and a real `patchtst`, trained just enough to be let out."""
    from quantum_ai_engine.training.export import train_bundle
    from quantum_ai_engine.training.options import TrainOptions

    directory = tmp_path_factory.mktemp("bundles")
    options = TrainOptions(epochs=1, samples_per_epoch=512, batch=16)
    for kind in ("gru", "patchtst"):
        train_bundle(kind, history, directory, options, lambda _: None)
    return directory


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A server of our own, empty."""
    async with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def settings(redis: EmbeddedRedis, bundles: Path, tmp_path: Path) -> Settings:
    """Settings for recorded bars: their own clock, no burn-in beyond the agents' windows."""
    from quantum_ai_engine.config import load

    return load(
        None,
        environ={},
        overrides={
            "engine.clock": "bars",
            "engine.burn_in_bars": 0,
            "engine.state_dir": str(tmp_path),
            "redis.url": redis.url,
            "agents.bundles": str(bundles),
            "http.port": 0,
        },
    ).settings


@pytest.fixture
async def client(redis: EmbeddedRedis) -> AsyncIterator[Client]:
    """A client of that server."""
    async with connect(RedisSettings(), redis.url) as connected:
        yield connected
