"""The root of all commands, and how each of them fails: in one sentence."""

import sys
from importlib import import_module

import typer

from quantum_ai_engine.cli.common import CommandError, UsageError
from quantum_ai_engine.config import ConfigError

FAILED, USAGE, BAD_CONFIGURATION = 1, 2, 78
# Command → the module that has it, as a function of the same name or as a group.
MODULES = {
    "serve": "serve",
    "demo": "demo",
    "feed": "feed",
    "watch": "watch",
    "train": "train",
    "features": "features",
    "replay": "replay",
    "sweep": "sweep",
    "doctor": "doctor",
    "bundle": "bundles",
    "ctl": "ctl",
    "partitions": "partitions",
    "bench": "bench",
    "config": "settings",
}


def build(command: str = "") -> typer.Typer:
    """All commands, or one alone: then what only the others need is not loaded.

    >>> [group.name for group in build("config").registered_groups]
    ['config']
    """
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="A signal engine that proves what it says: live bars in, explained signals out.",
    )
    app.callback()(root)
    for name in [command] if command in MODULES else MODULES:
        module = import_module(f"quantum_ai_engine.cli.{MODULES[name]}")
        if group := getattr(module, "app", None):
            app.add_typer(group, name=name)
        else:
            app.command(name)(getattr(module, name))
    return app


def root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Options that stand before the command."""
    if debug:
        sys.excepthook = sys.__excepthook__


def first_word(arguments: list[str]) -> str:
    """The command that is meant: the first word that is no option.

    >>> first_word(["qae", "--debug", "ctl", "status"])
    'ctl'
    """
    return next((word for word in arguments[1:] if not word.startswith("-")), "")


def main() -> None:
    """Run a command."""
    run(build(first_word(sys.argv)))


def run(app: typer.Typer) -> None:
    """Run it; an expected failure is one sentence on standard error and an exit code."""
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv or not _is_expected(error):
            raise
        print(f"quantum-ai-engine: {error}", file=sys.stderr)
        sys.exit(_exit_code(error))


def _is_expected(error: Exception) -> bool:
    """Whether an error is a sentence for whoever gave the command."""
    if isinstance(error, (ConfigError, CommandError)):
        return True
    from quantum_ai_engine.agents.bundle import BundleError
    from quantum_ai_engine.daemon.embedded import EmbeddedRedisError
    from quantum_ai_engine.market.files import BarFileError

    return isinstance(error, (BundleError, BarFileError, EmbeddedRedisError))


def _exit_code(error: Exception) -> int:
    if isinstance(error, ConfigError):
        return BAD_CONFIGURATION
    return USAGE if isinstance(error, UsageError) else FAILED
