"""The real process on a machine without torch: trees and rules serve, neural agents say why not."""

import shutil
from pathlib import Path

import pytest

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

from ..daemon.test_app import BARS, changed, feed, published, until
from .test_kill import Manager

NO_TORCH = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
RULES = ("momentum", "sigor")


@pytest.fixture
def settings(settings: Settings, bundles: Path, history: BarTable, tmp_path: Path) -> Settings:
    directory = tmp_path / "mixed"
    shutil.copytree(bundles / "gru", directory / "gru")
    for kind in RULES:
        train_bundle(kind, history, directory, TrainOptions(), lambda _: None)
    return changed(settings, "agents", bundles=str(directory))


async def test_trees_and_rules_serve_without_torch(
    settings: Settings, client: Client, history: BarTable, tmp_path: Path
) -> None:
    """L02, L03: the neural agent abstains from every bar, by name and with its reason."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text(NO_TORCH)
    bars: list[Bar] = list(history.rows(0, BARS).bars())
    manager = Manager(tmp_path, settings)
    try:
        async with manager.running(PYTHONPATH=str(blocked)) as process:
            await feed(client, bars)
            await until(lambda: client.xlen("quantum:signals"))
            process.terminate()
            _, errors = await process.communicate()
    finally:
        manager.close()
    assert process.returncode == 0
    assert b"Agent gru abstains from every bar: torch is not installed" in errors
    for signal in await published(client):
        assert {vote["agent"] for vote in signal["votes"]} <= set(RULES)
        assert {"agent": "gru", "reason": "unavailable"} in signal["abstained"]
