"""What the tests of the page share: a daemon with a token, and who asks it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from ..test_app import BARS, changed, serving, until, with_one_agent

TOKEN = "correct-horse-battery-staple"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return changed(with_one_agent(settings, tmp_path), "http", token=TOKEN)


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


@pytest.fixture
async def daemon(settings: Settings) -> AsyncIterator[Daemon]:
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.ready)
        yield daemon


@pytest.fixture
async def http(daemon: Daemon) -> AsyncIterator[ClientSession]:
    async with ClientSession(daemon.http_address) as session:
        yield session
