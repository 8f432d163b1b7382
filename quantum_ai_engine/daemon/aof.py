"""The end of an append-only file that a killed server left behind.

A server that is killed while it writes a transaction leaves a part of it. When it loads that, it
cuts off the last command that is not whole, not the transaction: what it writes next is then read,
by the start after next, as the rest of that transaction. So the file is mended before each start.
"""

import os
import re
import subprocess
from pathlib import Path

MENDED_MOST = 64 << 20  # bytes: more than that is no torn transaction, and not for us to throw away
MULTI = b"*1\r\n$5\r\nMULTI\r\n"
LINE_BYTES = 64  # of a length at most: a wrong line end further from the end was not cut off
CHECK_TIMEOUT_S = 600.0
_SOUND = re.compile(rb"size=(\d+), ok_up_to=(\d+)")
_WRONG = re.compile(rb"0x\s*([0-9a-f]+): Expected (prefix|\\r\\n)")


def mend(server: Path, directory: Path) -> int:
    """Cut the part of a transaction off the end of the file in a directory; how many bytes.

    The server's own check says where the last whole transaction ends. A file that is damaged
    elsewhere is left as it is: the server says so itself.
    """
    path = _newest(directory)
    if path is None or not path.stat().st_size:
        return 0
    # By this name the server's binary only checks.
    done = subprocess.run(  # noqa: S603
        ["redis-check-aof", str(path)],  # noqa: S607
        executable=server,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=CHECK_TIMEOUT_S,
    )
    found = _SOUND.search(done.stdout)
    if found is None:
        return 0
    size, sound = (int(number) for number in found.groups())
    if not 0 < size - sound <= MENDED_MOST or _is_damaged(done.stdout, size):
        return 0
    with path.open("rb") as file:
        file.seek(sound)
        if file.read(len(MULTI)) != MULTI:
            return 0  # one torn command: the server cuts that off itself
    os.truncate(path, sound)
    return size - sound


def _is_damaged(said: bytes, size: int) -> bool:
    """Whether the check found something else than an early end."""
    wrong = _WRONG.search(said)
    if wrong is None:
        return False
    return wrong[2] == b"prefix" or size - int(wrong[1], 16) > LINE_BYTES


def _newest(directory: Path) -> Path | None:
    """The file that was written last: the only one, or, of a newer server, the last increment."""
    single = directory / "appendonly.aof"
    if single.is_file():
        return single
    parts = (directory / "appendonlydir").glob("*.incr.aof")
    return max(parts, key=lambda part: part.stat().st_mtime, default=None)
