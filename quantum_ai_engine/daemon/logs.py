"""Logs: one line per event that a person acts on, written by a thread of its own.

The call is `log.warning("Redis is unreachable; retrying", event_name="redis_down", url=url)`: first
a sentence for a person, then the stable name for machines, then fields. The sentence becomes
MESSAGE, the name EVENT, and each field its upper-case self, so that
`journalctl -u quantum-ai-engine SYMBOL=BTCUSDT` works; JSON lines have the same in lower case.
Of lines that are alike only so many are written (`LineLimit`), but for those of level debug.
"""

import copy
import json
import logging
import math
import os
import queue
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Any, Protocol, TextIO

import structlog
from logging_journald import JournaldTransport

from quantum_ai_engine.config import ConfigError, LogSettings
from quantum_ai_engine.daemon.loglimit import LineLimit

IDENTIFIER = "quantum-ai-engine"
JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
QUEUE_LINES = 10_000
CLOSE_TIMEOUT_S = 2.0
# The fields that say what a line is about.
SUBJECTS = ("symbol", "subject", "agent", "partition", "check")
FIELD_BYTES = 64  # the journal refuses longer names
# The renderer gives `stack` and `exception` a meaning of its own, which a field must not touch.
CONSOLE_NAMES = {
    "time": "timestamp",
    "message": "event",
    "event": "event_name",
    "traceback": "exception",
    "exception": "exception_",
    "stack": "stack_",
}
PRIORITIES = ((50, 2), (40, 3), (30, 4), (20, 6), (0, 7))  # stdlib level → syslog, highest first


class _Sink(Protocol):
    """Where finished lines go."""

    def write(self, level: int, fields: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class LogHandle:
    """The running log; `close` writes what is queued.

    `dropped` counts the lines that were lost, `suppressed` by event those of too many alike.
    """

    def __init__(self, sink: _Sink, limit: LineLimit) -> None:
        lines: queue.Queue[logging.LogRecord | None] = queue.Queue(QUEUE_LINES)
        self._limit = limit
        self._entrance = _Entrance(lines, limit)
        self._writer = _Writer(sink)
        self._listener = _Listener(lines, self._entrance, self._writer)
        self._root = logging.getLogger()
        self._before = (self._root.handlers[:], self._root.level)
        self._is_open = False

    @property
    def dropped(self) -> int:
        return self._entrance.dropped + self._writer.failed

    @property
    def suppressed(self) -> dict[str, int]:
        return self._limit.suppressed

    def open(self, level: str) -> None:
        """Take over the root logger: other handlers would write each line twice."""
        self._root.handlers[:] = [self._entrance]
        set_level(level)
        logging.captureWarnings(True)
        self._listener.start()
        self._is_open = True

    def close(self) -> None:
        """Write what is queued, for at most a bounded time, and give the root logger back."""
        if not self._is_open:
            return
        self._is_open = False
        logging.captureWarnings(False)
        self._root.handlers[:], level = self._before
        self._root.setLevel(level)
        if untold := self._limit.untold():
            self._entrance.enqueue(self._entrance.prepare(_held_back(untold)))
        self._listener.stop()


def configure(
    level: str,
    log_format: str,
    *,
    environ: Mapping[str, str] | None = None,
    stream: TextIO | None = None,
    journal_socket: Path = JOURNAL_SOCKET,
    limit: LineLimit | None = None,
) -> LogHandle:
    """Start logging; `level` and `log_format` are those of the settings `log.level`, `log.format`.

    `auto` is the journal if systemd connected `stream` (stderr) to it, the console on a terminal,
    and JSON lines otherwise. Without a `limit` it is that of the default settings. Raises
    `ConfigError` if the journal is wanted and not there.
    """
    environ = os.environ if environ is None else environ
    stream = sys.stderr if stream is None else stream
    if log_format == "auto":
        log_format = _choose(environ, stream)
    if log_format == "journal" and not journal_socket.exists():
        raise ConfigError(
            f'log.format = "journal", but {journal_socket} does not exist; set log.format = "auto"'
        )
    sink: _Sink = _Lines(stream, is_console=log_format == "console")
    if log_format == "journal":
        sink = _Journal(journal_socket)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, _to_stdlib],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a reload may change the level
    )
    defaults = LogSettings()
    handle = LogHandle(sink, limit or LineLimit(defaults.burst_lines, defaults.again_s))
    handle.open(level)
    return handle


def set_level(level: str) -> None:
    """Log what is at or above a level from now on; `level` is that of the setting `log.level`."""
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger().setLevel(number)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))


def is_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Whether `stream` is the one of JOURNAL_STREAM (device:inode), as systemd.exec says to ask."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or never a file
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _choose(environ: Mapping[str, str], stream: TextIO) -> str:
    if is_journal(environ, stream):
        return "journal"
    return "console" if stream.isatty() else "json"


def _to_stdlib(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[str], dict[str, Any]]:
    """Hand the fields over in one attribute: as `extra` a field called `name` would raise."""
    sentence, exc_info = str(event.pop("event")), event.pop("exc_info", None)
    return (sentence,), {"exc_info": exc_info, "extra": {"fields": dict(event)}}


