"""Sizing: the smallest limit holds, whatever comes; more risk is never a larger target."""

import math

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.events import Stance
from quantum_ai_engine.risk.brain import State
from quantum_ai_engine.risk.sizing import (
    Ask,
    Limit,
    Mandate,
    Room,
    Sized,
    annualised,
    size,
)
from quantum_ai_engine.risk.stance import Level, stance_of

ACTIVE, REDUCING, HALTED = State
# A strong long of confidence 0.8 that nothing but the forecast binds.
ASK = Ask(Level.STRONG_LONG, 0.9, 0.8, 0.8, 0.01, 0.0)
FREE = Mandate(ACTIVE, 1.0, 2.0)
WIDE = RiskSettings(exposure_cap=1.0, change_per_bar=1.0)

any_float = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from(
    [0.0, -0.0, 5e-324, 1e308, -1e308, math.nan, math.inf, -math.inf]
)
share = st.floats(0.0, 1.0)
levels = st.sampled_from(list(Level))
states = st.sampled_from(list(State))
settings_ = st.builds(
    RiskSettings,
    exposure_cap=st.floats(0.01, 1.0),
    weak_size=st.floats(0.01, 1.0),
    change_per_bar=st.floats(0.001, 1.0),
    volatility_target=st.floats(0.001, 100.0),
    unknown_volatility_cap=share,
    kelly_fraction=st.floats(0.01, 1.0),
)
sane_asks = st.builds(
    Ask,
    level=levels,
    probability=share,
    confidence=share,
    previous=st.floats(-1.0, 1.0),
    volatility=st.none() | st.floats(0.0, 10.0),
    base_share=share,
    reliability=share,
)
sane_mandates = st.builds(Mandate, state=states, mode_cap=share, leverage=st.floats(0.0, 3.0))
rooms = st.builds(Room, long=share, short=share)


@given(
    st.builds(
        Ask,
        level=levels,
        probability=any_float,
        confidence=any_float,
        previous=any_float,
        volatility=st.none() | any_float,
        base_share=any_float,
        reliability=any_float,
    ),
    st.builds(Mandate, state=states, mode_cap=any_float, leverage=any_float),
    st.builds(Room, long=any_float, short=any_float),
    settings_,
)
@example(
    Ask(Level.STRONG_LONG, 1e308, 1e308, 1e308, 5e-324, -1e308, 1e308),
    Mandate(ACTIVE, 1e308, 1e308),
    Room(1e308, 1e308),
    RiskSettings(),
)
def test_no_input_exceeds_a_cap(
    ask: Ask, mandate: Mandate, room: Room, settings: RiskSettings
) -> None:
    """L36: NaN, infinities and nonsense give a finite target within every cap, and no exception."""
    sized = size(ask, mandate, room, settings)
    assert math.isfinite(sized.target)
    caps = [settings.exposure_cap, mandate.mode_cap, ask.confidence, 1.0]
    caps.append(room.long if sized.target > 0.0 else room.short)
    assert sized.target == 0.0 or all(abs(sized.target) <= cap for cap in caps)
    assert sized.stance in (Stance.FLAT, stance_of(ask.level))
    if not all(map(math.isfinite, (ask.probability, ask.confidence, room.long, mandate.leverage))):
        assert (sized.target, sized.reasons) == (0.0, (Limit.NON_FINITE,))
    assert abs(sized.wanted) <= settings.exposure_cap


