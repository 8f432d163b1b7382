"""The lease: who owns a partition, for how long yet, and whether that process still lives.

The fields `owner`, `fence`, `lease_until` and `holder` of the state hash say so. A change of owner
counts `fence` up, and `owner` is "<fence>-<id>": the token that every later script compares, so
that who lost the partition writes nothing, whatever it still believes. Time is the server's.
"""

import os
import platform
import uuid
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

PROC = Path("/proc")
DEAD_STATES = "ZX"  # of /proc/<pid>/stat: a process that waits for its parent to take note

# Of all scripts of an owner: ARGV[1] is its token, ARGV[2] the length of its lease in ms.
GUARD = """
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
if owner ~= ARGV[1] then
  return {'refused', owner, redis.call('HGET', KEYS[1], 'holder') or ''}
end
"""
NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
# ARGV[3] is the heartbeat, ARGV[4] for how many seconds it stays, ARGV[5] its channel; then come
# channels and messages.
BEAT = f"""{GUARD}{NOW}
redis.call('HSET', KEYS[1], 'lease_until', now + ARGV[2])
redis.call('SET', KEYS[5], ARGV[3], 'EX', ARGV[4])
redis.call('PUBLISH', ARGV[5], ARGV[3])
for at = 6, #ARGV, 2 do
  redis.call('PUBLISH', ARGV[at], ARGV[at + 1])
end
return {{'done'}}
"""
KEEP = f"""{GUARD}{NOW}
redis.call('HSET', KEYS[1], 'lease_until', now + ARGV[2])
return {{'done'}}
"""
RELEASE = f"""{GUARD}
redis.call('HDEL', KEYS[1], 'owner', 'lease_until', 'holder')
return {{'done'}}
"""
# ARGV: id, length of the lease in ms, holder, the token of an owner that is known to be gone, and
# 1 if a partition that nobody ever owned is to be left to somebody who was seen to own it.
ACQUIRE = f"""{NOW}
local state = redis.call('HMGET', KEYS[1], 'owner', 'fence', 'lease_until', 'holder')
local owner, fence = state[1] or '', tonumber(state[2]) or 0
local token = string.format('%d-%s', fence, ARGV[1])
if ARGV[5] == '1' and owner == '' and fence == 0 then
  return {{'held', '', '', ARGV[2]}}
end
if owner ~= token then
  local left = (tonumber(state[3]) or 0) - now
  if owner ~= '' and owner ~= ARGV[4] and left > 0 then
    return {{'held', owner, state[4] or '', left}}
  end
  fence = fence + 1
  token = string.format('%d-%s', fence, ARGV[1])
end
redis.call('HSET', KEYS[1], 'owner', token, 'fence', fence, 'lease_until', now + ARGV[2],
  'holder', ARGV[3])
return {{'done', token}}
"""


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lease, so that others can tell whether it still lives.

    `boot` and `namespace` tell machines, their boots and containers apart: process ids mean
    nothing elsewhere. They are empty where the system does not say. `started` is in clock ticks
    since the boot, which tells two processes with the same id apart.

    >>> Holder.here().is_gone()
    False
    """

    id: str
    host: str
    boot: str
    namespace: str
    pid: Annotated[int, Meta(ge=1, lt=2**31)]
    started: int

    @classmethod
    def here(cls) -> "Holder":
        """This process, under an id of its own."""
        boot, namespace = _place()
        running = _read_process(os.getpid())
        return cls(
            id=uuid.uuid4().hex,
            host=platform.node(),
            boot=boot,
            namespace=namespace,
            pid=os.getpid(),
            started=running.started if running else 0,
        )

    @classmethod
    def decode(cls, text: bytes) -> "Holder | None":
        """Read it back from JSON; None when there is none that can be read."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def is_gone(self) -> bool:
        """Whether it has certainly ended: it ran here, and does no more. Unknown is alive."""
        if not self.boot or not self.namespace or (self.boot, self.namespace) != _place():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # somebody else's process, but one that exists
        running = _read_process(self.pid)
        return running is not None and (running.has_ended or running.started != self.started)


class Held(NamedTuple):
    """Somebody else owns the partition, for so long yet; `is_vacant` when nobody ever did."""

    holder: Holder | None
    left_ms: int
    is_vacant: bool = False


class _Process(NamedTuple):
    started: int
    has_ended: bool


def _place() -> tuple[str, str]:
    """The boot of this machine and our namespace of process ids; each empty if unknown."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
        namespace = str((PROC / "self/ns/pid").stat().st_ino)
        own_pid = (PROC / "self/stat").read_text("utf-8", "replace").partition(" ")[0]
    except OSError:
        return "", ""
    # A /proc of another namespace shows other processes under our ids.
    return (boot, namespace) if own_pid == str(os.getpid()) else ("", "")


def _read_process(pid: int) -> _Process | None:
    """What the system says of a process; None when it says nothing, as for who may not see it."""
    try:
        stat = (PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # from the third on: the name may hold anything
    state, threads, started = fields[0], int(fields[17]), int(fields[19])
    return _Process(started, state in DEAD_STATES and threads <= 1)
