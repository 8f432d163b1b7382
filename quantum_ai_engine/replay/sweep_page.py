"""The table of a sweep as a Parquet file, and as one page with pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantum_ai_engine.replay.sweep import Row, Table, columns
from quantum_ai_engine.report import page
from quantum_ai_engine.report.chart import WIDE_INCHES, Chart, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 200  # rows of the page; the file has all
LEVEL = 0.05
HEAD = (
    *("trial", "varied", "return", "Sharpe", "drawdown", "turnover", "costs", "Brier − base"),
    *("skill p", "Holm", "BH", "deflated"),
)


def write_table(path: Path, table: Table) -> None:
    """Write all columns, whole or not at all; the same bytes for the same table."""
    import pyarrow as pa
    from pyarrow import parquet

    temporary = path.with_name(f".{path.name}.part")
    try:
        parquet.write_table(pa.table(dict(columns(table))), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def page_of(title: str, table: Table) -> str:
    """The page: what is left after correction, pictures, and the trials, best first."""
    done = [row for row in table.rows if row.figures is not None]
    failed = [row for row in table.rows if row.figures is None]
    parts = [page.header(title, f"{len(table.rows)} trials"), page.verdict(*verdict(table))]
    if failed:
        told = [f"trial {row.plan.number}: {row.error}" for row in failed[:SHOWN]]
        parts.append(page.warnings(f"{len(failed)} trials failed", told))
    if done:
        parts += [page.heading("All trials"), page.figures(_charts(table, done))]
    best = sorted(done, key=lambda row: (-_sharpe(row), row.plan.number))
    caption = (
        f"The best {SHOWN} of {len(done)} by Sharpe ratio"
        if len(done) > SHOWN
        else "By Sharpe ratio"
    )
    parts += [
        page.heading("Trials"),
        page.table(HEAD, [_cells(row) for row in best[:SHOWN]], f"{caption}; {_legend()}"),
    ]
    return page.page(title, parts)


def verdict(table: Table) -> tuple[str, ...]:
    """What is left when it is counted how much was tried, in sentences.

    >>> verdict(Table([], 0, 0.0))
    ('No trial came to an end.',)
    """
    done = [row for row in table.rows if row.figures is not None]
    if not done:
        return ("No trial came to an end.",)
    best = max(done, key=lambda row: (_sharpe(row), -row.plan.number))
    deflated = "unknown" if best.deflated is None else f"{best.deflated:.3f}"
    lasting = sum(row.deflated is not None and row.deflated > 1.0 - LEVEL for row in done)
    alone = _below([row.figures.skill_p for row in done if row.figures])
    by_holm, by_bh = _below([x.skill_holm for x in done]), _below([x.skill_bh for x in done])
    return (
        f"{lasting} of {table.trials} trials have a Sharpe ratio beyond luck",
        f"The best, trial {best.plan.number}, has a Sharpe ratio of {_sharpe(best):.5f} of a bar; "
        f"of {table.trials} without skill the best would show {table.benchmark:.5f} by luck. The "
        f"chance that its true one is above that (deflated Sharpe ratio) is {deflated}.",
        f"Skill against the base rate: {alone} trials have p < {LEVEL:g} alone, {by_holm} after "
        f"Holm's correction, {by_bh} by Benjamini and Hochberg.",
    )


def _below(p_values: Sequence[float | None]) -> int:
    return sum(p is not None and p < LEVEL for p in p_values)


def _legend() -> str:
    return (
        "return, drawdown and costs in %, turnover in multiples of equity; p-values of skill, then "
        "corrected for all trials; deflated: P(true Sharpe ratio above the best of luck)"
    )


def _sharpe(row: Row) -> float:
    return row.figures.sharpe_per_bar if row.figures is not None else 0.0


def _cells(row: Row) -> Sequence[str]:
    one = row.figures
    assert one is not None
    varied = [f"{key.partition('.')[2]} {value}" for key, value in row.plan.settings.items()]
    if row.plan.bundles:
        varied.append(Path(row.plan.bundles).name)
    if row.plan.window is not None:
        varied.append(f"window {row.plan.window.number}")
    return (
        str(row.plan.number),
        ", ".join(varied),
        f"{100.0 * one.total_return:+.2f}",
        f"{one.sharpe:.2f}",
        f"{100.0 * one.max_drawdown:.2f}",
        f"{one.turnover:.1f}",
        f"{100.0 * one.costs_frac:.2f}",
        _number(one.paired, "+.5f"),
        _number(one.skill_p),
        _number(row.skill_holm),
        _number(row.skill_bh),
        _number(row.deflated),
    )


def _number(value: float | None, form: str = ".3f") -> str:
    return "no data" if value is None else format(value, form)


def _charts(table: Table, done: Sequence[Row]) -> list[Chart]:
    ratios = sorted((_sharpe(row) for row in done), reverse=True)

    def sharpe(axes: "Axes", theme: Theme) -> None:
        axes.plot(range(1, len(ratios) + 1), ratios, color=theme.first, marker="o", ms=3, lw=0.8)
        axes.axhline(0.0, color=theme.ink, lw=0.8)
        axes.axhline(table.benchmark, color=theme.second, ls="--", label="the best of luck")
        axes.set(xlabel="rank", ylabel="Sharpe ratio of a bar")

    says = (
        f"Each trial's Sharpe ratio, best first; of {table.trials} trials without skill the best "
        f"would reach the dashed line, {table.benchmark:.5f}."
    )
    charts = [Chart("Sharpe ratios, and what luck alone would show", says, sharpe, WIDE_INCHES)]
    p_values = sorted(row.figures.skill_p for row in done if row.figures and row.figures.skill_p)
    if p_values:
        charts.append(_skill(p_values))
    if any(row.plan.window is not None for row in done):
        charts.append(_windows(done))
    return charts


def _skill(p_values: Sequence[float]) -> Chart:
    count = len(p_values)

    def draw(axes: "Axes", theme: Theme) -> None:
        ranks = range(1, count + 1)
        axes.plot(ranks, p_values, color=theme.first, marker="o", ms=3, lw=0, label="trials")
        axes.plot(ranks, [r / (count + 1) for r in ranks], color=theme.ink, lw=0.8, label="chance")
        line = [LEVEL * r / count for r in ranks]
        axes.plot(ranks, line, color=theme.second, ls="--", label="Benjamini and Hochberg")
        axes.set(xlabel="rank", ylabel="p-value of skill")

    return Chart(
        "Skill by rank",
        "p-values of the ensemble's skill, smallest first. Without skill they lie along the thin "
        "line; up to the last one below the dashed line they are beyond chance.",
        draw,
    )


def _windows(done: Sequence[Row]) -> Chart:
    at = [row.plan.window.number if row.plan.window else 0 for row in done]
    returns = [100.0 * row.figures.total_return if row.figures else 0.0 for row in done]

    def draw(axes: "Axes", theme: Theme) -> None:
        axes.axhline(0.0, color=theme.ink, lw=0.8)
        axes.plot(at, returns, color=theme.first, marker="o", ms=3, lw=0)
        axes.set(xlabel="window", ylabel="return, %")

    return Chart("Returns by window", "Every trial of each test span, in order of time.", draw)
