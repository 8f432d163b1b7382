"""The kill switch that needs no Redis client: a file in the state directory."""

import asyncio
from pathlib import Path

import structlog

NAME = "HALT"
LOOK_EVERY_S = 1.0

log = structlog.get_logger()


class KillSwitch:
    """Whether the file `HALT` is in the state directory.

    While it is, each partition is told to halt before it reads any further, and `resume` is
    refused. The command goes the way of every other, by the control stream, so that a restart has
    it in its place. Resuming takes two: the file is removed, and `resume` is told.
    """

    def __init__(self, directory: Path) -> None:
        self.file = directory / NAME
        self.is_on = False

    async def look(self) -> None:
        """See whether the file is there."""
        was, self.is_on = self.is_on, await asyncio.to_thread(self.file.exists)
        if self.is_on and not was:
            log.warning(f"The file {self.file} halts the engine", event_name="halt_file")

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)
