"""What can be proven of a bundle before it serves: its golden pair, its answers, its speed."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import LARGEST_BATCH, Agent, in_batches
from quantum_ai_engine.agents.bundle import (
    GOLDEN_TOLERANCE,
    Bundle,
    BundleError,
    read_bundle,
)
from quantum_ai_engine.agents.load import check_venues, load_agent
from quantum_ai_engine.agents.manifest import Manifest
from quantum_ai_engine.config import Venue
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features.schema import FeatureSet
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.matrix import Admission, FeatureMatrix
from quantum_ai_engine.training.models.registry import family
from quantum_ai_engine.training.options import TrainingError
from quantum_ai_engine.training.rows import PART_BARS

MOST_WINDOWS = 512  # of real bars that are judged
LEAST_WINDOWS = 64  # fewer say nothing about a spread
LEAST_SPREAD = 2e-3  # of probabilities on real bars: below it an agent says nothing
HAIR = 1e-3  # a probability this near to 0.5, or to the base rate, is neutral
BATCHES = 12  # random ones, against one large one
LATENCY_BATCHES = (1, 64)
LATENCY_RUNS, LATENCY_S = 200, 1.0  # so many runs of each, or so long

Floats = NDArray[np.float64]
State = Literal["ok", "failed", "warning", "measured", "not checked"]


class Check(NamedTuple):
    """One thing that was looked at, how it came out, and the numbers."""

    name: str
    state: State
    says: str


@dataclass(frozen=True, eq=False, slots=True)
class Windows:
    """Raw windows [n, window, columns], where they come from, and whether from recorded bars."""

    values: Floats
    origin: str
    real: bool


def verify(path: Path, table: BarTable | None, venues: Mapping[str, Venue]) -> Iterator[Check]:
    """All checks of one bundle, each as it is made; what cannot follow a failure is left out.

    On the newest windows of `table` where it is given, else on windows that are drawn; a table that
    cannot judge this bundle is a failure, and what else there is to check is checked.
    """
    try:
        bundle = read_bundle(path)
        yield from _whole(bundle)
        check_venues(bundle, venues)
        agent = load_agent(bundle)
        if agent.unavailable:
            raise BundleError(f"bundle {path}: {agent.unavailable}")
        yield Check("payload", "ok", f"loads as {bundle.manifest.kind}")
        agent.warm_up()
        yield _golden(bundle, agent)
    except BundleError as error:
        yield Check("bundle", "failed", str(error))
        return
    windows = drawn(bundle)
    if table is not None:
        try:
            windows = recent(bundle, table, venues)
        except TrainingError as error:
            yield Check("data", "failed", str(error))
    yield from _answers(bundle, agent, windows)
    yield _batches(agent, windows.values)
    yield from (_latency(agent, windows.values, batch) for batch in LATENCY_BATCHES)
    yield _eager(bundle, windows.values)


def recent(bundle: Bundle, table: BarTable, venues: Mapping[str, Venue]) -> Windows:
    """The newest ready windows, equally many of each symbol that has them, in order of time.

    Raises `TrainingError` when there are too few.
    """
    manifest, chosen = bundle.manifest, bundle.feature_set
    if table.interval != manifest.interval:
        raise TrainingError(
            f"the data has bars of {table.interval}, but {manifest.name} reads {manifest.interval}"
        )
    most = max(1, MOST_WINDOWS // max(1, len(table.symbols)))
    newest: list[tuple[int, Floats]] = []
    for last in _last_rows(table, chosen, Calendars(venues), most + chosen.window - 1):
        ready = np.flatnonzero(last.counts >= chosen.window_ready_at)[-most:]
        if len(ready):
            views = sliding_window_view(last.rows, chosen.window, axis=0)  # [m, columns, window]
            close_time = last.open_time[ready] + INTERVAL_MS[table.interval]
            windows = views[ready - chosen.window + 1].transpose(0, 2, 1)
            newest.extend(zip(close_time.tolist(), windows, strict=True))
    newest = sorted(newest, key=lambda pair: pair[0])[-MOST_WINDOWS:]
    if len(newest) < LEAST_WINDOWS:
        raise TrainingError(
            f"the data has {len(newest)} windows for {manifest.name} of the {LEAST_WINDOWS} that "
            f"are needed; a symbol's first comes with bar {chosen.window_ready_at}"
        )
    values = np.stack([window for _, window in newest])  # [n, window, columns]
    return Windows(values, f"the newest {len(values)} windows of the data", True)


class _Last(NamedTuple):
    """The newest rows [n, columns] of a symbol, their open times, and how many bars it had then."""

    rows: Floats
    open_time: NDArray[np.int64]
    counts: NDArray[np.int64]


def _last_rows(table: BarTable, chosen: FeatureSet, calendars: Calendars, most: int) -> list[_Last]:
    """The newest `most` rows of each symbol that has any; memory grows with no file."""
    admission, matrix = Admission(), FeatureMatrix(calendars)
    held: dict[int, _Last] = {}
    for start in range(0, len(table), PART_BARS):
        part = table.rows(start, start + PART_BARS)
        part = part.where(admission.judge(part))
        rows, counts = matrix.rows(part)
        for place in np.unique(part.symbol_index).tolist():
            at = np.flatnonzero(part.symbol_index == place)[-most:]
            new = _Last(rows[at][:, chosen.indices], part.open_time[at], counts[at])
            if place in held:
                pairs = zip(held[place], new, strict=True)
                new = _Last(*(np.concatenate(pair)[-most:] for pair in pairs))
            held[place] = new
    return [held[place] for place in sorted(held)]


def drawn(bundle: Bundle) -> Windows:
    """Windows drawn by a fixed seed: from the statistics of training, else near the golden ones."""
    rng = np.random.default_rng(0)
    shape = (LARGEST_BATCH, bundle.feature_set.window, len(bundle.feature_set.columns))
    noise = rng.standard_normal(shape)
    if normaliser := bundle.manifest.normaliser:
        values = np.asarray(normaliser.mean) + np.asarray(normaliser.scale) * noise
        return Windows(values, f"{len(values)} windows drawn from the train statistics", False)
    golden, _ = bundle.golden()
    spread = golden.std(axis=(0, 1))  # [columns]
    values = golden[rng.integers(len(golden), size=LARGEST_BATCH)] + spread * noise
    return Windows(values, f"{len(values)} windows drawn around the golden ones", False)


def _whole(bundle: Bundle) -> Iterator[Check]:
    manifest = bundle.manifest
    sizes = ", ".join(f"{name} ({len(bundle.read(name))} bytes)" for name in manifest.files)
    yield Check("files", "ok", f"{sizes}: as the manifest's SHA-256; digest {bundle.digest}")
    yield Check(
        "schema",
        "ok",
        f"{manifest.feature_set}: {len(manifest.columns)} columns × {manifest.window} rows, hash "
        f"{manifest.schema_hash}",
    )
    yield _reference(manifest)
    others = list(manifest.other_versions())
    if others:
        yield Check("libraries", "warning", f"{', '.join(others)}; the golden pair decides")
    else:
        yield Check("libraries", "ok", f"{len(manifest.libraries)} versions as in training")


def _reference(manifest: Manifest) -> Check:
    """What live rows are compared with, and which columns are not."""
    reference = manifest.reference
    if reference is None:
        says = "the train span was too short: live features are compared with nothing"
        return Check("reference", "warning", says)
    left_out = ", ".join(name for name in manifest.columns if name not in reference.columns)
    says = (
        f"{len(reference.columns)} of {len(manifest.columns)} columns are compared, "
        f"at least {reference.rows} live rows at a time"
    )
    if left_out:
        says = f"{says}; with a single value in training: {left_out}"
    return Check("reference", "ok", says)


def _golden(bundle: Bundle, agent: Agent) -> Check:
    windows, wanted = bundle.golden()
    worst = float(np.abs(in_batches(agent.predict, windows) - wanted).max())
    says = f"{len(wanted)} windows off by at most {worst:.2g} (allowed {GOLDEN_TOLERANCE:g})"
    return Check("golden pair", "ok" if worst <= GOLDEN_TOLERANCE else "failed", says)


def _answers(bundle: Bundle, agent: Agent, windows: Windows) -> Iterator[Check]:
    """Whether the answers are numbers, and whether they say anything (L01, L02)."""
    p = in_batches(agent.predict, windows.values)
    missing = int(np.count_nonzero(~np.isfinite(p)))
    says = f"{len(p) - missing} of {len(p)} answers to {windows.origin} are finite"
    yield Check("finite", "failed" if missing else "ok", says)
    if missing:
        yield Check("not constant", "not checked", "not all answers are numbers")
        return
    yield _spread(bundle.manifest.base_rate, p, windows.real)


def _spread(base_rate: float, p: Floats, real: bool) -> Check:
    """Recorded bars decide; what is drawn lies beside what a model knows, and shows less."""
    low, middle, high = np.quantile(p, (0.05, 0.5, 0.95)).tolist()
    spread = float(p.max() - p.min())
    neutral = {
        "0.5": float(np.mean(np.abs(p - 0.5) <= HAIR)),
        f"the base rate {base_rate:.3f}": float(np.mean(np.abs(p - base_rate) <= HAIR)),
    }
    near = ", ".join(f"{share:.3f} within {HAIR:g} of {what}" for what, share in neutral.items())
    says = (
        f"probabilities from {p.min():.4f} to {p.max():.4f} (quantiles 0.05, 0.5, 0.95: {low:.4f}, "
        f"{middle:.4f}, {high:.4f}); shares {near}; spread {spread:.2g}"
    )
    if real and (spread < LEAST_SPREAD or max(neutral.values()) == 1.0):
        return Check("not constant", "failed", f"{says}, floor {LEAST_SPREAD:g}")
    if spread == 0.0:
        return Check("not constant", "failed", f"{says}: every answer is the same")
    if spread < LEAST_SPREAD:
        return Check("not constant", "warning", f"{says}; give --data to judge it on real bars")
    return Check("not constant", "ok", says)


def _batches(agent: Agent, windows: Floats) -> Check:
    """Whether a window's answer has the same bits whatever other windows come with it."""
    rng = np.random.default_rng(0)
    together = in_batches(agent.predict, windows)
    differing = 0
    for _ in range(BATCHES):
        some = rng.integers(len(windows), size=rng.integers(1, LARGEST_BATCH + 1))
        differing += int(np.count_nonzero(agent.predict(windows[some]) != together[some]))
    says = f"{differing} answers of {BATCHES} random batches differ in a bit from one large batch's"
    return Check("batch invariance", "failed" if differing else "ok", says)


