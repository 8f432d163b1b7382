"""`qae ctl`: tell a running engine what to do."""

import asyncio

import typer

from quantum_ai_engine.cli.common import (
    CommandError,
    ConfigOption,
    SetOption,
    load_settings,
    redis_client,
)
from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Unreachable
from quantum_ai_engine.daemon.controls import tell_all
from quantum_ai_engine.events import Command

app = typer.Typer(no_args_is_help=True, help="Tell a running engine what to do.")


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