class _Entrance(QueueHandler):
    """The caller's side: holds back too many alike, makes the line final, and never waits."""

    def __init__(self, lines: "queue.Queue[logging.LogRecord | None]", limit: LineLimit) -> None:
        super().__init__(lines)
        self.dropped = 0
        self._limit = limit

    def emit(self, record: logging.LogRecord) -> None:
        fields = record.__dict__.setdefault("fields", {"event_name": "library"})
        if record.levelno >= logging.INFO:
            before = self._limit.take(str(fields.get("event_name", "")), _subject(record, fields))
            if before is None:
                return
            if before:
                record.__dict__["fields"] = fields | {"suppressed": before}
        super().emit(record)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        final = copy.copy(record)
        fields = {key: _plain(value) for key, value in _fields(record).items()}
        final.__dict__.update(msg="", args=None, exc_info=None, fields=fields)
        return final

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class _Writer(logging.Handler):
    """The thread's side: one finished line after another to the sink."""

    def __init__(self, sink: _Sink) -> None:
        super().__init__()
        self.failed = 0
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.write(record.levelno, record.__dict__["fields"])
        except (OSError, ValueError):  # a full disk, a journal that restarts, a closed stream
            self.failed += 1

    def close(self) -> None:
        self._sink.close()
        super().close()


class _Listener(QueueListener):
    """The thread, which also says how many lines were lost once it can write again."""

    def __init__(
        self,
        lines: "queue.Queue[logging.LogRecord | None]",
        entrance: _Entrance,
        writer: _Writer,
    ) -> None:
        super().__init__(lines, writer)
        self._lines = lines
        self._entrance = entrance
        self._writer = writer
        self._told = 0

    def handle(self, record: logging.LogRecord) -> None:
        super().handle(record)
        if lost := self._entrance.dropped - self._told:
            self._told += lost
            super().handle(self._entrance.prepare(_loss(lost)))

    def stop(self) -> None:
        """As its parent's, but a writer that is stuck holds nobody up for longer than stated."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._lines.put(None, timeout=CLOSE_TIMEOUT_S)
        except queue.Full:
            return
        thread.join(CLOSE_TIMEOUT_S)
        if not thread.is_alive():
            self._writer.close()


class _Lines:
    """JSON lines, or lines for the eye on a terminal."""

    def __init__(self, stream: TextIO, *, is_console: bool) -> None:
        self._stream = stream
        self._console = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        self._render = self._for_eyes if is_console else json.dumps

    def write(self, level: int, fields: Mapping[str, Any]) -> None:  # noqa: ARG002 (protocol)
        self._stream.write(self._render(fields) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing: the stream is its owner's."""

    def _for_eyes(self, fields: Mapping[str, Any]) -> str:
        line = {CONSOLE_NAMES.get(key, key): value for key, value in fields.items()}
        return str(self._console(None, "", line))


class _Journal:
    """The journal's native protocol: one datagram per line, or a sealed memory file if too long."""

    def __init__(self, socket: Path) -> None:
        # Unconnected: journald replaces its socket when it restarts.
        self._transport = JournaldTransport(socket, connected=False)

    def write(self, level: int, fields: Mapping[str, Any]) -> None:
        named = {_journal_name(key): _journal_value(value) for key, value in fields.items()}
        priority = next(priority for least, priority in PRIORITIES if level >= least)
        own = {"PRIORITY": priority, "SYSLOG_IDENTIFIER": IDENTIFIER}
        self._transport.send((named | own).items())

    def close(self) -> None:
        self._transport.socket.close()


def _journal_name(key: str) -> str:
    """Only A–Z, 0–9 and _, not first a digit, nor first the _ of what journald itself vouches for.

    >>> _journal_name("symbol"), _journal_name("_uid"), _journal_name("2nd value")
    ('SYMBOL', 'UID', 'F_2ND_VALUE')
    """
    name = re.sub(r"[^A-Z0-9_]", "_", key.upper()).lstrip("_")
    return (name if name[:1].isalpha() else f"F_{name}")[:FIELD_BYTES]


def _journal_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The line as one mapping, by the names of the JSON format."""
    fields = dict(record.__dict__["fields"])
    message, event = record.getMessage().strip(), fields.pop("event_name", None)
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        summary = f"{type(error).__name__}: {error}"
        message = f"{message}: {' '.join(summary.split())}"
        fields["traceback"] = "".join(traceback.format_exception(error)).rstrip()
    own = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        **({"event": event} if event else {}),
        "message": message,
        "logger": record.name,
    }
    return own | fields | own  # first in order, and not to be forged by a field


def _subject(record: logging.LogRecord, fields: Mapping[str, Any]) -> str:
    """What a line is about; one without an event of its own is about its logger."""
    if fields.get("event_name", "library") == "library":
        return record.name
    return " ".join(str(fields[key]) for key in SUBJECTS if key in fields)


def _loss(lines: int) -> logging.LogRecord:
    return _own(
        f"{lines} log lines were dropped because the log could not be written fast enough",
        {"event_name": "log_lines_dropped", "lines": lines},
    )


def _held_back(by_event: Mapping[str, int]) -> logging.LogRecord:
    lines = sum(by_event.values())
    return _own(
        f"{lines} log lines were held back, and no later line of their kind has told of them",
        {"event_name": "log_lines_suppressed", "lines": lines, "by_event": by_event},
    )


def _own(text: str, fields: Mapping[str, Any]) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": __name__, "levelno": 30, "levelname": "WARNING", "msg": text, "fields": fields}
    )


def _plain(value: Any) -> Any:
    """Text, numbers, lists and mappings only, so that the writer calls no foreign code."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return value.encode(errors="backslashreplace").decode()
        case Mapping():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(inner) for inner in value]
        case _:
            return _plain(str(value))
