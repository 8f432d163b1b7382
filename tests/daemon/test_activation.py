"""Tests of the socket that systemd hands over, with a process that is really passed one."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import ClientSession

from quantum_ai_engine.config import ConfigError, Settings, load
from quantum_ai_engine.daemon import activation
from quantum_ai_engine.daemon.activation import NAME, passed_socket
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

from .test_app import ends_with, fails_to_serve, serving

# As systemd does it: the first is descriptor 3, and LISTEN_PID is who is executed at last.
PASS = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
TAKE = """
import json, os, sys
from quantum_ai_engine.config import ConfigError
from quantum_ai_engine.daemon.activation import passed_socket
try:
    passed = passed_socket(os.environ, os.getpid())
except ConfigError as error:
    sys.exit(str(error))
print(json.dumps(passed and [passed.getsockname(), os.get_inheritable(passed.fileno())]))
"""


@pytest.fixture
def settings(redis: EmbeddedRedis, history: BarTable, tmp_path: Path) -> Settings:
    """Of an engine with one rule, which is soon there."""
    train_bundle("momentum", history, tmp_path / "bundles", TrainOptions(), lambda _: None)
    overrides = {"engine.state_dir": str(tmp_path), "redis.url": redis.url, "engine.clock": "bars"}
    return load(None, environ={}, overrides=overrides).settings


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that listens on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as channel:
        yield channel


def take(passed: int, **environ: str) -> subprocess.CompletedProcess[str]:
    """What a process makes of a descriptor that it is passed as systemd would."""
    return subprocess.run(
        [sys.executable, "-S", "-c", PASS, str(passed), sys.executable, "-c", TAKE],
        env=os.environ | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": NAME} | environ,
        pass_fds=[passed],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_listening_socket_is_taken_and_not_passed_on(listening: socket.socket) -> None:
    """It is the one that was passed, and children do not inherit it."""
    done = take(listening.fileno())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [list(listening.getsockname()), False]


@pytest.mark.parametrize(
    "environ", [{"LISTEN_FDS": "0"}, {"LISTEN_FDS": ""}, {"LISTEN_FDS": "many"}]
)
def test_none_is_none(listening: socket.socket, environ: dict[str, str]) -> None:
    """Without a socket the settings say where to listen."""
    assert take(listening.fileno(), **environ).stdout == "null\n"


def test_what_was_passed_to_another_process_is_not_ours() -> None:
    """The variables may be inherited; the descriptors are not."""
    environ = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": NAME, "LISTEN_PID": str(os.getpid() + 1)}
    assert passed_socket(environ, os.getpid()) is None


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"LISTEN_FDNAMES": "metrics"}, "passed 1 socket(s), named metrics: write one"),
        ({"LISTEN_FDNAMES": ""}, "named nothing"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:http"}, "passed 2 socket(s)"),
    ],
)
def test_another_name_or_number_is_refused(
    listening: socket.socket, environ: dict[str, str], sentence: str
) -> None:
    """Nobody would answer there: the unit is wrong, and a sentence says where."""
    done = take(listening.fileno(), **environ)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "quantum-ai-engine.socket" in done.stderr


def test_what_does_not_listen_is_refused(tmp_path: Path) -> None:
    """A file, a datagram socket, a connected stream, a Unix socket."""
    ours, theirs = socket.socketpair()
    with (
        (tmp_path / "file").open("w") as file,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        socket.socket() as idle,
        ours,
        theirs,
    ):
        for passed in (file, datagram, idle, ours):
            assert "no listening TCP socket" in take(passed.fileno()).stderr


def _passes(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    """As the service manager passes a copy of a listening socket."""
    monkeypatch.setattr(activation, "FIRST_FD", listening.dup().detach())
    for name, value in (("FDS", "1"), ("PID", str(os.getpid())), ("FDNAMES", NAME)):
        monkeypatch.setenv(f"LISTEN_{name}", value)


@pytest.fixture
def passing(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Each call passes a copy of the listening socket, as each start of the unit does."""

    def pass_on() -> int:
        _passes(monkeypatch, listening)
        port: int = listening.getsockname()[1]
        return port

    return pass_on


async def test_callers_wait_for_the_next_engine(
    settings: Settings, passing: Callable[[], int]
) -> None:
    """A restart refuses nobody: the socket outlives an engine, and the next one answers there."""
    port = passing()
    async with serving(settings) as daemon:
        assert daemon.http_address == f"http://127.0.0.1:{port}"
        assert await _ask(port) == 200
    asking = asyncio.create_task(_ask(port))  # while no engine is there
    await asyncio.sleep(0)
    passing()
    async with serving(settings):
        assert await asking == 200


async def test_a_socket_for_an_engine_without_http_is_refused(
    settings: Settings, passing: Callable[[], int]
) -> None:
    """Callers would wait for ever."""
    passing()
    off = msgspec.structs.replace(
        settings, http=msgspec.structs.replace(settings.http, enabled=False)
    )
    with ends_with(ConfigError, "http.enabled is false"):
        await fails_to_serve(off)


async def test_a_socket_that_other_hosts_reach_needs_the_token(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may ask depends on where it really listens, not on what http.host says."""
    with socket.create_server(("0.0.0.0", 0)) as open_to_all:
        _passes(monkeypatch, open_to_all)
        with ends_with(ConfigError, "lets other hosts in"):
            await fails_to_serve(settings)


async def _ask(port: int) -> int:
    async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/health/live") as a:
        return a.status
