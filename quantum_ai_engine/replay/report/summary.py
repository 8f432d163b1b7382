"""What a backtest found: the contents of report.json, from which the page is made."""

import msgspec
import numpy as np

from quantum_ai_engine.replay.audit import Audit, Audited
from quantum_ai_engine.replay.gates import Passage
from quantum_ai_engine.replay.money import Block, Money, Purse
from quantum_ai_engine.replay.tape import Taped

REPORT_SCHEMA = 1
POINTS = 2_048
SKILL_WINDOWS = 20  # a rolling score is of a twentieth of the run …
LEAST_STRETCHES = 10  # … and of so many stretches: its band is the spread among them
Z = 2.0


class About(msgspec.Struct, frozen=True):
    """What was replayed, and by what.

    `data` is the name of the record; `trained_to_ms` is by agent: the last close time of the bars
    that it knew.
    """

    engine: str
    config_hash: str
    data: str
    symbols: tuple[str, ...]
    agents: tuple[str, ...]
    trained_to_ms: dict[str, int] = {}


class Span(msgspec.Struct, frozen=True):
    """What was counted: open times of the first and the last step, steps and bars.

    Money is counted from `money_from_ms` on, the step after the first signal.
    """

    interval: str
    first_ms: int
    last_ms: int
    steps: int
    bars: int
    money_from_ms: int | None


class Curve(msgspec.Struct, frozen=True):
    """The account by stretches of `steps` open times each: values at their ends, or their means.

    `held` is what one unit of money that holds everything is worth, `drawdown` the deepest.
    """

    steps: int
    first_ms: tuple[int, ...]
    equity: tuple[float, ...]
    held: tuple[float, ...]
    drawdown: tuple[float, ...]
    gross: tuple[float, ...]
    net: tuple[float, ...]


class Rolling(msgspec.Struct, frozen=True):
    """The ensemble's skill (base rate's Brier score − its own) over windows, ± 2 standard errors.

    `window_outcomes` is how many predictions a window has in the mean. `trust` is by agent, in the
    mean of each stretch.
    """

    at_ms: tuple[int, ...]
    skill: tuple[float, ...]
    stderr: tuple[float, ...]
    window_outcomes: float
    trust_ms: tuple[int, ...]
    trust: dict[str, tuple[float, ...]]


class Report(msgspec.Struct, frozen=True):
    """All that a backtest found; fields are added to a schema, never changed."""

    schema: int
    about: About
    account: dict[str, object]
    span: Span
    flags: tuple[str, ...]
    money: Money
    blocks: tuple[Block, ...]
    audit: Audited
    passage: Passage
    curve: Curve
    rolling: Rolling
    tape: Taped | None


def curve(purse: Purse) -> Curve:
    """The account's course, in at most `POINTS` stretches."""
    purse.flush()
    stretches = purse.stretches
    values, counts, first = stretches.values, stretches.counts, stretches.first_ms
    each = -(-len(values) // POINTS) or 1
    starts = np.arange(0, len(values), each)
    if not len(starts):
        return Curve(stretches.rows, (), (), (), (), (), ())
    ends = np.append(starts[1:], len(values)) - 1
    total = np.add.reduceat(counts, starts)
    gross, net = (np.add.reduceat(values[:, k], starts) / total for k in (1, 2))
    deepest = np.maximum.reduceat(values[:, 3], starts)
    rows = values[ends, 4], values[ends, 5], deepest, gross, net
    times = tuple(first[starts].tolist())
    return Curve(stretches.rows * each, times, *(tuple(row.tolist()) for row in rows))


def rolling(audit: Audit, horizon_bars: int, series: int) -> Rolling:
    """Skill over windows of stretches that are long against the horizon, and trust by stretch."""
    stretches, sources = audit.stretches, len(audit.names)
    values, counts, times = stretches.values, stretches.counts, stretches.first_ms
    if not len(values):
        return Rolling((), (), (), 0.0, (), {})
    # Outcomes overlap within a horizon: only longer stretches are nearly independent.
    each = max(1, -(-4 * horizon_bars * series // stretches.rows))
    starts = np.arange(0, len(values), each)
    of = sources - 1
    n = np.add.reduceat(values[:, of], starts)
    gained = -np.add.reduceat(values[:, sources + of], starts)
    window = max(LEAST_STRETCHES, len(starts) // SKILL_WINDOWS)
    at, skill, stderr = [], [], []
    for end in range(window, len(starts) + 1):
        count = n[end - window : end].sum()
        if count:
            mean = gained[end - window : end].sum() / count
            off = gained[end - window : end] - mean * n[end - window : end]
            at.append(int(times[starts[end - 1]]))
            skill.append(float(mean))
            stderr.append(float(np.sqrt((off**2).sum()) / count))
    shares = values[:, 2 * sources :] / counts[:, np.newaxis]
    trust = {name: tuple(shares[:, k].tolist()) for k, name in enumerate(audit.names[:-1])}
    outcomes = float(n.mean()) * window
    return Rolling(tuple(at), tuple(skill), tuple(stderr), outcomes, tuple(times.tolist()), trust)