def _latency(agent: Agent, windows: Floats, batch: int) -> Check:
    given = np.ascontiguousarray(np.resize(windows, (batch, *windows.shape[1:])))
    agent.predict(given)
    times: list[float] = []
    end = time.perf_counter() + LATENCY_S
    while len(times) < LATENCY_RUNS and (not times or time.perf_counter() < end):
        start = time.perf_counter()
        agent.predict(given)
        times.append(time.perf_counter() - start)
    middle, worst = 1e3 * np.quantile(times, (0.5, 0.99))
    says = f"p50 {middle:.3f} ms, p99 {worst:.3f} ms of {len(times)} runs"
    return Check(f"latency, batch {batch}", "measured", says)


def _eager(bundle: Bundle, windows: Floats) -> Check:
    """Whether this version's own model, given the payload's weights, answers as the payload."""
    name, kind = "eager = scripted", bundle.manifest.kind
    try:
        found = family(kind)
    except TrainingError as error:
        return Check(name, "not checked", str(error))
    try:
        import torch

        from quantum_ai_engine.agents.torchscript import PAYLOAD, opened, ready
        from quantum_ai_engine.training.neural import Neural, allowed
    except ModuleNotFoundError:
        return Check(name, "not checked", f"{kind} has no weights of torch")
    if not isinstance(found, Neural) or bundle.manifest.normaliser is None:
        return Check(name, "not checked", f"{kind} has no weights of torch")
    plain = found.model().eval()
    scripted = opened(bundle.read(PAYLOAD))
    try:
        plain.load_state_dict(scripted.state_dict())
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        return Check(name, "not checked", f"the payload is not this version's {kind}: {reason}")
    normal, _ = bundle.manifest.normaliser.apply(windows[:LARGEST_BATCH])
    inputs = torch.from_numpy(normal)
    with torch.inference_mode():
        expected = plain(inputs)
        worst = float((expected - ready(scripted)(inputs)).abs().max())
    most = allowed(float(expected.abs().max()))
    says = f"off by at most {worst:.2g} in a logit (allowed {most:.2g})"
    return Check(name, "ok" if worst <= most else "failed", says)
