"""The judge of a fault run must see everything that can be wrong, or its zeros mean nothing."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.replay.verdict import Restored, Verdict, compare, compare_states

Signals = list[bytes]


def signal(series: str, at: int, **changes: Any) -> bytes:
    """A signal on the wire, as far as the judge knows it."""
    fields = {
        "id": f"{series}|1m|{at}",
        "symbol": series,
        "interval": "1m",
        "close_time": at,
        "produced_at": at,
        "probability": 0.5,
        "votes": [{"agent": "gru", "probability": 0.5}],
        "latency_us": {},
    }
    return msgspec.json.encode(fields | changes)


def stream(count: int = 6) -> Signals:
    """Signals of two series, in turn."""
    return [signal("AB"[i % 2], i // 2) for i in range(count)]


def found(verdict: Verdict) -> dict[str, int]:
    """What is not zero."""
    names = ("lost", "doubled", "unknown", "out_of_order", "reordered", "different")
    return {name: value for name in names if (value := getattr(verdict, name))}


def swapped(signals: Signals, i: int, j: int) -> Signals:
    order = [*range(len(signals))]
    order[i], order[j] = j, i
    return [signals[k] for k in order]


def test_the_same_stream_is_exact() -> None:
    """L43: and so is one that differs only in when, and how fast, it was produced."""
    later = [signal("AB"[i % 2], i // 2, produced_at=99, latency_us={"x": 1}) for i in range(6)]
    for actual in (stream(), later):
        verdict = compare(actual, stream())
        assert verdict.is_exact
        assert verdict.expected == 6
        assert verdict.examples == ()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda s: s[1:], {"lost": 1}),
        (lambda s: s[:0], {"lost": 6}),
        (lambda s: [*s, s[0]], {"doubled": 1}),
        (lambda s: [*s, s[0], s[0]], {"doubled": 2}),
        (lambda s: [*s, signal("C", 0)], {"unknown": 1}),
        (lambda s: swapped(s, 0, 2), {"out_of_order": 1, "reordered": 1}),
        (lambda s: swapped(s, 0, 1), {"reordered": 1}),
        (lambda s: [signal("A", 0, probability=0.5000000000000001), *s[1:]], {"different": 1}),
        (lambda s: [signal("A", 0, votes=[]), *s[1:]], {"different": 1}),
        (lambda s: [signal("A", 0, amends="A|1m|0"), *s[1:]], {"different": 1}),
        (lambda s: [s[2], *s[2:]], {"lost": 2, "doubled": 1}),
    ],
)
def test_every_damage_is_seen(
    damage: Callable[[Signals], Signals], expected: dict[str, int]
) -> None:
    """L43: lost, doubled, invented, out of order, altered: each is counted under its name."""
    verdict = compare(damage(stream()), stream())
    assert found(verdict) == expected
    assert not verdict.is_exact
    assert verdict.examples


def test_the_fields_that_differ_are_named() -> None:
    """A number alone would tell nobody where to look."""
    actual = [signal("A", 0, probability=0.7, stance="long"), *stream()[1:]]
    verdict = compare(actual, stream())
    assert verdict.fields == {"probability": 1, "stance": 1}
    assert verdict.examples == ("different: A|1m|0 in probability, stance",)


@given(st.lists(st.integers(0, 9), max_size=30))
def test_lost_and_doubled_are_what_counting_says(picked: list[int]) -> None:
    """L43: whatever comes in whatever order, each signal is held to be there once."""
    twin = stream(10)
    verdict = compare([twin[i] for i in picked], twin)
    counts = Counter(picked)
    assert verdict.lost == 10 - len(counts)
    assert verdict.doubled == len(picked) - len(counts)
    assert (verdict.unknown, verdict.different) == (0, 0)
    first = list(dict.fromkeys(picked))
    assert (verdict.out_of_order + verdict.reordered == 0) == (first == sorted(first))


def test_states_are_compared_where_they_can_be() -> None:
    """L43: a wrong hash is wrong, one at a position that was cut away cannot be judged."""
    hashes = {"1-0": "a", "2-0": "b"}
    right = [Restored("1-0", "a"), Restored("2-0", "b"), Restored("3-0", "c")]
    states = compare_states(right, hashes)
    assert (states.checked, states.wrong, states.gone) == (2, 0, 1)
    states = compare_states([*right, Restored("2-0", "a")], hashes)
    assert (states.checked, states.wrong, states.gone) == (3, 1, 1)
    assert states.examples == ("state at 2-0: a, the twin's is b",)
