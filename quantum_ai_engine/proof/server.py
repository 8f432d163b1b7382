"""A Redis that is killed and started again on the same data, and an AOF that loses its end."""

import os
import signal
from pathlib import Path

from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.proof.process import ProofError


class MortalRedis:
    """A server of our own; as a context it is started, and stopped at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = EmbeddedRedis(directory)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def socket(self) -> Path:
        return self._server.socket

    @property
    def aof(self) -> Path:
        return self._directory / "appendonly.aof"

    async def start(self) -> None:
        self._server = EmbeddedRedis(self._directory)
        await self._server.__aenter__()

    async def stop(self) -> None:
        await self._server.__aexit__(None, None, None)

    async def kill(self) -> None:
        """As `kill -9`; what it had acknowledged is in its file, since only the process dies."""
        os.kill(self._server.pid, signal.SIGKILL)
        await self._server.wait()
        await self._server.__aexit__(None, None, None)

    async def settled(self, client: Client) -> int | None:
        """How many bytes of the AOF come from its last rewrite; None while it is rewritten.

        A crash may have cut the file only beyond them: they were moved into place as a whole.
        """
        facts = await client.info("persistence")
        if facts["aof_rewrite_in_progress"] or facts["aof_rewrite_scheduled"]:
            return None
        if not self.aof.exists():
            raise ProofError(
                "AOF tails are cut in the single file of Redis 6.2, and this server keeps several; "
                "pip install 'quantum-ai-engine[embedded]'"
            )
        return int(facts["aof_base_size"])

    def cut(self, kept: int, lost: int) -> int:
        """Cut up to `lost` bytes off the AOF of the killed server, and none of the first `kept`."""
        size = self.aof.stat().st_size
        cut = max(0, min(lost, size - kept))
        os.truncate(self.aof, size - cut)
        return cut
