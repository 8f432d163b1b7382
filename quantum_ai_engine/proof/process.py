"""A real `serve`, started from here, and what it says of itself."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from quantum_ai_engine.config import ENVIRONMENT_PREFIX, environment_name

READY, RESTORED = "ready", "state_restored"
STOP_WITHIN_S = 60.0  # the end of a process with torch takes seconds, on a busy machine many
LAST_WORDS, LINE_BYTES = 5, 1 << 20
PR_SET_PDEATHSIG = 1
OWNERSHIP_LOST = 1
# What a service manager tells the process that it started; it is not meant for our children.
MANAGERS = (
    "CREDENTIALS_DIRECTORY",
    "JOURNAL_STREAM",
    "NOTIFY_SOCKET",
    "STATE_DIRECTORY",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


class ProofError(Exception):
    """Why a fault run cannot go on: one sentence."""


class Said(msgspec.Struct, frozen=True):
    """A line of the engine's log, as far as it matters here."""

    time: datetime
    message: str
    event: str = ""
    position: str | None = None
    state_hash: str | None = None
    bars: int = 0

    @property
    def at_ms(self) -> int:
        return round(self.time.timestamp() * 1000)


class EngineProcess:
    """One `python -m quantum_ai_engine serve`, which ends when we end.

    `restored` holds its lines of restored states, `ready` the one with which it became ready;
    `spawned_ms` is when it was started, `bars_wait` whether there was something to do by then.
    """

    def __init__(self, environ: Mapping[str, str], *, bars_wait: bool = False) -> None:
        self.spawned_ms = 0
        self.bars_wait = bars_wait
        self.ready: Said | None = None
        self.restored: list[Said] = []
        self._environ = environ
        self._process: Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._words: deque[str] = deque(maxlen=LAST_WORDS)

    async def start(self) -> None:
        """Start it; it is not waited for."""
        self.spawned_ms = time.time_ns() // 1_000_000
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "quantum_ai_engine", "serve"),
            env=self._environ,
            stdin=DEVNULL,
            stderr=PIPE,
            limit=LINE_BYTES,
            # Ctrl-C reaches a terminal's whole group; the children are ended by us.
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()),
        )
        self._listening = asyncio.create_task(self._listen())

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.returncode if self._process is not None else None

    @property
    def lost_its_place(self) -> bool:
        """Whether it ended, having been ready, as one does that no longer owns the partition."""
        return self.status == OWNERSHIP_LOST and self.ready is not None

    @property
    def last_words(self) -> str:
        return " | ".join(self._words) or "nothing"

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.status is None:
            self._running.send_signal(number)

    async def ended(self) -> int:
        """Return once it has ended and been heard to the end, with its exit status."""
        assert self._listening is not None
        status = await self._running.wait()
        await self._listening
        return status

    async def kill(self) -> None:
        """As `kill -9`."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        """As a service manager stops it; killed if it does not end."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_WITHIN_S):
                await self._running.wait()
        self.send(signal.SIGKILL)
        return await self.ended()

    @property
    def _running(self) -> Process:
        assert self._process is not None, "it has not been started"
        return self._process

    async def _listen(self) -> None:
        assert self._running.stderr is not None
        async for line in self._running.stderr:
            try:
                self._hear(msgspec.json.decode(line, type=Said))
            except msgspec.DecodeError:  # not of the log, or cut off by a kill
                self._words.append(line.decode(errors="replace").strip())

    def _hear(self, said: Said) -> None:
        if said.event == READY:
            self.ready = said
        elif said.event == RESTORED:
            self.restored.append(said)
        else:
            self._words.append(said.message)


def environ_of(settings: Mapping[str, Any], base: Mapping[str, str]) -> dict[str, str]:
    """An environment with these settings, dotted key → value, and no other ones of ours.

    >>> environ_of({"ingest.batch": 20}, {"QAE_REDIS__URL": "x", "HOME": "/root"})
    {'HOME': '/root', 'QAE_INGEST__BATCH': '20'}
    """
    kept = {
        name: value
        for name, value in base.items()
        if not name.startswith(ENVIRONMENT_PREFIX) and name not in MANAGERS
    }
    return kept | {environment_name(key): str(value) for key, value in settings.items()}


def _dying_with(parent: int) -> Callable[[], None]:
    """What a child does between fork and exec so that it ends when `parent` ends."""
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: after it only calls are safe
    prctl.argtypes = (ctypes.c_int, ctypes.c_ulong)
    sigkill = int(signal.SIGKILL)

    def prepare() -> None:
        # A parent that died before the call is not reported, hence the look afterwards.
        if prctl(PR_SET_PDEATHSIG, sigkill) != 0 or os.getppid() != parent:
            os._exit(1)

    return prepare
