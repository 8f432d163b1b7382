"""A Redis Cluster on this machine: masters with a replica each, that die with the test."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from quantum_ai_engine.daemon.embedded import PR_SET_PDEATHSIG, find_server

SLOTS = 16_384
BUS = 10_000  # the port of the cluster's own bus is so much higher
NODE_TIMEOUT_MS = 1000
PATIENCE_S = 30.0


class Node:
    """One server of the cluster."""

    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}"
        self.client: Redis = Redis.from_url(self.url, socket_timeout=2.0)
        self.process: subprocess.Popen[bytes] | None = None
        self._directory = directory

    def start(self) -> None:
        self._directory.mkdir(exist_ok=True)
        with (self._directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [find_server(), *self._arguments()],
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_dies_with_us(),  # noqa: PLW1509 (it makes system calls only)
            )

    def _arguments(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self._directory,
            "save": "",
            "appendonly": "yes",
            "cluster-enabled": "yes",
            "cluster-node-timeout": NODE_TIMEOUT_MS,
        }
        return [word for key, value in options.items() for word in (f"--{key}", str(value))]

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    async def close(self) -> None:
        await self.client.aclose()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    async def ask(self, *words: Any) -> Any:
        return await self.client.execute_command(*words)

    async def role(self) -> str:
        """`master` or `slave`, as Redis has it."""
        return str((await self.client.info("replication"))["role"])


class Cluster:
    """Masters with one replica each; slots in equal shares."""

    def __init__(self, masters: list[Node], replicas: list[Node]) -> None:
        self.masters = masters
        self.replicas = replicas

    @property
    def nodes(self) -> list[Node]:
        return [*self.masters, *self.replicas]

    def home(self, partition: int) -> Node:
        """The master that got the slot of a partition when the cluster was made."""
        return self.masters[key_slot(str(partition).encode()) * len(self.masters) // SLOTS]

    async def move(self, partition: int, target: Node) -> None:
        """Give the slot of a partition, with its keys, to another master."""
        slot, source = key_slot(str(partition).encode()), self.home(partition)
        there, here = await target.ask("CLUSTER MYID"), await source.ask("CLUSTER MYID")
        await target.ask("CLUSTER SETSLOT", slot, "IMPORTING", here)
        await source.ask("CLUSTER SETSLOT", slot, "MIGRATING", there)
        while keys := await source.ask("CLUSTER GETKEYSINSLOT", slot, 100):
            await source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in self.masters:
            await node.ask("CLUSTER SETSLOT", slot, "NODE", there)

    async def _join(self) -> None:
        """Make one cluster of the nodes."""
        await until(lambda: _all(node.client.ping() for node in self.nodes))
        first = [-(-i * SLOTS // len(self.masters)) for i in range(len(self.masters) + 1)]
        for i, master in enumerate(self.masters):
            await master.ask("CLUSTER ADDSLOTS", *range(first[i], first[i + 1]))
        for i, node in enumerate(self.nodes):
            await node.ask("CLUSTER SET-CONFIG-EPOCH", i + 1)
            await node.ask("CLUSTER MEET", "127.0.0.1", self.masters[0].port)
        await until(lambda: _all(self._knows_all(node) for node in self.nodes))
        for master, replica in zip(self.masters, self.replicas, strict=True):
            await replica.ask("CLUSTER REPLICATE", await master.ask("CLUSTER MYID"))
        await until(lambda: _all(self._is_up(node) for node in self.nodes))
        await until(lambda: _all(_is_synchronous(node) for node in self.replicas))

    async def _knows_all(self, node: Node) -> bool:
        known = (await node.ask("CLUSTER NODES")).values()
        return len(known) == len(self.nodes) and all(n["connected"] for n in known)

    async def _is_up(self, node: Node) -> bool:
        return bool((await node.ask("CLUSTER INFO"))["cluster_state"] == "ok")


@contextlib.asynccontextmanager
async def cluster(directory: Path, masters: int = 3) -> AsyncIterator[Cluster]:
    """A cluster that serves, ended with the context."""
    nodes = [Node(directory / f"{port}", port) for port in _free_ports(2 * masters)]
    made = Cluster(nodes[:masters], nodes[masters:])
    try:
        for node in nodes:
            node.start()
        await made._join()
        yield made
    finally:
        for node in nodes:
            await node.close()


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition, for a bounded time; who does not answer has not fulfilled it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(RedisError, OSError):
                if await condition():
                    return
            await asyncio.sleep(0.02)


async def _all(conditions: Any) -> bool:
    return all([await condition for condition in conditions])


async def _is_synchronous(replica: Node) -> bool:
    return bool((await replica.client.info("replication"))["master_link_status"] == "up")


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, and so is the one of the bus that belongs to each."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        for port in range(20_000 + os.getpid() % 20_000, 55_000):
            pair = [held.enter_context(socket.socket()) for _ in range(2)]
            with contextlib.suppress(OSError):
                pair[0].bind(("127.0.0.1", port))
                pair[1].bind(("127.0.0.1", port + BUS))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise AssertionError("there are no free ports")


def _dies_with_us() -> Callable[[], None]:
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        if prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL)) != 0 or os.getppid() != parent:
            os._exit(1)

    return prepare
