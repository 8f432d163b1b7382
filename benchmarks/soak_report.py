"""What is seen of a soak, and how it is shown."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

PLOT = Path(__file__).parents[1] / "docs" / "soak.svg"
WARM = 0.1  # share of the bars before which memory may grow
PARTS = 10
MIB = float(1 << 20)
OUTCOMES = {
    "signals": "signals",
    "amended_signals": "of them amended",
    "late_bars": "late",
    "revised_bars": "revised",
    "duplicate": "repeated",
    "dead": "refused",
    "gaps": "gaps",
    "snapshots": "snapshots",
}
HEAD = (
    "| bars | symbols, agents | bars/s | p50 | p99 | engine, after a tenth | at the end | highest "
    "| growth per million bars | threads, files | Redis, highest | AOF, highest "
    "| cores: engine, Redis, producer | what they were |\n|" + "---|" * 14
)


class Sample(msgspec.Struct, frozen=True):
    """What was seen when so many bars had been dealt with; sizes in bytes, counts since start.

    `cpu_s` are of engine, Redis and producer; `latency` holds signals by bucket.
    """

    what: str
    bars: int
    seconds: float
    rss: int
    highest: int
    threads: int
    files: int
    redis: int
    aof: int
    cpu_s: tuple[float, float, float]
    counts: dict[str, float]
    latency: dict[str, float]


def parse(text: str) -> tuple[dict[str, float], dict[str, float]]:
    """What is counted of the metrics, and the buckets of the latency."""
    counts: dict[str, float] = {}
    latency: dict[str, float] = {}
    for one in (s for family in text_string_to_metric_families(text) for s in family.samples):
        if one.name == "qae_bar_to_signal_seconds_bucket":
            latency[one.labels["le"]] = one.value
        elif one.name.startswith("qae_") and one.name.endswith("_total"):
            name = one.name.removeprefix("qae_").removesuffix("_total")
            name = one.labels.get("outcome", name)
            counts[name] = counts.get(name, 0.0) + one.value
    return counts, latency


def table(samples: Sequence[Sample], page: str) -> str:
    """The table with the row of these samples and those of other lengths that the page has."""
    rows = re.findall(r"^\| [\d,]+ \| \d.*$", page, flags=re.MULTILINE)
    kept = {_bars(row): row for row in rows}
    kept[samples[-1].bars] = _row(samples)
    return "\n".join([HEAD, *(kept[bars] for bars in sorted(kept))])


def is_longest(samples: Sequence[Sample], page: str) -> bool:
    """Whether the page shows no longer run."""
    rows = re.findall(r"^\| [\d,]+ \| \d.*$", page, flags=re.MULTILINE)
    return all(_bars(row) <= samples[-1].bars for row in rows)


def _bars(row: str) -> int:
    return int(row.split("|")[1].replace(",", ""))


def _row(samples: Sequence[Sample]) -> str:
    last, warm = samples[-1], _warm(samples)
    rates = [(b.bars - a.bars) / (b.seconds - a.seconds) for a, b in pairwise(samples)]
    cores = [
        (b - a) / (last.seconds - samples[0].seconds)
        for a, b in zip(samples[0].cpu_s, last.cpu_s, strict=True)
    ]
    cells = [
        f"{last.bars:,}",
        last.what,
        f"{median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f})",
        quantile_ms(last, 0.5),
        quantile_ms(last, 0.99),
        _mib(warm[0].rss),
        _mib(last.rss),
        _mib(last.highest),
        _growth(warm),
        f"{_range([s.threads for s in warm])}, {_range([s.files for s in warm])}",
        _mib(max(s.redis for s in samples)),
        _mib(max(s.aof for s in samples)),
        ", ".join(f"{used:.2f}" for used in cores),
        _outcomes(last),
    ]
    return f"| {' | '.join(cells)} |"


def _warm(samples: Sequence[Sample]) -> list[Sample]:
    """Those after the first tenth of the bars, the last two at least."""
    after = [s for s in samples if s.bars >= WARM * samples[-1].bars]
    return after if len(after) > 1 else list(samples[-2:])


def _growth(samples: Sequence[Sample]) -> str:
    """MiB per million bars, and the lowest and highest with any part left out."""
    bars, rss = _points(samples)
    if len(bars) < PARTS // 2:
        return "too short"
    slopes = [
        np.polyfit(np.delete(bars, part), np.delete(rss, part), 1)[0]
        for part in np.array_split(np.arange(len(bars)), min(PARTS, len(bars)))
    ]
    slope = np.polyfit(bars, rss, 1)[0]
    return f"{slope:+.2f} MiB ({min(slopes):+.2f} to {max(slopes):+.2f})"


def _points(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Million bars, and MiB of the engine."""
    return np.array([s.bars for s in samples]) / 1e6, np.array([s.rss for s in samples]) / MIB


def _outcomes(last: Sample) -> str:
    return ", ".join(f"{last.counts.get(name, 0.0):,.0f} {word}" for name, word in OUTCOMES.items())


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f} MiB"


def _range(values: Sequence[int]) -> str:
    return f"{min(values)}–{max(values)}" if min(values) < max(values) else f"{values[0]}"


def quantile_ms(sample: Sample, q: float) -> str:
    """The bucket in which a quantile of all latencies lies, as `≤ 5 ms`."""
    buckets = [(float(le), count) for le, count in sample.latency.items()]
    total = max((count for _, count in buckets), default=0.0)
    if not total:
        return "no data"
    return f"≤ {next(le for le, count in buckets if count >= q * total) * 1000:g} ms"


def plot(samples: Sequence[Sample]) -> None:
    """Memory of the engine, and what Redis holds, against bars."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "soak", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(8, 4.5), sharex=True, layout="constrained")
    bars, rss = _points(samples)
    axes[0].plot(bars, rss, linewidth=1, label="resident")
    warm = _points(_warm(samples))
    line = np.polynomial.Polynomial.fit(*warm, 1)
    axes[0].plot(warm[0], line(warm[0]), color="black", linewidth=1, linestyle="--", label="fit")
    axes[0].set(ylabel="engine, MiB", ylim=(0, 1.25 * rss.max()))
    axes[0].legend(loc="lower right", ncols=2)
    axes[1].plot(bars, [s.redis / MIB for s in samples], linewidth=1, label="memory")
    axes[1].plot(bars, [s.aof / MIB for s in samples], linewidth=1, label="AOF")
    axes[1].set(ylabel="Redis, MiB", xlabel="million bars", ylim=(0, None))
    axes[1].legend(loc="lower right", ncols=2)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)
