"""Tests of the logs: what is written, where, and that nobody waits for it."""

import fcntl
import io
import json
import logging
import os
import socket
import struct
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from quantum_ai_engine.config import ConfigError
from quantum_ai_engine.daemon import logs
from quantum_ai_engine.daemon.loglimit import LineLimit
from quantum_ai_engine.daemon.logs import LogHandle, configure, is_journal

PATIENCE_S = 10.0


@pytest.fixture(autouse=True)
def own_structlog() -> Iterator[None]:
    """Each test leaves structlog as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """journald's end: a bound datagram socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "journal"))
        channel.settimeout(PATIENCE_S)
        yield channel


def parse(datagram: bytes) -> dict[str, bytes]:
    """The fields of one journal entry: `KEY=value` lines, or KEY, length and raw value."""
    fields: dict[str, bytes] = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        key, mark, value = line.partition(b"=")
        if not mark:
            (size,) = struct.unpack("<Q", rest[:8])
            value, end, rest = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert end == b"\n"
        assert key.decode() not in fields
        fields[key.decode()] = value
        datagram = rest
    return fields


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The JSON lines of the stream."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Stuck(io.StringIO):
    """A stream that blocks its writer until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.freed = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.freed.wait(PATIENCE_S)
        return super().write(text)


def unlimited() -> LineLimit:
    """Lets every line of a test through."""
    return LineLimit(1_000_000, 60.0)


def to_json(level: str = "info") -> tuple[LogHandle, io.StringIO]:
    """A log that writes JSON lines to memory."""
    stream = io.StringIO()
    return configure(level, "json", environ={}, stream=stream, limit=unlimited()), stream


def to_journal(channel: socket.socket) -> LogHandle:
    """A log that speaks to the test's journal."""
    path = Path(channel.getsockname())
    return configure("debug", "journal", environ={}, stream=io.StringIO(), journal_socket=path)


def test_json_line() -> None:
    """A line has its time, level, stable name, sentence, logger and fields, in this order."""
    handle, stream = to_json()
    with closing(handle):
        structlog.get_logger().warning(
            "Redis is unreachable; retrying", event_name="redis_down", attempt=3, after_s=0.5
        )
    (line,) = lines(stream)
    assert line.pop("time").endswith("+00:00")
    assert list(line.items()) == [
        ("level", "warning"),
        ("event", "redis_down"),
        ("message", "Redis is unreachable; retrying"),
        ("logger", __name__),
        ("attempt", 3),
        ("after_s", 0.5),
    ]


def test_values_of_any_kind() -> None:
    """What JSON does not know is written as text, and nothing breaks a line or the parser."""
    handle, stream = to_json()
    fields = {
        "path": Path("/a"),
        "nested": {"b": (1, {2})},
        "nan": float("nan"),
        "surrogate": "\udc80",
        "text": "two\nlines",
        "name": "a name of LogRecord",
        "args": [1],
        "exception": [1],
        "none": None,
    }
    with closing(handle):
        structlog.get_logger().info("100 % of it", **fields)
    (line,) = lines(stream)
    assert line["message"] == "100 % of it"
    assert (
        line.items()
        >= {
            "path": "/a",
            "nested": {"b": [1, [2]]},
            "nan": "nan",
            "surrogate": "\\udc80",
            "text": "two\nlines",
            "name": "a name of LogRecord",
            "args": [1],
            "exception": [1],
            "none": None,
        }.items()
    )
    assert handle.dropped == 0


def test_own_fields_cannot_be_forged() -> None:
    """A field called like one of the line's own does not replace it."""
    handle, stream = to_json()
    with closing(handle):
        structlog.get_logger().info("true", event_name="right", message="false", time=0, logger="x")
    (line,) = lines(stream)
    assert (line["message"], line["logger"]) == ("true", __name__)
    assert line["time"] != 0


def test_exception() -> None:
    """An exception is one line of text and a field with the traceback."""
    handle, stream = to_json()
    with closing(handle):
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            structlog.get_logger().exception("The bundle cannot be read", event_name="bundle_bad")
    (line,) = lines(stream)
    assert line["message"] == "The bundle cannot be read: ValueError: first second"
    assert line["traceback"].startswith("Traceback (most recent call last)")
    assert line["traceback"].endswith("ValueError: first\nsecond")
    assert (line["level"], line["event"]) == ("error", "bundle_bad")


def test_level() -> None:
    """Lines below the level are not written, of ours or of libraries."""
    handle, stream = to_json("warning")
    with closing(handle):
        structlog.get_logger().info("no")
        logging.getLogger("library").info("no")
        structlog.get_logger().warning("yes")
        logging.getLogger("library").warning("%s", "yes")
    assert [line["message"] for line in lines(stream)] == ["yes", "yes"]


