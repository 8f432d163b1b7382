"""Feature shift, as a metric and as JSON: read when it is asked for, from the engines."""

from collections.abc import Callable, Iterable, Sequence

import msgspec
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from quantum_ai_engine.supervisor.shift import Comparison, FeatureShift, Shifts


class ShiftCollector(Collector):
    """The largest ratio of each agent's last comparisons, of all partitions of a process.

    An agent without a whole comparison has none (L08).
    """

    def __init__(self, shifts: Callable[[], Sequence[Shifts]]) -> None:
        self._shifts = shifts

    def collect(self) -> Iterable[GaugeMetricFamily]:
        ratios: dict[str, float] = {}
        for one in self._shifts():
            for agent, shift in one.of.items():
                if (last := shift.get()) is not None:
                    ratios[agent] = max(ratios.get(agent, 0.0), last.ratio)
        family = GaugeMetricFamily(
            "qae_feature_shift",
            "Largest PSI / threshold of a feature; above 1 it has moved from its training",
            labels=["agent"],
        )
        for agent, ratio in sorted(ratios.items()):
            family.add_metric([agent], ratio)
        yield family


class ShownShift(msgspec.Struct, frozen=True):
    """The last comparison of an agent's features with training, and how far the next one is."""

    last: Comparison | None
    columns: int
    rows: int
    pending: int


def shown_shift(shift: FeatureShift | None) -> ShownShift | None:
    """What is shown of an agent; None where it has no reference."""
    if shift is None:
        return None
    return ShownShift(shift.get(), len(shift.columns), shift.rows, shift.pending)
