"""Tests of the ending of tasks: for certain, whoever overhears it."""

import asyncio
import contextlib

import pytest

from quantum_ai_engine.daemon.tasks import end


async def deaf(times: int) -> None:
    """Overhears so many cancellations."""
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    await asyncio.Event().wait()


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_task_is_told_until_it_hears(times: int) -> None:
    """L47: one cancellation may be swallowed on its way."""
    tasks = [asyncio.create_task(deaf(times)) for _ in range(2)]
    await asyncio.sleep(0)
    await end(tasks)
    assert all(task.cancelled() for task in tasks)


async def test_who_is_cancelled_while_ending_others_ends_after_them() -> None:
    """L47: nothing is left behind, however often one is told."""
    task = asyncio.create_task(deaf(3))
    ending = asyncio.create_task(end([task]))
    await asyncio.sleep(0)
    while not ending.done():
        ending.cancel()
        await asyncio.wait({ending}, timeout=0.001)
    assert ending.cancelled()
    assert task.cancelled()


async def test_what_has_ended_is_left_alone() -> None:
    task = asyncio.create_task(asyncio.sleep(0, "done"))
    assert await task == "done"
    await end([task])
    assert task.result() == "done"
