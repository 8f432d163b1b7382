"""The listening socket that systemd hands over (the sd_listen_fds protocol)."""

import os
import socket
import stat
from collections.abc import Mapping

from quantum_ai_engine.config import ConfigError

FIRST_FD = 3  # by the protocol
NAME = "http"  # FileDescriptorName= of quantum-ai-engine.socket


def passed_socket(environ: Mapping[str, str], pid: int) -> socket.socket | None:
    """The TCP socket named `http` that the service manager listens on for us; None without one.

    Taken over once: children do not inherit it. Raises `ConfigError` when what was passed is
    something else, since nobody would answer there.

    >>> passed_socket({"LISTEN_FDS": "1", "LISTEN_PID": "7"}, 8) is None
    True
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdecimal() or int(count) == 0:
        return None
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if int(count) > 1 or names != [NAME]:
        raise ConfigError(
            f"systemd passed {count} socket(s), named {', '.join(names) or 'nothing'}: write one "
            f"ListenStream= and FileDescriptorName={NAME} in quantum-ai-engine.socket"
        )
    return _taken(FIRST_FD)


def _taken(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        passed = socket.socket(fileno=fd)
        if passed.family in (socket.AF_INET, socket.AF_INET6) and passed.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            return passed
        passed.close()
    raise ConfigError(
        "systemd passed something that is no listening TCP socket: write an address and a port at "
        "ListenStream= and Accept=no in quantum-ai-engine.socket"
    )
