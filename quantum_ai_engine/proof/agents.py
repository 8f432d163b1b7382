"""Agents for a fault run: trained in seconds on a paper market, good enough to have opinions."""

from collections.abc import Iterable
from pathlib import Path

from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

SEED, SYMBOLS, STEPS = 7, 5, 2_000
START_MS = 1_735_689_600_000  # 2025-01-01
OPTIONS = TrainOptions(epochs=1, samples_per_epoch=2_000, batch=64)


def train_agents(kinds: Iterable[str], directory: Path) -> Path:
    """The folder of `directory` that holds bundles of these kinds; trained where missing.

    Raises `TrainingError` when a kind is unknown or cannot be trained here.
    """
    names = sorted(set(kinds))
    chosen = directory / "-".join(names)
    chosen.mkdir(parents=True, exist_ok=True)
    history = PaperMarket(SEED, SYMBOLS, start_ms=START_MS).table(STEPS)
    for name in names:
        trained = directory / "all" / name
        if not trained.exists():
            train_bundle(name, history, trained.parent, OPTIONS, lambda _: None)
        if not (chosen / name).exists():
            (chosen / name).symlink_to(trained)
    return chosen
