"""The messages: what a bar, a vote, a forecast and a signal refuse to be, and how they travel."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.events import (
    INTERVAL_MS,
    SIGNAL_SCHEMA,
    Abstained,
    Abstention,
    Bar,
    Forecast,
    Policy,
    Reason,
    Refused,
    Risk,
    Signal,
    Stance,
    Thresholds,
    Tombstone,
    Vote,
    encode_bar,
    signal_id,
)

NAN, INFINITY = math.nan, math.inf
GOOD = {
    "symbol": "BTCUSDT",
    "interval": "1m",
    "open_time": 60_000,
    "open": 100.0,
    "high": 102.0,
    "low": 99.0,
    "close": 101.0,
    "volume": 5.0,
}


def bar(**changes: Any) -> Bar:
    return Bar(**(GOOD | changes))


def signal(**changes: Any) -> Signal:
    values = {
        "schema": SIGNAL_SCHEMA,
        "id": signal_id("BTCUSDT", "1m", 120_000),
        "environment": "live",
        "symbol": "BTCUSDT",
        "interval": "1m",
        "close_time": 120_000,
        "produced_at": 120_100,
        "valid_until": 240_000,
        "horizon_bars": 5,
        "probability": 0.65,
        "confidence": 0.3,
        "stance": Stance.LONG,
        "target": 0.3,
        "votes": (Vote("gru", "0123456789ab", 0.65, 1.0),),
        "abstained": (Abstention("patchtst", Abstained.WARMING_UP),),
        "effective_votes": 1.0,
        "thresholds": Thresholds(0.6, 0.4),
        "policy": Policy("NORMAL", 0.7),
        "risk": Risk("ACTIVE"),
        "schema_hash": "00",
        "row_hash": "00",
        "engine": "0.1.0",
        "config_hash": "00",
        "latency_us": {"features": 10},
    }
    return Signal(**(values | changes))


REFUSALS = [
    ({"high": 98.0}, Reason.HIGH_BELOW_LOW, "high"),
    ({"open": 98.0}, Reason.OUTSIDE_RANGE, "open"),
    ({"open": 103.0}, Reason.OUTSIDE_RANGE, "open"),
    ({"close": 98.0}, Reason.OUTSIDE_RANGE, "close"),
    ({"close": 103.0}, Reason.OUTSIDE_RANGE, "close"),
    *(({name: NAN}, Reason.NON_FINITE, name) for name in ("open", "high", "low", "close")),
    ({"high": INFINITY}, Reason.NON_FINITE, "high"),
    ({"open": INFINITY, "high": INFINITY}, Reason.NON_FINITE, "open"),
    ({"close": -INFINITY}, Reason.NON_FINITE, "close"),
    *(({"volume": v}, Reason.NON_FINITE, "volume") for v in (NAN, INFINITY, -INFINITY)),
    ({"low": 0.0}, Reason.NON_POSITIVE_PRICE, "low"),
    ({"low": -1.0}, Reason.NON_POSITIVE_PRICE, "low"),
    ({"open": 0.0, "high": 0.0, "low": 0.0, "close": 0.0}, Reason.NON_POSITIVE_PRICE, "low"),
    ({"volume": -1e-9}, Reason.NEGATIVE_VOLUME, "volume"),
    *(({"volume": v}, Reason.OUT_OF_BAND, "volume") for v in (5e-324, 1e-16, 1e22, 1e308)),
    ({"low": 1e-16}, Reason.OUT_OF_BAND, "low"),
    ({"high": 1e16}, Reason.OUT_OF_BAND, "high"),
    *(({"interval": i}, Reason.UNKNOWN_INTERVAL, "interval") for i in ("7m", "1M", "60", "", "1w")),
    *(({"open_time": t}, Reason.MISALIGNED_TIME, "open_time") for t in (1, 59_999, -60_000)),
    ({"open_time": 10**16 - 10**16 % 60_000}, Reason.MISALIGNED_TIME, "open_time"),
    ({"interval": "1h"}, Reason.MISALIGNED_TIME, "open_time"),
    *(
        ({"symbol": s}, Reason.BAD_SYMBOL, "symbol")
        for s in ("", "BTC USDT", "BTC|1m", "BTC\n", "-BTC", "B" * 65, "BTC*", "ΒTC")
    ),
]


@pytest.mark.parametrize(("changes", "reason", "field"), REFUSALS, ids=lambda x: str(x)[:40])
def test_what_is_no_bar_is_refused(changes: dict[str, Any], reason: Reason, field: str) -> None:
    """L41: a bar that could not have happened is refused at birth, typed, naming the field."""
    with pytest.raises(Refused) as refused:
        bar(**changes)
    assert refused.value.reason is reason
    assert field in refused.value.detail
    assert "\n" not in refused.value.detail


def test_an_infinite_low_is_not_a_number() -> None:
    """L41: a low of −∞ is refused for what it is, a number that is not finite."""
    with pytest.raises(Refused) as refused:
        bar(low=-INFINITY)
    assert refused.value.reason is Reason.NON_FINITE


def test_the_edges_of_a_bar_are_allowed() -> None:
    """Equal prices, no volume, the epoch and the longest symbol are a bar's good right."""
    bar(open=99.0, high=99.0, low=99.0, close=99.0, volume=0.0)
    bar(open=102.0, close=99.0)
    bar(open_time=0)
    bar(symbol="B" * 64)
    bar(symbol="BRK.B:NYSE/USD_2-x")


