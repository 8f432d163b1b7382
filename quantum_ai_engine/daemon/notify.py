"""Words to systemd: ready, status, watchdog, reloading, stopping (the sd_notify protocol)."""

import socket
from collections.abc import Mapping


class Notifier:
    """Tells the service manager how we are; without an address it says nothing.

    `address` is the value of NOTIFY_SOCKET: a path, or `@name` for an abstract socket. Each method
    returns whether the manager was told; a missing or full socket is never an error, because a
    service must not stop or wait for being unable to speak of itself.

    >>> Notifier(None).ready()
    False
    """

    def __init__(self, address: str | None) -> None:
        self.address = address

    def ready(self) -> bool:
        """Start-up, or a reload, is complete."""
        return self._send("READY=1")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(f"STATUS={' '.join(text.split())}")

    def watchdog(self) -> bool:
        """Work was done since the last call; the caller must have seen it."""
        return self._send("WATCHDOG=1")

    def stopping(self) -> bool:
        """The shutdown has begun."""
        return self._send("STOPPING=1")

    def reloading(self, monotonic_us: int) -> bool:
        """A reload began at this CLOCK_MONOTONIC time; `ready` ends it."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us}")

    def _send(self, message: str) -> bool:
        if not self.address:
            return False
        target = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            try:
                channel.sendto(message.encode(errors="replace"), target)
            except OSError:
                return False
        return True


def watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds between two calls of `watchdog`: half of what systemd allows, as it advises.

    None when no watchdog is set, or it is set for another process.

    >>> watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 7)
    15.0
    """
    limit_us, owner = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(pid))
    if owner != str(pid) or not limit_us.isdecimal() or int(limit_us) == 0:
        return None
    return int(limit_us) / 2e6
