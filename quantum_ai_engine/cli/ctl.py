"""`qae ctl`: see how a running engine is, and tell it what to do."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from quantum_ai_engine.cli import status
from quantum_ai_engine.cli.common import (
    CommandError,
    ConfigOption,
    SetOption,
    load_settings,
    redis_client,
)
from quantum_ai_engine.config import ConfigError, Settings
from quantum_ai_engine.daemon import door
from quantum_ai_engine.daemon.client import Unreachable
from quantum_ai_engine.daemon.commands import tell_all
from quantum_ai_engine.events import Command

RELOAD_WITHIN_S = 60.0  # pausing, handing over and saving the state of many series

app = typer.Typer(no_args_is_help=True, help="See how a running engine is; tell it what to do.")
app.command()(status.status)


@app.command()
def halt(config: ConfigOption = None, assignments: SetOption = None) -> None:
    """From the next bars on all targets are flat, also after a restart, until `resume`."""
    _tell(load_settings(config, assignments).settings, Command.HALT)


@app.command()
def reduce(config: ConfigOption = None, assignments: SetOption = None) -> None:
    """From the next bars on no target grows or changes sides, until `resume`."""
    _tell(load_settings(config, assignments).settings, Command.REDUCE)


@app.command()
def resume(config: ConfigOption = None, assignments: SetOption = None) -> None:
    """From the next bars on targets follow the forecasts again; it re-arms what had halted."""
    _tell(load_settings(config, assignments).settings, Command.RESUME)


@app.command()
def reload(
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it is done; exit 78 if it is refused.")
    ] = False,
    pid: Annotated[
        int | None, typer.Option(help="Of which engine; needed if several run.", show_default=False)
    ] = None,
) -> None:
    """Let the engine read its settings again, as SIGHUP does: all of them or, if refused, none."""
    path = _engine(door.runtime_dir(os.environ), pid)
    try:
        answer = door.ask(path, "reload", RELOAD_WITHIN_S if wait else None)
    except (OSError, ValueError) as error:
        raise CommandError(f"the engine behind {path} does not answer: {error}") from error
    if answer is None:
        typer.echo("asked for a reload; the log says what comes of it")
    elif refused := answer.get("refused"):
        raise ConfigError(f"the settings were not reloaded: {refused}")
    else:
        changed = ", ".join(answer["changed"]) or "nothing was changed"
        typer.echo(f"settings {answer['generation']} ({answer['config_hash']}): {changed}")


def _engine(directory: Path, pid: int | None) -> Path:
    """The socket of the engine that is meant."""
    found = door.engines(directory)
    if pid is not None and pid in found:
        return found[pid]
    if pid is None and len(found) == 1:
        return next(iter(found.values()))
    if pid is None and found:
        raise CommandError(f"several engines run here; give --pid, one of {_listed(found)}")
    whose = "engine of this user" if pid is None else f"engine with process id {pid}"
    raise CommandError(
        f"no {whose} has a socket in {directory}; under systemd use `systemctl reload`"
    )


def _listed(found: dict[int, Path]) -> str:
    return ", ".join(map(str, sorted(found)))


def _tell(settings: Settings, command: Command) -> None:
    try:
        silent = asyncio.run(_send(settings, command))
    except Unreachable as error:
        raise CommandError(f"Redis cannot serve: {error}") from error
    partitions = settings.redis.partitions
    if silent:
        raise CommandError(
            f"{command} is in the control stream, but no engine has a heartbeat in partition "
            f"{', '.join(map(str, silent))}; are redis.url, redis.prefix and redis.partitions its?"
        )
    where = "the control stream" if partitions == 1 else f"{partitions} control streams"
    typer.echo(f"{command} is in {where}; the engine takes it with its next read")


async def _send(settings: Settings, command: Command) -> list[int]:
    async with redis_client(settings) as client:
        return await tell_all(client, settings, command)