@pytest.mark.parametrize("interval", INTERVAL_MS)
def test_a_bar_closes_an_interval_after_it_opens(interval: str) -> None:
    """L07: close_time = open_time + interval, for every interval."""
    seconds = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[interval[-1]]
    length_ms = int(interval[:-1]) * seconds * 1_000
    made = bar(interval=interval, open_time=3 * length_ms)
    assert made.interval_ms == length_ms
    assert made.close_time == 4 * length_ms


def test_a_bar_cannot_be_edited() -> None:
    """Events are frozen: who holds a bar need not check it again."""
    with pytest.raises(AttributeError):
        bar().close = 1.0  # type: ignore[misc]


prices = st.floats(1e-12, 1e12)
bars = st.builds(
    lambda symbol, interval, index, four, volume: Bar(
        symbol, interval, index * INTERVAL_MS[interval], four[1], four[3], four[0], four[2], volume
    ),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", fullmatch=True),
    st.sampled_from(sorted(INTERVAL_MS)),
    st.integers(0, 80_000),
    st.tuples(prices, prices, prices, prices).map(sorted),
    st.just(0.0) | st.floats(1e-15, 1e15),
)


@given(bars)
def test_a_bar_travels_unchanged(made: Bar) -> None:
    """L07: a bar comes out of msgpack and JSON with the same bits and times."""
    assert msgspec.msgpack.decode(encode_bar(made), type=Bar) == made
    assert msgspec.json.decode(msgspec.json.encode(made), type=Bar) == made
    assert msgspec.convert(msgspec.to_builtins(made), Bar) == made
    assert list(msgspec.msgpack.decode(encode_bar(made))) == list(GOOD)


def test_a_bad_bar_is_refused_while_it_is_decoded() -> None:
    """L41: decoding cannot bring to life what the constructor refuses."""
    bad = msgspec.json.encode(GOOD | {"high": 1.0})
    with pytest.raises(msgspec.ValidationError, match=r"high 1\.0 is below low 99\.0"):
        msgspec.json.decode(bad, type=Bar)


@pytest.mark.parametrize("missing", GOOD)
def test_an_absent_field_is_a_refusal(missing: str) -> None:
    """L50: no field of a bar has a default."""
    rest = {name: value for name, value in GOOD.items() if name != missing}
    with pytest.raises(msgspec.ValidationError, match=missing):
        msgspec.convert(rest, Bar)


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY, -0.01, 1.01])
@pytest.mark.parametrize("name", ["probability", "trust"])
def test_a_vote_is_inside_0_to_1(name: str, value: float) -> None:
    """L02: what is no probability or no share is not a vote."""
    values = {"agent": "gru", "bundle": "ab", "probability": 0.5, "trust": 0.5}
    with pytest.raises(ValueError, match=f"{name} .* of gru"):
        Vote(**(values | {name: value}))


@pytest.mark.parametrize("trusts", [(0.5, 0.4), (1.0, 1.0), (0.5,), (0.5, 0.5 + 1e-6), ()])
def test_trust_that_does_not_sum_to_1_is_refused(trusts: tuple[float, ...]) -> None:
    """L31: Σ trust = 1 is asserted where a forecast is made."""
    votes = tuple(Vote(f"agent{i}", "ab", 0.6, trust) for i, trust in enumerate(trusts))
    with pytest.raises(ValueError, match="trust"):
        Forecast(0.6, 0.2, votes, (), 1.0)


@pytest.mark.parametrize("agents", range(1, 12))
def test_rounding_does_not_break_the_sum(agents: int) -> None:
    """L31: n times 1/n is accepted as 1."""
    votes = tuple(Vote(f"agent{i}", "ab", 0.6, 1 / agents) for i in range(agents))
    assert len(Forecast(0.6, 0.2, votes, (), float(agents)).votes) == agents


@pytest.mark.parametrize("probability", [0.0, 1.0, NAN, -0.1, INFINITY])
def test_a_forecast_is_never_certain(probability: float) -> None:
    """L51: a forecast is a finite number inside 0 to 1, the ends excluded."""
    with pytest.raises(ValueError, match="forecast"):
        Forecast(probability, 0.2, (Vote("gru", "ab", 0.6, 1.0),), (), 1.0)


OUTSIDE = [
    ("target", NAN),
    ("target", INFINITY),
    ("target", 0.71),
    ("target", -0.71),
    ("target", 8.99),
    ("policy", Policy("NORMAL", NAN)),
    ("policy", Policy("NORMAL", 1.5)),
    ("policy", Policy("NORMAL", -0.1)),
    ("confidence", NAN),
    ("confidence", -0.1),
    ("confidence", 1.1),
    ("probability", NAN),
    ("probability", 1.5),
    ("probability", -0.1),
    ("effective_votes", NAN),
    ("effective_votes", 0.0),
]


