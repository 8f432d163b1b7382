"""Sweeps: many trials of one record, by settings, bundles and walk-forward windows.

The table of results hangs on the specification, the bars and the build alone: not on where the
trials ran, in which order, or how often one had to be tried again.
"""

import itertools
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import variance
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec
import numpy as np
from msgspec import Meta

from quantum_ai_engine.config import Loaded
from quantum_ai_engine.replay.executors import Executor
from quantum_ai_engine.replay.history import FOREVER_MS, Wanted
from quantum_ai_engine.replay.luck import best_of_luck, probabilistic_sharpe
from quantum_ai_engine.replay.multiple import benjamini_hochberg, holm
from quantum_ai_engine.replay.source import FileSource
from quantum_ai_engine.replay.trial import Figures, Outcome, Trial, run_trial

Count = Annotated[int, Meta(ge=1, le=10_000_000)]
MOST_TRIALS = 100_000


class SweepError(ValueError):
    """A sweep that cannot be begun: one sentence that names the key and what to write."""


class WalkForward(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Windows that roll through the record, counted in open times.

    Each has `train_bars`, then an embargo that belongs to nobody, then `test_bars`; the next begins
    `roll_bars` later, by default so that test spans follow each other. With `kinds` these agents
    are trained on each train span, with `options` as `qae train` has them.
    """

    train_bars: Count
    embargo_bars: Annotated[int, Meta(ge=0, le=10_000_000)]
    test_bars: Count
    roll_bars: Count | None = None
    kinds: tuple[str, ...] = ()
    options: dict[str, int | float] = {}


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is varied. Of each table in `vary` the n-th values of all its keys go together; all
    tables, bundles and windows are crossed.
    """

    vary: tuple[dict[str, tuple[Any, ...]], ...] = ()
    bundles: tuple[str, ...] = ()
    walk_forward: WalkForward | None = None
    symbols: tuple[str, ...] = ()
    retries: Annotated[int, Meta(ge=0, le=100)] = 2


class Window(NamedTuple):
    """A train span and a test span, both from an open time up to, and without, another (ms)."""

    number: int
    train_from_ms: int
    train_to_ms: int
    test_from_ms: int
    test_to_ms: int


class Training(NamedTuple):
    """Agents to be trained on the train span of a window, into a directory of their own."""

    window: Window
    data: Path
    symbols: tuple[str, ...]
    interval: str | None
    kinds: tuple[str, ...]
    options: Mapping[str, int | float]
    loaded: Loaded
    directory: Path


class Plan(NamedTuple):
    """A trial that is to be made: what is varied in it, by which it is known."""

    number: int
    settings: dict[str, Any]
    bundles: str
    window: Window | None


class Row(NamedTuple):
    """What became of a trial: its figures, or why it failed the last time."""

    plan: Plan
    figures: Figures | None
    error: str
    deflated: float | None = None
    skill_holm: float | None = None
    skill_bh: float | None = None


class Table(NamedTuple):
    """All trials in their order. `trials` are those that came to an end, all of which count as
    tried; `benchmark` is the Sharpe ratio of a bar that the best of them shows by luck alone.
    """

    rows: list[Row]
    trials: int
    benchmark: float


class Keeper(Protocol):
    """Keeps the trials that came to an end, for a sweep that was interrupted."""

    @property
    def outcomes(self) -> Mapping[int, Outcome]:
        """Those that are there, by the number of their trial."""

    def add(self, number: int, outcome: Outcome) -> None:
        """Keep one more."""


class Sweep(NamedTuple):
    """What all trials share. `load` gives settings with other values; `train` makes bundles.

    Agents are trained into `scratch`, each window's into a directory that comes whole or not at
    all: what is there need not be trained again.
    """

    spec: Spec
    data: Path
    interval: str | None
    load: Callable[[Mapping[str, Any]], Loaded]
    engine_name: str
    scratch: Path
    train: Callable[[Training], None] | None = None


def read_spec(path: Path) -> Spec:
    """The specification in a TOML file. Raises `SweepError`."""
    try:
        spec = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Spec)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SweepError(f"cannot read {path}: {error}") from error
    except msgspec.ValidationError as error:
        raise SweepError(f"{path}: {error}") from error
    for table in spec.vary:
        lengths = {key: len(values) for key, values in table.items()}
        if not lengths or min(lengths.values()) < 1 or len(set(lengths.values())) > 1:
            raise SweepError(
                f"{path}: the keys of one [[vary]] go together and need equally many values, at "
                f"least one; there are {lengths or 'none'}"
            )
    names = [key for table in spec.vary for key in table]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise SweepError(f"{path}: {doubled[0]} is varied in two tables")
    walk = spec.walk_forward
    if walk and walk.kinds and walk.embargo_bars < (horizon := walk.options.get("horizon_bars", 5)):
        raise SweepError(
            f"{path}: walk_forward.embargo_bars = {walk.embargo_bars} is below the horizon of "
            f"{horizon} bars: outcomes of the train span would reach into the test span"
        )
    if walk and walk.kinds and spec.bundles:
        raise SweepError(f"{path}: give either bundles or walk_forward.kinds, which trains them")
    return spec