@pytest.mark.parametrize(
    "name", [n for n in Ask.__struct_fields__ if n != "level"] + ["mode_cap", "leverage", "long"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_holds_nothing(name: str, value: float) -> None:
    """L36: each single figure that is not finite makes the target 0 and says so."""
    ask = msgspec.structs.replace(ASK, **({name: value} if hasattr(ASK, name) else {}))
    mandate = msgspec.structs.replace(FREE, **({name: value} if hasattr(FREE, name) else {}))
    room = msgspec.structs.replace(Room(), **({name: value} if hasattr(Room(), name) else {}))
    sized = size(ask, mandate, room, WIDE)
    assert (sized.target, sized.reasons) == (0.0, (Limit.NON_FINITE,))


def test_the_forecast_alone_is_its_confidence() -> None:
    """Where nothing binds, the target is the confidence and there is no reason."""
    assert size(ASK, FREE, Room(), WIDE) == Sized(0.8, wanted=0.8)
    assert size(ASK, FREE, Room(), WIDE).stance is Stance.LONG


@pytest.mark.parametrize(
    ("ask", "mandate", "room", "settings", "target", "limit"),
    [
        ({}, {"mode_cap": 0.5}, {}, {}, 0.5, Limit.MODE_CAP),
        ({}, {}, {}, {"exposure_cap": 0.4}, 0.4, Limit.SYMBOL_CAP),
        ({}, {}, {"long": 0.3}, {}, 0.3, Limit.GROSS_CAP),
        ({}, {}, {"long": 0.3, "long_limit": Limit.NET_CAP}, {}, 0.3, Limit.NET_CAP),
        ({}, {}, {"long": 0.3, "long_limit": Limit.GROUP_CAP}, {}, 0.3, Limit.GROUP_CAP),
        ({"previous": 0.1}, {}, {}, {"change_per_bar": 0.25}, 0.35, Limit.CHANGE_PER_BAR),
        ({"previous": -0.5}, {}, {}, {"change_per_bar": 0.25}, 0.25, Limit.CHANGE_PER_BAR),
        ({"volatility": 4.0}, {}, {}, {"volatility_target": 0.4}, 0.2, Limit.VOLATILITY_TARGET),
        ({"volatility": None}, {}, {}, {}, 0.1, Limit.VOLATILITY_UNKNOWN),
        ({"reliability": 0.5}, {}, {}, {"kelly_fraction": 0.5}, 0.4, Limit.KELLY),
        ({"base_share": 0.75}, {}, {}, {}, 0.2, Limit.BASE_RATE),
        ({"previous": 0.6}, {"state": REDUCING}, {}, {}, 0.6, Limit.REDUCING),
        ({"previous": -0.6}, {"state": REDUCING}, {}, {}, 0.0, Limit.REDUCING),
        ({}, {"state": HALTED}, {}, {}, 0.0, Limit.HALTED),
        ({}, {"leverage": 0.5}, {}, {"kelly_fraction": 1.0}, 0.4, Limit.LEVERAGE),
    ],
)
def test_the_limit_that_binds_is_the_reason(
    ask: dict[str, float],
    mandate: dict[str, float],
    room: dict[str, float],
    settings: dict[str, float],
    target: float,
    limit: Limit,
) -> None:
    """L38: every limit has an effect, and is named where it has it."""
    sized = size(
        msgspec.structs.replace(ASK, **ask),
        msgspec.structs.replace(FREE, **mandate),
        msgspec.structs.replace(Room(), **room),
        msgspec.structs.replace(WIDE, **settings),
    )
    assert sized.target == pytest.approx(target, abs=1e-12)
    assert limit in sized.reasons


def test_a_short_uses_the_room_of_shorts() -> None:
    """What is shared out to longs does not bind a short."""
    short = Ask(Level.STRONG_SHORT, 0.1, 0.8, -0.8, 0.01, 0.0)
    assert size(short, FREE, Room(long=0.0), WIDE) == Sized(-0.8, wanted=-0.8)
    room = Room(short=0.2, short_limit=Limit.NET_CAP)
    assert size(short, FREE, room, WIDE) == Sized(-0.2, (Limit.NET_CAP,), wanted=-0.8)


def test_a_weak_level_holds_its_fraction() -> None:
    """Half of what a strong one holds, with everything that depends on it."""
    weak = msgspec.structs.replace(ASK, level=Level.WEAK_LONG)
    assert size(weak, FREE, Room(), WIDE).target == pytest.approx(0.4)
    tight = msgspec.structs.replace(FREE, leverage=1.0)
    strong_target = size(ASK, tight, Room(), WIDE).target
    assert size(weak, tight, Room(), WIDE).target == pytest.approx(0.5 * strong_target)


@given(sane_asks, sane_mandates, rooms, settings_, st.data())
def test_more_risk_is_never_a_larger_target(
    ask: Ask, mandate: Mandate, room: Room, settings: RiskSettings, data: st.DataObject
) -> None:
    """Every figure moved to its worse side, and every cap lowered, alone or together."""
    down, up = st.floats(0.0, 1.0), st.floats(1.0, 5.0)
    worse_ask = msgspec.structs.replace(
        ask,
        confidence=ask.confidence * data.draw(down),
        volatility=None if ask.volatility is None else ask.volatility * data.draw(up),
        base_share=min(ask.base_share * data.draw(up), 1.0),
        reliability=ask.reliability * data.draw(down),
    )
    order = list(State)
    worst = order[data.draw(st.integers(order.index(mandate.state), 2))]
    worse_mandate = Mandate(
        worst, mandate.mode_cap * data.draw(down), mandate.leverage * data.draw(down)
    )
    worse_room = msgspec.structs.replace(
        room, long=room.long * data.draw(down), short=room.short * data.draw(down)
    )
    worse_settings = msgspec.structs.replace(
        settings,
        exposure_cap=settings.exposure_cap * data.draw(down),
        change_per_bar=settings.change_per_bar * data.draw(down),
        volatility_target=settings.volatility_target * data.draw(down),
        kelly_fraction=settings.kelly_fraction * data.draw(down),
        weak_size=settings.weak_size * data.draw(down),
        unknown_volatility_cap=settings.unknown_volatility_cap * data.draw(down),
    )
    target = abs(size(ask, mandate, room, settings).target)
    assert abs(size(worse_ask, mandate, room, settings).target) <= target
    assert abs(size(ask, worse_mandate, room, settings).target) <= target
    assert abs(size(ask, mandate, worse_room, settings).target) <= target
    assert abs(size(ask, mandate, room, worse_settings).target) <= target
    assert abs(size(worse_ask, worse_mandate, worse_room, worse_settings).target) <= target


@given(sane_asks, sane_mandates, rooms, settings_)
def test_reducing_never_grows_and_never_flips(
    ask: Ask, mandate: Mandate, room: Room, settings: RiskSettings
) -> None:
    """In REDUCING a target is between 0 and the one before; in HALTED it is 0."""
    reducing = size(ask, msgspec.structs.replace(mandate, state=REDUCING), room, settings).target
    assert min(ask.previous, 0.0) <= reducing <= max(ask.previous, 0.0)
    halted = size(ask, msgspec.structs.replace(mandate, state=HALTED), room, settings)
    assert (halted.target, halted.reasons) == (0.0, (Limit.HALTED,))


@given(sane_asks, sane_mandates, rooms, settings_)
def test_confidence_only_falls(
    ask: Ask, mandate: Mandate, room: Room, settings: RiskSettings
) -> None:
    """L04: no target exceeds the confidence, that of the probability, or the wanted one alone."""
    sized = size(ask, mandate, room, settings)
    assert abs(sized.target) <= ask.confidence
    assert abs(sized.target) <= 2.0 * abs(ask.probability - 0.5)
    assert abs(sized.target) <= abs(sized.wanted)


@given(sane_asks, sane_mandates, rooms, settings_)
def test_sign_and_reasons_agree_with_the_target(
    ask: Ask, mandate: Mandate, room: Room, settings: RiskSettings
) -> None:
    """The sign is the level's; who is below what the forecast is worth has a reason."""
    sized = size(ask, mandate, room, settings)
    assert sized.stance in (Stance.FLAT, stance_of(ask.level))
    assert math.copysign(1.0, sized.target) > 0.0 or sized.target < 0.0, "no negative zero"
    if ask.level is Level.FLAT and mandate.state is not HALTED:
        assert sized == Sized(0.0)


@given(sane_asks, sane_mandates, rooms, settings_)
def test_growth_is_bounded_and_a_fall_is_not(
    ask: Ask, mandate: Mandate, room: Room, settings: RiskSettings
) -> None:
    """From one bar to the next a target grows by the limit at most; it may fall to 0 at once."""
    target = size(ask, mandate, room, settings).target
    held = abs(ask.previous) if target * ask.previous > 0.0 else 0.0
    assert abs(target) <= held + settings.change_per_bar


def test_a_forecast_against_its_level_holds_nothing() -> None:
    """A long whose probability is below one half has no edge to bet on."""
    assert size(msgspec.structs.replace(ASK, probability=0.4), FREE, Room(), WIDE).target == 0.0


def test_a_volatility_of_zero_binds_nothing_and_one_below_is_refused() -> None:
    """A symbol that did not move is bound by the other limits; a negative figure is none."""
    assert size(msgspec.structs.replace(ASK, volatility=0.0), FREE, Room(), WIDE).target == 0.8
    sized = size(msgspec.structs.replace(ASK, volatility=-0.1), FREE, Room(), WIDE)
    assert sized == Sized(0.0, (Limit.NON_FINITE,))


def test_a_year_is_365_days() -> None:
    """A volatility per minute grows by the root of the minutes of a year."""
    assert annualised(0.001, 60_000) == pytest.approx(0.001 * math.sqrt(525_600))
