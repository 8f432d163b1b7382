"""Parts of a snapshot: damaged, missing, doubled or of another world, they are refused."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.config import Venue
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.features import store as store_module
from quantum_ai_engine.features.store import SnapshotError
from quantum_ai_engine.state import saved
from quantum_ai_engine.state import state as state_module
from quantum_ai_engine.state.saved import PART_SERIES, Body, Head, decode, encode, seal

from .streams import NEAR, SYMBOLS, bars_at, engine_of, process_all, twin_of

NEW_YORK = Venue("America/New_York", "09:30", "16:00")


def told() -> Engine:
    """An engine that has said something of each symbol."""
    engine = engine_of(NEAR)
    for symbol in SYMBOLS:
        process_all(engine, [bars_at(range(60), symbol)])
    return engine


ENGINE = told()
PARTS = ENGINE.state.snapshot()


def refusal(parts: Sequence[bytes], engine: Engine | None = None) -> str:
    """The one sentence with which these parts are refused."""
    with pytest.raises(SnapshotError) as refused:
        twin_of(engine or ENGINE).state.restore(parts)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


@settings(max_examples=150)
@given(st.integers(0, len(PARTS) - 1), st.integers(0, 2**31), st.integers(1, 255))
def test_a_damaged_byte_is_noticed(part: int, at: int, flip: int) -> None:
    """L24: one wrong byte in any part, and the snapshot is refused."""
    damaged = bytearray(PARTS[part])
    damaged[at % len(damaged)] ^= flip
    parts = [*PARTS[:part], bytes(damaged), *PARTS[part + 1 :]]
    assert "damaged: its checksum differs" in refusal(parts)


@settings(max_examples=50)
@given(st.integers(0, len(PARTS) - 1), st.floats(0.0, 1.0, exclude_max=True))
def test_a_part_that_was_cut_off_is_noticed(part: int, share: float) -> None:
    """L24: a part that was not written to its end is refused, so is a longer one."""
    whole = PARTS[part]
    for other in (whole[: int(share * len(whole))], whole + b"\0"):
        assert "damaged" in refusal([*PARTS[:part], other, *PARTS[part + 1 :]])


def test_a_missing_or_doubled_part_is_noticed() -> None:
    """L24: as many series as the head says, each once."""
    assert "lacks some of its 3 series" in refusal(PARTS[:1])
    assert "the series AAA 1m was restored before" in refusal([*PARTS, PARTS[1]])
    assert "damaged" in refusal([])
    assert "cannot be read" in refusal(PARTS[1:])
    assert "cannot be read" in refusal([PARTS[0], PARTS[0]])


def test_parts_of_many_series_are_counted() -> None:
    """L24: one part in another's place is noticed, however many there are."""
    engine = engine_of(NEAR)
    for i in range(3 * PART_SERIES):
        bars = bars_at(range(3))
        engine.learn([msgspec.structs.replace(bar, symbol=f"S{i}") for bar in bars])
    head, one, two, three = engine.state.snapshot()
    assert "lacks some of its 120 series" in refusal([head, one, two])
    assert "was restored before" in refusal([head, one, two, two])
    twin = twin_of(engine)
    twin.state.restore([head, three, one, two])
    assert twin.state.digest() == engine.state.digest()


def test_another_version_or_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """L12: what another program wrote is not taken for ours."""
    with monkeypatch.context() as patch:
        patch.setattr(state_module, "STATE_VERSION", saved.STATE_VERSION + 1)
        assert f"state version {saved.STATE_VERSION} is not" in refusal(PARTS)
    monkeypatch.setattr(store_module, "KERNEL_HASH", "0123456789abcdef")
    assert "0123456789abcdef" in refusal(PARTS)


def test_other_venues_are_refused() -> None:
    """L12: sessions are part of the features; with other venues they would be others."""
    other = engine_of(NEAR, venues={"AAA": NEW_YORK})
    assert "other sessions.venues" in refusal(PARTS, other)
    same = engine_of(NEAR, venues={"AAA": NEW_YORK})
    same.state.restore(other.state.snapshot())


def test_what_is_sealed_but_wrong_inside_is_refused() -> None:
    """L24: a right checksum does not make a snapshot."""
    body = decode(PARTS[1], Body)
    head = decode(PARTS[0], Head)
    short = _but(body, features=_but(body.features, body=b""))
    assert "shorter or longer than it says" in refusal([PARTS[0], sealed(short)])
    assert "of 3 series, not 1" in refusal([PARTS[0], sealed(_but(body, names=body.names[:1]))])
    assert "state version 99" in refusal([sealed(_but(head, version=99)), PARTS[1]])


def _but(message: Any, **changes: object) -> Any:
    return msgspec.structs.replace(message, **changes)


def sealed(message: Head | Body) -> bytes:
    return seal(encode(message))


def test_what_was_said_is_part_of_it() -> None:
    """L43: stances and versions come back as they were."""
    twin = twin_of(ENGINE)
    twin.state.restore(PARTS)
    for symbol in SYMBOLS:
        at, there = twin.state.at(symbol, "1m"), ENGINE.state.at(symbol, "1m")
        remembered = twin.state.positions.remembered(at)
        assert remembered == ENGINE.state.positions.remembered(there)
        assert len(remembered[1]) > 3