def windows(times: np.ndarray[Any, Any], walk: WalkForward) -> list[Window]:
    """The windows that fit into a record, given its open times [n], each once, ascending.

    >>> walk = WalkForward(train_bars=4, embargo_bars=1, test_bars=2)
    >>> windows(np.arange(10), walk)
    [Window(number=0, train_from_ms=0, train_to_ms=4, test_from_ms=5, test_to_ms=7), \
Window(number=1, train_from_ms=2, train_to_ms=6, test_from_ms=7, test_to_ms=9)]
    """
    roll, made = walk.roll_bars or walk.test_bars, list[Window]()
    ends = [*times.tolist(), int(times[-1]) + 1] if len(times) else []
    for start in range(0, len(times), roll):
        tested = start + walk.train_bars + walk.embargo_bars
        if tested + walk.test_bars > len(times):
            break
        span = (ends[start], ends[start + walk.train_bars])
        made.append(Window(len(made), *span, ends[tested], ends[tested + walk.test_bars]))
    return made


def plans(sweep: Sweep) -> list[Plan]:
    """All trials, in the one order that they are known by. Raises `SweepError`."""
    spec = sweep.spec
    axes = [
        [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        for table in spec.vary
    ]
    cut: Sequence[Window | None] = [None]
    times = _open_times(sweep)
    if spec.walk_forward is not None:
        cut = windows(times, spec.walk_forward)
        if not cut:
            raise SweepError(
                f"{sweep.data} is too short for one window of walk_forward: train_bars, "
                "embargo_bars and test_bars together are more than it has"
            )
    choices = list(itertools.product(cut, spec.bundles or [""], *axes))
    if len(choices) > MOST_TRIALS:
        raise SweepError(f"{len(choices)} trials are more than {MOST_TRIALS}: vary less at once")
    return [
        Plan(number, {key: value for one in some for key, value in one.items()}, bundles, window)
        for number, (window, bundles, *some) in enumerate(choices)
    ]


def run_sweep(
    sweep: Sweep,
    executor: Executor,
    report: Callable[[str, int, int], None],
    keeper: Keeper | None = None,
) -> Table:
    """Train what is to be trained, make all trials, and correct for how many they were.

    `report(stage, done, all)` is told how far it is. Trials that `keeper` has are not made again;
    it is given the others as they come to an end. Raises `SweepError` and `ConfigError` before the
    first trial, never for one that fails.
    """
    every = plans(sweep)
    trials = [_trial(sweep, plan) for plan in every]
    outcomes = dict(keeper.outcomes) if keeper else {}
    todo = [plan for plan in every if plan.number not in outcomes]
    untrained = _trained(sweep, todo, executor, report)
    errors = {
        plan.number: f"training: {untrained[plan.window.number]}"
        for plan in todo
        if plan.window is not None and plan.window.number in untrained
    }
    able = [plan for plan in todo if plan.number not in errors]
    jobs = [trials[plan.number] for plan in able]
    before = len(outcomes)
    for count, done in enumerate(executor.run(run_trial, jobs, sweep.spec.retries), start=1):
        number = able[done.place].number
        if done.result is None:
            errors[number] = done.error
        else:
            outcomes[number] = done.result
            if keeper is not None:
                keeper.add(number, done.result)
        report("trials", before + count, before + len(able))
    return _corrected(every, outcomes, errors)


def _trained(
    sweep: Sweep,
    todo: Sequence[Plan],
    executor: Executor,
    report: Callable[[str, int, int], None],
) -> dict[int, str]:
    """Train the agents of each window; of those that failed, why."""
    walk = sweep.spec.walk_forward
    if walk is None or not walk.kinds:
        return {}
    if sweep.train is None:
        raise SweepError("walk_forward.kinds: nobody is there to train them")
    cut = {plan.window.number: plan.window for plan in todo if plan.window is not None}
    loaded = sweep.load({})
    jobs = [
        Training(
            window,
            sweep.data.absolute(),
            sweep.spec.symbols,
            sweep.interval,
            walk.kinds,
            walk.options,
            loaded,
            _directory(sweep, window),
        )
        for window in cut.values()
        if not _directory(sweep, window).exists()
    ]
    failed: dict[int, str] = {}
    runs = executor.run(sweep.train, jobs, sweep.spec.retries)
    for count, done in enumerate(runs, start=1):
        if done.error:
            failed[jobs[done.place].window.number] = done.error
        report("trainings", count, len(jobs))
    return failed


def _directory(sweep: Sweep, window: Window) -> Path:
    return sweep.scratch.absolute() / f"window-{window.number:04d}"


def _trial(sweep: Sweep, plan: Plan) -> Trial:
    """What a worker needs. Settings that cannot be are refused here, before anything runs."""
    given, walk, window = dict(plan.settings), sweep.spec.walk_forward, plan.window
    if plan.bundles:
        given["agents.bundles"] = str(Path(plan.bundles).absolute())
    elif walk is not None and walk.kinds and window is not None:
        given["agents.bundles"] = str(_directory(sweep, window))
    start_ms, end_ms = (window.test_from_ms, window.test_to_ms) if window else (0, FOREVER_MS)
    return Trial(
        sweep.load(given),
        sweep.data.absolute(),
        sweep.spec.symbols,
        sweep.interval,
        Wanted(start_ms, end_ms),
        sweep.engine_name,
    )


def _open_times(sweep: Sweep) -> np.ndarray[Any, Any]:
    """Each open time of the record once, ascending [n]. Raises `SweepError`."""
    symbols = sweep.spec.symbols
    parts, seen = [], set[str]()
    for part in FileSource(sweep.data, symbols, sweep.interval).parts():
        parts.append(np.unique(part.open_time))
        seen.update(part.symbol.tolist())
    if missing := [name for name in symbols if name not in seen]:
        raise SweepError(f"{sweep.data} has no bars of {missing[0]}; leave it out of symbols")
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


def _corrected(
    todo: Sequence[Plan], outcomes: Mapping[int, Outcome], errors: Mapping[int, str]
) -> Table:
    """The table, with what each figure is worth among so many.

    The Sharpe ratios of all trials say what the best of them shows by luck (Bailey and López de
    Prado 2014); skill is corrected for the number of tests.
    """
    done = sorted(outcomes)
    ratios = [outcomes[number].figures.sharpe_per_bar for number in done]
    spread = math.sqrt(variance(ratios)) if len(ratios) > 1 else 0.0
    benchmark = best_of_luck(len(ratios), spread)
    tested = [number for number in done if outcomes[number].figures.skill_p is not None]
    p_values = [outcomes[number].figures.skill_p or 0.0 for number in tested]
    by_holm = dict(zip(tested, holm(p_values).tolist(), strict=True))
    by_bh = dict(zip(tested, benjamini_hochberg(p_values).tolist(), strict=True))
    rows = []
    for plan in todo:
        number = plan.number
        if number not in outcomes:
            rows.append(Row(plan, None, errors[number]))
            continue
        outcome = outcomes[number]
        deflated = probabilistic_sharpe(outcome.moments, benchmark)
        found = (deflated, by_holm.get(number), by_bh.get(number))
        rows.append(Row(plan, outcome.figures, "", *found))
    return Table(rows, len(done), benchmark)


def columns(table: Table) -> Iterator[tuple[str, list[Any]]]:
    """The table by column: what is varied, the figures, what they are worth, and errors."""
    rows = table.rows
    yield "trial", [row.plan.number for row in rows]
    for key in dict.fromkeys(key for row in rows for key in row.plan.settings):
        yield key, [_cell(row.plan.settings.get(key)) for row in rows]
    yield "bundles", [row.plan.bundles or None for row in rows]
    for field in Window._fields:
        name = "window" if field == "number" else field
        yield name, [getattr(row.plan.window, field) if row.plan.window else None for row in rows]
    for field in Figures.__struct_fields__:
        yield field, [getattr(row.figures, field) if row.figures else None for row in rows]
    yield "skill_p_holm", [row.skill_holm for row in rows]
    yield "skill_p_bh", [row.skill_bh for row in rows]
    yield "deflated_sharpe", [row.deflated for row in rows]
    yield "lucky_sharpe_per_bar", [table.benchmark if row.figures else None for row in rows]
    yield "trials", [table.trials for _ in rows]
    yield "error", [row.error or None for row in rows]


def _cell(value: Any) -> str | float | None:
    """A varied value: a number as one, all else as JSON."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return None if value is None else float(value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
