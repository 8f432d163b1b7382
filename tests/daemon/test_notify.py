"""Tests of the words to systemd, against a real datagram socket."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantum_ai_engine.daemon.notify import Notifier, watchdog_interval_s


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """The service manager's end of the conversation."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(5.0)
        yield channel


def test_each_word_is_one_datagram(manager: socket.socket, tmp_path: Path) -> None:
    """Each method sends exactly the assignment that systemd reads."""
    path = str(tmp_path / "notify")
    manager.bind(path)
    notifier = Notifier(path)
    told = (
        notifier.ready(),
        notifier.status("3 agents"),
        notifier.watchdog(),
        notifier.stopping(),
        notifier.reloading(17),
    )
    assert told == (True,) * 5
    assert [manager.recv(4096) for _ in told] == [
        b"READY=1",
        b"STATUS=3 agents",
        b"WATCHDOG=1",
        b"STOPPING=1",
        b"RELOADING=1\nMONOTONIC_USEC=17",
    ]


def test_abstract_address(manager: socket.socket) -> None:
    """An address that starts with @ is in the abstract namespace."""
    name = f"qae-notify-{os.getpid()}"
    manager.bind(f"\0{name}")
    assert Notifier(f"@{name}").ready()
    assert manager.recv(4096) == b"READY=1"


def test_status_cannot_smuggle_an_assignment(manager: socket.socket, tmp_path: Path) -> None:
    """A line break in a status does not become a second word."""
    path = str(tmp_path / "notify")
    manager.bind(path)
    assert Notifier(path).status("bad\nREADY=1 \udc80")
    assert manager.recv(4096) == b"STATUS=bad READY=1 ?"


@pytest.mark.parametrize("address", [None, ""])
def test_without_an_address_nothing_is_said(address: str | None) -> None:
    """Outside systemd every word is a no-op."""
    notifier = Notifier(address)
    assert not any((notifier.ready(), notifier.watchdog(), notifier.stopping()))


def test_missing_socket_is_no_error(tmp_path: Path) -> None:
    """A socket that is not there, or cannot be, answers False."""
    assert not Notifier(str(tmp_path / "none")).ready()
    assert not Notifier(f"/{'x' * 200}").ready()


def test_full_socket_is_no_error(manager: socket.socket, tmp_path: Path) -> None:
    """L46: a manager that does not read never blocks the event loop."""
    path = str(tmp_path / "notify")
    manager.bind(path)
    notifier = Notifier(path)
    assert any(not notifier.status("x" * 1000) for _ in range(100_000))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval(environ: dict[str, str], expected: float | None) -> None:
    """The interval is half of what systemd allows, and only for the process it is meant for."""
    assert watchdog_interval_s(environ, 7) == expected
