"""The root of all commands, and how each of them fails: in one sentence."""

import sys

import typer

from quantum_ai_engine.agents.bundle import BundleError
from quantum_ai_engine.cli import (
    bench,
    bundles,
    ctl,
    demo,
    doctor,
    features,
    feed,
    partitions,
    serve,
    settings,
    train,
    watch,
)
from quantum_ai_engine.cli.common import CommandError, UsageError
from quantum_ai_engine.config import ConfigError
from quantum_ai_engine.daemon.embedded import EmbeddedRedisError
from quantum_ai_engine.market.files import BarFileError

FAILED, USAGE, BAD_CONFIGURATION = 1, 2, 78

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A signal engine that proves what it says: live bars in, explained signals out.",
)
app.command()(serve.serve)
app.command()(demo.demo)
app.command()(feed.feed)
app.command()(watch.watch)
app.command()(train.train)
app.command()(features.features)
app.command()(doctor.doctor)
app.add_typer(bundles.app, name="bundle")
app.add_typer(ctl.app, name="ctl")
app.add_typer(partitions.app, name="partitions")
app.add_typer(bench.app, name="bench")
app.add_typer(settings.app, name="config")


@app.callback()
def root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Options that stand before the command."""
    if debug:
        sys.excepthook = sys.__excepthook__


def main() -> None:
    """Run a command; an expected failure is one sentence on standard error and an exit code."""
    try:
        app()
    except (ConfigError, CommandError, BundleError, BarFileError, EmbeddedRedisError) as error:
        if "--debug" in sys.argv:
            raise
        print(f"quantum-ai-engine: {error}", file=sys.stderr)
        sys.exit(_exit_code(error))


def _exit_code(error: Exception) -> int:
    if isinstance(error, ConfigError):
        return BAD_CONFIGURATION
    return USAGE if isinstance(error, UsageError) else FAILED