def test_each_line_is_written_once() -> None:
    """L54: a handler that a library put on the root logger does not double the lines."""
    root, stray = logging.getLogger(), logging.StreamHandler(io.StringIO())
    root.addHandler(stray)
    try:
        handle, stream = to_json()
        with closing(handle):
            logging.getLogger("library").warning("once")
        assert stray in root.handlers
    finally:
        root.removeHandler(stray)
    assert [line["message"] for line in lines(stream)] == ["once"]
    assert stray.stream.getvalue() == ""


def test_close_gives_the_root_logger_back() -> None:
    """After `close`, which may be called twice, the root logger is as it was."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    handle, _ = to_json("debug")
    handle.close()
    handle.close()
    assert (root.handlers, root.level) == before


def test_library_warnings_are_captured() -> None:
    """`warnings.warn` ends in the log, not beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        handle, stream = to_json()
        with closing(handle):
            warnings.warn("old way", DeprecationWarning, stacklevel=1)
    (line,) = lines(stream)
    assert "DeprecationWarning: old way" in line["message"]
    assert (line["level"], line["logger"], line["event"]) == ("warning", "py.warnings", "library")


def test_bound_context() -> None:
    """Fields bound to the logger or to the context are on the line."""
    handle, stream = to_json()
    with closing(handle), structlog.contextvars.bound_contextvars(partition=2):
        structlog.get_logger().bind(agent="gru9").info("ready")
    (line,) = lines(stream)
    assert (line["partition"], line["agent"]) == (2, "gru9")


def test_console() -> None:
    """On the console a line is for the eye, whatever its fields are called."""
    stream = io.StringIO()
    with closing(configure("info", "console", environ={}, stream=stream)) as handle:
        log = structlog.get_logger()
        log.info("The engine is ready", event_name="ready", agents=3, stack=1, exception=[2])
        logging.getLogger("library").log(35, "an odd level")
        try:
            raise KeyError("x")
        except KeyError:
            log.exception("It failed")
    text = stream.getvalue()
    assert handle.dropped == 0
    first = text.splitlines()[0]
    assert "The engine is ready" in first
    assert "event_name=ready" in first
    assert "agents=3" in first
    assert "an odd level" in text
    assert text.rstrip().endswith("KeyError: 'x'")


def test_journal_fields(journal: socket.socket) -> None:
    """Every field is upper-case in the journal, so that `journalctl SYMBOL=BTCUSDT` finds it."""
    with closing(to_journal(journal)):
        structlog.get_logger().warning(
            "A gap of 3 bars", event_name="gap", symbol="BTCUSDT", bars=3, up=True, of=["a", 1]
        )
    fields = parse(journal.recv(65536))
    assert (
        fields.items()
        >= {
            "MESSAGE": b"A gap of 3 bars",
            "PRIORITY": b"4",
            "SYSLOG_IDENTIFIER": b"quantum-ai-engine",
            "EVENT": b"gap",
            "SYMBOL": b"BTCUSDT",
            "BARS": b"3",
            "UP": b"true",
            "OF": b'["a", 1]',
            "LOGGER": __name__.encode(),
        }.items()
    )


def test_journal_lines_and_names(journal: socket.socket) -> None:
    """A value of several lines arrives whole and injects no field; odd names are made lawful."""
    value = "first\nPRIORITY=0\n\nlast\n"
    odd: dict[str, str] = {"note": value, "_uid": "0", "9 lives=": "cat", "long" * 30: "x"}
    with closing(to_journal(journal)):
        structlog.get_logger().error("Several lines", **odd)
    fields = parse(journal.recv(65536))
    assert fields["NOTE"] == value.encode()
    assert (fields["PRIORITY"], fields["UID"], fields["F_9_LIVES_"]) == (b"3", b"0", b"cat")
    assert fields[("LONG" * 30)[:64]] == b"x"


@pytest.mark.parametrize(
    ("level", "priority"), [(50, b"2"), (40, b"3"), (35, b"4"), (20, b"6"), (10, b"7")]
)
def test_journal_priority(journal: socket.socket, level: int, priority: bytes) -> None:
    """Levels become syslog's priorities; one in between becomes the lower one."""
    with closing(to_journal(journal)):
        logging.getLogger("library").log(level, "x")
    assert parse(journal.recv(65536))["PRIORITY"] == priority


def test_journal_takes_long_lines(journal: socket.socket) -> None:
    """An entry too long for a datagram travels as a sealed memory file."""
    text = "x" * 1_000_000
    with closing(to_journal(journal)) as handle:
        structlog.get_logger().info("Long", text=text)
    _, (descriptor,), _, _ = socket.recv_fds(journal, 65536, 1)
    with os.fdopen(descriptor, "rb") as file:
        assert fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
        file.seek(0)
        assert parse(file.read())["TEXT"] == text.encode()
    assert handle.dropped == 0


