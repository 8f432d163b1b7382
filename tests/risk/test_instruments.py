"""Instruments: leveraged and inverse ones stand for their base; the document says the same."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.config import BREAKERS, RiskSettings
from quantum_ai_engine.events import Holding
from quantum_ai_engine.risk.breakers import MEANINGS, BreakerName
from quantum_ai_engine.risk.instruments import holdings, instrument_for
from quantum_ai_engine.risk.stance import Level, next_level, stance_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "risk.md"
QQQ = {"QQQ": 1.0, "TQQQ": 3.0, "PSQ": -1.0, "SQQQ": -3.0}
SHOWN = (0.20, 0.29, 0.34, 0.42, 0.50, 0.57, 0.66, 0.71, 0.80)
levels = st.sampled_from(list(Level))
families = st.lists(
    st.floats(0.1, 10.0).flatmap(lambda x: st.sampled_from([x, -x])), max_size=4, unique=True
).map(lambda times: {"BASE": 1.0} | {f"I{k}": t for k, t in enumerate(times)})


@given(levels, st.floats(-1.0, 1.0), families)
def test_an_instrument_never_raises_the_exposure(
    level: Level, target: float, family: dict[str, float]
) -> None:
    """Times its multiple, what is held has at most the target's size, and its sign."""
    held = instrument_for(level, target, family)
    exposure = held.target * family[held.instrument]
    assert abs(exposure) <= abs(target)
    assert exposure * target >= 0.0
    agrees = (target > 0.0) - (target < 0.0) == {"long": 1, "short": -1, "flat": 0}[
        stance_of(level)
    ]
    assert exposure == (pytest.approx(target, rel=1e-12, abs=1e-300) if agrees else 0.0)


@given(levels, st.floats(-1.0, 1.0), families)
def test_all_instruments_of_a_family_are_told(
    level: Level, target: float, family: dict[str, float]
) -> None:
    """Targets are absolute: one instrument is held, and each other one is 0."""
    told = holdings(level, target, family)
    assert [one.instrument for one in told] == list(family)
    assert sum(one.target != 0.0 for one in told) <= 1
    assert instrument_for(level, target, family) in told


@pytest.mark.parametrize(
    ("level", "target", "family", "held"),
    [
        (Level.STRONG_LONG, 0.75, QQQ, Holding("TQQQ", 0.25)),
        (Level.WEAK_LONG, 0.3, QQQ, Holding("QQQ", 0.3)),
        (Level.FLAT, 0.0, QQQ, Holding("QQQ", 0.0)),
        (Level.WEAK_SHORT, -0.3, QQQ, Holding("PSQ", 0.3)),
        (Level.STRONG_SHORT, -0.75, QQQ, Holding("SQQQ", 0.25)),
        (Level.STRONG_SHORT, -0.5, {"A": 1.0, "B": 2.0}, Holding("A", -0.5)),
        (Level.WEAK_SHORT, -0.5, {"A": 1.0, "C": -2.0}, Holding("C", 0.25)),
        (Level.STRONG_LONG, 0.5, {"A": 1.0, "C": -2.0}, Holding("A", 0.5)),
    ],
)
def test_the_table_of_instruments(
    level: Level, target: float, family: dict[str, float], held: Holding
) -> None:
    """Strong levels take the largest multiple on their side, weak ones the base or its inverse."""
    assert instrument_for(level, target, family) == held


@pytest.mark.parametrize("target", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_holds_nothing(target: float) -> None:
    """L36: a target that is not a number is no position."""
    assert instrument_for(Level.STRONG_LONG, target, QQQ) == Holding("TQQQ", 0.0)


def test_the_setting_gives_the_family() -> None:
    """L38: the line of the settings is what is held."""
    assert RiskSettings(instruments=("QQQ TQQQ:3 PSQ:-1 SQQQ:-3",)).families() == {"QQQ": QQQ}


def _position(level: Level) -> str:
    return "cash" if level is Level.FLAT else instrument_for(level, 0.0, QQQ).instrument


def transitions() -> list[str]:
    """The table of positions in docs/risk.md, as the code has it."""
    settings = RiskSettings()
    rows = [f"| position (level) | {' | '.join(f'{p:.2f}' for p in SHOWN)} |"]
    rows.append("|---" * (len(SHOWN) + 1) + "|")
    for level in reversed(Level):
        after = [_position(next_level(level, p, settings)) for p in SHOWN]
        rows.append(f"| {_position(level)} ({level}) | {' | '.join(after)} |")
    return rows


def breaker_rows() -> list[str]:
    """The table of breakers in docs/risk.md, as the code has it."""
    return [
        f"| `{name}` | {MEANINGS[BreakerName(name)]} | {one.trip:.15g} | {one.clear:.15g} "
        f"| {one.dwell_ms} | {one.severity} |"
        for name, one in BREAKERS.items()
    ]


def test_the_document_has_the_tables_of_the_code() -> None:
    """L09: transitions and the limits of breakers in docs/risk.md are those of the code."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for table in (transitions(), breaker_rows()):
        assert "\n".join(table) in text, "the table should be\n" + "\n".join(table)
