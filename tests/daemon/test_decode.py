"""Tests of the door: what enters is a bar, and whatever else comes is refused with its reason."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.daemon.decode import decode
from quantum_ai_engine.events import Bar, Reason, Refused, encode_bar

BAR = Bar("BTCUSDT", "1m", 60_000, 100.0, 102.0, 99.0, 101.0, 5.0)
LATEST = 120_000
ABSENT = object()
Entry = Mapping[bytes, bytes]


def flat(values: Mapping[str, Any]) -> Entry:
    """The fields as a person writes them with XADD."""
    texts = {True: "true", False: "false"}
    return {
        name.encode(): (texts[value] if isinstance(value, bool) else str(value)).encode()
        for name, value in values.items()
    }


def packed(values: Mapping[str, Any]) -> Entry:
    """One field `b`."""
    return {b"b": msgspec.msgpack.encode(values)}


def json(values: Mapping[str, Any]) -> Entry:
    """One field `json`; numbers that JSON does not have are given as text."""
    return {
        b"json": msgspec.json.encode(
            {n: str(v) if v in (float("inf"), float("nan")) else v for n, v in values.items()}
        )
    }


FORMS = pytest.mark.parametrize("form", [flat, packed, json])
Form = Callable[[Mapping[str, Any]], Entry]


def values(**changes: Any) -> dict[str, Any]:
    """A good bar's fields, changed."""
    changed = msgspec.to_builtins(BAR) | changes
    return {name: value for name, value in changed.items() if value is not ABSENT}


def refused(entry: Entry) -> Refused:
    """Why the entry is refused."""
    with pytest.raises(Refused) as caught:
        decode(entry, "live", LATEST)
    return caught.value


@FORMS
def test_all_forms_give_the_same_bar(form: Form) -> None:
    assert decode(form(values()), "live", LATEST) == BAR


@FORMS
def test_optional_fields_may_be_there(form: Form) -> None:
    """L52: a message of this engine's own environment enters."""
    given_ = values(environment="live", is_closed=True, revision=0)
    assert decode(form(given_), "live", LATEST) == BAR


def test_our_own_encoder_is_understood() -> None:
    for bar in (BAR, msgspec.structs.replace(BAR, revision=7)):
        assert decode({b"b": encode_bar(bar)}, "live", LATEST) == bar


@FORMS
def test_a_revision_is_part_of_the_bar(form: Form) -> None:
    """L53: which version of a bar holds is decided by its number."""
    assert decode(form(values(revision=3)), "live", LATEST).revision == 3
    with pytest.raises(Refused, match="revision -1"):
        decode(form(values(revision=-1)), "live", LATEST)


@FORMS
@pytest.mark.parametrize(
    ("changes", "reason", "named"),
    [
        ({"close": ABSENT}, Reason.MISSING_FIELD, "close"),
        ({"symbol": ABSENT}, Reason.MISSING_FIELD, "symbol"),
        ({"trades": 7}, Reason.UNKNOWN_FIELD, "trades"),
        ({"open": "much"}, Reason.BAD_VALUE, "open"),
        ({"open_time": "noon"}, Reason.BAD_VALUE, "open_time"),
        ({"open_time": 60_000.5}, Reason.BAD_VALUE, "open_time"),
        ({"is_closed": "perhaps"}, Reason.BAD_VALUE, "is_closed"),
        ({"symbol": ""}, Reason.BAD_SYMBOL, "symbol"),
        ({"symbol": "A B"}, Reason.BAD_SYMBOL, "symbol"),
        ({"symbol": "A" * 65}, Reason.BAD_SYMBOL, "symbol"),
        ({"symbol": "BTC\n"}, Reason.BAD_SYMBOL, "symbol"),
        ({"interval": "7m"}, Reason.UNKNOWN_INTERVAL, "7m"),
        ({"interval": ""}, Reason.UNKNOWN_INTERVAL, "interval"),
        ({"high": float("inf")}, Reason.NON_FINITE, "high"),
        ({"close": "nan"}, Reason.NON_FINITE, "close"),
        ({"volume": float("inf")}, Reason.NON_FINITE, "volume"),
        ({"volume": "nan"}, Reason.NON_FINITE, "volume"),
        ({"open": 0.0, "low": 0.0}, Reason.NON_POSITIVE_PRICE, "low"),
        ({"low": -1.0}, Reason.NON_POSITIVE_PRICE, "low"),
        ({"high": 98.0}, Reason.HIGH_BELOW_LOW, "high"),
        ({"open": 103.0}, Reason.OUTSIDE_RANGE, "open"),
        ({"close": 98.5}, Reason.OUTSIDE_RANGE, "close"),
        ({"volume": -1.0}, Reason.NEGATIVE_VOLUME, "volume"),
        ({"open_time": 60_001}, Reason.MISALIGNED_TIME, "open_time"),
        ({"open_time": -60_000}, Reason.MISALIGNED_TIME, "open_time"),
        ({"open_time": 120_000}, Reason.FUTURE_TIME, "open_time"),
        ({"is_closed": False}, Reason.NOT_CLOSED, "is_closed"),
        ({"environment": "paper"}, Reason.OTHER_ENVIRONMENT, "paper"),
        ({"environment": ""}, Reason.OTHER_ENVIRONMENT, "environment"),
    ],
)
def test_refuses_with_reason(
    form: Form, changes: dict[str, Any], reason: Reason, named: str
) -> None:
    """L41, L50, L52: a typed reason, and one sentence that names the field or its value."""
    error = refused(form(values(**changes)))
    assert error.reason is reason
    assert named in error.detail
    assert "\n" not in error.detail