def test_journal_that_restarts(tmp_path: Path) -> None:
    """L41: lines for which there is no journal are counted; the next one finds the new socket."""
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as old:
        old.bind(str(path))
        handle = to_journal(old)
    path.unlink()
    with closing(handle), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as new:
        new.settimeout(PATIENCE_S)
        structlog.get_logger().info("lost")
        end = time.monotonic() + PATIENCE_S
        while handle.dropped == 0 and time.monotonic() < end:
            time.sleep(0.001)
        assert handle.dropped == 1
        new.bind(str(path))
        structlog.get_logger().info("found")
        assert parse(new.recv(65536))["MESSAGE"] == b"found"


def test_missing_journal_is_refused(tmp_path: Path) -> None:
    """A journal that was asked for and is not there is a bad setting."""
    with pytest.raises(ConfigError, match=r"log\.format = \"journal\", but .* does not exist"):
        configure("info", "journal", environ={}, journal_socket=tmp_path / "none")


def test_auto_is_the_journal_if_stderr_is(journal: socket.socket) -> None:
    """JOURNAL_STREAM names the device and inode of stderr: then the native protocol is spoken."""
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w") as stderr:
        status = os.fstat(writer)
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        path = Path(journal.getsockname())
        with closing(
            configure("info", "auto", environ=environ, stream=stderr, journal_socket=path)
        ):
            structlog.get_logger().info("native")
        assert parse(journal.recv(65536))["MESSAGE"] == b"native"


@pytest.mark.parametrize("value", ["", "1:2", "nonsense", "1"])
def test_other_stderr_is_not_the_journal(value: str, tmp_path: Path) -> None:
    """A variable inherited from elsewhere, or a broken one, is not believed."""
    with (tmp_path / "file").open("w") as stderr:
        assert not is_journal({"JOURNAL_STREAM": value}, stderr)
    assert not is_journal({"JOURNAL_STREAM": value}, io.StringIO())
    assert not is_journal({}, stderr)


def test_auto_elsewhere() -> None:
    """Without a journal the console is for terminals and JSON for everything else."""
    stream = io.StringIO()
    with closing(configure("info", "auto", environ={}, stream=stream)):
        structlog.get_logger().info("piped")
    assert lines(stream)[0]["message"] == "piped"
    leader, follower = os.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen, os.fdopen(follower, "w") as terminal:
        with closing(configure("info", "auto", environ={}, stream=terminal)):
            structlog.get_logger().info("seen")
        assert b"\x1b[" in screen.read(4096)


def test_caller_never_waits_and_losses_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """L46: a writer that is stuck blocks nobody. L41: what it costs is counted, and said later."""
    stream = Stuck()
    monkeypatch.setattr(logs, "QUEUE_LINES", 10)
    handle = configure("info", "json", environ={}, stream=stream, limit=unlimited())
    log = structlog.get_logger()
    with closing(handle):
        log.info("first")
        assert stream.entered.wait(PATIENCE_S)
        begin = time.perf_counter()
        for number in range(50):
            log.info("more", number=number)
        assert time.perf_counter() - begin < 1.0
        assert handle.dropped == 40
        stream.freed.set()
    written = lines(stream)
    assert [line["number"] for line in written if "number" in line] == list(range(10))
    (loss,) = [line for line in written if line.get("event") == "log_lines_dropped"]
    assert (loss["lines"], loss["level"]) == (40, "warning")


@pytest.mark.parametrize("lines_logged", [1, 50])
def test_close_is_bounded(monkeypatch: pytest.MonkeyPatch, lines_logged: int) -> None:
    """A stuck writer cannot hold up the shutdown, whether the queue is full or not."""
    monkeypatch.setattr(logs, "CLOSE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(logs, "QUEUE_LINES", 10)
    stream = Stuck()
    handle = configure("info", "json", environ={}, stream=stream, limit=unlimited())
    for _ in range(lines_logged):
        structlog.get_logger().info("x")
    assert stream.entered.wait(PATIENCE_S)
    begin = time.perf_counter()
    handle.close()
    assert time.perf_counter() - begin < 5.0
    stream.freed.set()


def test_close_writes_what_is_queued() -> None:
    """Every line that was accepted is written before `close` returns."""
    handle, stream = to_json()
    for number in range(1000):
        structlog.get_logger().info("x", number=number)
    handle.close()
    assert [line["number"] for line in lines(stream)] == list(range(1000))


def test_closed_stream_is_counted() -> None:
    """L41: a line that cannot be written is counted and ends nothing."""
    handle, stream = to_json()
    with closing(handle):
        stream.close()
        structlog.get_logger().info("x")
    assert handle.dropped == 1
