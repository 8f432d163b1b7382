"""The training report: what was learned, how well, from what, on one page for people."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.manifest import HeldOut, Manifest
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.report import page
from quantum_ai_engine.report.chart import Chart
from quantum_ai_engine.report.files import write_whole
from quantum_ai_engine.training.export import Trained
from quantum_ai_engine.training.options import TrainingError
from quantum_ai_engine.training.report import plots
from quantum_ai_engine.training.report.importance import Permuted, importance, parts_of
from quantum_ai_engine.training.report.uncertainty import (
    LEAST_OUTCOMES,
    Group,
    Z,
    auc_stderr,
    by_count,
    by_width,
    calibration_error_by_chance,
    groups,
    verdict,
)
from quantum_ai_engine.training.scores import newey_west

HONEST = (
    "The closes of liquid markets are nearly unpredictable over a few bars: an AUC near 0.51 is "
    "honest. Far above it, look for a leak before you believe it."
)


@dataclass(frozen=True, slots=True)
class _Findings:
    """What the page shows beyond the manifest; `effective` test outcomes are independent."""

    effective: float
    brier_stderr: float
    base_stderr: float
    bias_stderr: float
    auc_stderr: float
    by_count: tuple[Group, ...]
    by_width: tuple[Group, ...]
    permuted: Permuted


def write_report(
    trained: Trained,
    directory: Path,
    progress: Callable[[int, int], None] = lambda _done, _steps: None,
) -> Path:
    """Write `directory/<name>-<digest>.html`, whole in itself, and a .png; give the page's path.

    `progress` is told the steps done and their number while columns are shuffled, which is what
    takes time. Raises `TrainingError` without matplotlib or the agent's library.
    """
    plots.require_matplotlib()
    manifest = trained.bundle.manifest
    found = _findings(trained, progress)
    charts = _charts(trained, found)
    answer, _ = verdict(manifest.held_out, found.effective)
    title = f"{manifest.name}: {answer.lower()}"
    pictures = plots.sheet(title, _subtitle(manifest), charts)
    html = page.page(f"Training report: {manifest.name}", _parts(trained, found, charts))
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{manifest.name}-{trained.bundle.digest}"
    path = directory / f"{name}.html"
    write_whole(path.with_suffix(".png"), pictures)
    write_whole(path, html.encode())
    return path


def _ranking(scores: HeldOut, found: _Findings) -> str:
    """What the AUC says beside the verdict: who ranks well may still be off in probability."""
    area = f"{scores.auc:.3f} ± {found.auc_stderr:.3f}"
    if found.effective < LEAST_OUTCOMES:
        return f"Nor can the AUC of {area} be told from luck."
    if not scores.auc - Z * found.auc_stderr > 0.5:
        return f"The AUC of {area} is not above the 0.5 of no ranking by two standard errors."
    ranks = f"It ranks rises above falls better than chance (AUC {area})"
    if scores.paired + Z * scores.paired_stderr < 0.0:
        return f"{ranks}."
    bias = f"{_signed(scores.bias, 3)} ± {found.bias_stderr:.3f}"
    if abs(scores.bias) > Z * found.bias_stderr:
        return (
            f"{ranks}, but its probabilities have a bias of {bias}: what was calibrated on the "
            "validation span did not hold in the test span."
        )
    return f"{ranks}, but by too little to show in the Brier score."


def _findings(trained: Trained, progress: Callable[[int, int], None]) -> _Findings:
    dataset, p, manifest = trained.dataset, trained.probabilities, trained.bundle.manifest
    samples, horizon, step = dataset.test, dataset.horizon_bars, INTERVAL_MS[dataset.interval]
    agent = load_agent(trained.bundle)
    if agent.unavailable:
        raise TrainingError(f"the training report of {manifest.name}: {agent.unavailable}")
    read = tuple(dict.fromkeys(name.partition("@")[0] for name in manifest.inputs))
    residuals, base = p - samples.rose, manifest.base_rate - samples.rose
    brier, of_base, bias = (
        newey_west(values, samples.close_time, horizon, step)
        for values in (residuals**2, base**2, residuals)
    )
    return _Findings(
        dataset.effective_labels(samples),
        brier,
        of_base,
        bias,
        auc_stderr(p, samples, horizon, step),
        groups(by_count(p), p, samples, horizon, step),
        groups(by_width(p), p, samples, horizon, step),
        importance(agent.predict, dataset, parts_of(read or manifest.columns), progress),
    )


def _charts(trained: Trained, found: _Findings) -> tuple[Chart, ...]:
    manifest, rose, p = trained.bundle.manifest, trained.dataset.test.rose, trained.probabilities
    scores, base, permuted = manifest.held_out, manifest.base_rate, found.permuted
    area = f"{scores.auc:.3f} ± {found.auc_stderr:.3f}"
    return (
        *_loss_chart(trained),
        Chart(
            "Reliability",
            "Forecast probability against the share that rose. Points on the dotted line are "
            f"calibrated; bars are two standard errors wide. The calibration error is "
            f"{scores.calibration_error:.4f}.",
            plots.reliability(found.by_count, found.by_width),
        ),
        Chart(
            "Ranking (ROC)",
            f"The area under the curve is {area}: the chance that a forecast before a rise is "
            "above one before a fall. 0.5 is none.",
            plots.roc(p, rose, f"AUC {area}"),
        ),
        Chart(
            "Forecasts by outcome",
            "How often each probability was forecast before a rise and before a fall. The further "
            "the two shapes are apart, the more the agent tells.",
            plots.histogram(p, rose, base),
        ),
        Chart(
            "What the agent lives on",
            _importance_words(permuted),
            plots.importances(permuted.parts),
        ),
    )


def _importance_words(permuted: Permuted) -> str:
    top = permuted.parts[0]
    return (
        f"The rise of the Brier score when a {_part(permuted)} is shuffled; grey is not above 0 by "
        f"two standard errors. The most is {_signed(top.rise, 5)} ± {top.stderr:.5f} for "
        f"{top.name}. Made of {permuted.windows:,} held-out windows, each shuffled "
        f"{permuted.repeats} times."
    )


def _loss_chart(trained: Trained) -> tuple[Chart, ...]:
    """How the fit went; none where nothing was fitted by epochs."""
    if not trained.losses:
        return ()
    base, validated = trained.bundle.manifest.base_rate, trained.dataset.validation.rose
    of_base = -float(np.mean(np.where(validated == 1.0, np.log(base), np.log(1.0 - base))))
    unit, best = _unit(trained.bundle.manifest), min(loss.validation for loss in trained.losses)
    says = (
        f"Mean cross-entropy after each {unit}, before calibration. The lowest on the validation "
        f"span is {best:.4f}, that of the base rate {of_base:.4f}."
    )
    return (Chart("Loss", says, plots.losses(trained.losses, unit, of_base)),)


def _parts(trained: Trained, found: _Findings, charts: tuple[Chart, ...]) -> Iterator[str]:
    """The page from top to bottom."""
    manifest = trained.bundle.manifest
    answer, sentence = verdict(manifest.held_out, found.effective)
    yield page.header(f"Training report: {manifest.name}", _subtitle(manifest))
    yield page.verdict(answer, sentence, _ranking(manifest.held_out, found), HONEST)
    yield page.heading("Held-out scores")
    yield page.table(
        ("score", "value", "standard error", "for comparison"),
        _score_rows(manifest, found),
        "Standard errors allow for overlapping outcomes and for symbols that move together (Newey "
        f"and West 1987). Measured on {manifest.held_out.samples:,} windows that neither the fit "
        "nor the calibration has seen.",
    )
    yield page.heading("Pictures")
    yield page.figures(charts)
    yield page.heading("Reliability")
    yield page.table(
        ("forecasts", "count", "mean forecast", "share that rose", "band, ± 2 s.e."),
        _reliability_rows(manifest, found),
        "The bins of the manifest; the band is Wilson's (1927), as wide as the outcomes that do "
        "not overlap allow.",
    )
    yield page.heading("Importance")
    yield page.table(
        (_part(found.permuted), "rise of the Brier score", "standard error"),
        _importance_rows(found.permuted),
        f"Shuffled between {found.permuted.windows:,} held-out windows "
        f"{found.permuted.repeats} times, whole columns of a window at once (Breiman 2001). "
        "Columns that tell the same stand in for each other: each alone then looks less important.",
    )
    yield page.heading("Data")
    yield page.table(
        ("span", "from", "to", "labelled windows"),
        _span_rows(manifest),
        f"The windows of the test span overlap: about {found.effective:.0f} of its outcomes are "
        "independent.",
    )
    yield page.facts(_data_facts(trained))
    yield page.heading("Agent")
    yield page.facts(_agent_facts(trained))


def _score_rows(manifest: Manifest, found: _Findings) -> Iterator[tuple[str, ...]]:
    s = manifest.held_out
    chance = calibration_error_by_chance(found.by_width)
    yield "Brier score", f"{s.brier:.5f}", f"{found.brier_stderr:.5f}", "0 is perfect"
    yield (
        "Brier score of the base rate",
        f"{s.brier_base_rate:.5f}",
        f"{found.base_stderr:.5f}",
        f"base rate {manifest.base_rate:.4f}",
    )
    yield "paired score", _signed(s.paired, 5), f"{s.paired_stderr:.5f}", "below 0 is skill"
    yield "AUC", f"{s.auc:.4f}", f"{found.auc_stderr:.4f}", "0.5 is no ranking"
    yield "bias", _signed(s.bias, 4), f"{found.bias_stderr:.4f}", "above 0 is too bullish"
    yield "calibration error", f"{s.calibration_error:.4f}", "–", f"{chance:.4f} by chance alone"


def _reliability_rows(manifest: Manifest, found: _Findings) -> Iterator[tuple[str, ...]]:
    for told, group in zip(manifest.held_out.reliability, found.by_width, strict=True):
        yield (
            f"{told.low:.1f} to {told.high:.1f}",
            f"{told.count:,}",
            f"{told.mean_probability:.4f}",
            f"{told.rose:.4f}",
            f"{group.low:.3f} to {group.high:.3f}",
        )


def _importance_rows(permuted: Permuted) -> Iterator[tuple[str, ...]]:
    for part in permuted.parts:
        count = len(part.columns)
        name = f"{part.name} ({count} columns)" if count > 1 else part.name
        yield name, _signed(part.rise, 5), f"{part.stderr:.5f}"


def _span_rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    spans = manifest.spans
    for name, span in (
        ("train", spans.train),
        ("validation", spans.validation),
        ("test", spans.test),
    ):
        yield name, _moment(span.from_ms), _moment(span.to_ms), f"{span.samples:,}"


def _data_facts(trained: Trained) -> Iterator[tuple[str, str]]:
    manifest, labels = trained.bundle.manifest, trained.bundle.manifest.labels
    yield "symbols", ", ".join(manifest.spans.symbols)
    yield "embargo", f"{manifest.spans.embargo_bars} bars are left out between two spans"
    yield "target", manifest.target.definition
    yield (
        "labels of the train span",
        f"{labels.rose:,} rose, {labels.fell:,} fell: base rate {manifest.base_rate:.4f}",
    )
    yield (
        "masked",
        f"{labels.masked:,} windows of the train span in the dead zone or without a recorded "
        "outcome, never class 0",
    )
    yield "crossing", f"{trained.dataset.crossing:,} windows with a hole or a pause inside"
    yield "refused", f"{trained.dataset.refused:,} bars that the engine would not take"
    for symbol, venue in manifest.venues.items():
        yield f"venue of {symbol}", f"{venue.zone} {venue.opens} to {venue.closes}"
    yield "SHA-256 of the bars", manifest.spans.data_sha256


def _agent_facts(trained: Trained) -> Iterator[tuple[str, str]]:
    manifest, bundle = trained.bundle.manifest, trained.bundle
    c = manifest.calibration
    yield "bundle", f"{manifest.name}, digest {bundle.digest}"
    yield (
        "feature set",
        f"{manifest.feature_set}, {len(manifest.columns)} columns, hash {manifest.schema_hash}",
    )
    yield "window", f"{manifest.window} rows"
    if manifest.inputs:
        yield "inputs", f"{len(manifest.inputs)} values of a window"
    yield "fit", _fit_words(trained)
    yield (
        "calibration",
        f"{c.method}: up {c.up:.4f}, down {c.down:.4f}, intercept {_signed(c.intercept, 4)}",
    )
    yield "libraries", ", ".join(f"{name} {v}" for name, v in sorted(manifest.libraries.items()))


def _fit_words(trained: Trained) -> str:
    if not trained.losses:
        return "nothing was fitted by epochs"
    count, unit = len(trained.losses), _unit(trained.bundle.manifest)
    best = min(range(count), key=lambda i: trained.losses[i].validation) + 1
    return f"{count} {unit}{'s' if count > 1 else ''}, lowest validation loss after {best}"


def _unit(manifest: Manifest) -> str:
    """What the losses are counted by: trees are boosted in rounds, and trees name their inputs."""
    return "boosting round" if manifest.inputs else "epoch"


def _part(permuted: Permuted) -> str:
    return "column" if all(len(p.columns) == 1 for p in permuted.parts) else "theme"


def _subtitle(manifest: Manifest) -> str:
    held = manifest.spans.test
    return (
        f"{manifest.kind}: P(up over {manifest.horizon_bars} bars of {manifest.interval}), "
        f"held-out bars from {_moment(held.from_ms)} to {_moment(held.to_ms)}"
    )


def _moment(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ms / 1000))


def _signed(value: float, digits: int) -> str:
    """With its sign, and a minus at which no line breaks."""
    return f"{value:+.{digits}f}".replace("-", "−")
