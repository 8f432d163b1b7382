"""What came of fault runs, as rows of a markdown table and as words."""

from collections.abc import Sequence

from quantum_ai_engine.proof.restart import Restarts
from quantum_ai_engine.proof.run import Result

COLUMNS = (
    *("scenario", "agents", "faults", "bars", "signals expected", "lost", "doubled", "unknown"),
    *("out of order", "reordered", "different", "restarts checked", "states that differ"),
    *("start to ready, s", "start to signal, s", "seconds"),
)

RESTARTS = (
    *("symbols", "agents", "restarts", "bars waiting", "bars replayed", "snapshot, MB"),
    *("imports and models, s", "to ready, s", "to state, s", "to first signal, s", "beyond, s"),
)


def head(columns: Sequence[str] = COLUMNS) -> str:
    """The head of a table.

    >>> head().count("|") == 2 * (len(COLUMNS) + 1)
    True
    """
    return f"{_row(columns)}\n{_row(['---'] * len(columns))}"


def row(result: Result) -> str:
    """One scenario; times are the median and the longest."""
    verdict, states, starts = result.verdict, result.states, result.starts
    numbers = (
        *(result.faults, result.bars, verdict.expected, verdict.lost, verdict.doubled),
        *(verdict.unknown, verdict.out_of_order, verdict.reordered, verdict.different),
        *(states.checked, states.wrong),
    )
    return _row(
        [
            result.scenario,
            " ".join(result.agents),
            *(f"{number:,}" for number in numbers),
            _times(starts.ready),
            _times(starts.signal),
            f"{result.seconds:,.0f}",
        ]
    )


def restart_row(restarts: Restarts) -> str:
    """The restarts with so many symbols; times are medians."""
    return _row(
        [
            f"{restarts.symbols:,}",
            " ".join(restarts.agents),
            str(len(restarts.runs)),
            f"{restarts.waiting:,}",
            f"{restarts.replayed:,}",
            f"{restarts.snapshot_bytes / 1e6:.1f}",
            *(
                f"{restarts.median(name):.2f}"
                for name in ("load", "ready", "restored", "signal", "beyond")
            ),
        ]
    )


def words(result: Result) -> str:
    """What was wrong, by examples."""
    fields = ", ".join(f"{name} {count}" for name, count in result.verdict.fields.items())
    lines = [*result.verdict.examples, *result.states.examples]
    if fields:
        lines.insert(0, f"fields that differ: {fields}")
    if not result.states.checked:
        lines.append("no restored state could be compared")
    return "\n".join(f"{result.scenario}: {line}" for line in lines)


def _times(times: tuple[float, float] | None) -> str:
    return "no data" if times is None else f"{times[0]:.2f} / {times[1]:.2f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