@pytest.mark.parametrize(("name", "value"), OUTSIDE, ids=str)
def test_a_signal_outside_its_band_is_refused(name: str, value: Any) -> None:
    """L51: a signal's numbers are finite and inside their bands, or there is no signal."""
    with pytest.raises(ValueError, match=r"[a-z]"):
        signal(**{name: value})


@pytest.mark.parametrize(
    ("stance", "target"),
    [
        (Stance.LONG, 0.0),
        (Stance.LONG, -0.1),
        (Stance.SHORT, 0.0),
        (Stance.SHORT, 0.1),
        (Stance.FLAT, 0.1),
        (Stance.FLAT, -0.1),
    ],
)
def test_target_and_stance_agree(stance: Stance, target: float) -> None:
    """A subscriber may read either: the sign of the target is the stance."""
    with pytest.raises(ValueError, match="contradicts stance"):
        signal(stance=stance, target=target)


@pytest.mark.parametrize(
    ("stance", "target"), [(Stance.LONG, 0.7), (Stance.SHORT, -0.7), (Stance.FLAT, 0.0)]
)
def test_targets_up_to_the_cap_are_allowed(stance: Stance, target: float) -> None:
    """Flat is an answer like the others, and the cap itself may be reached."""
    assert signal(stance=stance, target=target, confidence=0.7).target == target


def test_a_target_beyond_the_confidence_is_refused() -> None:
    """L04: downstream of the ensemble confidence only falls, and the target with it."""
    with pytest.raises(ValueError, match="beyond the confidence"):
        signal(stance=Stance.LONG, target=0.31, confidence=0.3)


def test_a_signal_travels_unchanged() -> None:
    """L01: votes with their trust and abstentions with their reason arrive whole."""
    sent = signal()
    assert msgspec.json.decode(msgspec.json.encode(sent), type=Signal) == sent
    wire = msgspec.json.decode(msgspec.json.encode(sent))
    assert wire["votes"] == [
        {"agent": "gru", "bundle": "0123456789ab", "probability": 0.65, "trust": 1.0}
    ]
    assert wire["abstained"] == [{"agent": "patchtst", "reason": "warming_up"}]


def test_the_wire_names_are_those_of_the_contract() -> None:
    """Fields and their order are schema 1, as subscribers know it."""
    names = (
        "schema id environment symbol interval close_time produced_at valid_until horizon_bars "
        "probability confidence stance target votes abstained effective_votes thresholds policy "
        "risk schema_hash row_hash engine config_hash latency_us"
    )
    wire = msgspec.json.decode(msgspec.json.encode(signal()))
    assert list(wire) == names.split()
    assert wire["schema"] == 1
    assert wire["id"] == "BTCUSDT|1m|120000"
    assert set(wire["thresholds"]) == {"long", "short"}
    assert set(wire["policy"]) == {"mode", "exposure_cap", "leverage", "equity"}
    assert set(wire["risk"]) == {"state", "breakers", "reasons"}


def test_an_amended_signal_says_so_and_others_do_not() -> None:
    """L01: `amends`, `filled`, `holdings` are on the wire where they say something, only there."""
    plain, amended = signal(), signal(amends="BTCUSDT|1m|120000", filled=3)
    wire = msgspec.json.decode(msgspec.json.encode(plain))
    assert not {"amends", "filled", "holdings"} & set(wire)
    wire = msgspec.json.decode(msgspec.json.encode(amended))
    assert (wire["amends"], wire["filled"]) == ("BTCUSDT|1m|120000", 3)
    for sent in (plain, amended):
        assert msgspec.json.decode(msgspec.json.encode(sent), type=Signal) == sent


@given(bars, st.integers(0, 99), st.integers(0, 99))
def test_no_two_versions_share_an_id(made: Bar, one: int, other: int) -> None:
    """L43: the id tells bar and version; the first version is that of a bar never amended."""
    name = (made.symbol, made.interval, made.close_time)
    assert (signal_id(*name, one) == signal_id(*name, other)) == (one == other)
    assert signal_id(*name, 0) == signal_id(*name)
    assert signal_id(*name, one).split("|")[:3] == list(map(str, name))
    assert signal_id(*name, 1 + one).split("|")[3:] == [str(1 + one)]


def test_a_tombstone_is_flat_and_stale() -> None:
    """L07: it holds no target, says so in the words of a signal, and cannot say anything else."""
    tombstone = Tombstone(
        SIGNAL_SCHEMA, "BTCUSDT|1m|120000", "live", "BTCUSDT", "1m", 120_000, 300_000
    )
    wire = msgspec.json.decode(msgspec.json.encode(tombstone))
    assert (wire["stale"], wire["stance"], wire["target"]) == (True, "flat", 0.0)
    assert set(wire) - {"stale"} <= set(msgspec.json.decode(msgspec.json.encode(signal())))
    for name, value in (("stale", False), ("stance", "long")):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wire | {name: value}, Tombstone)
