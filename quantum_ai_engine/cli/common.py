"""What several commands share: options, settings, errors in one sentence, progress bars."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from quantum_ai_engine.config import SECRET_KEYS, ConfigError, Loaded, Settings, load, redis_dir
from quantum_ai_engine.daemon.client import Client, Unreachable, connect

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file (TOML).", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; repeatable."),
]

console = Console(stderr=True)


class CommandError(Exception):
    """A command that cannot go on: one sentence that says what to do."""


class UsageError(CommandError):
    """An option with a value that it cannot have."""


def day_ms(option: str, day: str) -> int:
    """When a day begins, midnight UTC, in ms. Raises `UsageError`, which names the option."""
    try:
        return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError as error:
        raise UsageError(f"{option} {day}: write a day as 2025-01-31") from error


def say(text: str | Text, to: Console = console) -> None:
    """Text as it is: nothing in it is markup, and a long line is not broken."""
    to.print(Text(text) if isinstance(text, str) else text, soft_wrap=True, highlight=False)


def load_settings(config: Path | None, assignments: list[str] | None) -> Loaded:
    """The settings from the file, the environment and `--set`. Raises `ConfigError`."""
    overrides: dict[str, Any] = {}
    for assignment in assignments or []:
        key, mark, value = assignment.partition("=")
        if not mark:
            raise ConfigError(f"--set {assignment}: write KEY=VALUE")
        if key in SECRET_KEYS:
            raise ConfigError(f"--set {key}: a secret does not belong on the command line")
        overrides[key] = value
    return load(config, overrides=overrides)


def redis_address(settings: Settings) -> str:
    """`redis.url`, or the socket of the Redis that a running `serve` has started."""
    return settings.redis.url or f"unix://{redis_dir(settings) / 'redis.sock'}"


@contextlib.asynccontextmanager
async def redis_client(settings: Settings) -> AsyncIterator[Client]:
    """A client that has been answered once. Raises `CommandError` when nobody answers."""
    url = redis_address(settings)
    async with connect(settings.redis, url) as client:
        try:
            await client.ping()
        except Unreachable as error:
            raise CommandError(
                f"no Redis answers at {url} ({error}); start `qae serve`, or set redis.url"
            ) from error
        yield client


def progress_bar() -> Progress:
    """A bar with count, rate and remaining time, on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        transient=False,
    )
