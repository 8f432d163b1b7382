"""`qae partitions`: move the state of all partitions to another number of them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from quantum_ai_engine.cli.common import (
    CommandError,
    ConfigOption,
    SetOption,
    load_settings,
    redis_client,
    say,
)
from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.commit import Conflict, OwnershipLost
from quantum_ai_engine.daemon.partitions import Move, MoveRefusedError, Regroup, delete_old
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import SnapshotError

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True, help="Move the state of all partitions to another number of them."
)


@app.command()
def move(
    to: Annotated[int, typer.Option(help="How many partitions there shall be.", min=1)],
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Move from `redis.partitions` to another number. All engines must be stopped."""
    settings = load_settings(config, assignments).settings
    regroup = _regroup(Calendars(settings.sessions.by_symbol()))
    record = _run(settings, lambda client: Move(client, settings.redis, to, regroup).run())
    say(
        f"moved from {record.before} to {record.after} partitions; set redis.partitions = "
        f"{record.after}, start the engines, then: qae partitions delete-old"
    )


@app.command("delete-old")
def delete(config: ConfigOption = None, assignments: SetOption = None) -> None:
    """Delete what the last move put away."""
    settings = load_settings(config, assignments).settings
    deleted = _run(settings, lambda client: delete_old(client, settings.redis.prefix))
    say(f"deleted {deleted} keys")


def _regroup(calendars: Calendars) -> Regroup:
    from quantum_ai_engine.state.regroup import regroup

    return lambda snapshots, owner_of, partitions: regroup(
        snapshots, calendars, owner_of, partitions
    )


def _run(settings: Settings, work: Callable[[Client], Awaitable[T]]) -> T:
    """Do the work; what keeps it from being done is one sentence."""

    async def connected() -> T:
        async with redis_client(settings) as client:
            return await work(client)

    try:
        return asyncio.run(connected())
    except (MoveRefusedError, SnapshotError, Conflict, OwnershipLost) as error:
        raise CommandError(str(error)) from error
    except Unreachable as error:
        raise CommandError(f"Redis cannot serve ({error}); give the same command again") from error
