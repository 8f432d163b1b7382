"""How long the stages of a round take."""

import contextlib
import time
from collections.abc import Iterator

from quantum_ai_engine.daemon.metrics import Metrics


class Stopwatch:
    """Measures the stages of one round, for metrics and for the signals' own `latency_us`."""

    def __init__(self, metrics: Metrics) -> None:
        self.us: dict[str, int] = {}
        self._metrics = metrics
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self.us[stage] = self.us.get(stage, 0) + round(seconds * 1e6)
        self._metrics.stages.labels(stage).observe(seconds)

    def seconds(self) -> float:
        """Since the batch was received."""
        return time.perf_counter() - self._started