def test_a_forming_bar_stays_out_whatever_else_it_says() -> None:
    """L50: only closed bars enter, however the publisher spells it."""
    for word in (b"false", b"False", b"0"):
        assert refused({**flat(values()), b"is_closed": word}).reason is Reason.NOT_CLOSED


def test_a_price_beyond_all_bounds_is_refused_not_rounded() -> None:
    """L51: a number that a float cannot hold is not taken for infinity, or for another number."""
    for text in (b"9" * 5_000, b"1e999", b"-1e999"):
        assert refused({**flat(values()), b"high": text}).reason in (
            Reason.BAD_VALUE,
            Reason.NON_FINITE,
        )


@pytest.mark.parametrize("form", [packed, json])
@pytest.mark.parametrize("time", [2**62, 60_000 * 10**12])
def test_a_time_beyond_all_bounds_is_refused(form: Form, time: int) -> None:
    assert refused(form(values(open_time=time))).reason is Reason.MISALIGNED_TIME


@pytest.mark.parametrize(
    "entry",
    [
        {b"b": b""},
        {b"b": b"\xc1"},
        {b"b": b"\x01"},
        {b"b": msgspec.msgpack.encode({1: 2})},
        {b"b": b"\x81\x91\x80\x01"},
        {b"b": b"\xdd\xff\xff\xff\xff"},
        {b"b": b"\x91" * 100_000},
        {b"json": b""},
        {b"json": b"{"},
        {b"json": b"[]"},
        {b"json": b"null"},
        {b"json": b'{"symbol": "\\ud800"}'},
        {b"json": b"[" * 100_000},
        {b"json": b'{"a":' * 100_000},
        {b"symbol": b"\xff"},
        {b"\xff": b"x"},
    ],
    ids=lambda entry: repr(entry)[:24],
)
def test_what_cannot_be_read_is_refused(entry: Entry) -> None:
    """L41: a payload built to break the reader, however deep or long, only earns its reason."""
    assert refused(entry).reason is Reason.UNDECODABLE


def test_an_empty_entry_lacks_a_field() -> None:
    assert refused({}).reason is Reason.MISSING_FIELD


def test_two_payloads_in_one_entry_are_no_bar() -> None:
    """L50: which of the two was meant is not for us to guess."""
    entry = {b"b": encode_bar(BAR), b"json": msgspec.json.encode(BAR)}
    assert refused(entry).reason in (Reason.UNDECODABLE, Reason.MISSING_FIELD)


def outcome(entry: Entry) -> Bar | Reason:
    """The bar, or the reason; anything else is a crash of the daemon."""
    try:
        return decode(entry, "live", LATEST)
    except Refused as error:
        error.detail.encode()  # it is written to Redis
        return error.reason


@given(st.dictionaries(st.binary(), st.binary(), max_size=12))
def test_arbitrary_fields_never_do_worse_than_refused(entry: Entry) -> None:
    """L41: no entry can end the daemon, or it would end it again after each restart."""
    assert isinstance(outcome(entry), Bar | Reason)


@given(st.sampled_from([b"b", b"json"]), st.binary(max_size=200))
def test_arbitrary_payloads_never_do_worse_than_refused(name: bytes, payload: bytes) -> None:
    """L41: as above, for the packed forms."""
    assert isinstance(outcome({name: payload}), Bar | Reason)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.text()
    | st.binary()
    | st.integers(-(2**63), 2**64 - 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from([*values(), "environment", "is_closed", "revision"]), ANYTHING)
)
def test_arbitrary_values_never_do_worse_than_refused(changes: dict[str, Any]) -> None:
    """L41: right names with any value of any type."""
    assert isinstance(outcome(packed(values(**changes))), Bar | Reason)


@given(st.dictionaries(st.sampled_from(list(values())), st.text(max_size=30)))
def test_arbitrary_texts_never_do_worse_than_refused(changes: dict[str, str]) -> None:
    """L41: right names with any text."""
    entry = {n.encode(): str(v).encode(errors="replace") for n, v in values(**changes).items()}
    result = outcome(entry)
    assert isinstance(result, Reason) or result.close_time <= LATEST
