"""Figures and reasons as a person reads them; what is not known is "no data", never a number."""

import math
from datetime import UTC, datetime

import numpy as np

from quantum_ai_engine.daemon.status import AgentStatus
from quantum_ai_engine.events import Abstained

NO_DATA = "no data"
SHAPES = {"good": "●", "note": "▲", "bad": "■", "none": "○"}  # tones differ without colour, too
ABSTAINED = {
    Abstained.UNAVAILABLE: "its library is not installed",
    Abstained.WARMING_UP: "its window is not full yet",
    Abstained.OTHER_INTERVAL: "it was not made for bars of this interval",
    Abstained.GAP: "its window has a hole",
    Abstained.DEADLINE: "it would have missed the deadline",
    Abstained.NON_FINITE: "its answer was not a finite number",
    Abstained.ERROR: "it failed",
}
STATE_TONES = {
    **dict.fromkeys(("ok", "ACTIVE", "NORMAL", "AGGRESSIVE", "active", "believed"), "good"),
    **dict.fromkeys(("warming_up", "warmup", "idle", "standby", "stopping", "watch"), "note"),
    **dict.fromkeys(("REDUCING", "DEFENSIVE", "drift"), "note"),
    **dict.fromkeys(("degraded", "HALTED", "quarantined"), "bad"),
    NO_DATA: "none",
}


def tone(state: str) -> str:
    """How bad a state is: good, note, bad, or none where nothing is known.

    >>> tone("ACTIVE"), tone("HALTED"), tone("deadline")
    ('good', 'bad', 'note')
    """
    return STATE_TONES.get(state, "note")


def word(name: str) -> str:
    """A name on the wire as words.

    >>> word("warming_up")
    'warming up'
    """
    return name.replace("_", " ")


def why(reason: Abstained) -> str:
    """Why an agent abstained, in words."""
    return ABSTAINED[reason]


def agent_state(agent: AgentStatus) -> str:
    """How an agent's latest answer was, in words."""
    if agent.unavailable:
        return agent.unavailable
    return f"abstains: {why(agent.reason)}" if agent.reason else word(agent.state())


def number(value: float | None, digits: int = 4) -> str:
    """A figure with so many digits after the point.

    >>> number(0.25, 3), number(-0.0001, 2), number(None), number(math.nan)
    ('0.250', '0.00', 'no data', 'no data')
    """
    if value is None or not math.isfinite(value):
        return NO_DATA
    return f"{value + 0.0:.{digits}f}".replace("-0." + "0" * digits, "0." + "0" * digits)


def signed(value: float | None, digits: int = 3) -> str:
    """The same with its sign.

    >>> signed(0.25), signed(-0.5, 1), signed(0.0), signed(None)
    ('+0.250', '−0.5', '0.000', 'no data')
    """
    text = number(value, digits)
    if text == NO_DATA or not float(text):
        return text
    return "−" + text[1:] if text.startswith("-") else "+" + text


def count(value: float | None) -> str:
    """A whole number with its thousands apart.

    >>> count(12345), count(None)
    ('12\u202f345', 'no data')
    """
    return NO_DATA if value is None else f"{value:,.0f}".replace(",", "\u202f")


def price(value: float | None) -> str:
    """A price with seven significant digits at most.

    >>> price(67123.4), price(0.0000712), price(None)
    ('67123.4', '0.0000712', 'no data')
    """
    if value is None or not math.isfinite(value):
        return NO_DATA
    return np.format_float_positional(value, precision=7, fractional=False, trim="-")


def seconds(value: float | None) -> str:
    """A duration.

    >>> [seconds(value) for value in (0.0004, 0.0153, 2.5, 190.0, 9000.0, 3e6, None)]
    ['0.4 ms', '15.3 ms', '2.5 s', '3 min 10 s', '2 h 30 min', '34 d 17 h', 'no data']
    """
    if value is None or math.isnan(value):
        return NO_DATA
    if value < 1.0:
        return f"{value * 1000:.1f} ms"
    if value < 60.0:
        return f"{value:.1f} s"
    for small, large, names in ((60, 60, ("min", "s")), (3600, 24, ("h", "min"))):
        if value < small * large:
            whole, rest = divmod(int(value), small)
            return f"{whole} {names[0]} {rest * 60 // small if small > 60 else rest} {names[1]}"
    return f"{int(value // 86400)} d {int(value % 86400 // 3600)} h"


def bound(value: float | None) -> str:
    """A duration that is at most this: the upper edge of a bucket.

    >>> bound(0.015), bound(math.inf), bound(None)
    ('≤ 15 ms', '> 10 s', 'no data')
    """
    if value is None:
        return NO_DATA
    if math.isinf(value):
        return "> 10 s"
    return f"≤ {value * 1000:g} ms" if value < 1.0 else f"≤ {value:g} s"


def share(value: float) -> str:
    """A share of what alarms, which may be tiny.

    >>> share(0.00001), share(0.0421), share(1.5), share(1234.5)
    ('< 0.001', '0.042', '1.5', '1234')
    """
    if 0.0 < value < 0.001:
        return "< 0.001"
    return f"{value:.0f}" if value >= 10.0 else f"{value:.2g}"


def moment(at_ms: float | None) -> str:
    """A time, UTC.

    >>> moment(1_735_689_600_000), moment(None)
    ('2025-01-01 00:00:00', 'no data')
    """
    if at_ms is None:
        return NO_DATA
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def clock(at_ms: float | None) -> str:
    """The time of the day, UTC.

    >>> clock(1_735_689_600_000)
    '00:00:00'
    """
    return moment(at_ms)[-8:] if at_ms is not None else NO_DATA


def iso(at_ms: float) -> str:
    """A time for machines.

    >>> iso(1_735_689_600_000)
    '2025-01-01T00:00:00Z'
    """
    return moment(at_ms).replace(" ", "T") + "Z"


def ago(at_ms: float | None, now_ms: float) -> str:
    """How long ago something was; the page counts on from there.

    >>> ago(1000, 4500), ago(None, 0), ago(0, 190_000)
    ('3 s ago', 'no data', '3 min ago')
    """
    if at_ms is None:
        return NO_DATA
    age_s = max(0, int((now_ms - at_ms) / 1000))
    for limit, size, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if age_s < limit:
            return f"{age_s // size} {name} ago"
    return f"{age_s // 86400} d ago"
