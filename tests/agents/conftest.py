"""Bundles of trees and rules, trained once on a market in which there is something to find."""

import pytest

from quantum_ai_engine.agents.bundle import Bundle
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

TABULAR = ("xgboost", "lightgbm", "sigor", "momentum")


@pytest.fixture(scope="session")
def trends() -> BarTable:
    """Bars of a paper market with trends: 4 symbols, 3,000 minutes."""
    return PaperMarket(2, 4, start_ms=1_735_689_600_000).table(3_000)


@pytest.fixture(scope="session")
def tabular(tmp_path_factory: pytest.TempPathFactory, trends: BarTable) -> dict[str, Bundle]:
    """A bundle of each kind that reads single rows, by kind."""
    directory = tmp_path_factory.mktemp("tabular")
    options = TrainOptions(samples_per_epoch=2_000)
    return {
        kind: train_bundle(kind, trends, directory, options, lambda _: None).bundle
        for kind in TABULAR
    }
