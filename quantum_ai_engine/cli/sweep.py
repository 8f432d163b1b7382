"""`qae sweep`: many replays of one record, and what is left when it is counted how many."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from quantum_ai_engine.cli.common import (
    CommandError,
    ConfigOption,
    SetOption,
    UsageError,
    load_settings,
    progress_bar,
    say,
)
from quantum_ai_engine.config import Loaded
from quantum_ai_engine.daemon.build import build_id, version
from quantum_ai_engine.replay.executors import Executor, ExecutorError, Processes, RayCluster
from quantum_ai_engine.replay.finished import Finished, asked
from quantum_ai_engine.replay.sweep import (
    Sweep,
    SweepError,
    Table,
    Training,
    read_spec,
    run_sweep,
)
from quantum_ai_engine.replay.sweep_page import page_of, verdict, write_table
from quantum_ai_engine.report.chart import missing_library
from quantum_ai_engine.report.files import write_whole

FAILED = 1


def sweep(
    spec: Annotated[Path, typer.Argument(help="What to vary (TOML), see docs/sweep.md.")],
    data: Annotated[Path, typer.Option(help="Bars in time order: .csv, .csv.gz or .parquet.")],
    out: Annotated[Path, typer.Option(help="The .parquet file to write; a page comes beside it.")],
    interval: Annotated[
        str | None, typer.Option(help="Interval, when the file names none.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes.", min=1, show_default="one per core")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on this Ray cluster: auto, host:port."),
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Try settings, bundles and walk-forward windows; say what is left after so many tries.

    A sweep that was interrupted goes on where it was when it is given again.
    """
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out}: name a .parquet file")
    if ray is not None and workers is not None:
        raise UsageError("--workers and --ray: a Ray cluster has its own number of workers")
    if (missing := missing_library()) is not None:
        raise CommandError(f"the page needs {missing}: pip install 'quantum-ai-engine[report]'")
    if not data.is_file():
        raise UsageError(f"--data {data}: there is no such file")
    base = load_settings(config, assignments)

    def load(values: Mapping[str, Any]) -> Loaded:
        written = [f"{key}={_written(value)}" for key, value in values.items()]
        return load_settings(config, [*(assignments or []), *written]) if written else base

    scratch = out.with_name(f".{out.stem}-unfinished")
    executor: Executor = RayCluster(ray) if ray else Processes(workers or _cores())
    finished = Finished(scratch)
    with _in_a_sentence(scratch):
        made = Sweep(
            read_spec(spec), data, interval, load, f"{version()}+{build_id()}", scratch, train
        )
        finished.begin(asked(made))
        if finished.outcomes:
            say(f"going on: {len(finished.outcomes)} trials had come to an end before")
        try:
            table = _with_bar(made, executor, finished)
        finally:
            finished.leave()
    _write(out, f"{spec.stem}: {data.name}", table)
    finished.remove()
    failed = sum(row.figures is None for row in table.rows)
    to = Console()
    for sentence in verdict(table):
        say(sentence, to)
    say(f"{len(table.rows)} trials in {out} and {out.with_suffix('.html')}", to)
    if failed:
        say(f"{failed} of them failed; the column error says why", to)
        raise typer.Exit(FAILED)


@contextlib.contextmanager
def _in_a_sentence(scratch: Path) -> Iterator[None]:
    """What keeps a sweep from its end is said, without a traceback."""
    try:
        yield
    except (SweepError, ExecutorError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename or scratch}: {error.strerror}") from error
    except KeyboardInterrupt:
        raise CommandError("stopped: the same command goes on from here") from None


def train(job: Training) -> None:
    """Train the agents of a window, all or none; in a worker.

    Whoever is the first to have done so counts: one that was left behind may still be at it.
    """
    import torch

    from quantum_ai_engine.market.files import read_bars
    from quantum_ai_engine.training.export import train_bundle
    from quantum_ai_engine.training.options import TrainingError, TrainOptions

    torch.set_num_threads(1)  # sums hang on how many there are, and tables must not
    named = job.symbols[0] if len(job.symbols) == 1 else None
    table = read_bars(job.data, symbol=named, interval=job.interval)
    if job.symbols:
        table = table.only(job.symbols)
    times = table.open_time
    table = table.where((times >= job.window.train_from_ms) & (times < job.window.train_to_ms))
    venues = job.loaded.settings.sessions.by_symbol()
    options = TrainOptions(**{"venues": venues, "device": "cpu", **job.options})  # type: ignore[arg-type]
    own = job.directory.with_name(f".{job.directory.name}-{uuid.uuid4().hex}")
    try:
        for kind in job.kinds:
            try:
                train_bundle(kind, table, own, options, lambda _: None)
            except TrainingError as error:
                window = job.window.number
                raise TrainingError(f"{kind} in window {window}: {error}") from error
        if not job.directory.exists():
            own.rename(job.directory)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _written(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_written, value))
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _with_bar(made: Sweep, executor: Executor, finished: Finished) -> Table:
    with progress_bar() as bar:
        tasks = {name: bar.add_task(name, total=None, note="") for name in ("trainings", "trials")}

        def report(stage: str, done: int, of: int) -> None:
            bar.update(tasks[stage], completed=done, total=of)

        return run_sweep(made, executor, report, finished)


def _write(out: Path, title: str, table: Table) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_table(out, table)
        write_whole(out.with_suffix(".html"), page_of(title, table).encode())
    except OSError as error:
        raise CommandError(f"cannot write {out}: {error.strerror}") from error
