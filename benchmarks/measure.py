"""Timing: medians and spreads of repeated runs, and a description of the machine."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per unit of work: the median over runs, and the lowest and highest."""

    median_s: float
    lowest_s: float
    highest_s: float

    def show(self, unit: str) -> str:
        factor = {"ns": 1e9, "µs": 1e6, "ms": 1e3}[unit]
        middle, low, high = (
            f"{x:,.0f}" if x >= 100.0 else f"{x:.3g}"
            for x in (self.median_s * factor, self.lowest_s * factor, self.highest_s * factor)
        )
        return f"{middle} {unit} ({low}–{high})"


def measure(work: Callable[[], object], units: int, runs: int = 9) -> Timing:
    """Time `work`, which does `units` units, `runs` times after one warm-up."""
    return side_by_side([work], units, runs)[0]


def side_by_side(works: Sequence[Callable[[], object]], units: int, runs: int = 9) -> list[Timing]:
    """Time several works in turn, A B A B …, so that a slow moment of the machine hits all."""
    seconds: list[list[float]] = [[] for _ in works]
    for run in range(runs + 1):
        for i, work in enumerate(works):
            started = time.perf_counter()
            work()
            if run:
                seconds[i].append((time.perf_counter() - started) / units)
    return [Timing(statistics.median(s), min(s), max(s)) for s in seconds]


def machine() -> str:
    """Processor, cores, Python."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
