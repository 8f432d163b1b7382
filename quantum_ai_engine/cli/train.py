"""`qae train`: from recorded bars to a verified bundle."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import Progress as ProgressBar

from quantum_ai_engine.cli.common import (
    CommandError,
    ConfigOption,
    SetOption,
    UsageError,
    load_settings,
    progress_bar,
    say,
)
from quantum_ai_engine.config import bundle_dir, state_dir
from quantum_ai_engine.market.files import read_bars
from quantum_ai_engine.market.table import BarTable, UnknownSymbolError
from quantum_ai_engine.training.models.registry import FAMILIES

if TYPE_CHECKING:
    from quantum_ai_engine.training.export import Trained
    from quantum_ai_engine.training.options import Progress, TrainOptions


class Device(StrEnum):
    """Where neural models are fitted."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def train(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(FAMILIES)}.")],
    data: Annotated[Path, typer.Option(help="Bars: a .csv, .csv.gz or .parquet file.")],
    out: Annotated[Path | None, typer.Option(help="Bundle directory; DIR/NAME is written.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the agent; the kind by default.")
    ] = None,
    symbols: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    first: Annotated[float, typer.Option(help="Use only this first fraction of the bars.")] = 1.0,
    symbol: Annotated[str | None, typer.Option(help="Symbol, when the file names none.")] = None,
    interval: Annotated[
        str | None, typer.Option(help="Interval, when the file names none.")
    ] = None,
    horizon: Annotated[int, typer.Option(help="Bars to look ahead.")] = 5,
    epochs: Annotated[int, typer.Option(help="Epochs at most, of neural models.")] = 8,
    samples: Annotated[int | None, typer.Option(help="Windows per epoch; all by default.")] = None,
    dead_zone: Annotated[float, typer.Option(help="Leave out moves of at most this |ln|.")] = 0.0,
    learning_rate: Annotated[float, typer.Option(help="Of neural models.")] = 1e-3,
    device: Annotated[
        Device, typer.Option(help="Where neural models are fitted; auto takes CUDA if present.")
    ] = Device.AUTO,
    report: Annotated[
        Path | None,
        typer.Option(help="Report directory; default: `reports` in the state directory."),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Train an agent and write its bundle: whole and proven, or not at all."""
    settings = load_settings(config, assignments).settings
    if not 0.0 < first <= 1.0:
        raise UsageError(f"--first {first:g} must be above 0, at most 1")
    from quantum_ai_engine.training.options import TrainOptions

    options = _options(
        TrainOptions,
        horizon_bars=horizon,
        epochs=epochs,
        samples_per_epoch=samples,
        dead_zone=dead_zone,
        learning_rate=learning_rate,
        device=device.value,
        seed=seed,
        name=name,
        venues=settings.sessions.by_symbol(),
    )
    table = _table(read_bars(data, symbol=symbol, interval=interval).head(first), symbols, data)
    reported = not no_report and _can_report()
    with progress_bar() as bar:
        trained = train_with_bar(kind, table, out or bundle_dir(settings), options, bar)
    describe(trained)
    if reported:
        _report(trained, report or state_dir(settings) / "reports")


def train_with_bar(
    kind: str, table: BarTable, directory: Path, options: "TrainOptions", bar: ProgressBar
) -> "Trained":
    """Train one agent, shown as one line of a progress bar."""
    from quantum_ai_engine.training.export import train_bundle
    from quantum_ai_engine.training.options import TrainingError

    try:
        return train_bundle(kind, table, directory, options, _shown(bar, kind))
    except TrainingError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"cannot write a bundle to {directory}: {error.strerror}") from error
    except KeyboardInterrupt:
        raise CommandError("stopped: no bundle was written") from None


def describe(trained: "Trained") -> None:
    """Say what came of it and how well it did on held-out bars, good or bad."""
    from quantum_ai_engine.training.report.uncertainty import verdict

    m, score = trained.bundle.manifest, trained.bundle.manifest.held_out
    words, _ = verdict(score, trained.dataset.effective_labels(trained.dataset.test))
    say(
        f"{trained.bundle.path}: Brier {score.brier:.4f} against {score.brier_base_rate:.4f} of "
        f"the base rate {m.base_rate:.3f}; paired {score.paired:+.5f} ± {score.paired_stderr:.5f} "
        f"({words.lower()}), AUC {score.auc:.3f}, bias {score.bias:+.4f}, on {score.samples} "
        "held-out bars\n"
        f"labels: {m.labels.rose} rose, {m.labels.fell} fell, {m.labels.masked} masked; "
        f"{trained.dataset.crossing} windows crossed a gap"
    )


def _table(table: BarTable, symbols: str | None, data: Path) -> BarTable:
    """The bars of some symbols, separated by commas, or all."""
    if not symbols:
        return table
    try:
        return table.only(symbol.strip() for symbol in symbols.split(","))
    except UnknownSymbolError as error:
        raise CommandError(f"{data}: {error}") from error


def _can_report() -> bool:
    """Whether a report can be drawn here; that it cannot is better said before the training."""
    from quantum_ai_engine.training.options import TrainingError
    from quantum_ai_engine.training.report.plots import require_matplotlib

    try:
        require_matplotlib()
    except TrainingError as error:
        say(f"no report will be written: {error}")
        return False
    return True


def _report(trained: "Trained", directory: Path) -> None:
    """Write the report; a bundle is whole without one, so that its failure is only said."""
    from quantum_ai_engine.training.options import TrainingError
    from quantum_ai_engine.training.report.report import write_report

    try:
        with progress_bar() as bar:
            task = bar.add_task("report", total=None, note="")
            path = write_report(
                trained,
                directory,
                lambda done, steps: bar.update(task, completed=done, total=steps),
            )
    except TrainingError as error:
        say(f"no report: {error}")
    except OSError as error:
        say(f"no report: {error.strerror}: {error.filename or directory}")
    except KeyboardInterrupt:
        say("no report: stopped")
    else:
        say(f"report: {path}")


def _options(make: type["TrainOptions"], **values: object) -> "TrainOptions":
    from quantum_ai_engine.training.options import TrainingError

    try:
        return make(**values)  # type: ignore[arg-type]
    except TrainingError as error:
        raise UsageError(str(error)) from error


def _shown(bar: ProgressBar, kind: str) -> Callable[["Progress"], None]:
    task = bar.add_task(f"training {escape(kind)}", total=None, note="")

    def show(progress: "Progress") -> None:
        done = (progress.epoch - 1) * progress.steps + progress.step
        loss = f"loss {progress.train_loss:.4f}"
        if progress.validation_loss is not None:
            loss = f"validation loss {progress.validation_loss:.4f}"
        bar.update(
            task,
            total=progress.epochs * progress.steps,
            completed=done,
            note=f"epoch {progress.epoch}/{progress.epochs} {loss}",
        )

    return show
