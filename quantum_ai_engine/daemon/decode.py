"""From an entry of the bar stream to a bar, or to the reason why it is refused."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from quantum_ai_engine.events import Bar, Command, Equity, Reason, Refused

FIELDS = msgspec.structs.fields(Bar)
REQUIRED = tuple(field.name for field in FIELDS if field.required)
OPTIONAL = ("environment", "is_closed", "revision")
_NAMES = {name.encode(): name for name in (*REQUIRED, *OPTIONAL, "time", "equity")}
_UNPACK: dict[bytes, Callable[[bytes], Any]] = {
    b"b": msgspec.msgpack.decode,
    b"json": msgspec.json.decode,
}


class _Wire(msgspec.Struct, frozen=True):
    """A bar as it comes, before it is known to be one."""

    symbol: str
    interval: str
    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    environment: str | None = None
    is_closed: bool = True
    revision: int = 0


class _Report(msgspec.Struct, frozen=True):
    time: int
    equity: float


def decode(entry: Mapping[bytes, bytes], environment: str, latest_close: int) -> Bar:
    """The bar of a stream entry. Raises `Refused` with its reason.

    `latest_close` is the last close time, in ms, that can have happened.

    >>> flat = dict(symbol=b"BTCUSDT", interval=b"1m", open_time=b"60000", volume=b"5",
    ...             open=b"100", high=b"102", low=b"99", close=b"101")
    >>> decode({name.encode(): value for name, value in flat.items()}, "live", 120_000).close
    101.0
    """
    wire = _wire(_values(entry))
    if not wire.is_closed:
        raise Refused(Reason.NOT_CLOSED, "is_closed is false: only closed bars enter")
    if wire.environment is not None and wire.environment != environment:
        raise Refused(
            Reason.OTHER_ENVIRONMENT,
            f"environment {wire.environment!r} is not {environment!r}",
        )
    bar = Bar(
        wire.symbol,
        wire.interval,
        wire.open_time,
        wire.open,
        wire.high,
        wire.low,
        wire.close,
        wire.volume,
        wire.revision,
    )
    if bar.close_time > latest_close:
        raise Refused(
            Reason.FUTURE_TIME,
            f"open_time {bar.open_time}: the bar closes at {bar.close_time}, still to come",
        )
    return bar


def decode_command(entry: Mapping[bytes, bytes]) -> Command:
    """The command of an entry of the control stream. Raises `Refused`.

    >>> decode_command({b"command": b"halt"})
    <Command.HALT: 'halt'>
    """
    if b"command" not in entry:
        raise Refused(Reason.MISSING_FIELD, "field command is missing")
    text = entry[b"command"].decode(errors="replace")
    try:
        return Command(text)
    except ValueError as error:
        raise Refused(
            Reason.UNKNOWN_COMMAND, f"command {text[:64]!r} is not one of {', '.join(Command)}"
        ) from error


def decode_equity(entry: Mapping[bytes, bytes]) -> Equity:
    """What execution reports, of an entry of the equity stream. Raises `Refused`.

    >>> decode_equity({b"time": b"60000", b"equity": b"10250.5"})
    Equity(time_ms=60000, equity=10250.5)
    """
    values = _values(entry)
    for name in ("time", "equity"):
        if name not in values:
            raise Refused(Reason.MISSING_FIELD, f"field {name} is missing")
    for name in values:
        if name not in ("time", "equity"):
            raise Refused(Reason.UNKNOWN_FIELD, f"field {name[:64]!r} is unknown")
    try:
        told = msgspec.convert(values, _Report, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(Reason.BAD_VALUE, str(error).lower()) from error
    return Equity(told.time, told.equity)


def _values(entry: Mapping[bytes, bytes]) -> Mapping[str, Any]:
    """Name → value of a flat entry, or of the one field `b` or `json`."""
    if len(entry) == 1:
        (name, payload), *_ = entry.items()
        if name in _UNPACK:
            return decode_map(name, payload)
    try:
        return {_NAMES.get(name) or name.decode(): value.decode() for name, value in entry.items()}
    except UnicodeDecodeError as error:
        raise Refused(Reason.UNDECODABLE, f"a field is not UTF-8: {error}") from error


def decode_map(name: bytes, payload: bytes) -> Mapping[str, Any]:
    """The map in a field `b` (msgpack) or `json`. Raises `Refused`."""
    try:
        values = _UNPACK[name](payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Reason.UNDECODABLE, str(error).lower()) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise Refused(Reason.UNDECODABLE, "the payload is not a map from field names to values")
    return values


def _wire(values: Mapping[str, Any]) -> _Wire:
    for name in REQUIRED:
        if name not in values:
            raise Refused(Reason.MISSING_FIELD, f"field {name} is missing")
    for name in values:
        if name not in REQUIRED and name not in OPTIONAL:
            raise Refused(Reason.UNKNOWN_FIELD, f"field {name[:64]!r} is unknown")
    try:
        return msgspec.convert(values, _Wire, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(Reason.BAD_VALUE, str(error).lower()) from error
