"""Numbers and times as people read them."""

from datetime import UTC, datetime

NONE = "–"


def day(at_ms: int) -> str:
    """A moment for people, in UTC.

    >>> day(1_735_689_600_000)
    '2025-01-01 00:00'
    """
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction for people, signed.

    >>> percent(-0.0123)
    '−1.2 %'
    """
    return f"{100.0 * fraction:+.{digits}f} %".replace("-", "−")


def duration(years: float) -> str:
    """A time of trading."""
    return f"{years:.2f} years" if years >= 1.0 else f"{365.0 * years:.1f} days"


def plain(name: str) -> str:
    """A name of the engine as a word."""
    return name.replace("_", " ")


def share(fraction: float) -> str:
    """A fraction without a sign."""
    return f"{100.0 * fraction:.1f} %"


def part(count: int, of: int) -> str:
    """A count as a share of others."""
    return share(count / of) if of else NONE


def percent_or_none(fraction: float | None) -> str:
    """A signed fraction, where there is one."""
    return NONE if fraction is None else percent(fraction, 2)


def number(value: float | None) -> str:
    """A ratio, where there is one."""
    return NONE if value is None else signed(value, 2)


def signed(value: float, digits: int) -> str:
    """A number with its sign, and with a minus that is one."""
    return f"{value:+,.{digits}f}".replace("-", "−")
