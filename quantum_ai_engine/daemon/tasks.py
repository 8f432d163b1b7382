"""Ending tasks for certain."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 0.05


async def end(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel tasks until they have ended; whoever is cancelled meanwhile ends after them.

    Before Python 3.12 `asyncio.wait_for`, which the Redis client uses, may swallow a cancellation.
    """
    pending, cancelled = set(tasks), None
    while pending:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=AGAIN_S)
        except asyncio.CancelledError as error:
            cancelled = error
        pending = {task for task in pending if not task.done()}
    if cancelled is not None:
        raise cancelled
