"""What work on Redis takes: time and CPU of client and server, and bytes of the AOF."""

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import Timing
from quantum_ai_engine.daemon.client import Client


@dataclass
class Cost:
    """What work took, run by run: seconds of several kinds, and bytes of the AOF."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    commands: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    aof: list[float] = field(default_factory=list)

    async def measure(
        self, client: Client, of: Sequence[str], work: Callable[[], Awaitable[None]]
    ) -> None:
        """Add a run; of the server's commands those are counted that `of` names."""
        before = await _server(client, of)
        wall, cpu = time.perf_counter(), time.process_time()
        await work()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        after = await _server(client, of)
        for values, a, b in zip((self.commands, self.server, self.aof), before, after, strict=True):
            values.append(b - a)

    def bytes_per(self, units: int) -> str:
        return f"{statistics.median(self.aof) / units:,.0f}"


async def _server(client: Client, of: Sequence[str]) -> tuple[float, float, float]:
    """Seconds in these commands, CPU seconds of the main thread, bytes of the AOF."""
    info: dict[str, Any] = await client.info("all")
    commands = sum(info.get(f"cmdstat_{name}", {"usec": 0})["usec"] for name in of) / 1e6
    cpu = info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]
    return commands, cpu, info["aof_current_size"] + info["aof_buffer_length"]


def show(values: Sequence[float], units: int = 1, unit: str = "µs") -> str:
    """Seconds for so many units of work, per unit: the median over runs, lowest and highest."""
    each = [value / units for value in values]
    return Timing(statistics.median(each), min(each), max(each)).show(unit)
