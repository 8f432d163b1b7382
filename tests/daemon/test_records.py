"""Records of rounds: what goes into their stream comes out of it, and nothing else does."""

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.daemon.records import RecordError, decode_round, encode_round
from quantum_ai_engine.events import Equity, Prediction, Vote
from quantum_ai_engine.risk.positions import Said
from quantum_ai_engine.risk.stance import Level
from quantum_ai_engine.state.record import Record

fractions = st.floats(0.0, 1.0)
times = st.integers(0, 2**42)
votes = st.lists(
    st.builds(
        Vote, st.sampled_from(["gru", "sigor"]), st.sampled_from(["a", "b"]), fractions, fractions
    ),
    max_size=4,
)
predictions = st.builds(
    Prediction,
    times,
    votes.map(tuple),
    st.integers(0, 9),
    fractions,
    st.none() | fractions,
    st.none() | fractions,
)
sayings = st.builds(
    Said,
    times,
    st.integers(0, 3),
    st.sampled_from(list(Level)),
    st.floats(-1.0, 1.0),
    st.floats(-1.0, 1.0),
    st.binary(max_size=8),
)
records = st.lists(
    st.builds(
        Record,
        st.sampled_from(["BTCUSDT", "ETHUSDT"]),
        st.sampled_from(["1m", "5m"]),
        predictions,
        st.none() | sayings,
    ),
    max_size=6,
)
reports = st.lists(
    st.builds(Equity, times, st.floats(allow_nan=False, allow_infinity=False)), max_size=3
)


def sample() -> bytes:
    vote = Vote("gru", "a", 0.6, 1.0)
    said = Said(120_000, 0, Level.WEAK_LONG, 0.1, 0.2, b"12345678")
    record = Record("BTCUSDT", "1m", Prediction(120_000, (vote,), 1, 0.25, 0.6), said)
    return encode_round("5-0", "7-1", [record, record], [Equity(60_000, 100.5)])


@given(records, reports)
def test_a_round_comes_back_as_it_was(told: list[Record], equity: list[Equity]) -> None:
    """L43: bit for bit, with names of agents that are in it once."""
    packed = encode_round("5-0", "7-1", told, equity)
    got = decode_round({b"b": packed})
    assert (got.start, got.end) == ("5-0", "7-1")
    assert got.records == tuple(told)
    assert got.equity == tuple(equity)
    assert packed.count(b"sigor") <= 2  # of each bundle once


@settings(max_examples=200)
@given(st.integers(0, 2**20), st.integers(1, 255))
def test_a_damaged_entry_is_refused_or_another_one(at: int, flip: int) -> None:
    """L24, L47: whatever one byte became, nothing but `RecordError` comes of it."""
    damaged = bytearray(sample())
    damaged[at % len(damaged)] ^= flip
    got = None
    with contextlib.suppress(RecordError):
        got = decode_round({b"b": bytes(damaged)})
    assert got != decode_round({b"b": sample()})


@pytest.mark.parametrize("cut", [0, 1, 10, -1])
def test_an_entry_that_was_cut_off_is_refused(cut: int) -> None:
    """L24: half a round is none."""
    with pytest.raises(RecordError, match="no record of a round"):
        decode_round({b"b": sample()[:cut]})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {b"json": b"{}"},
        {b"b": msgspec.msgpack.encode([1])},
        {
            b"b": msgspec.msgpack.encode(
                ["5-0", "7-1", [], [["A", "1m", 1, [[0, 0.5, 1.0]], 0, 0.1, None, None, None]], []]
            )
        },
        {b"b": msgspec.msgpack.encode(["5-0", "7-1", [], [], [[-1, 5.0]]])},
        {
            b"b": msgspec.msgpack.encode(
                [
                    "5-0",
                    "7-1",
                    [["g", "a"]],
                    [["A", "1m", 1, [[0, 1.5, 1.0]], 0, 0.1, None, None, None]],
                    [],
                ]
            )
        },
    ],
    ids=[
        "empty",
        "other field",
        "short",
        "agent of no place",
        "time below 0",
        "probability of 1.5",
    ],
)
def test_what_is_no_round_is_refused(fields: dict[bytes, bytes]) -> None:
    """L24: the sentence says what is wrong."""
    with pytest.raises(RecordError, match="no record of a round"):
        decode_round(fields)
