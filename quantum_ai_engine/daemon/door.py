"""A unix socket on which `qae ctl` reaches exactly this process, and gets its answer.

One line in, one line of JSON out. It lies in a directory that belongs to the user alone, by the
name of the process: systemd's RuntimeDirectory=, else `quantum-ai-engine` in XDG_RUNTIME_DIR, else
in the directory of temporary files.
"""

import asyncio
import contextlib
import json
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

WORD_BYTES, WORD_WITHIN_S = 256, 5.0
Answer = Callable[[str], Awaitable[dict[str, Any]]]

log = structlog.get_logger()


def runtime_dir(environ: Mapping[str, str]) -> Path:
    """Where the sockets lie.

    >>> runtime_dir({"RUNTIME_DIRECTORY": "/run/quantum-ai-engine"}).as_posix()
    '/run/quantum-ai-engine'
    """
    if given := environ.get("RUNTIME_DIRECTORY"):
        return Path(given.partition(":")[0])
    if own := environ.get("XDG_RUNTIME_DIR"):
        return Path(own) / "quantum-ai-engine"
    return Path(tempfile.gettempdir()) / f"quantum-ai-engine-{os.getuid()}"


def socket_of(directory: Path, pid: int) -> Path:
    """The socket of a process."""
    return directory / f"{pid}.sock"


@contextlib.asynccontextmanager
async def listening(directory: Path, answer: Answer) -> AsyncIterator[Path | None]:
    """Listen while the context lasts; where no socket can be made, the log says so."""
    path = socket_of(directory, os.getpid())
    try:
        _make_private(directory)
        _sweep(directory)
        server = await asyncio.start_unix_server(
            lambda *streams: _serve(answer, *streams), path, limit=WORD_BYTES
        )
    except OSError as error:
        log.warning(
            f"`qae ctl reload` cannot reach this engine, SIGHUP can: no socket at {path}",
            event_name="no_control_socket",
            detail=str(error),
        )
        yield None
        return
    try:
        yield path
    finally:
        server.close()
        path.unlink(missing_ok=True)


def engines(directory: Path) -> dict[int, Path]:
    """The sockets in a directory, by process."""
    return {int(one.stem): one for one in sorted(directory.glob("*.sock")) if one.stem.isdigit()}


def ask(path: Path, word: str, timeout_s: float | None) -> dict[str, Any] | None:
    """What the process behind a socket answers to a word; None, when `timeout_s` is None.

    Raises `OSError` when nobody listens, or does not answer in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(timeout_s or WORD_WITHIN_S)
        channel.connect(str(path))
        channel.sendall(f"{word}\n".encode())
        if timeout_s is None:
            return None
        with channel.makefile("rb") as reply:
            line = reply.readline()
    if not line:
        raise ConnectionError("it hung up without an answer")
    answer: dict[str, Any] = json.loads(line)
    return answer


async def _serve(
    answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One who asks; what is asked is done to its end, also when it is no longer waited for."""
    with contextlib.suppress(OSError, ValueError, TimeoutError):
        async with asyncio.timeout(WORD_WITHIN_S):
            word = (await reader.readline()).decode().strip()
        writer.write(json.dumps(await answer(word)).encode() + b"\n")
        await writer.drain()
    writer.close()


def _make_private(directory: Path) -> None:
    """A directory into which nobody else can put anything. Raises `OSError`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_real, found = not directory.is_symlink(), directory.stat()
    if not is_real or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise PermissionError(f"{directory} is not this user's alone; remove it")


def _sweep(directory: Path) -> None:
    """Remove the sockets of processes that are gone."""
    for pid, path in engines(directory).items():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except PermissionError:
            pass  # somebody else's process has the number now: it is swept another time
